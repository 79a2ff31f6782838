"""A WebSocket whose messages wait until they are judged: what all kinds of it have in common.

Requests go on one after the other, in their order; replies are held by lanes (lanes.py). Whatever
goes wrong here closes the connection: nothing goes on that was not judged.
"""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

from mitmproxy import http

from ..background import in_background
from ..call import encoding
from ..call.guard import ReplyGuard
from ..call.state import Call
from ..core.errors import NotUnderstoodError
from ..core.responses.frames import Asked
from ..core.terms import Refusal
from ..history.store import Store
from ..layers.hooks import PendingCheck
from ..layers.websocket import BROKEN, Frame, Work
from .lanes import Lane, Lanes, Notice, Turn

logger = logging.getLogger(__name__)

MAX_WAITING = 64 * 2**20
"""Bytes of requests that may wait for their turn, and of replies on all lanes."""


class Desk(Protocol):
    """What is done for each call on it (desk.py)."""

    async def open(self, flow: http.HTTPFlow, memory: Store) -> Call:
        """The call of a request, judged; `flow.request` is then as it may go on."""

    def guard(self, call: Call) -> ReplyGuard: ...

    def count(self) -> None:
        """A call that begins otherwise."""

    def unheard(self) -> None:
        """There is sound, which nobody judges."""

    async def keep(self, call: Call) -> None:
        """Remember its turn, before the client can go on from it."""

    async def close(self, flow: http.HTTPFlow, call: Call) -> None:
        """It is over: report it."""

    async def leave(self, flow: http.HTTPFlow) -> None:
        """The client left while it was opened, judged or reported: report it if nobody did."""


@dataclass(eq=False, slots=True)
class Request:
    """A message of the client that waits. asked: what it is; or why that cannot be told; None: it
    is large, and not read yet."""

    frame: Frame
    asked: Asked | NotUnderstoodError | None


