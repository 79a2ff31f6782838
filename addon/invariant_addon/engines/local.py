"""The default engine: rules run on this machine, in worker processes.

Never in this process: a rule may loop, its regular expressions may hold the interpreter, and the
library ends the process that lacks one of its extras.
"""

from __future__ import annotations

import asyncio
import math
import os
import sys
from collections.abc import Sequence
from weakref import WeakKeyDictionary

from ..core.conversation import Conversation
from ..core.verdict import Guardrail, Verdict
from . import frames
from .base import DeadlineError, Defect, EngineError, Priority, Question, Remark
from .child import load_body, loaded_of
from .normalise import normalise
from .pool import Pool
from .questions import (
    Foreseen,
    Homes,
    Prepared,
    Written,
    about,
    body_of,
    family_of,
    is_large,
    key_of,
    parameters_of,
    prepare,
    verdicts,
)
from .shelf import MAX_KNOWN, Key, Shelf
from .waiting import Asked, Home
from .wear import Wear

SPARE = 2
SLOW_SECONDS = 0.25
"""A conversation whose last check took longer shares half of the workers with its like."""
QUICK_SECONDS = 0.005
GLANCE_FADES = 0.9
"""What nobody waits for may hold up others for as long as this."""
SMALL_BYTES = 2048
"""So much is read again in less time than another worker needs to wake up."""
MAX_READ = 1024
MAX_READ_CHARACTERS = 4 * 1024 * 1024
"""Guardrails that came with requests of which it is remembered what the worker said to them."""


