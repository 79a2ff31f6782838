"""The stream layer that can await a verdict in the middle of a reply.

mitmproxy's own stream hook is synchronous: what it holds back can never be released after an
asynchronous check (mitmproxy issue #8103). Here a guard takes the place of the stream callable.
The layer feeds it, sends what it releases, and runs the checks it wants as hooks that do *not*
pause the stream: while a verdict is awaited, further data, wake-ups and a client that leaves are
seen at once.

It knows no dialect and no engine; imports mitmproxy only.
"""

from __future__ import annotations

import time

from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers.http import (
    SendHttp,
)
from mitmproxy.proxy.layers.http._events import (
    ErrorCode,
    RequestEndOfMessage,
    RequestProtocolError,
    ResponseData,
    ResponseEndOfMessage,
    ResponseHeaders,
    ResponseProtocolError,
    ResponseTrailers,
)
from mitmproxy.proxy.mode_specs import ReverseMode

from .clock import Clock, Fed, Tick
from .hooks import (
    JUDGED_MEANWHILE,
    NAMED,
    PATIENCE,
    Guard,
    InvariantRequestHook,
    InvariantVerdictHook,
    PendingCheck,
    PendingRequest,
)
from .letting_go import leave_stack
from .sealed import SealedHttpStream
from .websocket import GuardedWebsocketLayer

LONGEST_SLEEP = 1.0
"""Seconds: each timer is a task of mitmproxy's, and is not taken back when its stream ends."""