class Session(ABC):
    """Implements layers.websocket.SocketGuard.

    flow: of the upgrade. base: a call that asked nothing: for what a server says unasked.
    """

    def __init__(self, desk: Desk, flow: http.HTTPFlow, base: Call) -> None:
        self._desk, self._flow, self._base = desk, flow, base
        self._lanes = Lanes(base)
        self._ready: list[Frame] = []
        self._requests: deque[Request] = deque()
        self._waiting = 0
        self._judging: asyncio.Task[None] | None = None
        self._work: list[Work] = []
        self._closings: set[asyncio.Task[None]] = set()
        self._farewell: tuple[int, str] | None = None
        self._is_lost = False
        self._has_server = True
        self._held = 0  # bytes, on all lanes

    # -- SocketGuard ----------------------------------------------------------------------------

    def receive(self, frame: Frame, now: float) -> None:
        if self._is_lost or self._farewell:
            return
        try:
            if frame.to_client:
                self._hear(frame, now)
            else:
                self._ask(frame)
        except Exception:  # the edge: an exception in the layer would leave both sides waiting
            logger.exception("a WebSocket message could not be handled")
            self._break("a message could not be handled")

    def next_work(self, now: float) -> list[Work]:
        try:
            for lane in self._lanes.all():
                for turn in lane.turns:
                    self._check(turn, now)
            self._next_request()
        except Exception:  # the edge, as above
            logger.exception("a WebSocket could not be judged")
            self._break("a message could not be handled")
        work, self._work = self._work, []
        return work

    def take(self, now: float) -> list[Frame]:
        try:
            for lane in list(self._lanes.all()):
                self._release(lane, now)
        except Exception:  # the edge, as above
            logger.exception("a WebSocket message could not be passed on")
            self._break("a message could not be handled")
        ready, self._ready = self._ready, []
        return ready

    def wake_at(self, now: float) -> float | None:
        times = [
            turn.guard.wake_at(now)
            for lane in self._lanes.all()
            for turn in lane.turns
            if turn.guard is not None and not turn.guard.done
        ]
        return min((when for when in times if when is not None), default=None)

    def server_left(self, now: float) -> None:
        self._has_server = False
        for lane in self._lanes.all():
            for turn in lane.turns:
                if turn.guard is not None and not turn.is_over:
                    lane.end(turn, turn.guard, now, cut=True)

    def lost(self) -> None:
        if self._is_lost:
            return
        self._is_lost = True
        self._base.closed = True
        if self._judging is not None:
            self._judging.cancel()
        for lane in self._lanes.all():
            for turn in lane.turns:
                turn.drop_check()
                if not turn.call.closed:
                    turn.call.judged = False
                    self._spawn(self._close(turn))

    @property
    def is_idle(self) -> bool:
        busy = self._judging is not None or bool(self._requests and self._has_server)
        return not busy and all(lane.is_idle for lane in self._lanes.all())

    @property
    def farewell(self) -> tuple[int, str] | None:
        return self._farewell

    # -- requests -------------------------------------------------------------------------------

    def _ask(self, frame: Frame) -> None:
        self._waiting += len(frame.content)
        if self._waiting > MAX_WAITING:
            self._break("too many requests wait")
            return
        is_large = len(frame.content) > encoding.LARGE
        self._requests.append(Request(frame, None if is_large else self._read(frame)))

    def _next_request(self) -> None:
        """One after the other: their order on a lane is the client's."""
        if self._judging is not None or self._farewell or (request := self._choose()) is None:
            return
        if request.asked is not None:
            self._requests.remove(request)
            self._waiting -= len(request.frame.content)
        task = self._judging = asyncio.ensure_future(self._take_request(request))

        async def wait() -> None:
            await asyncio.wait((task,))
            if self._judging is task:
                self._judging = None

        self._work.append(Work(wait))

    async def _take_request(self, request: Request) -> None:
        try:
            if request.asked is None:  # and then it is its turn, or not
                request.asked = await asyncio.to_thread(self._read, request.frame)
                return
            await self._request(request)
        except asyncio.CancelledError:
            raise
        except Exception:  # the edge: mitmproxy would pass over it
            logger.exception("a WebSocket request could not be judged")
            self._break("a message could not be judged")

    @abstractmethod
    def _read(self, frame: Frame) -> Asked | NotUnderstoodError:
        """What it asks, or why that cannot be told. Not on the event loop if it is large."""

    @abstractmethod
    def _choose(self) -> Request | None:
        """The first that may go."""

    @abstractmethod
    async def _request(self, request: Request) -> None:
        """Judge it, and pass it on or refuse it."""

    # -- replies --------------------------------------------------------------------------------

    @abstractmethod
    def _hear(self, frame: Frame, now: float) -> None:
        """A message of the server: it waits on its lane."""

    @abstractmethod
    def _release(self, lane: Lane, now: float) -> None:
        """What of it may go on now."""

    def _check(self, turn: Turn, now: float) -> None:
        if turn.guard is None or turn.guard.done:
            return
        query = turn.guard.next_query(now)
        if query is None:
            return
        turn.drop_check()
        check = turn.check = PendingCheck(turn.guard, query)
        guard = turn.guard

        async def run() -> None:
            try:
                await guard.judge(check)
                if query.last and guard.is_clean and not check.cancelled:
                    await self._desk.keep(turn.call)
                if guard.done:
                    await self._close(turn)
            except Exception:  # the edge: mitmproxy would pass over it
                logger.exception("a WebSocket reply could not be judged")
                self._break("a message could not be judged")
            finally:
                if turn.check is check:
                    turn.check = None

        self._work.append(Work(run))

    # -- what is said from here -----------------------------------------------------------------

    def _tell(self, lane: Lane, call: Call) -> None:
        lane.waiting.append(Notice(self._message(call, lane, None)))

    @abstractmethod
    def _message(self, call: Call, lane: Lane, number: int | None) -> Frame:
        """The refusal of a call. number: of the event whose place it takes."""

    def _break(self, why: str) -> None:
        """Nothing of this connection can be relied on any more."""
        logger.warning("a WebSocket to %s was closed: %s", self._flow.request.host, why)
        self._ready.clear()
        self._requests.clear()
        for lane in self._lanes.all():
            for turn in lane.turns:
                turn.drop_check()
                turn.call.refused = turn.call.refused or Refusal(reason=why)
                if not turn.call.closed:
                    self._spawn(self._close(turn))
            lane.waiting.clear()
        self._base.refused = Refusal(reason=why)
        self._ready.append(self._message(self._base, Lane(None), None))
        self._farewell = (BROKEN, "not checked")

    # -- inside ---------------------------------------------------------------------------------

    def _turn_flow(self, body: bytes) -> http.HTTPFlow:
        """What stands for one request and its reply wherever a flow is wanted."""
        is_live = self._flow.live  # or it is a recorded one
        flow = http.HTTPFlow(self._flow.client_conn, self._flow.server_conn, live=is_live)
        flow.request = self._flow.request.copy()
        flow.request.method = "POST"
        flow.request.raw_content = body
        flow.request.timestamp_start = time.time()
        for name in ("upgrade", "connection", "content-encoding"):
            flow.request.headers.pop(name, None)
        return flow

    async def _close(self, turn: Turn) -> None:
        if turn.call.closed:
            return
        if turn.guard is not None:
            body = turn.guard.raw
            turn.flow.response = http.Response.make(
                200, body, {"content-type": "text/event-stream"}
            )
        await self._desk.close(turn.flow, turn.call)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = in_background(work, "report a call of a WebSocket")
        self._closings.add(task)
        task.add_done_callback(self._closings.discard)

    async def closings(self) -> None:
        """Until all that was reported behind the messages' backs is."""
        if self._closings:
            await asyncio.wait(self._closings)


def drop(frame: Frame) -> None:
    """It does not go on, and mitmproxy's record says so."""
    if frame.message is not None:
        frame.message.drop()
