"""A Realtime WebSocket: text, transcripts and calls are judged before they go on; sound is not.

All messages of one side go on in the order in which they came. So sound waits behind the transcript
that came before it, and goes on as soon as that was judged. What is refused ends the connection:
OpenAI would go on from it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import replace

from mitmproxy import http

from ..call.state import Call
from ..core.conversation import Conversation, Message
from ..core.errors import NotUnderstoodError
from ..core.responses import frames, realtime
from ..core.responses.realtime import Asked, RealtimeMerger
from ..core.terms import Refusal
from ..layers.websocket import Frame
from .lanes import Lane, Turn
from .session import MAX_WAITING, Desk, Request, Session, drop

_REFUSED = 1008
MAX_MESSAGES = 20_000
"""Of a session: no later one is taken."""


class RealtimeSession(Session):
    """Implements layers.websocket.SocketGuard."""

    def __init__(self, desk: Desk, flow: http.HTTPFlow, base: Call) -> None:
        base.dialect = replace(base.dialect, name="realtime", merger=RealtimeMerger)
        super().__init__(desk, flow, base)
        self._said: list[Message] = []  # all that the model knows
        self._conversation: Conversation | None = None
        self._order: deque[Frame] = deque()
        self._free: set[Frame] = set()
        self.has_sound = False

    @property
    def is_idle(self) -> bool:
        return super().is_idle and not self._order

    # -- requests -------------------------------------------------------------------------------

    def _choose(self) -> Request | None:
        return self._requests[0] if self._requests else None

    def _read(self, frame: Frame) -> NotUnderstoodError | frames.Asked:
        return frames.Asked("quiet", None)  # it is read when it is judged

    async def _request(self, request: Request) -> None:
        frame = request.frame
        asked: Asked | None = None
        why = ""
        try:
            if not frame.is_text:
                raise NotUnderstoodError("a binary message")
            asked = realtime.read_asked(frame.content)
        except NotUnderstoodError as error:
            why = f"the message could not be read: {error}"
        if asked is not None and asked.has_sound and not self.has_sound:
            self.has_sound = True
            self._desk.unheard()
        if asked is not None and not asked.messages:
            self._ready.append(frame)
            return
        messages = asked.messages if asked else ()
        before = self._known()
        both = (*before.messages, *messages)
        call = self._call(Conversation(both, unsent=before.unsent))
        if len(self._said) + len(messages) > MAX_MESSAGES:
            call.refused = Refusal(reason=f"more than {MAX_MESSAGES} messages in one session")
        elif why:
            call.fail(why)
        elif asked is not None and asked.prompt and not self._passes_unseen(call):
            call.refused = Refusal(
                reason="it names a stored prompt, whose text OpenAI does not tell. "
                "invariant_unseen_history=pass would let it pass"
            )
        else:
            await self._judge(call)
        flow = self._turn_flow(frame.content)
        if call.refused is None:
            self._learn(messages)
            self._ready.append(frame)
        else:
            drop(frame)
            flow.response = call.response()
            self._tell(self._lanes.named(""), call)
        await self._desk.close(flow, call)

    def _passes_unseen(self, call: Call) -> bool:
        return call.settings is not None and call.settings.passes_unseen

    async def _judge(self, call: Call) -> None:
        assert call.judge is not None and call.exchange is not None
        answer = await call.timed(call.judge.ask_request(call.exchange.conversation))
        call.settle(answer)
        if answer.verdict is not None and answer.verdict.masking and call.refused is None:
            # What only has to be replaced elsewhere does not leave here: nothing is replaced.
            call.refused = Refusal(violations=answer.verdict.masking)

    def _known(self) -> Conversation:
        """All that was said. The same object until there is more: engines know it by that."""
        if self._conversation is None:
            said = tuple(self._said)
            self._conversation = Conversation(said, unsent=frozenset(range(len(said))))
        return self._conversation

    def _learn(self, messages: Iterable[Message]) -> None:
        if messages := tuple(messages):
            self._said += messages
            self._conversation = None

    def _call(self, conversation: Conversation) -> Call:
        base = self._base
        assert base.exchange is not None
        exchange = replace(base.exchange, endpoint="realtime", conversation=conversation)
        self._desk.count()
        return Call(
            settings=base.settings, judge=base.judge, exchange=exchange, dialect=base.dialect
        )

    # -- replies --------------------------------------------------------------------------------

    def _hear(self, frame: Frame, now: float) -> None:
        if not frame.is_text:
            self._break("upstream sent a binary message")
            return
        said = realtime.read_said(frame.content)
        lane = self._lanes.named(said.lane)
        turn = lane.current()
        if turn is None:
            turn = Turn(self._call(self._known()), self._turn_flow(b"{}"), is_asked=False)
            lane.waiting.append(turn)
        self._order.append(frame)
        self._held += len(frame.content)
        if self._held > MAX_WAITING:
            self._break("too much waits for a verdict")
            return
        lane.feed(turn, turn.begin(self._desk.guard), frame, said, now)

    def _release(self, lane: Lane, now: float) -> None:
        while lane.waiting:
            first = lane.waiting[0]
            if not isinstance(first, Turn):
                self._ready.append(first.frame)
                lane.waiting.popleft()
                continue
            assert first.guard is not None
            self._free.update(lane.released(first, first.guard, now))
            if not first.guard.done:
                break
            lane.waiting.popleft()
            if first.guard.refused:
                self._flush()
                self._refuse(lane, first)
                return
            self._remember(lane, first)
            if not first.call.closed:
                self._spawn(self._close(first))
        self._flush()

    def _flush(self) -> None:
        while self._order and self._order[0] in self._free and self._farewell is None:
            frame = self._order.popleft()
            self._free.discard(frame)
            self._held -= len(frame.content)
            self._ready.append(frame)

    def _remember(self, lane: Lane, turn: Turn) -> None:
        """What was said is known to the model from now on."""
        reply = turn.call.reply_so_far
        if not lane.name or reply is None or len(self._said) > MAX_MESSAGES:
            return
        role = "assistant" if lane.name.startswith("r:") else "user"
        self._learn(replace(message, role=role) for message in reply.turns)

    def _refuse(self, lane: Lane, turn: Turn) -> None:
        for frame in self._order:
            drop(frame)
        self._order.clear()
        self._ready.append(self._message(turn.call, lane, None))
        self._farewell = (_REFUSED, "refused by a guardrail")
        self._spawn(self._close(turn))

    def _message(self, call: Call, lane: Lane, number: int | None) -> Frame:
        content = realtime.refusal_event(call.as_told(), call.phase, call.request_id, call.asked)
        return Frame(to_client=True, is_text=True, content=content)
