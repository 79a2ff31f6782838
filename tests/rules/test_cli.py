"""scripts/rules: what it prints, and what it says by its exit code."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Coroutine, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from invariant_addon.core.conversation import Conversation, Message, Part
from invariant_addon.core.verdict import Address, Guardrail, Violation
from invariant_addon.engines.local import LocalEngine
from invariant_addon.rules import trial
from invariant_addon.rules.cli import main
from invariant_addon.rules.fingerprints import load_key
from invariant_addon.rules.mutes import Mutes

ROOT = Path(__file__).parents[2]
WORD = 'raise "a secret word" if:\n    (m: Message)\n    "bluebird" in m.content\n'
FAILS = 'raise "x" if:\n    (m: Message)\n    1 / 0 > 1\n'


class Lent:
    """An engine in a loop of its own, for commands that begin and end a loop each."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.engine = LocalEngine(workers=2, deadline_ms=trial.DEADLINE_MS)

    async def load(self, *given: Any) -> Any:
        return await self._there(self.engine.load(*given))

    def remarks(self, *given: Any) -> Any:
        return self.engine.remarks(*given)

    async def check(self, *given: Any) -> Any:
        return await self._there(self.engine.check(*given))

    async def aclose(self) -> None:
        """The next command needs it, too."""

    def end(self) -> None:
        asyncio.run_coroutine_threadsafe(self.engine.aclose(), self.loop).result(30)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    async def _there(self, work: Coroutine[Any, Any, Any]) -> Any:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self.loop))


@pytest.fixture(scope="module")
def lent() -> Iterator[Lent]:
    lent = Lent()
    yield lent
    lent.end()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with rules in it, and as the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INVARIANT_DATA", str(tmp_path / "data"))
    Path("word.inv").write_text(WORD)
    Path("two.inv").write_text(WORD + WORD)
    return tmp_path


@pytest.fixture
def folder(place: Path, lent: Lent, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With an engine that runs already: to start one takes most of a command's time."""
    monkeypatch.setattr(trial, "LocalEngine", lambda **_: lent)
    return place


def write(name: str, *lines: Any) -> str:
    Path(name).write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines))
    return name


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def test_good_rules_are_counted(folder: Path, capsys: Any) -> None:
    """Nothing is worse than a rule file that is silently empty."""
    assert main(["check", "word.inv", "two.inv"]) == 0
    assert capsys.readouterr().out == "word.inv: ok: 1 rule\ntwo.inv: ok: 2 rules\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('raise "x" if:\n    (m: Message)\n    nosuch(m)\n', "line 3: "),
        ('raise "x" if\n    (m: Message)\n', "bad.inv: "),
        ('from nowhere import x\nraise "x" if:\n    (m: Message)\n    x(m)\n', "nowhere"),
    ],
)
def test_a_wrong_rule_is_shown_with_its_reason(
    folder: Path, capsys: Any, text: str, said: str
) -> None:
    """One line for each file, so that an editor or CI can read it; the others are checked, too."""
    Path("bad.inv").write_text(text)
    assert main(["check", "bad.inv", "word.inv"]) == 1
    bad, good = capsys.readouterr().out.splitlines()
    assert bad.startswith("bad.inv: ") and said in bad
    assert good == "word.inv: ok: 1 rule"


def test_a_file_that_cannot_be_read_is_no_wrong_rule(folder: Path, capsys: Any) -> None:
    """CI must not take a typing error in a path for a broken rule."""
    Path("empty.inv").write_text("")
    assert main(["check", "missing.inv", "empty.inv", "word.inv"]) == 2
    assert capsys.readouterr().out.splitlines() == [
        "missing.inv: No such file or directory",
        "empty.inv: the file is empty",
        "word.inv: ok: 1 rule",
    ]


