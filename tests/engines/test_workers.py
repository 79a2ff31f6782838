"""Worker processes: deadlines, deaths, queues and what a worker may know."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from invariant_addon.core.verdict import Guardrail, Verdict
from invariant_addon.engines.base import EngineError, Priority, Question
from invariant_addon.engines.local import LocalEngine

from .conftest import Bench, question, rule, user

ADDON = Path(__file__).parents[2] / "addon"
WORD = rule("(m: Message)", '"forbidden" in m.content')
SLOW = rule("(m: Message)", 'match("(a+)+$", m.content)')
ENDLESS = [user("a" * 40 + "b")]
SLEEP = "from time import sleep\n" + rule("(m: Message)", "sleep(0.4)")


@pytest.fixture(scope="module")
def quick() -> Iterator[Bench]:
    """Two workers that have a second for each question."""
    bench = Bench(LocalEngine(workers=2, deadline_ms=1000, wait_ms=5000))
    yield bench
    bench.close()


def ask(bench: Any, asked: Question) -> asyncio.Task[tuple[Verdict, ...]]:
    task: asyncio.Task[tuple[Verdict, ...]] = bench.loop.create_task(bench.engine.check(asked))
    return task


async def until(condition: Any, seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  # processes come and go without an event
            await asyncio.sleep(0.02)


def is_gone(pid: int) -> bool:
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True


def test_a_rule_that_never_ends_hits_its_deadline(quick: Any) -> None:
    """A regular expression cannot be interrupted, only killed; the next question must not wait."""
    with pytest.raises(EngineError, match="no verdict within 1000 ms"):
        quick.judge(ENDLESS, SLOW)
    assert quick.judge([user("forbidden")], WORD)[0].violations
    quick.run(until(lambda: len(quick.engine.pids) == 2))


def test_a_worker_that_dies_takes_one_question_with_it(quick: Any) -> None:
    """The kernel kills the biggest; all others must not notice."""

    async def scene() -> None:
        await until(lambda: len(quick.engine.pids) == 2)
        tasks = [ask(quick, question(ENDLESS, SLOW)), ask(quick, question(ENDLESS, SLOW))]
        await asyncio.sleep(0.3)
        os.kill(quick.engine.pids[0], signal.SIGKILL)
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        with pytest.raises(EngineError, match="died"):
            done.pop().result()
        others = await asyncio.gather(*tasks, return_exceptions=True)
        assert sum("no verdict" in str(other) for other in others) == 1

    quick.run(scene())
    assert quick.judge([user("forbidden")], WORD)[0].violations


def test_a_worker_that_died_in_its_sleep_is_replaced(quick: Any) -> None:
    """Nobody's question should have to find out."""
    quick.run(until(lambda: len(quick.engine.pids) == 2))
    before = quick.engine.pids
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    quick.run(until(lambda: len(quick.engine.pids) == 2 and not set(before) & {*quick.engine.pids}))
    assert quick.judge([user("forbidden")], WORD)[0].violations


def test_a_caller_that_goes_away_is_not_waited_for(quick: Any) -> None:
    """A client that left must not cost a worker, and its verdict must not go to another."""

    async def scene() -> None:
        await quick.engine.check(question([user("x")], SLEEP))
        pids = quick.engine.pids
        tasks = [ask(quick, question([user("x")], SLEEP)) for _ in range(5)]
        await asyncio.sleep(0.1)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        (verdict,) = await quick.engine.check(question([user("forbidden")], WORD))
        assert verdict.violations
        assert quick.engine.pids == pids

    quick.run(until(lambda: len(quick.engine.pids) == 2))
    quick.run(scene())


def test_the_question_that_somebody_waits_for_goes_first(quick: Any) -> None:
    """Prefixes and logs must not hold up requests."""
    order: list[str] = []

    async def named(name: str, priority: Priority) -> None:
        asked = question([user("x")], SLEEP)
        asked = Question(asked.conversation, asked.continuations, asked.guardrails, priority)
        await quick.engine.check(asked)
        order.append(name)

    async def scene() -> None:
        names = ["busy", "busy", "log", "prefix 1", "prefix 2", "whole 1", "whole 2", "whole 3"]
        async with asyncio.TaskGroup() as group:
            for name in names:
                priority = {"l": Priority.LOG, "p": Priority.PREFIX}.get(name[0], Priority.WHOLE)
                group.create_task(named(name, priority))
                await asyncio.sleep(0.01)

    quick.run(until(lambda: len(quick.engine.pids) == 2))
    quick.run(scene())
    pairs = [set(order[i : i + 2]) for i in range(2, 8, 2)]  # two workers, two at a time
    assert pairs == [{"whole 1", "whole 2"}, {"whole 3", "prefix 1"}, {"prefix 2", "log"}]


