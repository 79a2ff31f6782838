"""What one worker parsed, read by the others."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from invariant_addon.core.conversation import Conversation, Message, Part, ToolCall
from invariant_addon.core.verdict import Guardrail, Verdict
from invariant_addon.engines import child, slots
from invariant_addon.engines.base import Question
from invariant_addon.engines.local import LocalEngine
from invariant_addon.rules import files

from .conftest import Bench, assistant, question, rule, user

CONSTRUCTS = """
(m: Message)|(t: str) in text(m)|"red" in t
(c: ToolCall)|(v: str) in c.function.arguments.values()|"red" in v
(c: ToolCall)|c is tool:run({cmd: ".*red.*", n: *, l: ["a", "b"]})
(c: ToolCall)|not (c is tool:run)
(o: ToolOutput)|o is tool:run|"red" in o.content
(a: ToolCall) -> (b: ToolCall)|a is tool:run|b is tool:send
(a: Message) ~> (b: Message)|a.role == "user"
(m: Message)|any(["red" in w for w in m.content.split(" ") if len(w) > 2])
(m: Message)|w := m.content.lower()|"red" in w
(o: ToolOutput)|any(secrets(o))
(m: Message)|input.word in m.content
(m: Message)|("red" if m.role == "user" else "blue") in m.content
(m: Message)|len(m.content) * 2 - 1 >= -5 + 2 ** 3
(m: Message)|is_red(m)
(c: ToolCall)|runs(c)
(m: Message)|any([c in m.content for c in COLOURS])
(m: Message)|any(find(r"r\\wd", m.content))
(m: Message)|(c: ToolCall) in m.tool_calls|c is tool:run
(f: Function)|f.name == "run"
count(min=1, max=3):|    (c: ToolCall)|    c is tool:run
not count(min=9):|    (c: ToolCall)|    c is tool:run
forall:|    (c: ToolCall)|    len(c.function.name) > 2
"""
HEAD = """from invariant import count, forall
from invariant.detectors import secrets

is_red(m: Message) :=
    m.role == "user"
    "red" in m.content

runs(c: ToolCall) :=
    c is tool:run

COLOURS := ["red", "blue"]

"""

WORD = rule("(m: Message)", '"forbidden" in m.content')
LATER = rule("(m: Message)", '"later" in m.content')


@pytest.fixture
def fresh() -> Iterator[Bench]:
    """Two workers that have judged nothing."""
    bench = Bench(LocalEngine(workers=2))
    yield bench
    bench.close()


def test_only_trees_are_read() -> None:
    """A worker that a rule has taken over must not take over the next one."""
    planted = Path(__file__).with_name("planted.py")
    done = subprocess.run(
        [sys.executable, "-P", str(planted)], capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert lines.pop() == "what cannot be written ''"
    assert lines.pop() == "a policy BinaryExpr"
    assert len(lines) == 6 and all(line.endswith(" refused") for line in lines)


def test_a_policy_is_parsed_by_one_worker(fresh: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parsing the starter rules takes a second of processor time; every worker would pay it."""
    asked: list[tuple[tuple[str, ...], tuple[str, ...]]] = []

    def load_body(keys: Any, trees: Any = (), *, keep: bool) -> bytes:
        asked.append((tuple(text for text, _ in keys), tuple(trees)))
        return real(keys, trees, keep=keep)

    real = child.load_body
    monkeypatch.setattr(slots, "load_body", load_body)

    async def load(text: str, times: int) -> None:
        await fresh.engine.load([Guardrail("1", "g", text)])
        async with asyncio.timeout(20):
            while len(asked) < times:  # noqa: ASYNC110  # the others load after the answer
                await asyncio.sleep(0.02)

    fresh.run(load(WORD, 2))
    assert asked[0] == ((WORD,), ("",))
    assert asked[1][0] == (WORD,) and asked[1][1][0] != ""

    async def judge_at_once() -> None:  # so that each worker has its share
        asked = [question([user("forbidden")], WORD, trusted=False) for _ in range(4)]
        for (verdict,) in await asyncio.gather(*(fresh.engine.check(one) for one in asked)):
            assert len(verdict.violations) == 1

    fresh.run(judge_at_once())

    # What has judged may have been led to say anything: now each parses for itself.
    asked.clear()
    fresh.run(load(LATER, 2))
    assert [trees for texts, trees in asked if texts == (LATER,)] == [("",)] * 2


