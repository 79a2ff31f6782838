"""The default engine: rules run on this machine, in worker processes.

Never in this process: a rule may loop, its regular expressions may hold the interpreter, and the
library ends the process that lacks one of its extras.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import orjson

from ..core.conversation import Conversation
from ..core.verdict import Guardrail, Outcome, Verdict, Violation
from . import frames
from .base import DeadlineError, Defect, EngineError, Priority, Question, Remark
from .child import load_body, loaded_of
from .normalise import Digest, Place, locate, normalise
from .pool import MAX_KNOWN, Pool
from .shelf import Key, Shelf
from .waiting import Asked
from .wear import Wear

SPARE = 2
LARGE_MESSAGES = 200
LARGE_TEXT = 2**18
"""A conversation beyond these (messages, characters) takes milliseconds to prepare."""
SLOW_SECONDS = 0.25
"""A conversation whose last check took longer shares half of the workers with its like."""
MAX_READ = 1024
MAX_READ_CHARACTERS = 4 * 1024 * 1024
"""Guardrails that came with requests of which it is remembered what the worker said to them."""


class _Reading:
    """What a worker said to a guardrail that came with a request, once it has been asked."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.is_done = False
        self.error: str | None = None


@dataclass(slots=True)
class _Prepared:
    """A conversation as the engine reads it, and as JSON. seconds: its last check took."""

    digest: Digest
    body: bytes
    seconds: float = 0.0


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
        self._prepared: WeakKeyDictionary[Conversation, _Prepared] = WeakKeyDictionary()
        self._read: Shelf[_Reading] = Shelf(
            kept=0, passing=MAX_READ, characters=MAX_READ_CHARACTERS
        )
        self._remarks: Shelf[tuple[tuple[str, bool], ...]] = Shelf(
            kept=MAX_KNOWN, passing=0, characters=0
        )
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
        keys = [_key(guardrail) for guardrail in guardrails]
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
            for text, lacks in self._remarks.get(_key(guardrail)) or ()
        )

    async def check(self, question: Question) -> tuple[Verdict, ...]:
        if not question.guardrails:
            return tuple(Verdict() for _ in question.continuations)
        base = await self._prepare(question.conversation)
        digests = [normalise(messages, base.digest) for messages in question.continuations]
        keys = tuple(_key(guardrail) for guardrail in question.guardrails)
        parameters = _parameters(question)
        body = _body(base.body, digests, keys, parameters)
        if len(body) > frames.MAX_QUESTION:
            raise EngineError(f"{len(body)} bytes are too many for one check")
        # Nobody knows what a stranger's rules cost: those of a client share half of the workers.
        is_foreign = question.is_brought or any(
            key in self._read and not self._pool.keeps(key) for key in keys
        )
        is_slow = base.seconds > SLOW_SECONDS or is_foreign
        family = _family(question, parameters)
        asked = Asked(question.priority, body, keys, is_slow, digests, family)
        try:
            answered, seconds = await self._pool.ask(asked)
        except DeadlineError:
            if not is_foreign:
                base.seconds = math.inf
            raise
        if not is_foreign:
            base.seconds = seconds
        answer = orjson.loads(answered.body)
        if "outcomes" not in answer:
            raise EngineError(str(answer.get("error")))
        return tuple(
            _verdict(outcomes, question.guardrails, digest.places)
            for outcomes, digest in zip(answer["outcomes"], answered.tag, strict=True)
        )

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

    async def _prepare(self, conversation: Conversation) -> _Prepared:
        prepared = self._prepared.get(conversation)
        if prepared is None:
            if _is_large(conversation):  # the event loop turns meanwhile
                prepared = await asyncio.to_thread(_prepare, conversation)
            else:
                prepared = _prepare(conversation)
            self._prepared[conversation] = prepared
        return prepared


def _prepare(conversation: Conversation) -> _Prepared:
    digest = normalise(conversation.messages)
    return _Prepared(digest, _dumps(digest.messages))


def _is_large(conversation: Conversation) -> bool:
    if len(conversation.messages) > LARGE_MESSAGES:
        return True
    size = 0
    for message in conversation.messages:
        size += sum(len(part.text) for part in message.parts)
        size += sum(len(call.arguments) for call in message.tool_calls)
    return size > LARGE_TEXT


def _key(guardrail: Guardrail) -> Key:
    return guardrail.text, guardrail.trusted


def _parameters(question: Question) -> bytes:
    try:
        return _dumps(dict(question.parameters))
    except (TypeError, ValueError, RecursionError) as e:
        raise EngineError(f"the parameters are no plain JSON: {type(e).__name__}") from None


def _body(
    messages: bytes, digests: Sequence[Digest], keys: tuple[Key, ...], parameters: bytes
) -> bytes:
    continuations = b",".join(_dumps(digest.messages) for digest in digests)
    head = b'{"op":"check","continuations":[%b],"guardrails":%b,"parameters":%b}' % (
        continuations,
        _dumps(keys),
        parameters,
    )
    return head + b"\n" + messages


def _family(question: Question, parameters: bytes) -> tuple[object, ...] | None:
    """Equal for questions of which the newest answers all: pieces of one reply.

    What holds for the longer piece holds for the shorter one: it has every final violation.
    """
    if question.priority is not Priority.PREFIX:
        return None
    choices = len(question.continuations)
    return (question.conversation, question.guardrails, parameters, choices)


def _dumps(value: object) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:  # integers beyond 64 bits and lone surrogates
        return json.dumps(value).encode()


def _verdict(
    answers: list[dict[str, Any]], guardrails: Sequence[Guardrail], places: Sequence[Place]
) -> Verdict:
    return Verdict(
        tuple(
            Outcome(
                guardrail,
                tuple(_violation(v, guardrail, places) for v in answer["violations"]),
                answer["error"],
                tuple(answer["notes"]),
            )
            for guardrail, answer in zip(guardrails, answers, strict=True)
        )
    )


def _violation(found: dict[str, Any], guardrail: Guardrail, places: Sequence[Place]) -> Violation:
    located = (locate(address, places) for address in found["ranges"])
    addresses = tuple(dict.fromkeys(address for address in located if address))
    return Violation(guardrail, found["message"], addresses, found["final"])