def test_a_worker_has_no_keys(quick: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Policies are code, and detectors would send texts out if they could."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-x")
    monkeypatch.setenv("HTTPS_PROXY", "http://localhost")
    monkeypatch.setenv("PYTHONPATH", "addon")
    before = quick.engine.pids
    os.kill(before[0], signal.SIGKILL)
    quick.run(until(lambda: len(quick.engine.pids) == 2 and before[0] not in quick.engine.pids))
    for pid in quick.engine.pids:
        names = {e.partition("=")[0] for e in Path(f"/proc/{pid}/environ").read_text().split("\0")}
        assert names <= {
            "", "PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH",
            "INVARIANT_MAX_ITERATIONS", "LOCAL_POLICY",
        }  # fmt: skip


def test_a_long_wait_is_said_to_be_one() -> None:
    """Waiting is no judging: it has a limit and a text of its own."""

    async def scene() -> None:
        engine = LocalEngine(workers=2, deadline_ms=3000, wait_ms=200)
        await engine.start()
        try:
            await engine.load([Guardrail("1", "g", SLEEP)])
            await until(lambda: len(engine.pids) == 2)
            # 0.4 s for each of them, two at a time: the last two get no worker in time.
            asked = [engine.check(question([user("x"), user("y")], SLEEP)) for _ in range(4)]
            results = await asyncio.gather(*asked, return_exceptions=True)
            waited = [r for r in results if "no worker was free within 200 ms" in str(r)]
            # Three, where a busy machine kept one worker from beginning in time.
            assert len(waited) in (2, 3) and all(isinstance(r, EngineError) for r in waited)
        finally:
            await engine.aclose()

    asyncio.run(scene())


def test_no_worker_outlives_its_engine() -> None:
    """Whoever stops the proxy wants its memory back; what was asked fails and does not hang."""

    async def scene() -> tuple[tuple[int, ...], Any]:
        engine = LocalEngine(workers=2)
        await engine.load([Guardrail("1", "g", WORD)])  # starts it
        await until(lambda: len(engine.pids) == 2)
        pids = engine.pids
        task = asyncio.ensure_future(engine.check(question(ENDLESS, SLOW)))
        await asyncio.sleep(0.2)
        await engine.aclose()
        with pytest.raises(EngineError, match="shutting down"):
            await engine.check(question([user("x")], WORD))
        return pids, (await asyncio.gather(task, return_exceptions=True))[0]

    pids, result = asyncio.run(scene())
    assert all(is_gone(pid) for pid in pids)
    assert isinstance(result, EngineError)


def test_a_worker_that_cannot_start_says_why(tmp_path: Path) -> None:
    """The reason is what somebody reads who has just installed this."""
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec "{sys.base_prefix}/bin/python3" -S "$@"\n')
    bare.chmod(0o755)

    async def start(python: str) -> None:
        engine = LocalEngine(python=python)
        with contextlib.suppress(EngineError):
            await engine.start()
        await engine.start()

    with pytest.raises(EngineError, match="invariant-ai cannot be imported: No module named"):
        asyncio.run(start(str(bare)))
    with pytest.raises(EngineError, match="No such file"):
        asyncio.run(start("/nowhere/python"))
    with pytest.raises(EngineError, match="did not start"):
        asyncio.run(start("/bin/true"))


PARENT = """
import asyncio, sys
from invariant_addon.core.conversation import Conversation, Message, Part
from invariant_addon.core.verdict import Guardrail
from invariant_addon.engines.base import Question
from invariant_addon.engines.local import LocalEngine
async def main():
    engine = LocalEngine(workers=2, deadline_ms=60_000)
    await engine.load([Guardrail("1", "g", sys.argv[1])])
    while len(engine.pids) < 2:
        await asyncio.sleep(0.02)
    print(*engine.pids, flush=True)
    text = Message("user", (Part("text", "a" * 40 + "b"),))
    await engine.check(Question(Conversation((text,)), ((),), (Guardrail("1", "g", sys.argv[1]),)))
asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a busy worker ends after its answer")
def test_workers_die_with_the_proxy() -> None:
    """Nobody is left to kill a worker that computes for ever."""
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, SLOW],
        env={**os.environ, "PYTHONPATH": str(ADDON)},
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        time.sleep(0.3)
        parent.kill()
    assert len(pids) == 2
    asyncio.run(until(lambda: all(is_gone(pid) for pid in pids), 5))


def test_a_question_of_many_megabytes_does_not_block_the_pipe(quick: Any) -> None:
    """Both sides writing at once would wait for each other until the deadline."""
    text = "x" * 6_000_000 + " forbidden"
    assert quick.judge([user(text)], WORD)[0].violations[0].addresses[1].start == 6_000_001


def test_what_is_too_large_for_a_worker_is_no_verdict(quick: Any) -> None:
    """It is refused before it takes a worker's memory."""
    with pytest.raises(EngineError, match="too many"):
        quick.judge([user("x" * (64 * 1024 * 1024))], WORD)
