"""One slot of the pool: it keeps one worker alive and hands it one question after the other.

What the worker knows already goes to it without a task: whoever puts a question into the queue
hands it over, and where an answer is read, the next one is. The slot's own task does the rest: it
starts the worker, makes guardrails ready in it, and replaces it when it died or had to be killed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from .base import EngineClosedError, EngineError
from .child import Child, Loaded, Said, load_body, loaded_of
from .shelf import Key, Shelf, shelf_of_a_worker
from .waiting import Job

logger = logging.getLogger(__name__)

LOAD_SECONDS = 30.0
PASSING_SECONDS = 15.0
"""For reading one guardrail that came with a request. The worker gives up before."""
FIRST_PAUSE = 0.2
LONGEST_PAUSE = 10.0


@dataclass(slots=True)
class Order:
    """Make these guardrails ready in one worker. done: what it said, None if it died."""

    keys: tuple[Key, ...]
    done: asyncio.Future[Loaded | None]


class Desk(Protocol):
    """What a slot needs of its pool. known: guardrails for everybody, with their trees."""

    deadline: float
    known: Shelf[str]
    closing: asyncio.Event

    @property
    def has_jobs(self) -> bool: ...

    def make_child(self, slot: Slot) -> Child: ...

    def next_job(self, slot: Slot) -> Job[Any] | None: ...

    def count_slow(self, by: int) -> None: ...

    def is_worn(self, slot: Slot) -> bool: ...

    def may_renew(self, slot: Slot) -> bool: ...

    def note_ready(self, slot: Slot) -> None: ...

    def note_failure(self, e: EngineError) -> None: ...

    def note_end(self, slot: Slot, *, has_answered: bool) -> None: ...


class Slot:
    """known: what its worker has read. is_idle: it can be given a question. failures: starts in a
    row that came to nothing."""

    def __init__(self, desk: Desk) -> None:
        self.child: Child | None = None
        self.is_ready = False
        self.is_idle = False
        self.failures = 0
        self.known: Shelf[bool] = shelf_of_a_worker()
        self._desk = desk
        self._wake = asyncio.Event()
        self._orders: deque[Order] = deque()
        self._job: Job[Any] | None = None  # what its worker is asked
        self._next: Job[Any] | None = None  # what has to be made ready for before
        self._began = 0.0
        self._is_late = False  # its first answer was given, and there is another
        self._has_judged = False  # its worker has seen more than the owner's rules
        self._has_answered = False

    def rouse(self) -> None:
        """There is something for its task to do."""
        self.is_idle = False
        self._wake.set()

    def order(self, order: Order) -> None:
        self._orders.append(order)
        self.rouse()

    def knows(self, keys: Sequence[Key]) -> bool:
        """Whether its worker has read them; this does not count as using them."""
        return all(key in self.known for key in keys)

    def drop_orders(self) -> None:
        while self._orders:
            order = self._orders.popleft()
            if not order.done.done():
                order.done.set_result(None)

    def go_on(self) -> None:
        """Take the next question, if there is one and nothing else has to be done first."""
        self.is_idle = False
        child = self.child
        if self._orders or self._desk.closing.is_set() or self._desk.is_worn(self):
            self._wake.set()
        elif not self._desk.has_jobs:
            self.is_idle = True
        elif child is None or not child.is_alive:
            self._wake.set()
        elif (job := self._desk.next_job(self)) is None:
            self.is_idle = True
        elif not job.asked.is_reading and self._new(job.asked.keys):
            self._next = job
            self._desk.count_slow(job.asked.is_slow)
            self._wake.set()
        else:
            self._desk.count_slow(job.asked.is_slow)
            self._put(child, job)

    # its task

    async def keep(self) -> None:
        closing, pause = self._desk.closing, 0.0
        while not closing.is_set():
            self._has_answered = False
            child = self.child = self._desk.make_child(self)
            try:
                await child.start()
                self.known.clear()
                self._has_judged = False
                if known := self._desk.known.kept():
                    await self._load(child, known)
                self._desk.note_ready(self)
                await self._serve(child)
            except EngineError as e:
                self.failures += 1
                self._desk.note_failure(e)
            finally:
                self.is_ready = self.is_idle = False
                await child.end()
                self.drop_orders()
                self._desk.note_end(self, has_answered=self._has_answered)
            # One that we killed for its slowness is no sign that the next will die.
            healthy = self._has_answered or child.has_timed_out
            pause = 0.0 if healthy else min(max(2 * pause, FIRST_PAUSE), LONGEST_PAUSE)
            await _sleep(pause, closing)

    async def _serve(self, child: Child) -> None:
        """Ask until the worker has to be replaced."""
        while not self._desk.closing.is_set():
            self._wake.clear()
            if self._job is not None:
                await self._wake.wait()  # until it is answered
                continue
            if not child.is_alive:
                break
            try:
                if self._next is not None:
                    await self._answer(child, self._next)
                elif self._orders:
                    await self._obey(child, self._orders.popleft())
                    self._has_answered = True
                elif self._desk.may_renew(self):
                    logger.debug("replacing worker %s: it has done enough", child.pid)
                    self._has_answered = True
                    return
                elif (job := self._desk.next_job(self)) is not None:
                    self._next = job
                    self._desk.count_slow(job.asked.is_slow)
                else:
                    self.is_idle = True
                    await self._wake.wait()
                    self.is_idle = False
            except EngineError as e:
                logger.debug("lost a worker: %s", e)
                break
        self._give_up(EngineError("the worker died"))

    async def _obey(self, child: Child, order: Order) -> None:
        loaded = None
        try:
            loaded = await self._load(child, order.keys)
        finally:
            if not order.done.done():
                order.done.set_result(loaded)

    async def _answer(self, child: Child, job: Job[Any]) -> None:
        """Whoever asked may have gone away: then the worker still ends what it began."""
        try:
            if not job.asked.is_reading:  # which is not judging
                await self._prepare(child, job.asked.keys)
        except EngineError as e:
            self._give_up(e)
            raise
        self._next = None
        if job.is_wanted:
            self._put(child, job)
        else:
            self._desk.count_slow(-job.asked.is_slow)
            self._has_answered = True

    def _give_up(self, e: EngineError) -> None:
        """On what it was to be made ready for."""
        job, self._next = self._next, None
        if job is not None:
            self._desk.count_slow(-job.asked.is_slow)
            job.fail(EngineClosedError() if self._desk.closing.is_set() else e)

    async def _prepare(self, child: Child, keys: tuple[Key, ...]) -> None:
        """Make ready what this worker does not know yet."""
        new = self._new(keys)
        kept = tuple(key for key in new if key in self._desk.known)
        passing = tuple(key for key in new if key not in self._desk.known)
        if kept:
            await self._load(child, kept)
        if passing:
            await self._load(child, passing, keep=False)

    def _new(self, keys: tuple[Key, ...]) -> list[Key]:
        return [key for key in keys if self.known.get(key) is None]

    async def _load(self, child: Child, keys: tuple[Key, ...], *, keep: bool = True) -> Loaded:
        seconds = LOAD_SECONDS if keep else PASSING_SECONDS * len(keys)
        trees = [self._desk.known.get(key) or "" for key in keys]
        loaded = loaded_of(await child.ask(load_body(keys, trees, keep=keep), seconds))
        _put(self.known, keys, keep=keep)
        # What has seen others' rules and conversations may have been led to say anything.
        return replace(loaded, trees=trees) if self._has_judged else loaded

    # one question

    def _put(self, child: Child, job: Job[Any]) -> None:
        """Ask it. Its count of slow ones was raised."""
        asked = job.asked
        seconds = PASSING_SECONDS * len(asked.keys) if asked.is_reading else self._desk.deadline
        self._began = time.monotonic()
        self._is_late = False
        self._has_judged = True
        try:
            child.put(asked.body, seconds, self._told)
        except EngineError as e:
            self._end(job, e)
            self._wake.set()
            return
        self._job = job
        if asked.home is not None:
            asked.home.move(self)

    def _told(self, said: Said) -> None:
        job, child = self._job, self.child
        assert job is not None and child is not None
        if not isinstance(said, bytes):
            self.is_ready = False
            self._job = None
            self._end(job, said)
            self._wake.set()
            return
        self._has_answered = True
        if job.asked.later is not None and not self._is_late:
            now = time.monotonic()
            job.answer(said, now - self._began)
            self._began, self._is_late = now, True
            child.expect(self._desk.deadline, self._told)
            return
        if job.asked.is_reading:
            _put(self.known, job.asked.keys, keep=False)
        self._job = None
        self._end(job, said)
        self.go_on()

    def _end(self, job: Job[Any], said: Said) -> None:
        self._desk.count_slow(-job.asked.is_slow)
        seconds = time.monotonic() - self._began
        if not isinstance(said, bytes) and self._desk.closing.is_set():
            said = EngineClosedError()
        if self._is_late:
            job.answer_later(said, seconds)
        elif isinstance(said, bytes):
            job.answer(said, seconds)
        else:
            job.fail(said)


def _put(known: Shelf[bool], keys: Sequence[Key], *, keep: bool) -> None:
    for key in keys:
        known.put(key, True, keep=keep)


async def _sleep(seconds: float, until: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(seconds):
            await until.wait()
    except TimeoutError:
        pass