@pytest.mark.skipif(find_spec("transformers") is not None, reason="the package is installed")
def test_a_rule_without_its_package_is_not_ok(folder: Path, capsys: Any) -> None:
    """It said ok, and then every call was refused. CI can tell it from a wrong rule."""
    text = "from invariant.detectors import moderated\n" + WORD
    Path("mod.inv").write_text(text.replace('"bluebird" in m.content', "moderated(m)") + WORD)
    assert main(["check", "mod.inv", "word.inv"]) == 3
    said = capsys.readouterr()
    mod, word = said.out.splitlines()
    assert mod.startswith("mod.inv: no verdict: line 4: moderated needs transformers and torch, ")
    assert mod.endswith(" -m pip install transformers torch")
    assert word == "word.inv: ok: 1 rule"
    assert "invariant_on_failure" in said.err
    write("t.json", [user("hi")])  # and so it is: judged, it gives no answer
    assert main(["test", "mod.inv", "t.json"]) == 2
    Path("bad.inv").write_text("raise")
    assert main(["check", "mod.inv", "bad.inv"]) == 1  # the worse news is the exit code


def test_a_rule_that_would_block_everything_is_noted(folder: Path, capsys: Any) -> None:
    """It may be meant (a lock), so it is no error."""
    Path("all.inv").write_text(
        "from invariant.detectors import unicode\n"
        + WORD.replace('"bluebird" in m.content', "any(unicode(m))")
    )
    assert main(["check", "all.inv"]) == 0
    ok, note = capsys.readouterr().out.splitlines()
    assert ok == "all.inv: ok: 1 rule"
    assert note.startswith("all.inv: note: line 4: any(unicode(...)) without categories ")


@pytest.mark.parametrize(
    "trace",
    [
        [user("hi"), user("the bluebird flies")],
        {"model": "m", "messages": [user("hi"), user("the bluebird flies")]},
    ],
)
def test_a_finding_is_shown_where_it_is(folder: Path, capsys: Any, trace: Any) -> None:
    """Whoever writes a rule must see what it matches, and not only that it does."""
    write("t.json", trace)
    assert main(["test", "word.inv", "t.json"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "trace 1, 2 messages: 1 violation",
        "  word: a secret word",
        "    message 2 (user), content, characters 5-12",
        "      the >>>bluebird<<< flies",
    ]


def test_each_line_is_a_trace(folder: Path, capsys: Any) -> None:
    """As the trace store and the Explorer export them."""
    write("t.jsonl", [user("hi")], "", {"messages": [user("a bluebird")]})
    assert main(["test", "word.inv", "two.inv", "t.jsonl", "--json"]) == 1
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["name"], first["hits"]) == ("trace 1 (line 1)", [])
    assert second["name"] == "trace 2 (line 3)"
    assert [hit["guardrail"] for hit in second["hits"]] == ["word", "two", "two"]
    assert second["hits"][0]["places"][0]["found"] == "bluebird"
    write("t.jsonl", [user("hi")])
    assert main(["test", "word.inv", "t.jsonl"]) == 0
    assert capsys.readouterr().out == "trace 1, 1 message: nothing found\n"


def test_of_an_export_only_what_was_said_is_judged(folder: Path, capsys: Any) -> None:
    """Its metadata repeat the beginning of a conversation: a rule would find that once more."""
    exported = {"annotations": [], "metadata": {"name": "a bluebird", "status": "judged"}}
    write("t.jsonl", {"messages": [user("hi")], **exported})
    assert main(["test", "word.inv", "t.jsonl"]) == 0
    assert capsys.readouterr().out == "trace 1, 1 message: nothing found\n"
    write("t.jsonl", exported)
    assert main(["test", "word.inv", "t.jsonl"]) == 2


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["{"], "t.json: line 1: not JSON"),
        ([""], "t.json: the file is empty"),
        (["[1]"], "a message is not an object"),
        (["42"], "not a JSON object"),
        ([{"a": 1}], "no list of messages"),
        ([[user("x")], "{", [user("x")]], "t.json: line 2: not JSON"),
    ],
)
def test_a_malformed_trace_is_an_error(
    folder: Path, capsys: Any, lines: list[Any], said: str
) -> None:
    """Half a recording judged as if it were whole says that rules find nothing."""
    write("t.json", *lines)
    assert main(["test", "word.inv", "t.json"]) == 2
    shown = capsys.readouterr()
    assert said in shown.err and shown.out == ""


