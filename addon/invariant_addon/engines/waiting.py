"""Questions that wait for a worker: the most urgent first, then the oldest.

A worker remembers what it read last, so of those that are equally urgent it takes one about a
conversation that it knows before older ones, but only so often.
Of the pieces of one reply only the newest waits: it takes the place of the one before it, and
whoever asked about that gets its answer.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from dataclasses import dataclass, field

from .base import EngineError
from .shelf import Key

MAX_WAITING = 1024
MAX_WAITING_BYTES = 256 * 1024 * 1024
PATIENCE = 3
"""How often the oldest question lets others go before."""


class Home:
    """Where a conversation was judged last. slot: of the pool; None: nowhere yet. like: of those
    that began as this one does."""

    def __init__(self, like: Home | None = None) -> None:
        self.slot: object | None = None
        self._like = like

    @property
    def likely(self) -> object | None:
        """The slot that knows most of it."""
        return self.slot or (self._like.slot if self._like else None)

    def move(self, slot: object) -> None:
        self.slot = slot
        if self._like is not None:
            self._like.slot = slot


@dataclass(frozen=True, slots=True)
class Asked[T]:
    """What goes to a worker, and what the caller needs to read the answer.

    keys: the guardrails. is_slow: the last one like it was, or nobody knows. tag: is given back
    with the answer. family: equal for those of which the newest answers all; None has no such
    relatives. is_reading: it only makes the guardrails ready, and the answer is what the worker
    says to that. later: where a second answer goes, with its seconds; None if there is none. home:
    of its conversation.
    """

    priority: int
    body: bytes
    keys: tuple[Key, ...]
    is_slow: bool
    tag: T
    family: tuple[object, ...] | None = None
    is_reading: bool = False
    later: asyncio.Future[tuple[bytes | EngineError, float]] | None = None
    home: Home | None = None

    def is_known_to(self, slot: object) -> bool:
        return self.home is not None and self.home.slot is slot


@dataclass(frozen=True, slots=True)
class Answered[T]:
    """A worker's answer, and the tag of the question that it answers."""

    body: bytes
    tag: T


@dataclass(order=True, slots=True)
class Job[T]:
    """askers: all who wait for this answer, with the seconds of judging that it took. passed: how
    often others went before."""

    priority: int
    number: int
    asked: Asked[T] = field(compare=False)
    askers: list[asyncio.Future[tuple[Answered[T], float]]] = field(compare=False)
    passed: int = field(default=0, compare=False)

    @property
    def is_wanted(self) -> bool:
        return any(not asker.done() for asker in self.askers)

    def answer(self, body: bytes, seconds: float) -> None:
        for asker in self.askers:
            if not asker.done():
                asker.set_result((Answered(body, self.asked.tag), seconds))

    def answer_later(self, said: bytes | EngineError, seconds: float) -> None:
        later = self.asked.later
        if later is not None and not later.done():
            later.set_result((said, seconds))

    def fail(self, e: EngineError) -> None:
        for asker in self.askers:
            if not asker.done():
                asker.set_exception(e)


class Waiting[T]:
    """The queue. It is bounded: EngineError when it is full."""

    def __init__(self) -> None:
        self._heap: list[Job[T]] = []
        self._families: dict[tuple[object, ...], Job[T]] = {}
        self._numbers = itertools.count()
        self._size = 0

    def __len__(self) -> int:
        return len(self._heap)

    def put(self, asked: Asked[T], asker: asyncio.Future[tuple[Answered[T], float]]) -> Job[T]:
        job = self._families.get(asked.family) if asked.family is not None else None
        if job is not None:
            self._size += len(asked.body) - len(job.asked.body)
            job.asked = asked
            job.askers.append(asker)
            return job
        if len(self._heap) >= MAX_WAITING or self._size + len(asked.body) > MAX_WAITING_BYTES:
            raise EngineError(f"overloaded: {len(self._heap)} questions are waiting")
        job = Job(asked.priority, next(self._numbers), asked, [asker])
        heapq.heappush(self._heap, job)
        self._size += len(asked.body)
        if asked.family is not None:
            self._families[asked.family] = job
        return job

    def take(self, slot: object, *, slow_too: bool) -> Job[T] | None:
        """The next one for this slot; only those that are not slow unless slow_too."""
        fitting = [job for job in self._heap if slow_too or not job.asked.is_slow]
        first = min(fitting, default=None)
        if first is None:
            return None
        job = first
        if len(fitting) > 1 and first.passed < PATIENCE and not first.asked.is_known_to(slot):
            known = (
                other
                for other in fitting
                if other.priority == first.priority and other.asked.is_known_to(slot)
            )
            job = min(known, default=first)
            first.passed += job is not first
        self._remove(job)
        return job

    def leave(self, job: Job[T], asker: asyncio.Future[tuple[Answered[T], float]]) -> None:
        """This one waits no more; without askers the question is not asked."""
        job.askers = [other for other in job.askers if other is not asker]
        if not job.askers and self.holds(job):
            self._remove(job)

    def holds(self, job: Job[T]) -> bool:
        return any(job is waiting for waiting in self._heap)

    def fail_all(self, e: EngineError) -> None:
        jobs, self._heap, self._size = self._heap, [], 0
        self._families.clear()
        for job in jobs:
            job.fail(e)

    def _remove(self, job: Job[T]) -> None:
        if self._heap[0] is job:
            heapq.heappop(self._heap)
        else:
            self._heap = [waiting for waiting in self._heap if waiting is not job]
            heapq.heapify(self._heap)
        self._size -= len(job.asked.body)
        if job.asked.family is not None:
            self._families.pop(job.asked.family, None)