class GuardedHttpStream(SealedHttpStream):
    """One HTTP exchange; like its parent until `responseheaders` has set a guard."""

    _guard: Guard | None = None
    _check: PendingCheck | None = None
    _head_sent = False
    _over = False
    _reset: ResponseProtocolError | None = None
    _wake: float | None = None
    _heard = 0.0
    _patience = 0.0
    _heard_all = False
    _announced: InvariantRequestHook | None = None

    def __init__(self, context: Context, stream_id: int, clock: Clock) -> None:
        """clock: strikes for all streams of the connection."""
        super().__init__(context, stream_id)
        self._clock = clock

    def _handle_event(self, event: events.Event) -> layer.CommandGenerator[None]:
        if isinstance(event, events.HookCompleted) and isinstance(
            event.command, InvariantVerdictHook
        ):
            if event.command.check is self._check:
                self._check = None
                yield from self._advance()
        elif isinstance(event, events.HookCompleted) and isinstance(
            event.command, InvariantRequestHook
        ):
            self._announced = None  # it knows this stream
            yield from self._settle_request(event.command.pending)
        elif isinstance(event, Tick):
            yield from self._watch()
        elif isinstance(event, Fed):
            yield from self._advance()
        elif isinstance(event, events.Wakeup):
            self._wake = None
            yield from self._advance()
        elif self._over and isinstance(
            event, ResponseData | ResponseTrailers | ResponseEndOfMessage | ResponseProtocolError
        ):
            return  # upstream was cancelled; what it had sent before it knew is not wanted
        else:
            if isinstance(event, ResponseHeaders | ResponseData):
                self._heard = time.monotonic()
            self._heard_all |= isinstance(event, ResponseEndOfMessage)
            yield from super()._handle_event(event)

    # -- requests ---------------------------------------------------------------------------

    def check_invalid(self, request: bool) -> layer.CommandGenerator[bool]:
        is_reverse = isinstance(self.context.client.proxy_mode, ReverseMode)
        if request and is_reverse and (named := self.flow.request.host_header):
            self.flow.metadata[NAMED] = named
        is_invalid = yield from super().check_invalid(request)
        if is_invalid:
            yield from self._drop()
        return is_invalid

    def state_consume_request_body(self, event: events.Event) -> layer.CommandGenerator[None]:
        yield from super().state_consume_request_body(event)
        if not isinstance(event, RequestEndOfMessage) or not self._is_waiting_for_head():
            return
        self._heard = time.monotonic()
        self._patience = float(self.flow.metadata.pop(PATIENCE, 0.0))
        yield from self._watch()
        if self.flow.metadata.pop(JUDGED_MEANWHILE, False):
            hook = self._announced = InvariantRequestHook(PendingRequest(self.flow))
            hook.blocking = self  # type: ignore[assignment]  # as below
            yield hook

    def state_wait_for_response_headers(
        self, event: ResponseHeaders
    ) -> layer.CommandGenerator[None]:
        yield from super().state_wait_for_response_headers(event)
        # What came while the hook waited for a verdict is still in mitmproxy's queue.
        self._heard = time.monotonic()

    def _is_waiting_for_head(self) -> bool:
        return (
            self.server_state == self.state_wait_for_response_headers
            and self.client_state == self.state_done
            and self.flow.response is None
            and self.flow.error is None
        )

    def _settle_request(self, pending: PendingRequest) -> layer.CommandGenerator[None]:
        """The request is refused, and upstream has not answered yet: answer in its place."""
        if pending.response is None or self._over or not self._is_waiting_for_head():
            return
        self._over = True
        yield from self._cancel_upstream("refused by a guardrail")
        self.flow.response = pending.response
        yield from self.send_response()

    def _cancel_upstream(self, why: str) -> layer.CommandGenerator[None]:
        # Nobody pays for tokens that nobody will read.
        yield SendHttp(
            RequestProtocolError(self.stream_id, why, ErrorCode.CANCEL), self.context.server
        )

    def _watch(self) -> layer.CommandGenerator[None]:
        """Give upstream up if it was silent for too long, else look again when that may be."""
        patience = self._patience
        if (
            self._clock is None
            or not patience
            or self._heard_all
            or self._over
            or self._reset
            or self.flow.error
        ):
            return
        if self.server_state in (self.state_done, self.state_errored):
            return
        rest = self._heard + patience - time.monotonic()
        if rest > 0:
            yield from self._clock.set(rest)
            return
        why = f"upstream sent nothing for {patience:g} s"
        yield from self._cancel_upstream(why)
        yield from self.handle_protocol_error(
            ResponseProtocolError(self.stream_id, why, ErrorCode.GENERIC_SERVER_ERROR)
        )

    def flow_done(self) -> layer.CommandGenerator[None]:
        """As its parent, with a WebSocket layer that can await a verdict."""
        assert self.flow.response
        if self.flow.response.status_code != 101:
            yield from super().flow_done()
            leave_stack(self)
            return
        if not self.flow.websocket:
            yield from super().flow_done()
            return
        self.child_layer = GuardedWebsocketLayer(self.context, self.flow)
        self._handle_event = self.passthrough  # type: ignore[method-assign]  # mitmproxy's way
        yield from self.child_layer.handle_event(events.Start())
        yield SendHttp(ResponseEndOfMessage(self.stream_id), self.context.client)

    def passthrough(self, event: events.Event) -> layer.CommandGenerator[None]:
        """This stream's own hooks, and its layer's clock, are nothing to the protocol that took
        over."""
        if isinstance(event, Tick | Fed) or (
            isinstance(event, events.CommandCompleted) and event.command is self._announced
        ):
            return
        yield from super().passthrough(event)

    # -- replies ----------------------------------------------------------------------------

    def start_response_stream(self) -> layer.CommandGenerator[None]:
        assert self.flow.response
        guard = self.flow.response.stream
        if not isinstance(guard, Guard):
            yield from super().start_response_stream()
            return
        self._guard = guard
        self.server_state = self.state_guarded_response_body
        if not guard.withholds_head:
            yield from self._send_head()
        yield from self._advance()

    def _send_head(self) -> layer.CommandGenerator[None]:
        assert self.flow.response
        self._head_sent = True
        yield SendHttp(
            ResponseHeaders(self.stream_id, self.flow.response, end_stream=False),
            self.context.client,
        )

    def state_guarded_response_body(self, event: events.Event) -> layer.CommandGenerator[None]:
        assert self._guard and self.flow.response
        if isinstance(event, ResponseData):
            self._guard.feed(event.data, time.monotonic())
        elif isinstance(event, ResponseTrailers):
            self.flow.response.trailers = event.trailers
        elif isinstance(event, ResponseEndOfMessage):
            self._guard.end(time.monotonic(), cut=False)
        self._clock.fed[self] = None
        yield from ()

    def _advance(self) -> layer.CommandGenerator[None]:
        """Do what the guard wants now: start a check, send, finish, or sleep."""
        if self._guard is None or self._over:
            return
        guard, now = self._guard, time.monotonic()
        query = guard.next_query(now)
        if query is not None:
            self._drop_check()
            self._check = PendingCheck(guard, query)
            hook = InvariantVerdictHook(self._check)
            # Truthy but not True: the answer is routed back to this stream, and no layer waits
            # for it (see mitmproxy.proxy.layer.Layer.handle_event).
            hook.blocking = self  # type: ignore[assignment]  # mitmproxy's union, narrowed by it
            yield hook
        if released := guard.take(now):
            if not self._head_sent:
                yield from self._send_head()
            yield SendHttp(ResponseData(self.stream_id, released), self.context.client)
        if guard.done:
            yield from self._finish()
        elif (wake := guard.wake_at(now)) is not None and (self._wake is None or wake < self._wake):
            self._wake = wake
            yield commands.RequestWakeup(max(0.0, min(wake - now, LONGEST_SLEEP)))

    def _finish(self) -> layer.CommandGenerator[None]:
        assert self._guard and self.flow.response
        self._over = True
        self._drop_check()
        if self._guard.refused:
            yield from self._refuse()
        elif self._reset is not None:
            yield from self._pass_on(self._reset)
        else:
            if not self._head_sent:
                yield from self._send_head()
            yield from self.send_response(already_streamed=True)

    def _refuse(self) -> layer.CommandGenerator[None]:
        assert self._guard and self.flow.response
        yield from self._cancel_upstream("refused by a guardrail")
        if self._head_sent:
            yield SendHttp(
                ResponseData(self.stream_id, self._guard.refusal_event()), self.context.client
            )
            self.flow.response.trailers = None
            yield from self.send_response(already_streamed=True)
        else:
            self.flow.response = self._guard.refusal_response()
            yield from self.send_response()

    def _drop_check(self) -> None:
        if self._check is not None:
            self._check.cancel()
            self._check = None

    # -- the other ends ---------------------------------------------------------------------

    def handle_protocol_error(
        self, event: RequestProtocolError | ResponseProtocolError
    ) -> layer.CommandGenerator[None]:
        if self._guard is None or self._over:
            yield from self._pass_on(event)
        elif isinstance(event, ResponseProtocolError):
            # The connection to upstream broke: judge what came, release it, pass the news on.
            if self._reset is None:
                self._reset = event
                self._guard.end(time.monotonic(), cut=True)
                yield from self._advance()
        else:
            self._over = True
            self._drop_check()
            self._guard.lost("the client left")
            yield from self._pass_on(event)

    def _pass_on(
        self, event: RequestProtocolError | ResponseProtocolError
    ) -> layer.CommandGenerator[None]:
        yield from super().handle_protocol_error(event)
        leave_stack(self)

    def check_killed(self, emit_error_hook: bool) -> layer.CommandGenerator[bool]:
        killed = yield from super().check_killed(emit_error_hook)
        if killed and self._guard is not None and not self._guard.done:
            self._over = True
            self._drop_check()
            self._guard.lost("the flow was killed")
        if killed:
            yield from self._drop()
        return killed