def test_what_was_parsed_elsewhere_judges_alike(fresh: Bench) -> None:
    """One worker has parsed the starter rules, the other has read what came of it."""
    rules = files.from_files(sorted(files.STARTER.glob("*/*.inv")))
    fresh.run(fresh.engine.load(rules))
    call = ToolCall("c", "bash", '{"command": "rm -rf / && git push --force"}')
    said = (user("password=hunter2hunter2 https://a:b3c4d5@host/"), assistant("", call))
    asked = Question(Conversation(said), ((),), rules)

    async def ask_both() -> list[tuple[Verdict, ...]]:
        return list(await asyncio.gather(*(fresh.engine.check(asked) for _ in range(2))))

    one, other = fresh.run(ask_both())
    assert one == other
    assert len(one[0].violations) >= 3 and not one[0].failures


def test_a_parameter_is_known_to_every_worker(fresh: Bench) -> None:
    """The library knows `input` by identity: a copy of a tree must not hold a copy of it."""
    text = rule("(m: Message)", "input.word in m.content")
    guardrails = (Guardrail("1", "g", text),)
    fresh.run(fresh.engine.load(guardrails))
    conversation = Conversation((user("as"),))
    asked = Question(conversation, ((),), guardrails, parameters={"word": "as"})

    async def ask_both() -> list[tuple[Verdict, ...]]:
        return list(await asyncio.gather(*(fresh.engine.check(asked) for _ in range(2))))

    for _ in range(4):
        for (verdict,) in fresh.run(ask_both()):
            assert len(verdict.violations) == 1 and not verdict.failures


def test_every_policy_is_read_as_the_library_reads_it() -> None:
    """The parser is corrected to take less time; what it finds must not change, nor where. What
    has two readings is the hard part: `and` in chains, calls without arguments, strings."""
    everything = HEAD + "".join(f'raise "x" if:\n{body}\n\n' for body in constructs())
    odd = ["", "\n# only\n", 'raise "x" if:', 'raise "x" if:\n    (m: Message', "a := 1 +\n", "\\"]
    chains = [rule("(m: Message)", " and ".join(["1 == 1", "not 2 in [3]"] * n)) for n in (1, 2)]
    starter = [file.read_text() for file in sorted(files.STARTER.glob("block/*.inv"))]
    texts = [*odd, everything, *chains, *starter]
    done = subprocess.run(
        [sys.executable, "-P", str(Path(__file__).with_name("twice.py"))],
        input=json.dumps(texts),
        capture_output=True,
        text=True,
        check=True,
    )
    read = json.loads(done.stdout)
    assert not [text for text, tree in zip(texts, read, strict=True) if tree is None]
    assert [text for text, tree in zip(texts, read, strict=True) if not tree] == odd[2:]


def constructs() -> list[str]:
    return ["    " + line.replace("|", "\n    ") for line in CONSTRUCTS.strip().split("\n")]


def test_every_construct_means_the_same_in_every_worker(fresh: Bench) -> None:
    """What the library knows by identity is lost where it is copied: each sort of node is tried."""
    bodies = constructs()
    text = HEAD + "".join(f'raise "{n}" if:\n{body}\n\n' for n, body in enumerate(bodies))
    guardrails = (Guardrail("1", "g", text),)
    assert not fresh.run(fresh.engine.load(guardrails))
    arguments = '{"cmd": "red", "n": 3, "l": ["a", "b"], "d": {"a": 1}, "b": true}'
    calls = ToolCall("c1", "run", arguments), ToolCall("c2", "send", "{}")
    answer = Message("tool", (Part("text", "red ghp_" + "0aB" * 12),), (), "c1")
    said = (user("red one"), assistant("blue", *calls), answer, assistant("xred"))
    parameters = {"word": "red", "n": 3}
    asked = Question(Conversation(said), ((),), guardrails, parameters=parameters)

    async def ask_both() -> list[tuple[Verdict, ...]]:
        return list(await asyncio.gather(*(fresh.engine.check(asked) for _ in range(2))))

    for _ in range(2):
        (one,), (other,) = fresh.run(ask_both())
        assert one == other and not one.failures
        missed = {str(n) for n in range(len(bodies))} - {v.message for v in one.violations}
        assert not [bodies[int(n)] for n in missed]