def test_a_rule_without_a_verdict_is_an_error(folder: Path, capsys: Any) -> None:
    """ "Nothing found" would be a lie."""
    Path("bad.inv").write_text('raise "x" if:\n    (m: Message)\n    nosuch(m)\n')
    write("t.json", [user("hi")])
    assert main(["test", "bad.inv", "t.json"]) == 2
    assert main(["test", "missing.inv", "t.json"]) == 2
    Path("fails.inv").write_text(FAILS)
    assert main(["test", "word.inv", "fails.inv", "t.json"]) == 2
    out = capsys.readouterr().out
    assert "no verdict from fails: ZeroDivisionError in the rule at line 1" in out
    assert "nothing found" not in out
    assert main(["test", "word.inv", "missing.json"]) == 2
    assert "missing.json: No such file" in capsys.readouterr().err


def test_a_trace_cannot_command_the_terminal(place: Path, capsys: Any) -> None:
    """A recording holds what strangers wrote. (And with an engine of the command's own.)"""
    write("t.json", [user("\x1b]0;x\x07 bluebird\u202e\n!")])
    assert main(["test", "word.inv", "t.json"]) == 1
    shown = capsys.readouterr().out
    assert "\\u001b]0;x\\u0007 >>>bluebird<<<\\u202e\\n!" in shown
    assert "\x1b" not in shown and "\u202e" not in shown


def refuse(folder: Path) -> None:
    data = folder / "data"
    asked = Conversation((Message("user", (Part("text", "hi"),)),))
    found = Violation(Guardrail("1", "keys", ""), "a key", (Address(0, "content", 0, 2),))
    Mutes(data, load_key(data)).record("inv_1", "request", asked, asked.messages, (found,))


def test_muting_says_what_and_until_when_and_how_to_go_back(folder: Path, capsys: Any) -> None:
    """A rule that is off is easily forgotten."""
    refuse(folder)
    assert main(["mute", "inv_1", "--conversation", "--for", "30m"]) == 0
    muted, written, back = capsys.readouterr().out.splitlines()
    assert muted.startswith('muted keys ("a key") for this conversation until ')
    assert str(folder / "data" / "mutes.json") in written
    assert back == "to take it back: scripts/rules unmute inv_1"
    assert main(["mutes"]) == 0
    listed = capsys.readouterr().out
    assert "keys" in listed and "after inv_1" in listed
    assert main(["unmute", listed.split()[0]]) == 0
    assert capsys.readouterr().out == "no longer muted: keys, this conversation\n"
    assert main(["mutes", "--data", str(folder / "data")]) == 0
    assert capsys.readouterr().out == f"nothing is muted ({folder / 'data'})\n"


def test_what_cannot_be_muted_is_an_error(folder: Path, capsys: Any) -> None:
    """Silence would be taken for success."""
    refuse(folder)
    assert main(["mute", "inv_2"]) == 2
    assert main(["mute", "inv_1", "--rule", "other"]) == 2
    assert main(["unmute", "inv_1"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 3 and all(line.startswith("invariant: ") for line in errors)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nothing"],
        ["check"],
        ["test", "word.inv"],
        ["mute", "inv_1", "--for", "soon"],
        ["mute", "inv_1", "--finding", "--conversation"],
    ],
)
def test_a_wrong_order_is_a_usage_error(folder: Path, capsys: Any, arguments: list[str]) -> None:
    """It says what would be right."""
    assert main(arguments) == 2
    assert "usage: scripts/rules" in capsys.readouterr().err


def test_help_has_examples(capsys: Any) -> None:
    """An example is read before any list of options."""
    assert main(["--help"]) == 0
    assert "scripts/rules test rules/mail.inv recorded.jsonl" in capsys.readouterr().out


def test_it_runs_as_the_script_starts_it(folder: Path) -> None:
    """Isolated, with the addon's folder last on the path."""
    script = (ROOT / "scripts" / "rules").read_text()
    code = script.split("-I -c '", 1)[1].split("' ", 1)[0]
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, ROOT / "addon", "check", "word.inv"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "word.inv: ok: 1 rule\n", "")
