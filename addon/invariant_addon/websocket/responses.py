"""A WebSocket to /v1/responses: what its client asks and its server says, judged as it comes.

A request is judged as one that came by POST: the same rules, masks, history, reports.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

from mitmproxy import http

from ..call.state import Call
from ..core.conversation import Conversation, Exchange
from ..core.errors import NotUnderstoodError
from ..core.responses import frames
from ..core.responses.frames import Asked
from ..core.terms import Refusal
from ..history.store import Store
from ..layers.websocket import Frame
from .lanes import Lane, Notice, Turn
from .session import MAX_WAITING, Desk, Request, Session, drop

_REFUSED = 1000
"""As if all were said: a client that is told to go away (1008) tries again six times."""


class ResponsesSession(Session):
    """Implements layers.websocket.SocketGuard."""

    def __init__(self, desk: Desk, flow: http.HTTPFlow, base: Call) -> None:
        super().__init__(desk, flow, base)
        self._memory = Store(None)  # what only this connection knows, as at OpenAI

    # -- requests -------------------------------------------------------------------------------

    def _read(self, frame: Frame) -> Asked | NotUnderstoodError:
        try:
            if not frame.is_text:
                raise NotUnderstoodError("a binary message")
            return frames.read_asked(frame.content)
        except NotUnderstoodError as error:
            return error

    def _choose(self) -> Request | None:
        """The first that may go. A request waits until the reply before it on its lane is over:
        which of two a reply belongs to could not be told."""
        waiting: set[str | None] = set()
        for request in self._requests:
            asked = request.asked
            if asked is None or isinstance(asked, NotUnderstoodError):
                return request
            lane = self._lanes.get(asked.lane)
            is_busy = lane is not None and lane.is_busy
            if asked.lane in waiting or (asked.kind == "create" and is_busy):
                waiting.add(asked.lane)
                continue
            return request
        return None

    async def _request(self, request: Request) -> None:
        frame, asked = request.frame, request.asked
        assert asked is not None
        flow = opened = self._turn_flow(frame.content)
        if isinstance(asked, NotUnderstoodError):
            opened = self._turn_flow(b"{}")
        try:
            await self._open(flow, opened, frame, asked)
        except asyncio.CancelledError:
            self._spawn(self._desk.leave(opened))
            raise

    async def _open(
        self,
        flow: http.HTTPFlow,
        opened: http.HTTPFlow,
        frame: Frame,
        asked: Asked | NotUnderstoodError,
    ) -> None:
        """opened: what is judged."""
        if isinstance(asked, NotUnderstoodError):
            call = await self._desk.open(opened, self._memory)
            call.fail(f"the request could not be read: {asked}")
            await self._settle(self._lanes.named(None), flow, call, frame, None)
            return
        lane = self._lanes.named(asked.lane)
        if asked.kind == "quiet":
            self._ready.append(frame)
            return
        call = await self._desk.open(opened, self._memory)
        await self._settle(lane, flow, call, frame, asked)

    async def _settle(
        self, lane: Lane, flow: http.HTTPFlow, call: Call, frame: Frame, asked: Asked | None
    ) -> None:
        if asked is not None and asked.kind == "steer" and call.exchange is not None:
            call.refused = call.refused or await self._judge_steer(lane, call)
        if call.refused is not None:
            drop(frame)
            if frame.went_on and asked is not None and asked.kind == "create":
                lane.skips = True  # its reply was recorded, and would not have come
            flow.response = call.response()
            self._tell(lane, call)
            await self._desk.close(flow, call)
            return
        content = flow.request.raw_content
        if asked is not None and content is not None and content != frame.content:  # masked
            frame = replace(frame, content=content, lengths=())
        self._ready.append(frame)
        if asked is not None and asked.kind == "create":
            self._end_asides()
            lane.waiting.append(Turn(call, flow))
            return
        if asked is not None and call.exchange is not None:
            lane.steers += call.exchange.conversation.messages
        await self._desk.close(flow, call)

    def _end_asides(self) -> None:
        """What a server said between two replies, on any lane: what comes from now on is the next
        reply's. If there is nothing to read in it, it is no call to tell of."""
        for lane in self._lanes.all():
            turn = lane.end_aside(time.monotonic())
            if turn is None or turn.guard is None:
                continue
            if any(said.parts or said.tool_calls for said in turn.guard.reply.choices):
                self._desk.count()
            else:
                turn.call.closed = True

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

    def _message(self, call: Call, lane: Lane, number: int | None) -> Frame:
        content = frames.refusal_message(
            call.as_told(), call.phase, call.request_id, call.asked, lane=lane.name, number=number
        )
        return Frame(to_client=True, is_text=True, content=content)
