"""One call: what is known of it, and what follows from each verdict on it.

It carries everything itself (exchange, guardrails as of its request, engine), so nothing that
changes meanwhile changes anything for this call.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol
from uuid import uuid4

from mitmproxy import http

from ..core import coverage, refusal, whole
from ..core.conversation import Conversation, Exchange, Message, Reply
from ..core.dialects import CHAT, Dialect
from ..core.endpoints import Endpoint
from ..core.errors import NotUnderstoodError
from ..core.terms import Refusal
from ..core.verdict import Violation
from ..history.lean import Lean
from ..judge import Answer, Judge
from ..settings import Settings

logger = logging.getLogger(__name__)

_ANSWERING = (Endpoint.CHAT, Endpoint.RESPONSES, Endpoint.COMPLETIONS)
JSON = {
    "content-type": "application/json",
    "x-should-retry": "false",
    # So that a program in a browser can read why.
    "access-control-allow-origin": "*",
    "access-control-expose-headers": "x-invariant-request-id",
}


def withheld() -> http.Response:
    """What the client gets when something went wrong with the proxy itself."""
    return http.Response.make(refusal.STATUS, refusal.LAST_RESORT, JSON)


class Streamed(Protocol):
    """A reply that comes, or came, as a stream (guard.ReplyGuard)."""

    first_at: float | None

    @property
    def reply(self) -> Reply: ...

    @property
    def completion(self) -> dict[str, Any]: ...

    @property
    def raw(self) -> bytes: ...

    @property
    def delivered(self) -> bytes: ...

    @property
    def is_through(self) -> bool: ...

    def let_go(self) -> None: ...


@dataclass(eq=False)
class Call:
    """One call to a judged endpoint, from its request to its end.

    settings, judge: as of its request. exchange: None if the request could not be read.
    request_id: names this call in refusals and logs. refused: what was refused, if it was.
    unjudged: why something of it passed without a verdict. judged: the verdict is complete.
    explorer_key: see sources.Found. client: the program that calls, if it is known. kept: there is
    a trace of it.
    masked, muted: what was replaced in the request, and what was overlooked because somebody said
    so. checking: the check of a request that has gone upstream meanwhile. upstream: the body of a
    reply that is no stream, decoded. checks, judging: how many, and the seconds that they took;
    held: those of them in which something waited.
    closed: it was reported. superseded: its reply was changed, and how the call ended is told of
    another one. endpoint, dialect: how it is guarded, and read. opaque: what came back
    is sound or pictures. lean: what it refers to and does not send.
    """

    settings: Settings | None
    judge: Judge | None = None
    exchange: Exchange | None = None
    request_id: str = field(default_factory=lambda: f"inv_{uuid4().hex}")
    phase: refusal.Phase = "request"
    refused: Refusal | None = None
    unjudged: str | None = None
    judged: bool = False
    guard: Streamed | None = None
    reply: Reply | None = None
    masked: tuple[Violation, ...] = ()
    muted: tuple[Violation, ...] = ()
    checking: asyncio.Task[None] | None = None
    upstream: bytes | None = None
    checks: int = 0
    judging: float = 0.0
    held: float = 0.0
    explorer_key: str | None = field(default=None, repr=False)
    client: str = ""
    kept: bool = False
    closed: bool = False
    superseded: bool = False
    endpoint: Endpoint = Endpoint.CHAT
    dialect: Dialect = CHAT
    lean: Lean | None = None
    status: int = refusal.STATUS
    opaque: bool = False
    _unread: str | None = field(default=None, init=False, repr=False)

    @property
    def asked(self) -> Conversation | None:
        return self.exchange.conversation if self.exchange else None

    @property
    def reply_so_far(self) -> Reply | None:
        """The reply, as far as it came; None if there was none that could be read."""
        return self.guard.reply if self.guard is not None else self.reply

    @property
    def completion(self) -> dict[str, Any]:
        """The reply in OpenAI's form, whole, as far as it came; {} if there was none."""
        if self.guard is not None:
            return self.guard.completion
        if self.reply is None or self.upstream is None or self.dialect.is_plain:
            return {}
        try:
            return whole.completion(self.upstream, self.dialect)
        except NotUnderstoodError:
            return {}

    @property
    def patience(self) -> float:
        """Seconds to wait for an engine that is just starting."""
        return self.settings.wait_ms / 1000 if self.settings else 0.0

    @property
    def may_go_first(self) -> bool:
        """The request may go upstream while it is judged: there is nothing to mask in it, and it
        does nothing there that would outlast a refusal."""
        if self.settings is None or self.judge is None or self.exchange is None:
            return False
        if not self.settings.concurrent or self.judge.masking or self.refused is not None:
            return False
        return self.endpoint in _ANSWERING and self.exchange.only_answers

    @property
    def messages(self) -> tuple[Message, ...]:
        """All that addresses count over: the request's messages, then the reply's."""
        asked = self.asked.messages if self.asked else ()
        reply = self.reply_so_far
        return (*asked, *(reply.choices if reply else ()))

    def as_told(self) -> Refusal:
        """Why it was refused, as the client is told: with the way to its trace, if there is one."""
        refused = self.refused or Refusal(reason="it could not be judged")
        is_kept = self.settings is not None and self.settings.traces
        return replace(refused, trace=self.request_id if is_kept else "")

    def response(self) -> http.Response:
        """The 400 that tells the client what was refused. Never raises: a hook that raises would
        let the call pass."""
        try:
            assert self.refused is not None
            body = refusal.error_body(self.as_told(), self.phase, self.request_id, self.asked)
        except Exception:
            logger.exception("a refusal could not be written")
            body = refusal.LAST_RESORT
        headers = {**JSON, "x-invariant-request-id": self.request_id}
        return http.Response.make(self.status, body, headers)

    def settle_empty(self) -> None:
        """There is no text in the request, and none comes back."""
        self.exchange = Exchange(self.dialect.name, "", False, 1, Conversation(()))
        self.judged = True

    @property
    def is_harmless(self) -> bool:
        """There was nothing to judge in it."""
        if self.refused is not None or self.unjudged is not None:
            return False
        return self.judged and self.says_nothing and self.reply_so_far is None

    @property
    def says_nothing(self) -> bool:
        """The request holds no text at all."""
        return self.exchange is not None and not (
            self.exchange.conversation.messages or self.exchange.separate
        )

    @property
    def unread(self) -> str:
        """What of it no rule can read, in words; "" if all of it was read."""
        # Whoever reports a call asks for it, and a long history takes its time.
        if self._unread is None or not self.closed:
            self._unread = self._find_unread()
        return self._unread

    def _find_unread(self) -> str:
        if self.opaque:
            return "pictures or sound that came back"
        separate = self.exchange.separate if self.exchange else ()
        return coverage.unread((*self.messages, *(m for each in separate for m in each)))

    def settle(self, answer: Answer) -> None:
        """Draw the consequence of a verdict on a whole request or reply."""
        self.overlook(answer)
        if answer.verdict is not None and answer.verdict.blocking:
            self.refused = Refusal(violations=answer.verdict.blocking)
        elif answer.failure and answer.must_block:
            self.refused = Refusal(reason=answer.failure)
        elif answer.failure:
            self.fail(answer.failure)
        else:
            self.judged = True

    def fail(self, reason: str) -> None:
        """There is no verdict: `invariant_on_failure`, or refuse where nothing is configured."""
        if self.settings is not None and self.settings.fails_open(self.phase):
            self.unjudged = reason
        else:
            self.refused = Refusal(reason=reason)

    async def wait_checked(self) -> None:
        """Until a request that has gone upstream is judged. A check that was cancelled judged
        nothing, and its reply must not pass for that."""
        if self.checking is None:
            return
        await asyncio.wait((self.checking,))
        if self.checking.cancelled() and self.refused is None and self.unjudged is None:
            self.phase = "request"
            self.fail("the check of the request was cancelled")

    def lack(self, reason: str) -> None:
        """What is missing is missing for the reply as well: refuse unless both may pass."""
        self.fail(reason)
        if self.settings is not None and not self.settings.fails_open("response"):
            self.refused = Refusal(reason=reason)

    def unknown(self, reason: str) -> None:
        """Nobody can tell what is in it: `invariant_unknown`, or refuse."""
        if self.settings is not None and self.settings.passes_unknown:
            self.unjudged = reason
        else:
            self.refused = Refusal(
                reason=f"{reason}. invariant_unknown=pass would let such calls pass unjudged"
            )

    def overlook(self, answer: Answer) -> None:
        new = (violation for violation in answer.muted if violation not in self.muted)
        self.muted = (*self.muted, *new)

    async def ask_about(self, reply: Reply) -> Answer:
        assert self.exchange is not None and self.judge is not None
        continuations = tuple((message,) for message in reply.choices)
        asking = self.judge.ask(
            self.exchange.conversation, continuations, is_last=not self.exchange.separate
        )
        return await self.timed(asking)

    async def timed(
        self, asking: Awaitable[Answer], since: Callable[[], float | None] = lambda: 0.0
    ) -> Answer:
        """since: when the oldest of what waits for this verdict came, None if nothing waits."""
        began = time.monotonic()
        try:
            return await asking
        finally:
            ended = time.monotonic()
            self.checks += 1
            self.judging += ended - began
            if (came := since()) is not None:
                self.held += ended - max(began, came)
