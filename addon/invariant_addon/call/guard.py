"""One guarded reply: the stream layer on one side, a gate and the call's judge on the other."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import ref

from mitmproxy import http

from ..core import refusal
from ..core.conversation import Reply
from ..core.errors import NotUnderstoodError
from ..core.gate import HELD, Gate
from ..core.terms import Mode, Query, Refusal
from ..engines.base import Priority
from ..judge import Answer
from ..layers.hooks import PendingCheck
from .decoding import StreamDecoder
from .encoding import LIMIT
from .state import Call

logger = logging.getLogger(__name__)


class Withheld:
    """In place of a reply that came although its request is refused (layers.hooks.Guard)."""

    withholds_head = True
    done = True
    refused = True

    def __init__(self, call: Call) -> None:
        self._call = call

    def __call__(self, data: bytes) -> list[bytes]:
        return []

    def feed(self, data: bytes, now: float) -> None:
        pass

    def end(self, now: float, *, cut: bool) -> None:
        pass

    def next_query(self, now: float) -> None:
        return None

    def take(self, now: float) -> bytes:
        return b""

    def wake_at(self, now: float) -> None:
        return None

    def refusal_event(self) -> bytes:
        raise AssertionError("the head was withheld")

    def refusal_response(self) -> http.Response:
        return self._call.response()

    def lost(self, reason: str) -> None:
        pass


class ReplyGuard:
    """What the stream layer talks to (layers.hooks.Guard)."""

    def __init__(
        self,
        call: Call,
        gate: Gate,
        *,
        withholds_head: bool,
        decoder: StreamDecoder | None = None,
    ) -> None:
        """decoder: of a stream that comes encoded; it goes on without its encoding."""
        self._decoder = decoder
        self._size = 0
        self.withholds_head = withholds_head
        self._call: Call | None = call
        self._known_call = ref(call)
        self._gate = gate
        self._raw: list[bytes] = []
        self._delivered = 0
        self._held_since: float | None = None
        self.first_at: float | None = None
        """When the first byte went to the client: seconds since 1970."""

    @property
    def call(self) -> Call:
        found = self._call or self._known_call()
        assert found is not None, "a call that nobody knows any more"
        return found

    def let_go(self) -> None:
        """The call is over: from now on it keeps this guard, and not the other way round as well,
        so that both go when its flow does and need not wait for Python's search for garbage."""
        self._call = None

    def __call__(self, data: bytes) -> list[bytes]:
        """mitmproxy's own layer cannot await a verdict, so it gets nothing but the refusal."""
        if data:
            return []
        self.call.refused = Refusal(reason="replayed streams cannot be judged")
        return [self.refusal_event()]

    # -- what the gate decides --------------------------------------------------------------

    def feed(self, data: bytes, now: float) -> None:
        with self._failing_closed():
            if self._decoder is None:
                self._take_in(data, now)
                return
            for piece in self._decoder.feed(data):
                self._size += len(piece)
                if self._gate.done:
                    return
                if self._size > LIMIT:
                    raise NotUnderstoodError(f"a stream of more than {LIMIT} bytes when decoded")
                self._take_in(piece, now)

    def _take_in(self, data: bytes, now: float) -> None:
        self._raw.append(data)
        self._gate.feed(data, now)
        if self._held_since is None and self._gate.holds:
            self._held_since = now

    def end(self, now: float, *, cut: bool) -> None:
        with self._failing_closed():
            if self._decoder is not None and not cut:
                self._decoder.end()
            self._gate.end(now, cut=cut)

    def next_query(self, now: float) -> Query | None:
        with self._failing_closed():
            return self._gate.next_query(now)
        return None

    @contextmanager
    def _failing_closed(self) -> Iterator[None]:
        """The edge: an exception in the layer would leave the client waiting for ever."""
        try:
            yield
        except NotUnderstoodError as error:
            self._gate.abort(f"the reply could not be read: {error}")
        except Exception:
            logger.exception("a reply could not be read")
            self._gate.abort("the reply could not be read")

    def take(self, now: float) -> bytes:
        taken = self._gate.take(now)
        if not self._gate.holds:
            self._held_since = None
        if taken:
            self.first_at = self.first_at or time.time()
            if taken != HELD:
                self._delivered += len(taken)
        return taken

    def wake_at(self, now: float) -> float | None:
        return self._gate.wake_at(now)

    @property
    def done(self) -> bool:
        if self._gate.done:
            self._report()
        return self._gate.done

    @property
    def is_through(self) -> bool:
        """The client could have all of it, though the message may not have ended."""
        return self.done or self._gate.is_through

    @property
    def refused(self) -> bool:
        return self._gate.refusal is not None

    def _report(self) -> None:
        call = self.call
        call.refused = call.refused or self._gate.refusal
        call.unjudged = call.unjudged or self._gate.unjudged
        call.judged = call.refused is None and call.unjudged is None

    def lost(self, reason: str) -> None:
        if self._gate.is_through:
            self._report()
        elif self._gate.unjudged:
            self.call.unjudged = self._gate.unjudged
        elif self._gate.mode is Mode.OBSERVE and self._delivered and self._is_judged:
            self.call.unjudged = f"delivered before its verdict, and then {reason}"

    @property
    def _is_judged(self) -> bool:
        return self.call.judge is not None and bool(self.call.judge.blocking)

    # -- what the client gets ---------------------------------------------------------------

    def refusal_event(self) -> bytes:
        call = self.call
        try:
            assert call.refused is not None
            return call.dialect.refusal_event(
                call.as_told(), call.request_id, call.asked, self.delivered
            )
        except Exception:  # the edge: as for Call.response
            logger.exception("a refusal could not be written")
            return b"\ndata: " + refusal.LAST_RESORT + b"\n\n"

    def refusal_response(self) -> http.Response:
        return self.call.response()

    @property
    def is_clean(self) -> bool:
        """Nothing is wrong with it so far."""
        return self._gate.refusal is None and self._gate.unjudged is None

    @property
    def reply(self) -> Reply:
        """What it merged to."""
        return self._gate.merger.snapshot()

    @property
    def completion(self) -> dict[str, Any]:
        """The same in OpenAI's form."""
        return self._gate.merger.completion()

    @property
    def delivered(self) -> bytes:
        """What of `raw` went on: it is never reordered or changed."""
        return self.raw[: self._delivered]

    @property
    def raw(self) -> bytes:
        """What upstream sent, as far as it was read."""
        return b"".join(self._raw)

    # -- verdicts ---------------------------------------------------------------------------

    async def judge(self, check: PendingCheck) -> None:
        """Run one check and tell the gate. Returns at once when nobody waits any more.

        Whatever goes wrong is an answer too ("no verdict"): a hook that raised would leave the
        stream waiting for ever.
        """
        query = check.query
        assert isinstance(query, Query)
        if check.cancelled:
            return
        call = self.call  # it may be over before the answer is here
        answer = Answer(None, "the check failed")
        task = asyncio.ensure_future(self._ask(query))
        check.on_cancel = task.cancel
        try:
            answer = await task
        except asyncio.CancelledError:
            if not check.cancelled:  # the proxy is shutting down
                raise
            return
        except Exception:  # the edge: fails as configured, whatever it was
            logger.exception("a check failed")
        call.overlook(answer)
        with self._failing_closed():
            if answer.must_block and query.last:
                self._gate.abort(answer.failure)
            self._gate.answer(query, answer.verdict, answer.failure, time.monotonic())

    async def _ask(self, query: Query) -> Answer:
        exchange, judge = self.call.exchange, self.call.judge
        assert exchange is not None and judge is not None
        continuations = tuple((message,) for message in query.reply.choices)
        priority = Priority.WHOLE if query.last else Priority.PREFIX
        is_last = query.last and not exchange.separate
        asking = judge.ask(exchange.conversation, continuations, priority, is_last=is_last)
        return await self.call.timed(asking, lambda: self._held_since)
