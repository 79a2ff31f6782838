"""Long conversations, many questions, workers that misbehave or are worn out."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from invariant_addon.core.conversation import Conversation, Message, Part, ToolCall
from invariant_addon.core.verdict import Guardrail
from invariant_addon.engines.base import EngineError, Priority, Question
from invariant_addon.engines.local import LocalEngine
from invariant_addon.engines.waiting import MAX_WAITING, PATIENCE, Asked, Home, Waiting
from invariant_addon.engines.wear import Wear

from .conftest import Bench, assistant, question, rule, user

WORD = rule("(m: Message)", '"forbidden" in m.content')
FLOW = rule("(o: ToolOutput) -> (c: ToolCall)", "o is tool:read_mail", "c is tool:send_mail")
SLEEP = "from time import sleep\n" + rule("(m: Message)", "sleep(0.4)")
HUNGRY = rule("(m: Message)", 'len("a" * 3000000000) > 1')


@pytest.fixture(scope="module")
def default() -> Iterator[Bench]:
    """Deadline and memory as they are by default."""
    bench = Bench(LocalEngine(workers=2))
    yield bench
    bench.close()


async def both_up(engine: LocalEngine) -> None:
    async with asyncio.timeout(20):
        while len(engine.pids) < 2:  # noqa: ASYNC110  # processes come without an event
            await asyncio.sleep(0.02)


def agent(turns: int, *names: str) -> tuple[Message, ...]:
    """Calls and their results, `names` last."""
    messages = [user("do it")]
    for i, name in enumerate([*["bash"] * (turns - len(names)), *names]):
        messages += [
            assistant(f"step {i}", ToolCall(f"c{i}", name, f'{{"cmd": "ls {i}"}}')),
            Message("tool", (Part("text", f"result {i} " * 20),), (), f"c{i}"),
        ]
    return tuple(messages)


def test_an_agent_of_300_turns_gets_its_verdict(default: Any) -> None:
    """The library took seconds and gigabytes for it, or gave up: every long run was lost."""
    clean, leak = agent(300), agent(300, "read_mail", "send_mail")
    assert default.judge(list(clean), FLOW, WORD)[0].error is None
    outcomes = default.judge(list(leak), FLOW, WORD)
    assert len(outcomes[0].violations) == 1 and not outcomes[1].violations
    mails = default.judge(list(agent(300, *["read_mail", "send_mail"] * 100)), FLOW)
    assert len(mails[0].violations) == 16


def test_long_streams_do_not_starve_a_short_one(default: Any) -> None:
    """Three agents at work, and somebody says hello."""
    order: list[str] = []
    guardrails = (Guardrail("1", "g", FLOW),)

    async def stream(name: str, messages: tuple[Message, ...], pieces: int) -> None:
        conversation = Conversation(messages)
        for i in range(pieces):
            reply = ((assistant("x" * i),),)
            asked = Question(conversation, reply, guardrails, Priority.PREFIX)
            assert (await default.engine.check(asked))[0].is_clean
        order.append(name)

    async def scene() -> None:
        await both_up(default.engine)
        async with asyncio.TaskGroup() as group:
            for i in range(3):
                group.create_task(stream(f"long {i}", agent(300), 60))
            await asyncio.sleep(0.05)
            group.create_task(stream("short", (user("hello"),), 1))

    default.run(scene())
    assert order[0] == "short" and len(order) == 4


def test_of_one_reply_only_the_newest_piece_waits(default: Any) -> None:
    """A fast model sends more pieces than can be judged; the last has all of them in it."""
    conversation = Conversation((user("hi"),))
    count = (Guardrail("1", "g", WORD),)
    answers: list[Any] = []

    async def piece(text: str) -> None:
        asked = Question(conversation, ((assistant(text),),), count, Priority.PREFIX)
        answers.append((text, (await default.engine.check(asked))[0].is_clean))

    async def scene() -> None:
        await both_up(default.engine)
        async with asyncio.TaskGroup() as group:
            for _ in range(2):
                group.create_task(default.engine.check(question([user("x")], SLEEP)))
            await asyncio.sleep(0.1)
            for text in ("forb", "forbidd", "forbidden"):
                group.create_task(piece(text))

    default.run(scene())
    assert sorted(answers) == [("forb", False), ("forbidd", False), ("forbidden", False)]


def test_the_queue_is_bounded() -> None:
    """Memory must not be what limits it; and who is refused is told why."""
    loop = asyncio.new_event_loop()
    queue: Waiting[int] = Waiting()
    asked = Asked(0, b"x", (), False, 0)
    jobs = [(f := loop.create_future(), queue.put(asked, f)) for _ in range(MAX_WAITING)]
    with pytest.raises(EngineError, match="overloaded: 1024 questions are waiting"):
        queue.put(asked, loop.create_future())
    queue.leave(jobs[5][1], jobs[5][0])
    queue.put(replace(asked, family=(1,)), loop.create_future())
    queue.put(replace(asked, family=(1,), body=b"y"), loop.create_future())  # takes its place
    assert len(queue) == MAX_WAITING
    loop.close()


def test_a_hungry_rule_gets_an_error_and_the_proxy_lives(default: Any) -> None:
    """Without a limit the kernel would choose whom to kill."""
    hungry, found = default.judge([user("forbidden")], HUNGRY, WORD)
    assert hungry.error == "MemoryError in the rule at line 1"
    assert found.violations


@pytest.mark.skipif(sys.platform == "win32", reason="no such signal")
def test_a_worker_that_was_stopped_is_killed_at_its_deadline(default: Any) -> None:
    """A process that does not run does not read its signals either, but for one."""

    async def scene() -> None:
        await both_up(default.engine)
        stopped = default.engine.pids
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        with pytest.raises(EngineError, match="no verdict within 2000 ms"):
            await default.engine.check(question([user("x")], WORD))
        other = next(pid for pid in stopped if pid in default.engine.pids)
        os.kill(other, signal.SIGCONT)
        (verdict,) = await default.engine.check(question([user("forbidden")], WORD))
        assert verdict.violations

    default.run(scene())


@pytest.mark.parametrize("wear", [Wear(answers=5), Wear(growth_mb=-1, measured_every=1)])
def test_worn_workers_are_replaced_one_by_one(wear: Wear) -> None:
    """A leak must not add up for weeks; nobody's question may notice."""

    async def scene() -> None:
        engine = LocalEngine(workers=2, wear=wear)
        await engine.start()
        try:
            await both_up(engine)
            first, seen = set(engine.pids), []
            async with asyncio.timeout(20):
                while first <= set(engine.pids):
                    (verdict,) = await engine.check(question([user("forbidden")], WORD))
                    assert verdict.violations
                    seen.append(len(engine.pids))
                    await asyncio.sleep(0.01)
            assert min(seen) >= 1
        finally:
            await engine.aclose()

    asyncio.run(scene())


def test_a_worker_takes_what_it_knows_first_but_not_for_ever() -> None:
    """It has read that conversation; who asked before must get an answer all the same."""
    loop = asyncio.new_event_loop()
    queue: Waiting[int] = Waiting()
    here, there = object(), object()
    homes = {slot: Home() for slot in (here, there)}
    for slot, home in homes.items():
        home.move(slot)
    asked = Asked(1, b"x", (), False, 0)
    queue.put(replace(asked, tag=-1, home=homes[there]), loop.create_future())
    for number in range(2 * PATIENCE):
        queue.put(replace(asked, tag=number, home=homes[here]), loop.create_future())
    queue.put(replace(asked, priority=2, tag=-2, home=homes[here]), loop.create_future())

    def take(slot: object) -> int:
        job = queue.take(slot, slow_too=True)
        assert job is not None
        return job.asked.tag

    assert [take(here) for _ in range(PATIENCE + 1)] == [*range(PATIENCE), -1]
    assert take(there) == PATIENCE  # it knows none of them
    queue.put(replace(asked, priority=0, tag=-3, home=homes[there]), loop.create_future())
    assert [take(here), take(here)] == [-3, PATIENCE + 1]  # urgency counts first
    loop.close()
