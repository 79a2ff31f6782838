"""Worker processes and the questions that wait for one.

Each slot (slots.py) keeps one worker alive, makes the known guardrails ready in it, and hands it
one question after the other. Questions wait in order of priority, then of arrival; waiting is
limited by itself, the deadline is for judging. Questions that are known to be slow may keep at
most half of the workers busy: a few conversations whose verdicts take long do not hold up the
others.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from .base import EngineClosedError, EngineError
from .child import Child, Loaded
from .shelf import Key, Shelf, shelf_of_a_worker
from .slots import LOAD_SECONDS, Order, Slot
from .waiting import Answered, Asked, Job, Waiting
from .wear import Wear

logger = logging.getLogger(__name__)

HOPELESS = 2
"""Failed starts in a row, of every slot, after which nobody is told to wait any more."""


class Pool:
    """deadline, wait: seconds for judging and for waiting. memory_mb: of each worker."""

    def __init__(
        self, *, workers: int, deadline: float, wait: float, memory_mb: int, python: str, wear: Wear
    ) -> None:
        self.deadline = deadline
        self.known: Shelf[str] = shelf_of_a_worker()  # with their trees
        self.closing = asyncio.Event()
        self._wait = wait
        self._memory_mb = memory_mb
        self._python = python
        self._slots = [Slot(self) for _ in range(workers)]
        self._tasks: list[asyncio.Task[None]] = []
        self._wear = wear
        self._waiting: Waiting[Any] = Waiting()
        self._slow_limit = max(1, workers // 2)
        self._slow_now = 0
        self._renewed: Slot | None = None
        self._changed = asyncio.Event()
        self._failure: EngineError | None = None
        self._was_up = False

    @property
    def pids(self) -> tuple[int, ...]:
        """Of the workers that can be asked."""
        ready = [s.child.pid for s in self._slots if s.child and s.is_ready]
        return tuple(pid for pid in ready if pid)

    async def start(self) -> None:
        """Returns when one worker is ready; EngineError when none could be started."""
        # Two at first: more would only take the processors from each other.
        self._tasks = [asyncio.create_task(slot.keep()) for slot in self._slots[:2]]
        while not self._is_up:
            if self._failure:
                raise EngineError(str(self._failure))
            self._changed.clear()
            await self._changed.wait()
        self._tasks += [asyncio.create_task(slot.keep()) for slot in self._slots[2:]]

    def keeps(self, key: Key) -> bool:
        """Whether it was loaded for all questions."""
        return key in self.known

    async def load(self, keys: Sequence[Key]) -> Loaded:
        """Make guardrails ready in all workers; returns as soon as one has answered.

        One begins, if one is idle: it can spare the others the parsing.
        """
        self._require_up()
        asked = [slot for slot in self._slots if slot.is_idle][:1]
        loaded = await _first_answer(_order(asked, keys))
        if loaded is None:
            asked = self._slots
            loaded = await _first_answer(_order(asked, keys))
        if loaded is None:
            raise EngineError("no worker could read the guardrails")
        for key, error, tree in zip(keys, loaded.errors, loaded.trees, strict=True):
            if error is None:
                self.known.put(key, tree, keep=True)
        _order([slot for slot in self._slots if slot not in asked], keys)
        return loaded

    async def ask[T](self, asked: Asked[T]) -> tuple[Answered[T], float]:
        """The answer to a check, and the seconds of judging that it took."""
        self._require_up()
        loop = asyncio.get_running_loop()
        asker: asyncio.Future[tuple[Answered[T], float]] = loop.create_future()
        job = self._waiting.put(asked, asker)
        self._find_worker(asked)
        timer = None
        if self._waiting.holds(job):
            timer = loop.call_later(self._wait, self._expire, job, asker)
        try:
            return await asker
        finally:
            if timer is not None:
                timer.cancel()
            self._waiting.leave(job, asker)

    async def aclose(self) -> None:
        self.closing.set()
        self._waiting.fail_all(EngineClosedError())
        for slot in self._slots:
            if slot.child:
                slot.child.kill()
            slot.rouse()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for slot in self._slots:
            slot.drop_orders()

    @property
    def _is_up(self) -> bool:
        return any(slot.is_ready for slot in self._slots)

    def _require_up(self) -> None:
        if self.closing.is_set():
            raise EngineClosedError
        if not self._tasks:
            raise EngineError("the engine is not running")
        if self._failure and not self._is_up:
            raise EngineError(str(self._failure))

    @property
    def is_calm(self) -> bool:
        """Whether a worker has nothing to do."""
        return not self._waiting and any(slot.is_idle for slot in self._slots)

    # what its slots need

    def make_child(self, slot: Slot) -> Child:
        return Child(self._python, self._memory_mb, slot.rouse)

    @property
    def has_jobs(self) -> bool:
        return bool(self._waiting)

    def next_job(self, slot: Slot) -> Job[Any] | None:
        return self._waiting.take(slot, slow_too=self._slow_now < self._slow_limit)

    def count_slow(self, by: int) -> None:
        self._slow_now += by

    def is_worn(self, slot: Slot) -> bool:
        return slot.child is not None and slot.child.is_worn(self._wear)

    def may_renew(self, slot: Slot) -> bool:
        """One after the other, and only while another worker can be asked."""
        if self._renewed or not self.is_worn(slot):
            return False
        if not any(other.is_ready for other in self._slots if other is not slot):
            return False
        self._renewed = slot
        return True

    def note_ready(self, slot: Slot) -> None:
        if self._failure:
            logger.info("guardrail workers are back")
        self._failure = None
        self._was_up = True
        slot.failures = 0
        slot.is_ready = True
        if self._renewed is slot:
            self._renewed = None
        self._changed.set()

    def note_failure(self, e: EngineError) -> None:
        if self.closing.is_set() or self._is_up:
            return
        if self._was_up and any(slot.failures < HOPELESS for slot in self._slots):
            return  # they were killed while they started; who asks may wait for the next ones
        if not self._failure:
            logger.warning("no guardrail worker: %s", e)
        self._failure = e
        self._waiting.fail_all(e)
        self._changed.set()

    def note_end(self, slot: Slot, *, has_answered: bool) -> None:
        """Its worker is gone."""
        if self._renewed is slot and not has_answered:
            self._renewed = None
        self._find_worker()  # what this one was roused for is another's now

    # the queue

    def _find_worker(self, asked: Asked[Any] | None = None) -> None:
        """For what waits. For this question one that knows its guardrails, for reading those is
        what takes longest; and of these the one that knows the conversation."""
        if not self._waiting:
            return
        idle = [slot for slot in self._slots if slot.is_idle]
        if asked is not None and asked.home is not None and len(idle) > 1:
            likely = asked.home.likely
            idle.sort(key=lambda slot: slot is not likely)
            idle.sort(key=lambda slot: not slot.knows(asked.keys))
        if idle:
            idle[0].go_on()

    def _expire(self, job: Job[Any], asker: asyncio.Future[Any]) -> None:
        if self._waiting.holds(job) and not asker.done():
            asker.set_exception(
                EngineError(f"no worker was free within {self._wait * 1000:.0f} ms")
            )


def _order(slots: Sequence[Slot], keys: Sequence[Key]) -> list[asyncio.Future[Loaded | None]]:
    loop = asyncio.get_running_loop()
    orders = [Order(tuple(keys), loop.create_future()) for _ in slots]
    for slot, order in zip(slots, orders, strict=True):
        slot.order(order)
    return [order.done for order in orders]


async def _first_answer(orders: Sequence[asyncio.Future[Loaded | None]]) -> Loaded | None:
    """None: all of these workers died, or none answered in time."""
    pending = set(orders)
    while pending:
        done, pending = await asyncio.wait(
            pending, timeout=LOAD_SECONDS, return_when=asyncio.FIRST_COMPLETED
        )
        if not done:
            return None
        for order in done:
            if (loaded := order.result()) is not None:
                return loaded
    return None
