"""finality: which hits on a prefix may be refused at once."""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from invariant_addon.engines.finality import grows

ADDON = Path(__file__).parents[2] / "addon"
HEAD = """
from invariant.detectors import secrets, copyright
from invariant import count, forall
from invariant_addon.engines.detectors import has_secret, has_orders, has_destructive_command
KINDS := ["openai", "jwt"]
WORDS := ["alpha", "beta"]
SIGMAS := ["λόγος"]
shouts(m: Message) :=
    "!" in m.content
quiet(m: Message) :=
    not ("!" in m.content)
twice(m: Message) :=
    shouts(m)
forever(m: Message) :=
    forever(m)
"""
M, C, T = "(m: Message)", "(c: ToolCall)", "(o: ToolOutput)"

FINAL = [
    (M, '"a" in m.content'),
    (M, 'm.role == "user"', '"a" in m.content'),
    (M, '("a" in m.content) and ("b" in m.content)'),
    (M, '("a" in m.content) or (m.role == "user")'),
    (M, 'any(find("a+", m.content))'),
    (M, 'match("a+", m.content)'),
    (M, '"a" in m.content.lower()'),
    (M, '"a" in m.content.upper().strip()'),
    (M, 'any(find("[a-z]+", m.content.lower()))'),
    (M, "any(secrets(m))"),
    (M, "any(secrets(m.content))"),
    (M, "(w: str) in WORDS", "w in m.content"),
    (M, "any([w in m.content for w in WORDS])"),
    (M, "any([w in m.content.lower() for w in WORDS])"),
    (M, "(t: str) in text(m)", '"a" in t'),
    (M, "x := m.content", '"a" in x'),
    (M, "shouts(m)"),
    (M, "twice(m)"),
    (C, "c is tool:send"),
    (C, 'c is tool:send({to: ".*", n: 3, l: [*, "a"]})'),
    (C, 'c.function.name == "send"'),
    (C, 'c.function.name != "send"'),
    (C, "c.function.arguments.amount > 100"),
    (C, 'c.function.arguments["cmd"] == "ls"'),
    (C, '"rm" in c.function.arguments.cmd.lower()'),
    (C, 'c.function.name in ["a", "b"]'),
    (C, "len(c.function.arguments.cmd) > 10"),
    (M, "(c: ToolCall) in m.tool_calls", "c is tool:send"),
    ("(a: ToolCall) -> (b: ToolCall)", "a is tool:read", "b is tool:send"),
    ("(o: ToolOutput) -> (b: ToolCall)", '"a" in o.content', "b is tool:send"),
    ("(m: Message) ~> (b: ToolCall)", '"a" in m.content', "b is tool:send"),
    (T, "o is tool:read", '"a" in o.content'),
    (T, 'tool_call(o).function.name == "read"'),
    (M, 'm.role != "assistant"', 'has_secret(m, ["openai"])'),
    (M, "has_secret(m.content, KINDS)"),
    (C, "has_secret(c, KINDS)"),
    (T, "has_orders(o)"),
    (C, 'has_destructive_command(c, ["delete"])'),
]

NOT_FINAL = [
    (M, 'not ("a" in m.content)'),
    (M, '("a" in m.content) and (not ("b" in m.content))'),
    (M, '("a" in m.content) or (not ("b" in m.content))'),
    (M, 'm.content == "a"'),
    (M, 'm.content != "a"'),
    (M, 'm.content < "a"'),
    (M, "len(m.content) > 10"),
    (M, 'len(find("a", m.content)) < 2'),
    (M, 'any(find("a$", m.content))'),
    (M, r'any(find("a\b", m.content))'),
    (M, 'any(find("a(?!b)", m.content))'),
    (M, 'match("a(?=b)", m.content)'),
    (M, "(p: str) in WORDS", 'match(m.content, "a")'),
    (M, '"a" in text(m)'),
    (M, '"a" in m.content.split()'),
    (M, 'm.content in "abc"'),
    (M, '"λόγος" in m.content.lower()'),
    (M, "any([w in m.content.lower() for w in SIGMAS])"),
    (M, 'any(find("ς", m.content.lower()))'),
    (M, "any(copyright(m.content))"),
    (M, "not (has_secret(m, KINDS))"),
    (M, "has_secret(m, [m.content])"),
    (M, 'has_destructive_command(m, ["delete"])'),
    (M, "has_secret(m, kinds=KINDS)"),
    (M, "quiet(m)"),
    (M, "forever(m)"),
    (M, '"a" in m.content + "x"'),
    (M, "any([w in m.content for w in WORDS if not (w in m.content)])"),
    (M, 'm.metadata == "x"'),
    (C, "not (c is tool:send)"),
    (C, "c is tool:send({to: <EMAIL_ADDRESS>})"),
    (M, "m.content is tool:send"),
    ("(a: Message) ~> (b: Message)", '"a" in a.content'),
    ("(a: Message) -> (b: Message)", 'not ("a" in b.content)'),
    ("count(min=2):", "    (c: ToolCall)", "    c is tool:send"),
    ("forall:", "    (c: ToolCall)", "    c is tool:send"),
    (M, "(x: str) in m.content.split()"),
    (M, "input.x"),
]

