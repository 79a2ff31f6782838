"""What log rules find, looked for along with a question that somebody waits for."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from invariant_addon.core.conversation import Conversation, Message
from invariant_addon.core.verdict import Action, Guardrail, Verdict
from invariant_addon.engines.base import DeadlineError, EngineError, Priority, Question
from invariant_addon.engines.local import LocalEngine
from invariant_addon.engines.waiting import Asked

from .conftest import Bench, assistant, rule, user
from .test_same_verdicts import conversation, policy

FORBIDDEN = Guardrail("b", "block", rule("(m: Message)", '"forbidden" in m.content'), trusted=True)
NOTED = Guardrail("l", "log", rule("(m: Message)", '"odd" in m.content'), Action.LOG, trusted=True)
SLOW = replace(NOTED, text=rule("(m: Message)", 'match("(a+)+$", m.content)'))
SLEEP = replace(
    NOTED,
    text="from time import sleep\n"
    + rule("(m: Message)", 'm.role == "user"', "sleep(0.4) == None"),
)
ENDLESS = "a" * 40 + "b"
CASES = 40
SEED = 77


@pytest.fixture(scope="module")
def seeing() -> Iterator[Bench]:
    bench = Bench(LocalEngine(workers=2, deadline_ms=1500))
    bench.run(bench.engine.load([FORBIDDEN, NOTED, SLOW, SLEEP]))
    yield bench
    bench.close()


@pytest.fixture
def asked(seeing: Any, monkeypatch: pytest.MonkeyPatch) -> list[Asked[Any]]:
    """What went to a worker."""
    found: list[Asked[Any]] = []
    pool = seeing.engine._pool
    ask = pool.ask

    async def noting(question: Asked[Any]) -> Any:
        found.append(question)
        return await ask(question)

    monkeypatch.setattr(pool, "ask", noting)
    return found


def questions(
    said: str, reply: str, *, block: Guardrail = FORBIDDEN, log: Guardrail = NOTED
) -> tuple[Question, Question]:
    """Two about one reply: the one that its client waits for, and what the log rules find."""
    about = Conversation((user(said),))
    first = Question(about, ((assistant(reply),),), (block,), then=(log,))
    return first, replace(first, guardrails=(log,), then=(), priority=Priority.LOG)


def both(bench: Any, first: Question, second: Question) -> tuple[Verdict, Verdict]:
    async def scene() -> tuple[Verdict, Verdict]:
        (one,), (two,) = await bench.engine.check(first), await bench.engine.check(second)
        return one, two

    found: tuple[Verdict, Verdict] = bench.run(scene())
    return found


def test_one_question_is_enough(seeing: Any, asked: list[Asked[Any]]) -> None:
    """Half of what a check costs is the way to the worker and back."""
    first, second = both(seeing, *questions("hello", "an odd reply"))
    assert first.is_clean and len(second.violations) == 1
    assert len(asked) == 1


def test_nobody_waits_for_log_rules(seeing: Any) -> None:
    """Their verdict is the owner's wish, and the reply is the client's."""

    async def scene() -> None:
        first, second = questions("hello", "reply", log=SLEEP)
        (verdict,) = await seeing.engine.check(first)
        assert verdict.is_clean
        foreseen = seeing.engine._prepared[first.conversation].foreseen
        assert foreseen is not None and not foreseen.said.done()
        (noted,) = await seeing.engine.check(second)
        assert len(noted.violations) == 1 and foreseen.said.done()

    seeing.run(scene())


def test_where_something_was_found_they_look_when_they_are_asked(
    seeing: Any, asked: list[Asked[Any]]
) -> None:
    """What blocks a call ends it; but a mute may let it through, and then they are asked."""
    first, second = both(seeing, *questions("hello", "forbidden and odd"))
    assert len(first.violations) == 1 and len(second.violations) == 1
    assert len(asked) == 2


@pytest.mark.parametrize("change", ["reply", "rules", "parameters", "priority"])
def test_an_answer_is_to_its_own_question(
    seeing: Any, asked: list[Asked[Any]], change: str
) -> None:
    """A reply may have gone on after its last check; and a verdict must not be on another one."""
    first, second = questions("hello", "fine")
    changes: dict[str, Any] = {
        "reply": {"continuations": ((assistant("an odd one"),),)},
        "rules": {"guardrails": (FORBIDDEN, NOTED)},
        "parameters": {"parameters": {"x": 1}},
        "priority": {"priority": Priority.WHOLE},
    }
    _, found = both(seeing, first, replace(second, **changes[change]))
    assert len(asked) == 2
    assert len(found.violations) == (change == "reply")


def test_a_rule_that_never_ends_costs_its_own_verdict(seeing: Any) -> None:
    """The deadline holds for each of the two answers."""
    first, second = questions(ENDLESS, "reply", log=SLOW)
    (verdict,) = seeing.run(seeing.engine.check(first))
    assert verdict.is_clean
    with pytest.raises(DeadlineError, match="no verdict within 1500 ms"):
        seeing.run(seeing.engine.check(second))
    assert both(seeing, *questions("hello", "forbidden"))[0].violations


def test_a_worker_that_dies_between_its_answers_takes_one_with_it(seeing: Any) -> None:
    """What was said before it died holds, and the rest is known not to have been judged."""

    async def two_but(dead: set[int]) -> set[int]:
        async with asyncio.timeout(20):
            while len(alive := set(seeing.engine.pids) - dead) < 2:  # noqa: ASYNC110  # workers come without an event
                await asyncio.sleep(0.02)
        return alive

    async def scene() -> None:
        killed = await two_but(set())
        first, second = questions("hello", "reply", log=SLEEP)
        (verdict,) = await seeing.engine.check(first)
        assert verdict.is_clean
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(EngineError, match="the worker died"):
            await seeing.engine.check(second)
        await two_but(killed)

    seeing.run(scene())
    assert both(seeing, *questions("hello", "forbidden"))[0].violations


@pytest.mark.parametrize("change", ["brought", "prefix", "unknown"])
def test_nothing_is_foreseen_for_strangers(
    seeing: Any, asked: list[Asked[Any]], change: str
) -> None:
    """What nobody knows may take long, or have to be read first."""
    first, second = questions("hello", "odd")
    if change == "brought":
        first = replace(first, is_brought=True)
    elif change == "prefix":
        first = replace(first, priority=Priority.PREFIX)
    else:
        other = replace(NOTED, text=rule("(m: Message)", '"odd" in m.content', says=change))
        first, second = replace(first, then=(other,)), replace(second, guardrails=(other,))
    assert len(both(seeing, first, second)[1].violations) == 1
    assert len(asked) == 2 and all(one.later is None for one in asked)


def test_they_find_what_they_find_alone(seeing: Any, asked: list[Asked[Any]]) -> None:
    """Whatever was judged before them on the same messages."""
    chance = random.Random(SEED)
    hits = 0
    for _ in range(CASES):
        texts = [policy(chance) for _ in range(3)]
        rules = tuple(Guardrail(t, t, t, Action.LOG, trusted=True) for t in texts)
        assert not seeing.run(seeing.engine.load(rules))
        turns: list[Message] = conversation(chance) + conversation(chance)
        cut = chance.randint(0, len(turns) - 1)
        about, reply = Conversation(tuple(turns[:cut])), (tuple(turns[cut:]),)
        first = Question(about, reply, (FORBIDDEN,), then=rules)
        second = replace(first, guardrails=rules, then=(), priority=Priority.LOG)
        asked.clear()
        _, found = both(seeing, first, second)
        assert len(asked) == 1
        anew = Question(Conversation(tuple(turns[:cut])), reply, rules)
        assert (found,) == seeing.run(seeing.engine.check(anew))
        hits += bool(found.violations)
    assert CASES * 0.2 < hits < CASES
