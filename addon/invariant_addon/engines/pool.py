"""Worker processes and the questions that wait for one.

Each slot keeps one worker alive: it starts it, makes the known guardrails ready in it, hands it
one question after the other, and replaces it when it died or had to be killed. Questions wait in
order of priority, then of arrival; waiting is limited by itself, the deadline is for judging.
Questions that are known to be slow may keep at most half of the workers busy: a few conversations
whose verdicts take long do not hold up the others.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from .base import EngineClosedError, EngineError
from .child import Child, Loaded, load_body, loaded_of
from .shelf import Key, Shelf
from .waiting import Answered, Asked, Job, Waiting
from .wear import Wear

logger = logging.getLogger(__name__)

MAX_KNOWN = 512
"""Guardrails that are made ready in a new worker. These are below the worker's own limits."""
MAX_PASSING = 32
MAX_PASSING_CHARACTERS = 256 * 1024
LOAD_SECONDS = 30.0
PASSING_SECONDS = 15.0
"""For reading one guardrail that came with a request. The worker gives up before."""
HOPELESS = 2
"""Failed starts in a row, of every slot, after which nobody is told to wait any more."""
FIRST_PAUSE = 0.2
LONGEST_PAUSE = 10.0


@dataclass(slots=True)
class _Order:
    """Make these guardrails ready in one worker. done: what it said, None if it died."""

    keys: tuple[Key, ...]
    done: asyncio.Future[Loaded | None]


class _Slot:
    """known: what its worker has read. has_judged: it has seen more than the owner's rules."""

    def __init__(self) -> None:
        self.child: Child | None = None
        self.is_ready = False
        self.is_idle = False
        self.wake = asyncio.Event()
        self.orders: deque[_Order] = deque()
        self.known: Shelf[bool] = _shelf()
        self.has_judged = False
        self.failures = 0  # starts in a row that came to nothing

    def rouse(self) -> None:
        self.is_idle = False
        self.wake.set()


