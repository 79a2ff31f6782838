"""Rule files that the tests use, as a user would write them."""

from pathlib import Path

_STARTER = Path(__file__).resolve().parents[3] / "addon" / "invariant_addon" / "starter"

NO_BLUEBIRD = """
raise "no bluebirds here" if:
    (m: Message)
    "BLUEBIRD" in m.content
"""

NO_DELETE = """
raise "files are not deleted" if:
    (call: ToolCall)
    call is tool:delete_file
"""

USUAL = (NO_BLUEBIRD, NO_DELETE)
"""Tests that ask for the same rules share a running proxy."""

NO_ETC = """
raise "nothing below /etc" if:
    (call: ToolCall)
    "/etc" in call.function.arguments["path"]
"""

ENDS_WITH_END = r"""
raise "every reply ends with END" if:
    (m: Message)
    m.role == "assistant"
    not match("(?s).*END$", m.content)
"""

# Each further "a" doubles the time: 25 of them and a "!" take about a second.
SLOW = r"""
raise "never" if:
    (m: Message)
    match("(a|a)*$", m.content)
"""

LOOPS = """
raise "never" if:
    (a: Message)
    (b: Message)
    (c: Message)
    (d: Message)
    len(a.content) + len(b.content) + len(c.content) + len(d.content) == 0
"""

HUNGRY = """
raise "never" if:
    (m: Message)
    m.content == "hungry"
    len(m.content * 4000000000) == 1
"""

NO_MAIL_AFTER_INBOX = """
raise "no mail after reading the inbox" if:
    (a: ToolCall) -> (b: ToolCall)
    a is tool:read_inbox
    b is tool:send_mail
"""

NO_CONDOR = """
raise "no condors" if:
    (m: Message)
    "CONDOR-7" in m.content
"""

API_KEYS = {"api_keys.inv": (_STARTER / "block" / "api_keys.inv").read_text()}
"""One of the starter rules: all of them take half a second to read."""
