"""A WebSocket to /v1/responses: what its client asks and its server says, judged as it comes.

A request is judged as one that came by POST: the same rules, masks, history, reports. Requests go
on one after the other, in their order; replies are held by lanes (lanes.py). Whatever goes wrong
here closes the connection: nothing goes on that was not judged.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from typing import Any, Protocol

from mitmproxy import http

from ..call import encoding
from ..call.guard import ReplyGuard
from ..call.state import Call
from ..core.conversation import Conversation, Exchange
from ..core.errors import NotUnderstoodError
from ..core.responses import frames
from ..core.responses.frames import Asked
from ..core.terms import Refusal
from ..history.store import Store
from ..judges import in_background
from ..layers.hooks import PendingCheck
from ..layers.websocket import BROKEN, Frame, Work
from .lanes import Lane, Lanes, Notice, Turn

logger = logging.getLogger(__name__)

MAX_WAITING = 64 * 2**20
"""Bytes of requests that may wait for their turn, and of replies on all lanes."""
_REFUSED = 1000
"""As if all were said: a client that is told to go away (1008) tries again six times."""


class Desk(Protocol):
    """What the addon does for each call, however it came (addon.py)."""

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


@dataclass(eq=False, slots=True)
class Request:
    """A message of the client that waits. asked: what it is; or why that cannot be told; None: it
    is large, and not read yet."""

    frame: Frame
    asked: Asked | NotUnderstoodError | None


class Session:
    """Implements layers.websocket.SocketGuard.

    flow: of the upgrade. base: a call that asked nothing: for what a server says unasked.
    """

    def __init__(self, desk: Desk, flow: http.HTTPFlow, base: Call) -> None:
        self._desk, self._flow, self._base = desk, flow, base
        self._memory = Store(None)  # what only this connection knows, as at OpenAI
        self._lanes = Lanes(base)
        self._ready: list[Frame] = []
        self._requests: deque[Request] = deque()
        self._waiting = 0
        self._judging: asyncio.Task[None] | None = None
        self._work: list[Work] = []
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

    def _read(self, frame: Frame) -> Asked | NotUnderstoodError:
        try:
            if not frame.is_text:
                raise NotUnderstoodError("a binary message")
            return frames.read_asked(frame.content)
        except NotUnderstoodError as error:
            return error

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

    def _choose(self) -> Request | None:
        """The first that may go. A request waits until the reply before it on its lane is over:
        which of two a reply belongs to could not be told."""
        waiting: set[str | None] = set()
        for request in self._requests:
            asked = request.asked
            if asked is None or isinstance(asked, NotUnderstoodError):
                return request
            lane = self._lanes.get(asked.lane)
            is_busy = lane is not None and lane.current() is not None
            if asked.lane in waiting or (asked.kind == "create" and is_busy):
                waiting.add(asked.lane)
                continue
            return request
        return None

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

    async def _request(self, request: Request) -> None:
        frame, asked = request.frame, request.asked
        assert asked is not None
        flow = self._turn_flow(frame.content)
        if isinstance(asked, NotUnderstoodError):
            call = await self._desk.open(self._turn_flow(b"{}"), self._memory)
            call.fail(f"the request could not be read: {asked}")
            await self._settle(self._lanes.named(None), flow, call, frame, None)
            return
        lane = self._lanes.named(asked.lane)
        if asked.kind == "quiet":
            self._ready.append(frame)
            return
        call = await self._desk.open(flow, self._memory)
        await self._settle(lane, flow, call, frame, asked)

    async def _settle(
        self, lane: Lane, flow: http.HTTPFlow, call: Call, frame: Frame, asked: Asked | None
    ) -> None:
        if asked is not None and asked.kind == "steer" and call.exchange is not None:
            call.refused = call.refused or await self._judge_steer(lane, call)
        if call.refused is not None:
            drop(frame)
            flow.response = call.response()
            self._tell(lane, call)
            await self._desk.close(flow, call)
            return
        content = flow.request.raw_content
        if asked is not None and content is not None and content != frame.content:  # masked
            frame = replace(frame, content=content, lengths=())
        self._ready.append(frame)
        if asked is not None and asked.kind == "create":
            lane.waiting.append(Turn(call, flow))
            return
        if asked is not None and call.exchange is not None:
            lane.steers += call.exchange.conversation.messages
        await self._desk.close(flow, call)

    async def _judge_steer(self, lane: Lane, call: Call) -> Refusal | None:
        """What is said into a reply: judged behind all that came before it."""
        assert call.exchange is not None
        before = self._lanes.so_far(lane)
        both = (*before.messages, *call.exchange.conversation.messages)
        unsent = frozenset(range(len(before.messages)))
        call.exchange = replace(call.exchange, conversation=Conversation(both, unsent=unsent))
        if call.judge is None:
            return Refusal(reason="there is nobody to judge it")
        call.judged = False
        call.settle(await call.timed(call.judge.ask_request(call.exchange.conversation)))
        call.exchange = replace(
            call.exchange, conversation=Conversation(both[len(before.messages) :])
        )
        return call.refused

    # -- replies --------------------------------------------------------------------------------

    def _hear(self, frame: Frame, now: float) -> None:
        if not frame.is_text:
            self._break("upstream sent a binary message")
            return
        said = frames.read_said(frame.content)
        lane = self._lanes.whose(said.lane)
        if lane.skips:
            drop(frame)
            lane.skips = not said.ends
            return
        turn = lane.current()
        if turn is not None and said.begins and turn.has_begun and said.response != turn.response:
            self._break("upstream sent two replies at once")
            return
        if turn is None and lane.last is not None and lane.last.refused is not None:
            drop(frame)  # it goes on from what was refused
            return
        if turn is None:
            turn = self._unasked(lane)
        guard = turn.begin(self._desk.guard)
        lane.feed(turn, guard, frame, said, now)
        if turn.is_over:
            self._lanes.last = turn.call
        self._held += len(frame.content)
        if self._held > MAX_WAITING:
            self._break("too much waits for a verdict")

    def _unasked(self, lane: Lane) -> Turn:
        """What comes without a request of its own goes on from all that was said: on its lane, and
        on those where a reply is awaited, for it may belong there."""
        last = lane.last or self._lanes.last or self._base
        assert last.exchange is not None
        everything = self._lanes.around(lane)
        exchange: Exchange = replace(last.exchange, conversation=everything)
        call = Call(settings=last.settings, judge=last.judge, exchange=exchange)
        call.dialect = last.dialect
        if last.lean is not None:
            call.lean = replace(last.lean, before=None)
        turn = Turn(call, self._turn_flow(b"{}"), is_asked=False)
        lane.waiting.append(turn)
        return turn

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

    def _release(self, lane: Lane, now: float) -> None:
        while lane.waiting:
            first = lane.waiting[0]
            if isinstance(first, Notice):
                self._ready.append(first.frame)
                lane.waiting.popleft()
                continue
            if (guard := first.guard) is None:
                return
            released = lane.released(first, guard, now)
            self._held -= sum(len(frame.content) for frame in released)
            self._ready += released
            if not guard.done:
                return
            lane.waiting.popleft()
            if guard.refused:
                self._refuse(lane, first)
            elif first.held:  # the gate has none of them any more
                self._break("a message was lost")
            if not first.call.closed:
                self._spawn(self._close(first))

    def _refuse(self, lane: Lane, turn: Turn) -> None:
        """The rest of a reply does not go on; and nobody shall pay for it."""
        self._discard(turn)
        lane.last, is_over = turn.call, turn.is_over
        while lane.waiting and isinstance(more := lane.waiting[0], Turn) and not more.is_asked:
            lane.waiting.popleft()  # it went on from what is refused
            self._discard(more)
            is_over = more.is_over
            more.call.refused = turn.call.refused
            more.call.closed = True
        self._ready.append(self._message(turn.call, lane, lane.number + 1))
        if any(one.waiting for one in self._lanes.all()):
            lane.skips = not is_over
        elif not is_over:
            self._farewell = (_REFUSED, "refused by a guardrail")

    def _discard(self, turn: Turn) -> None:
        for frame in turn.held:
            self._held -= len(frame.content)
            drop(frame)
        turn.held.clear()
        turn.drop_check()

    # -- what is said from here -----------------------------------------------------------------

    def _tell(self, lane: Lane, call: Call) -> None:
        lane.waiting.append(Notice(self._message(call, lane, None)))

    def _message(self, call: Call, lane: Lane, number: int | None) -> Frame:
        refused = call.refused or Refusal(reason="it could not be judged")
        content = frames.refusal_message(
            refused, call.phase, call.request_id, call.asked, lane=lane.name, number=number
        )
        return Frame(to_client=True, is_text=True, content=content)

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
        flow = http.HTTPFlow(self._flow.client_conn, self._flow.server_conn, live=True)
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
        in_background(work, "report a call of a WebSocket")


def drop(frame: Frame) -> None:
    """It does not go on, and mitmproxy's record says so."""
    if frame.message is not None:
        frame.message.drop()
