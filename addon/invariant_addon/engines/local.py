"""The default engine: rules run on this machine, in worker processes.

Never in this process: a rule may loop, its regular expressions may hold the interpreter, and the
library ends the process that lacks one of its extras.
"""

from __future__ import annotations

import asyncio
import json
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
from .base import Defect, EngineError, Question
from .normalise import Digest, Place, locate, normalise
from .pool import Pool

SPARE = 2
SLOW_SECONDS = 0.25
"""A conversation whose last check took longer shares half of the workers with its like."""


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
    python: what runs them.
    """

    def __init__(
        self,
        *,
        workers: int = 0,
        deadline_ms: int = 2000,
        wait_ms: int = 5000,
        memory_mb: int = 2048,
        python: str = sys.executable,
    ) -> None:
        self._pool = Pool(
            workers=max(workers, 2) if workers else min(os.cpu_count() or 2, 4) + SPARE,
            deadline=deadline_ms / 1000,
            wait=wait_ms / 1000,
            memory_mb=memory_mb,
            python=python,
        )
        self._prepared: WeakKeyDictionary[Conversation, _Prepared] = WeakKeyDictionary()
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

    async def load(self, guardrails: Sequence[Guardrail]) -> tuple[Defect, ...]:
        await self.start()
        errors = await self._pool.load([guardrail.text for guardrail in guardrails])
        return tuple(
            Defect(guardrail, error)
            for guardrail, error in zip(guardrails, errors, strict=True)
            if error is not None
        )

    async def check(self, question: Question) -> tuple[Verdict, ...]:
        if not question.guardrails:
            return tuple(Verdict() for _ in question.continuations)
        base = self._prepare(question.conversation)
        digests = [normalise(messages, base.digest) for messages in question.continuations]
        texts = tuple(guardrail.text for guardrail in question.guardrails)
        body = _body(base.body, digests, texts)
        if len(body) > frames.MAX_QUESTION:
            raise EngineError(f"{len(body)} bytes are too many for one check")
        is_slow = base.seconds > SLOW_SECONDS
        raw, base.seconds = await self._pool.ask(question.priority, body, texts, is_slow=is_slow)
        answer = orjson.loads(raw)
        if "outcomes" not in answer:
            raise EngineError(str(answer.get("error")))
        return tuple(
            _verdict(outcomes, question.guardrails, digest.places)
            for outcomes, digest in zip(answer["outcomes"], digests, strict=True)
        )

    async def aclose(self) -> None:
        """Kills the workers and waits until they are gone. Questions on their way fail."""
        await self._pool.aclose()

    def _prepare(self, conversation: Conversation) -> _Prepared:
        prepared = self._prepared.get(conversation)
        if prepared is None:
            digest = normalise(conversation.messages)
            prepared = _Prepared(digest, _dumps(digest.messages))
            self._prepared[conversation] = prepared
        return prepared


def _body(messages: bytes, digests: Sequence[Digest], texts: tuple[str, ...]) -> bytes:
    continuations = b",".join(_dumps(digest.messages) for digest in digests)
    return b"".join(
        (
            b'{"op":"check","messages":',
            messages,
            b',"continuations":[',
            continuations,
            b'],"guardrails":',
            _dumps(texts),
            b"}",
        )
    )


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
            )
            for guardrail, answer in zip(guardrails, answers, strict=True)
        )
    )


def _violation(found: dict[str, Any], guardrail: Guardrail, places: Sequence[Place]) -> Violation:
    located = (locate(address, places) for address in found["ranges"])
    addresses = tuple(dict.fromkeys(address for address in located if address))
    return Violation(guardrail, found["message"], addresses, found["final"])
