"""What one worker parsed, read by the others."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from invariant_addon.core.conversation import Conversation, ToolCall
from invariant_addon.core.verdict import Guardrail, Verdict
from invariant_addon.engines import child, pool
from invariant_addon.engines.base import Question
from invariant_addon.engines.local import LocalEngine
from invariant_addon.rules import files

from .conftest import Bench, assistant, rule, user

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
    monkeypatch.setattr(pool, "load_body", load_body)

    async def load(text: str, times: int) -> None:
        await fresh.engine.load([Guardrail("1", "g", text)])
        async with asyncio.timeout(20):
            while len(asked) < times:  # noqa: ASYNC110  # the others load after the answer
                await asyncio.sleep(0.02)

    fresh.run(load(WORD, 2))
    assert asked[0] == ((WORD,), ("",))
    assert asked[1][0] == (WORD,) and asked[1][1][0] != ""
    for _ in range(4):
        assert len(fresh.judge([user("forbidden")], WORD, trusted=False)[0].violations) == 1

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