SCRIPT = """
import json, sys
from invariant.analyzer.language.parser import parse
sys.path.append(sys.argv[1])
from invariant_addon.engines import corrections
from invariant_addon.engines.finality import is_final
corrections.read_faster()
def final(text):
    policy = parse(text)
    if policy.errors:
        return str(policy.errors)
    return is_final(policy.statements[-1])
print(json.dumps([final(text) for text in json.load(sys.stdin)]))
"""


def policy(conditions: tuple[str, ...]) -> str:
    head = (
        HEAD
        if re.search(
            "WORDS|SIGMAS|KINDS|has_|shouts|quiet|twice|forever|secrets|copy|count|forall",
            str(conditions),
        )
        else ""
    )
    return head + 'raise "no" if:\n' + "".join(f"    {c}\n" for c in conditions)


@functools.cache
def finalities() -> dict[tuple[str, ...], bool | str]:
    rules = FINAL + NOT_FINAL
    done = subprocess.run(
        [sys.executable, "-P", "-c", SCRIPT, str(ADDON)],
        input=json.dumps([policy(r) for r in rules]),
        capture_output=True,
        text=True,
        env={},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(rules, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("conditions", FINAL, ids=" ; ".join)
def test_a_rule_that_only_rises_is_final(conditions: tuple[str, ...]) -> None:
    """Its stream is refused at the first hit: nobody pays for tokens that nobody reads."""
    assert finalities()[conditions] is True


@pytest.mark.parametrize("conditions", NOT_FINAL, ids=" ; ".join)
def test_a_rule_that_text_could_mend_is_not_final(conditions: tuple[str, ...]) -> None:
    """A reply that ends as it should must not be refused halfway."""
    assert finalities()[conditions] is False


@pytest.mark.parametrize(
    "pattern",
    ["abc", "a.*?b", "(?i)[a-z]{3,}", "^a|b", r"(?P<x>\d+)-\w", "(?<=a)b", r"\Aa", "(?:a|b)+", ""],
)
def test_patterns_that_never_look_at_the_end_grow(pattern: str) -> None:
    """These are what most rules are made of."""
    assert grows(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        "a$",
        r"a\Z",
        r"\ba",
        r"a\B",
        "a(?=b)",
        "a(?!b)",
        "(?<!a)b",
        "(?>a+)b",
        "a++b",
        r"(a)\1",
        "(a)?(?(1)b|c)",
        "(",
        "(?<=a$)b",
    ],
)
def test_patterns_that_could_change_their_mind_do_not_grow(pattern: str) -> None:
    """An unreadable pattern included: it raises at the check, not here."""
    assert not grows(pattern)


PIECES = st.sampled_from(
    ["a", "b", ".", "a*", "b+?", "(?:ab|a)", "[^a]", "a{2}", "^", "$", r"\b", "(?=b)", "(?!a)",
     "(?<=a)", "(?>a*)", "a*+", r"\w", "(?:a|b$)", "|", "(a)", "(?i:A)"]
)  # fmt: skip


@settings(max_examples=300)
@given(
    pattern=st.lists(PIECES, min_size=1, max_size=5).map("".join),
    text=st.text("ab \n", max_size=8),
    more=st.text("ab \n", max_size=4),
)
def test_what_grows_is_still_found_when_text_is_added(pattern: str, text: str, more: str) -> None:
    """The proof of the table above, by trying."""
    if not grows(pattern):
        return
    for found in (lambda t: re.match(pattern, t), lambda t: any(re.findall(f"(?:{pattern})", t))):
        assert not found(text) or found(text + more)