class _Reading:
    """What a worker said to a guardrail that came with a request, once it has been asked."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.is_done = False
        self.error: str | None = None


class LocalEngine:
    """Judges with invariant-ai in worker processes.

    workers: how many, never fewer than 2. 0: one per processor (at most 4) and two more, for a
    few checks that take long must not hold up all others. deadline_ms: for judging one question.
    wait_ms: for a free worker. memory_mb: address space of each worker, 0 for no limit.
    python: what runs them. wear: when a worker is replaced although it works.
    """

    def __init__(
        self,
        *,
        workers: int = 0,
        deadline_ms: int = 2000,
        wait_ms: int = 5000,
        memory_mb: int = 2048,
        python: str = sys.executable,
        wear: Wear = Wear(),  # noqa: B008  # frozen
    ) -> None:
        self._pool = Pool(
            workers=max(workers, 2) if workers else min(os.cpu_count() or 2, 4) + SPARE,
            deadline=deadline_ms / 1000,
            wait=wait_ms / 1000,
            memory_mb=memory_mb,
            python=python,
            wear=wear,
        )
        self._prepared: WeakKeyDictionary[Conversation, Prepared] = WeakKeyDictionary()
        self._read: Shelf[_Reading] = Shelf(
            kept=0, passing=MAX_READ, characters=MAX_READ_CHARACTERS
        )
        self._remarks: Shelf[tuple[tuple[str, bool], ...]] = Shelf(
            kept=MAX_KNOWN, passing=0, characters=0
        )
        self._written = Written()
        self._homes = Homes()
        self._glance = 0.0  # seconds that those took of late which nobody waited for
        self._starting = asyncio.Lock()
        self._is_started = False

    @property
    def pids(self) -> tuple[int, ...]:
        """Of the workers that are ready, for the doctor."""
        return self._pool.pids

    async def start(self) -> None:
        """Returns once a worker is ready (about a second). EngineError says why none is."""
        async with self._starting:
            if self._is_started:
                return
            try:
                await self._pool.start()
            except BaseException:
                await self._pool.aclose()
                raise
            self._is_started = True

    async def load(
        self, guardrails: Sequence[Guardrail], *, everywhere: bool = True
    ) -> tuple[Defect, ...]:
        await self.start()
        keys = [key_of(guardrail) for guardrail in guardrails]
        if everywhere:
            loaded = await self._pool.load(keys)
            errors = loaded.errors
            for key, remarks in zip(keys, loaded.remarks, strict=True):
                self._remarks.put(key, remarks, keep=True)
        else:
            errors = list(await asyncio.gather(*(self._error(key) for key in keys)))
        return tuple(
            Defect(guardrail, error)
            for guardrail, error in zip(guardrails, errors, strict=True)
            if error is not None
        )

    def remarks(self, guardrails: Sequence[Guardrail]) -> tuple[Remark, ...]:
        """What to know of these, which were loaded everywhere."""
        return tuple(
            Remark(guardrail, text, lacks=lacks)
            for guardrail in guardrails
            for text, lacks in self._remarks.get(key_of(guardrail)) or ()
        )

    async def check(self, question: Question) -> tuple[Verdict, ...]:
        if not question.guardrails:
            return tuple(Verdict() for _ in question.continuations)
        base = await self._prepare(question.conversation)
        parameters = parameters_of(question)
        if question.priority is Priority.LOG:
            found = await self._look(question, base, parameters)
            if found is not None:
                return found
        digests = [normalise(messages, base.digest) for messages in question.continuations]
        keys = tuple(key_of(guardrail) for guardrail in question.guardrails)
        then = self._then(question, base)
        written = self._written.of(keys), self._written.of(then)
        body = body_of(base.body, digests, *written, parameters)
        if len(body) > frames.MAX_QUESTION:
            raise EngineError(f"{len(body)} bytes are too many for one check")
        # Nobody knows what a stranger's rules cost: those of a client share half of the workers.
        is_foreign = question.is_brought or any(
            key in self._read and not self._pool.keeps(key) for key in keys
        )
        is_slow = base.seconds > SLOW_SECONDS or is_foreign
        family = family_of(question, parameters)
        later = asyncio.get_running_loop().create_future() if then else None
        asked = Asked(
            *(question.priority, body, keys + then, is_slow, digests, family),
            later=later,
            home=base.home if len(base.body) > SMALL_BYTES else None,
        )
        try:
            answered, seconds = await self._pool.ask(asked)
        except DeadlineError:
            if not is_foreign:
                base.seconds = math.inf
            raise
        if not is_foreign:
            base.seconds = seconds
        if later is not None:
            next_one = about(question, question.then, parameters)
            base.foreseen = Foreseen(next_one, digests, later)
        found = verdicts(answered.body, question.guardrails, answered.tag)
        if found is None:
            raise EngineError("the worker answered without outcomes")
        return found

    def _then(self, question: Question, base: Prepared) -> tuple[Key, ...]:
        """What the worker may look at before it is asked to. Only what it knows, and has done
        quickly so far, unless nothing else waits for it."""
        if question.priority is not Priority.WHOLE or question.is_brought:
            return ()
        if base.seconds > SLOW_SECONDS:
            return ()
        if max(base.seconds, self._glance) > QUICK_SECONDS and not self._pool.is_calm:
            return ()
        keys = tuple(key_of(guardrail) for guardrail in question.then)
        return keys if all(self._pool.keeps(key) for key in keys) else ()

    async def _look(
        self, question: Question, base: Prepared, parameters: bytes
    ) -> tuple[Verdict, ...] | None:
        """The answer that a worker gave before it was asked; None: it did not."""
        foreseen, base.foreseen = base.foreseen, None
        if foreseen is None or foreseen.about != about(question, question.guardrails, parameters):
            return None
        said, seconds = await foreseen.said
        self._glance = max(seconds, GLANCE_FADES * self._glance)
        base.seconds = seconds
        if isinstance(said, DeadlineError):
            base.seconds = math.inf
        if isinstance(said, EngineError):
            raise said
        return verdicts(said, question.guardrails, foreseen.digests)

    async def _error(self, key: Key) -> str | None:
        """Why a guardrail that came with a request cannot be used. One worker reads it, once."""
        reading = self._read.get(key)
        if reading is None:
            reading = _Reading()
            self._read.put(key, reading, keep=False)
        async with reading.lock:  # of many requests with one text, the first asks
            if not reading.is_done:
                body = load_body((key,), keep=False)
                asked = Asked(Priority.WHOLE, body, (key,), True, None, None, is_reading=True)
                try:
                    answered, _ = await self._pool.ask(asked)
                    reading.error = loaded_of(answered.body).errors[0]
                except DeadlineError:
                    reading.error = "it takes too long to read"
                reading.is_done = True
        return reading.error

    async def aclose(self) -> None:
        """Kills the workers and waits until they are gone. Questions on their way fail."""
        await self._pool.aclose()

    async def _prepare(self, conversation: Conversation) -> Prepared:
        prepared = self._prepared.get(conversation)
        if prepared is None:
            if is_large(conversation):  # the event loop turns meanwhile
                prepared = await asyncio.to_thread(prepare, conversation)
            else:
                prepared = prepare(conversation)
            prepared.home = Home(like=self._homes.of(prepared.digest))
            self._prepared[conversation] = prepared
        return prepared
