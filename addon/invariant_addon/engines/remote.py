"""An engine that asks a guardrails service: judging happens there, rules are read here.

The service is asked as invariant-gateway asks it (shapes: wire.py), with the messages that
normalise.py writes, and one request for each continuation. A service that is down, slow or broken
is an EngineError within the deadline, and soon one at once (breaker.py).
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import nullcontext
from uuid import uuid4
from weakref import WeakKeyDictionary

from ..core.conversation import Conversation, Message
from ..core.verdict import Guardrail, Verdict
from . import wire
from .base import DeadlineError, Defect, Engine, EngineClosedError, EngineError, Question
from .breaker import Breaker, Budget, ServiceError
from .frames import MAX_QUESTION
from .questions import LARGE_MESSAGES, LARGE_TEXT
from .service import Service

logger = logging.getLogger(__name__)

CHECK = "/api/v1/policy/check/batch"
LOAD = "/api/v1/policy/load"
LOAD_SECONDS = 10.0
RELOAD_SECONDS = 3600.0
"""After which the service is told again about a policy that it was told about."""
MAX_LOADED = 1024
SHORTEST_PAUSE = 0.02
LONGEST_PAUSE = 0.1
"""Seconds before another try: not all callers at once."""


class RemoteEngine:
    """Judges by asking the guardrails service at this URL.

    reader: an engine that reads rules here, so that a bad one is refused with its line; it is
    started and closed with this one. deadline_ms: for the answers to one question. authorization:
    the header's value ("Bearer ...") for callers who bring none. session: names this proxy.
    reader_is_final: whether all hits of a guardrail are final, for the service does not say; None
    if nobody knows, then only the last check of a reply refuses it.

    Raises ValueError for a URL that cannot be one.
    """

    def __init__(
        self,
        url: str,
        *,
        reader: Engine,
        deadline_ms: int,
        authorization: str | None = None,
        session: str | None = None,
        reader_is_final: wire.IsFinal | None = None,
    ) -> None:
        self._deadline = deadline_ms / 1000
        self._service = Service(url, session=session or str(uuid4()), timeout=self._deadline)
        self._reader = reader
        self._authorization = authorization
        self._is_final = reader_is_final
        self._breaker = Breaker()
        self._budget = Budget()
        self._prepared: WeakKeyDictionary[Conversation, wire.Prepared] = WeakKeyDictionary()
        self._loaded: OrderedDict[str, float] = OrderedDict()  # when, by the policy's text
        self._tasks: set[asyncio.Task[object]] = set()
        self._starting = asyncio.Lock()
        self._is_started = False
        self._is_closed = False

    async def start(self) -> None:
        """Starts the reader. The service may be down: a call will tell."""
        async with self._starting:
            if self._is_started or self._is_closed:
                return
            await self._reader.start()
            await self._service.open()
            self._is_started = True

    async def load(
        self, guardrails: Sequence[Guardrail], *, everywhere: bool = True
    ) -> tuple[Defect, ...]:
        """Read by the reader; the service is told about the good ones, and nobody waits for it."""
        await self.start()
        defects = await self._reader.load(guardrails, everywhere=everywhere)
        if everywhere:  # others go out with the next question anyway
            refused = {defect.guardrail for defect in defects}
            self._tell([g.text for g in guardrails if g not in refused])
        return defects

    async def check(self, question: Question) -> tuple[Verdict, ...]:
        if not question.guardrails:
            return tuple(Verdict() for _ in question.continuations)
        if not question.continuations:
            return ()
        self._require_running()
        self._breaker.require()
        headers = self._service.headers(question.caller.authorization or self._authorization)
        asked = await self._write(question)
        # What a client's own rules break must not be an outage for all others.
        with nullcontext() if question.is_brought else self._breaker.watch():
            answers = await self._ask(asked, headers)
        return tuple(
            [
                await self._read(answer, question.guardrails, a)
                for answer, a in zip(answers, asked, strict=True)
            ]
        )

    async def aclose(self) -> None:
        """Questions on their way fail with EngineClosedError."""
        self._is_closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._reader.aclose()
        async with self._starting:  # one that starts opens the client at its end
            await self._service.aclose()

    def _require_running(self) -> None:
        if self._is_closed:
            raise EngineClosedError
        if not self._is_started:
            raise EngineError("the engine is not running")

    # the question

    async def _write(self, question: Question) -> list[wire.Asked]:
        base = await self._prepare(question.conversation)
        rest = wire.rest(question.guardrails, question.parameters, question.caller.dataset)
        asked = []
        for continuation in question.continuations:
            if len(base.body) > LARGE_TEXT or _is_large(continuation):
                asked.append(await asyncio.to_thread(wire.ask, base, continuation, rest))
            else:
                asked.append(wire.ask(base, continuation, rest))
        for a in asked:
            if len(a.body) > MAX_QUESTION:
                raise EngineError(f"{len(a.body)} bytes are too many for one check")
        return asked

    async def _prepare(self, conversation: Conversation) -> wire.Prepared:
        prepared = self._prepared.get(conversation)
        if prepared is None:
            if _is_large(conversation.messages):  # the event loop turns meanwhile
                prepared = await asyncio.to_thread(wire.prepare, conversation)
            else:
                prepared = wire.prepare(conversation)
            self._prepared[conversation] = prepared
        return prepared

    # the answers

    async def _ask(self, asked: Sequence[wire.Asked], headers: dict[str, str]) -> list[bytes]:
        """All answers; or the first error, and then the other requests are given up."""
        self._require_running()
        end = asyncio.get_running_loop().time() + self._deadline
        tasks = [self._begin(a.body, headers, end) for a in asked]
        try:
            async with asyncio.timeout_at(end):
                await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            self._require_running()
            for task in tasks:
                if task.done() and (error := task.exception()):
                    raise error
            return [task.result() for task in tasks]
        except TimeoutError:
            raise DeadlineError(
                f"the guardrails service at {self._service.host} gave no verdict within "
                f"{self._deadline * 1000:.0f} ms"
            ) from None
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)  # their connections are closed
            self._tasks.difference_update(tasks)

    def _begin(self, body: bytes, headers: dict[str, str], end: float) -> asyncio.Task[bytes]:
        task = asyncio.create_task(self._post(body, headers, end))
        self._tasks.add(task)
        return task

    async def _post(self, body: bytes, headers: dict[str, str], end: float) -> bytes:
        self._budget.earn()
        try:
            return await self._service.post(CHECK, body, headers)
        except ServiceError as e:
            pause = random.uniform(SHORTEST_PAUSE, LONGEST_PAUSE)
            is_late = asyncio.get_running_loop().time() + pause >= end
            if not e.is_brief or is_late or not self._budget.spend():
                raise
        await asyncio.sleep(pause)
        return await self._service.post(CHECK, body, headers)

    async def _read(
        self, answer: bytes, guardrails: Sequence[Guardrail], asked: wire.Asked
    ) -> Verdict:
        if len(answer) > LARGE_TEXT:
            return await asyncio.to_thread(
                wire.read, answer, guardrails, asked.places, self._is_final
            )
        return wire.read(answer, guardrails, asked.places, self._is_final)

    # what the service may know beforehand

    def _tell(self, texts: Sequence[str]) -> None:
        now = time.monotonic()
        new = []
        for text in dict.fromkeys(texts):
            if now - self._loaded.get(text, -RELOAD_SECONDS) < RELOAD_SECONDS:
                continue
            self._loaded.pop(text, None)
            self._loaded[text] = now
            new.append(text)
        while len(self._loaded) > MAX_LOADED:
            self._loaded.popitem(last=False)
        if new and not self._is_closed:
            task = asyncio.create_task(self._load(new))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _load(self, texts: Sequence[str]) -> None:
        """A service that cannot be told now reads them when it is asked."""
        try:
            headers = self._service.headers(self._authorization)
            for text in texts:
                async with asyncio.timeout(LOAD_SECONDS):
                    await self._service.post(LOAD, wire.dumps({"policy": text}), headers)
        except (EngineError, TimeoutError) as e:
            logger.debug("the guardrails service was not told about the rules: %s", e)


def _is_large(messages: Sequence[Message]) -> bool:
    return len(messages) > LARGE_MESSAGES or wire.size(messages) > LARGE_TEXT