class Pool:
    """deadline, wait: seconds for judging and for waiting. memory_mb: of each worker."""

    def __init__(
        self, *, workers: int, deadline: float, wait: float, memory_mb: int, python: str, wear: Wear
    ) -> None:
        self._deadline = deadline
        self._wait = wait
        self._memory_mb = memory_mb
        self._python = python
        self._slots = [_Slot() for _ in range(workers)]
        self._tasks: list[asyncio.Task[None]] = []
        self._wear = wear
        self._waiting: Waiting[Any] = Waiting()
        self._slow_limit = max(1, workers // 2)
        self._slow_now = 0
        self._renewed: _Slot | None = None
        self._known: Shelf[str] = _shelf()  # with their trees
        self._changed = asyncio.Event()
        self._closing = asyncio.Event()
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
        self._tasks = [asyncio.create_task(self._keep(slot)) for slot in self._slots[:2]]
        while not self._is_up:
            if self._failure:
                raise EngineError(str(self._failure))
            self._changed.clear()
            await self._changed.wait()
        self._tasks += [asyncio.create_task(self._keep(slot)) for slot in self._slots[2:]]

    def keeps(self, key: Key) -> bool:
        """Whether it was loaded for all questions."""
        return key in self._known

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
                self._known.put(key, tree, keep=True)
        _order([slot for slot in self._slots if slot not in asked], keys)
        return loaded

    async def ask[T](self, asked: Asked[T]) -> tuple[Answered[T], float]:
        """The answer to a check, and the seconds of judging that it took."""
        self._require_up()
        loop = asyncio.get_running_loop()
        asker: asyncio.Future[tuple[Answered[T], float]] = loop.create_future()
        job = self._waiting.put(asked, asker)
        self._rouse_one()
        timer = loop.call_later(self._wait, self._expire, job, asker)
        try:
            return await asker
        finally:
            timer.cancel()
            self._waiting.leave(job, asker)

    async def aclose(self) -> None:
        self._closing.set()
        self._waiting.fail_all(EngineClosedError())
        for slot in self._slots:
            if slot.child:
                slot.child.kill()
            slot.rouse()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for slot in self._slots:
            self._drop_orders(slot)

    @property
    def _is_up(self) -> bool:
        return any(slot.is_ready for slot in self._slots)

    def _require_up(self) -> None:
        if self._closing.is_set() or not self._tasks:
            raise EngineError("the engine is not running")
        if self._failure and not self._is_up:
            raise EngineError(str(self._failure))

    # one slot

    async def _keep(self, slot: _Slot) -> None:
        pause = 0.0
        while not self._closing.is_set():
            has_answered = False
            child = slot.child = Child(self._python, self._memory_mb, slot.rouse)
            try:
                await child.start()
                slot.known.clear()
                slot.has_judged = False
                if known := self._known.kept():
                    await self._load(slot, child, known)
                self._set_ready(slot)
                has_answered = await self._serve(slot, child)
            except EngineError as e:
                slot.failures += 1
                self._note_failure(e)
            finally:
                slot.is_ready = slot.is_idle = False
                await child.end()
                if self._renewed is slot and not has_answered:
                    self._renewed = None
                self._drop_orders(slot)
                self._rouse_one()  # what this one was roused for is another's now
            # One that we killed for its slowness is no sign that the next will die.
            healthy = has_answered or child.has_timed_out
            pause = 0.0 if healthy else min(max(2 * pause, FIRST_PAUSE), LONGEST_PAUSE)
            await self._sleep(pause)

    async def _serve(self, slot: _Slot, child: Child) -> bool:
        """Ask until the worker has to be replaced. Whether it ever answered."""
        has_answered = False
        while child.is_alive and not self._closing.is_set():
            try:
                if slot.orders:
                    await self._obey(slot, child, slot.orders.popleft())
                elif self._may_renew(slot, child):
                    logger.debug("replacing worker %s: it has done enough", child.pid)
                    return True
                elif (job := self._next_job()) is not None:
                    await self._answer(slot, child, job)
                else:
                    slot.wake.clear()
                    slot.is_idle = True
                    await slot.wake.wait()
                    slot.is_idle = False
                    continue
            except EngineError as e:
                logger.debug("lost a worker: %s", e)
                return has_answered
            has_answered = True
        return has_answered

    async def _obey(self, slot: _Slot, child: Child, order: _Order) -> None:
        loaded = None
        try:
            loaded = await self._load(slot, child, order.keys)
        finally:
            if not order.done.done():
                order.done.set_result(loaded)

    async def _answer(self, slot: _Slot, child: Child, job: Job[Any]) -> None:
        """Whoever asked may have gone away: then the worker still ends what it began."""
        asked = job.asked
        self._slow_now += asked.is_slow
        try:
            if not asked.is_reading:  # which is not judging
                await self._prepare(slot, child, asked.keys)
            if not job.is_wanted:
                return
            began = time.monotonic()
            slot.has_judged = True
            seconds = self._deadline
            if asked.is_reading:
                seconds = PASSING_SECONDS * len(asked.keys)
            body = await child.ask(asked.body, seconds)
            if asked.is_reading:
                _put(slot.known, asked.keys, keep=False)
        except EngineError as e:
            job.fail(EngineClosedError() if self._closing.is_set() else e)
            raise
        finally:
            self._slow_now -= asked.is_slow
        job.answer(body, time.monotonic() - began)

    def _may_renew(self, slot: _Slot, child: Child) -> bool:
        """One after the other, and only while another worker can be asked."""
        if self._renewed or not child.is_worn(self._wear):
            return False
        if not any(other.is_ready for other in self._slots if other is not slot):
            return False
        self._renewed = slot
        return True

    async def _prepare(self, slot: _Slot, child: Child, keys: tuple[Key, ...]) -> None:
        """Make ready what this worker does not know yet."""
        new = [key for key in keys if slot.known.get(key) is None]
        kept = tuple(key for key in new if key in self._known)
        passing = tuple(key for key in new if key not in self._known)
        if kept:
            await self._load(slot, child, kept)
        if passing:
            await self._load(slot, child, passing, keep=False)

    async def _load(
        self, slot: _Slot, child: Child, keys: tuple[Key, ...], *, keep: bool = True
    ) -> Loaded:
        seconds = LOAD_SECONDS if keep else PASSING_SECONDS * len(keys)
        trees = [self._known.get(key) or "" for key in keys]
        loaded = loaded_of(await child.ask(load_body(keys, trees, keep=keep), seconds))
        _put(slot.known, keys, keep=keep)
        # What has seen others' rules and conversations may have been led to say anything.
        return replace(loaded, trees=trees) if slot.has_judged else loaded

    def _set_ready(self, slot: _Slot) -> None:
        if self._failure:
            logger.info("guardrail workers are back")
        self._failure = None
        self._was_up = True
        slot.failures = 0
        slot.is_ready = True
        if self._renewed is slot:
            self._renewed = None
        self._changed.set()

    def _note_failure(self, e: EngineError) -> None:
        if self._closing.is_set() or self._is_up:
            return
        if self._was_up and any(slot.failures < HOPELESS for slot in self._slots):
            return  # they were killed while they started; who asks may wait for the next ones
        if not self._failure:
            logger.warning("no guardrail worker: %s", e)
        self._failure = e
        self._waiting.fail_all(e)
        self._changed.set()

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._closing.wait()
        except TimeoutError:
            pass

    # the queue

    def _next_job(self) -> Job[Any] | None:
        return self._waiting.take(slow_too=self._slow_now < self._slow_limit)

    def _rouse_one(self) -> None:
        if not self._waiting:
            return
        for slot in self._slots:
            if slot.is_idle:
                slot.rouse()
                return

    def _expire(self, job: Job[Any], asker: asyncio.Future[Any]) -> None:
        if self._waiting.holds(job) and not asker.done():
            asker.set_exception(
                EngineError(f"no worker was free within {self._wait * 1000:.0f} ms")
            )

    def _drop_orders(self, slot: _Slot) -> None:
        while slot.orders:
            order = slot.orders.popleft()
            if not order.done.done():
                order.done.set_result(None)


def _order(slots: Sequence[_Slot], keys: Sequence[Key]) -> list[asyncio.Future[Loaded | None]]:
    loop = asyncio.get_running_loop()
    orders = [_Order(tuple(keys), loop.create_future()) for _ in slots]
    for slot, order in zip(slots, orders, strict=True):
        slot.orders.append(order)
        slot.rouse()
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


def _shelf[V]() -> Shelf[V]:
    return Shelf(kept=MAX_KNOWN, passing=MAX_PASSING, characters=MAX_PASSING_CHARACTERS)


def _put(known: Shelf[bool], keys: Sequence[Key], *, keep: bool) -> None:
    for key in keys:
        known.put(key, True, keep=keep)
