"""mitmproxy's WebSocket layer, with messages that wait until somebody has judged them.

A guard takes every message, and says which go on, and when. Pings, pongs and a client's farewell
are passed on at once, whatever is held; a server's farewell comes behind what it had said. Messages
go on as they came: their bytes, and where they were cut into frames. What else holds words that
nobody judges does not go on: what is in pings (heartbeats.py), and the reason of a farewell, which
is kept for the flow alone; its code says enough to programs.

It knows no dialect and no engine; imports mitmproxy only.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import wsproto.events
from mitmproxy import http, websocket
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers.websocket import (
    Fragmentizer,
    WebsocketConnection,
    WebsocketEndHook,
    WebsocketLayer,
    WebsocketMessageHook,
    WebSocketMessageInjected,
)
from wsproto.connection import ConnectionState
from wsproto.frame_protocol import Opcode

from .heartbeats import Heartbeats

MAX_MESSAGE = 64 * 2**20
"""Bytes of one message."""
MAX_FRAMES = 10_000
"""Of one message, that are told apart; what comes behind them goes on as one."""
WATCH_SECONDS = 5.0
TOO_BIG, BROKEN = 1009, 1011


@dataclass(eq=False, slots=True)
class Frame:
    """A message on its way. lengths: where it was cut into frames. message: mitmproxy's record.
    went_on: it is a recorded one, and was sent on then."""

    to_client: bool
    is_text: bool
    content: bytes
    lengths: Sequence[int] = ()
    message: websocket.WebSocketMessage | None = None
    went_on: bool = False


class Work:
    """Something to be judged. run: never raises; cancelled: nobody waits for it any more."""

    def __init__(self, run: Callable[[], Awaitable[None]]) -> None:
        self.run = run


class SocketGuard(Protocol):
    """Times: seconds, monotonic. None of these raises."""

    def receive(self, frame: Frame, now: float) -> None: ...

    def next_work(self, now: float) -> list[Work]:
        """What is to be judged from now on. More may be under way at once."""

    def take(self, now: float) -> list[Frame]:
        """What may go on now."""

    def wake_at(self, now: float) -> float | None: ...

    def server_left(self, now: float) -> None:
        """Nothing more will come from there."""

    def lost(self) -> None:
        """The client left: nobody waits for anything."""

    @property
    def is_idle(self) -> bool:
        """Nothing is held or judged."""

    @property
    def farewell(self) -> tuple[int, str] | None:
        """Close the connection, with this code and reason, behind all that may go on."""


class PendingSocket:
    """A WebSocket that is about to begin. Set by whoever decides: guard; or passes, if nobody wants
    to judge it. Neither: it is closed."""

    def __init__(self, flow: http.HTTPFlow) -> None:
        self.flow = flow
        self.guard: SocketGuard | None = None
        self.passes = False


@dataclass
class InvariantSocketStartHook(commands.StartHook):
    """Decide about `pending`."""

    pending: PendingSocket


@dataclass
class InvariantSocketHook(commands.StartHook):
    """Await `work.run()`. Nothing stands still meanwhile."""

    work: Work


class GuardedWebsocketLayer(WebsocketLayer):
    _guard: SocketGuard
    _wake: float | None = None
    _closing: wsproto.events.CloseConnection | None = None
    _reason: str | None = None

    def __init__(self, context: Context, flow: http.HTTPFlow) -> None:
        super().__init__(context, flow)
        # Of the message that is coming from the client (True) or the server: its frames so far.
        self._pieces: dict[bool, list[bytearray]] = {}
        self._sizes: dict[bool, int] = {}
        self._heartbeats = Heartbeats()

    def start(self, event: events.Event) -> layer.CommandGenerator[None]:
        yield from super().start(event)
        pending = PendingSocket(self.flow)
        yield InvariantSocketStartHook(pending)
        if pending.guard is not None:
            self._guard = pending.guard
            self._handle_event = self.guarded  # type: ignore[method-assign]  # mitmproxy's way
            yield from self._advance()
        elif not pending.passes:
            yield from self._close(wsproto.events.CloseConnection(BROKEN, "not checked"))

    _handle_event = start

    def guarded(self, event: events.Event) -> layer.CommandGenerator[None]:
        if isinstance(event, events.Wakeup):
            self._wake = None
        elif not isinstance(event, events.CommandCompleted):
            yield from self._receive(event)
        if self._handle_event == self.guarded:
            yield from self._advance()

    # -- in -------------------------------------------------------------------------------------

    def _receive(self, event: events.Event) -> layer.CommandGenerator[None]:
        if isinstance(event, WebSocketMessageInjected):
            from_client, injected = event.message.from_client, True
            source = self.client_ws if from_client else self.server_ws
            whole = (
                wsproto.events.TextMessage(event.message.text, message_finished=True)
                if (event.message.is_text)
                else wsproto.events.BytesMessage(event.message.content, message_finished=True)
            )
            source._events.append(whole)
        else:
            assert isinstance(event, events.DataReceived | events.ConnectionClosed)
            from_client, injected = event.connection == self.context.client, False
            source = self.client_ws if from_client else self.server_ws
            if self._closing is not None and not from_client:
                return  # it has said farewell
            source.receive_data(event.data if isinstance(event, events.DataReceived) else None)
        for one in source.events():
            if isinstance(one, wsproto.events.Message):
                yield from self._message(one, from_client=from_client, injected=injected)
            elif isinstance(one, wsproto.events.Ping):
                number = self._heartbeats.ping(bytes(one.payload), to_server=from_client)
                yield from self._send(self._other(from_client), wsproto.events.Ping(number))
            elif isinstance(one, wsproto.events.Pong):
                own = self._heartbeats.pong(bytes(one.payload), to_server=from_client)
                yield from self._send(self._other(from_client), wsproto.events.Pong(own))
            elif isinstance(one, wsproto.events.CloseConnection):
                yield from self._left(one, by_client=from_client)
            if self._handle_event != self.guarded:
                return

    def _message(
        self,
        event: wsproto.events.Message[Any],
        *,
        from_client: bool,
        injected: bool,
    ) -> layer.CommandGenerator[None]:
        is_text = isinstance(event.data, str)
        data = event.data.encode() if isinstance(event.data, str) else bytes(event.data)
        pieces = self._pieces.setdefault(from_client, [bytearray()])
        pieces[-1] += data
        size = self._sizes[from_client] = self._sizes.get(from_client, 0) + len(data)
        if size > MAX_MESSAGE:
            yield from self._close(wsproto.events.CloseConnection(TOO_BIG, "a message too big"))
            return
        if not event.message_finished:
            if event.frame_finished and len(pieces) < MAX_FRAMES:
                pieces.append(bytearray())
            return
        del self._pieces[from_client], self._sizes[from_client]
        message = websocket.WebSocketMessage(
            Opcode.TEXT if is_text else Opcode.BINARY,
            from_client,
            b"".join(pieces),
            injected=injected,
        )
        assert self.flow.websocket
        self.flow.websocket.messages.append(message)
        yield WebsocketMessageHook(self.flow)  # what other addons make of it is judged
        if not message.dropped:
            frame = Frame(
                not from_client, is_text, message.content, [len(p) for p in pieces], message
            )
            self._guard.receive(frame, time.monotonic())

    def _left(
        self, event: wsproto.events.CloseConnection, *, by_client: bool
    ) -> layer.CommandGenerator[None]:
        assert self.flow.websocket
        if self.flow.websocket.closed_by_client is None:
            self.flow.websocket.closed_by_client = by_client
            self._reason = event.reason
        wordless = wsproto.events.CloseConnection(event.code)
        if by_client:
            yield from self._close(wordless)
            return
        self._closing = wordless
        self._guard.server_left(time.monotonic())

    # -- out ------------------------------------------------------------------------------------

    def _advance(self) -> layer.CommandGenerator[None]:
        now = time.monotonic()
        for work in self._guard.next_work(now):
            hook = InvariantSocketHook(work)
            hook.blocking = self  # type: ignore[assignment]  # as in stream.py
            yield hook
        for frame in self._guard.take(now):
            yield from self._pass_on(frame)
        if (farewell := self._guard.farewell) is not None:
            yield from self._close(wsproto.events.CloseConnection(*farewell))
        elif self._closing is not None and self._guard.is_idle:
            yield from self._close(self._closing)
        elif (wake := self._guard.wake_at(now)) is not None and (
            self._wake is None or wake < self._wake
        ):
            self._wake = wake
            yield commands.RequestWakeup(min(max(0.0, wake - now), WATCH_SECONDS))

    def _pass_on(self, frame: Frame) -> layer.CommandGenerator[None]:
        cut = Fragmentizer([], frame.is_text)
        # As it came, where it still is what came.
        cut.fragment_lengths = (
            list(frame.lengths)
            if sum(frame.lengths) == len(frame.content) and frame.lengths
            else [len(frame.content)]
        )
        for one in cut(frame.content):
            yield from self._send(self.client_ws if frame.to_client else self.server_ws, one)

    def _other(self, from_client: bool) -> WebsocketConnection:
        return self.server_ws if from_client else self.client_ws

    def _send(
        self, to: WebsocketConnection, event: wsproto.events.Event
    ) -> layer.CommandGenerator[None]:
        if to.state is ConnectionState.OPEN:
            yield to.send2(event)

    def _close(self, event: wsproto.events.CloseConnection) -> layer.CommandGenerator[None]:
        assert self.flow.websocket
        if hasattr(self, "_guard"):
            self._guard.lost()
        self.flow.websocket.timestamp_end = time.time()
        self.flow.websocket.close_code = event.code
        self.flow.websocket.close_reason = event.reason or self._reason
        for ws in (self.server_ws, self.client_ws):
            if ws.state in {ConnectionState.OPEN, ConnectionState.REMOTE_CLOSING}:
                yield ws.send2(event)
            yield commands.CloseConnection(ws.conn)
        self._handle_event = self.done  # type: ignore[assignment,method-assign]  # as above
        yield WebsocketEndHook(self.flow)
        self.flow.live = False

    def done(self, _: events.Event) -> layer.CommandGenerator[None]:
        """What was still under way comes back, and is nothing to anybody."""
        yield from ()
