"""The replies of one lane of a WebSocket: held, judged, and passed on in order.

A lane is what has one stream_id; without any, the connection is one lane. On a lane one reply comes
after the other. Each has a gate of its own; what comes while the one before it is still held waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from mitmproxy import http

from ..call.guard import ReplyGuard
from ..call.state import Call
from ..core.conversation import Conversation, Message, Reply
from ..core.errors import NotUnderstoodError
from ..core.responses import frames
from ..core.responses.frames import Said
from ..layers.hooks import PendingCheck
from ..layers.websocket import Frame

MAX_LANES = 256


@dataclass(eq=False, slots=True)
class Turn:
    """One reply that is to come, or comes. flow: what stands for it in reports. response: the id
    that the reply says it has. is_asked: a request wants it. is_over: all of it came.
    check: the one under way.
    """

    call: Call
    flow: http.HTTPFlow
    guard: ReplyGuard | None = None
    held: deque[Frame] = field(default_factory=deque)
    response: str | None = None
    is_asked: bool = True
    is_reply: bool = False
    has_begun: bool = False
    is_over: bool = False
    check: PendingCheck | None = None

    def begin(self, guard: Callable[[Call], ReplyGuard]) -> ReplyGuard:
        if self.guard is None:
            self.guard = guard(self.call)
        return self.guard

    def drop_check(self) -> None:
        if self.check is not None:
            self.check.cancel()
            self.check = None


@dataclass(eq=False, slots=True)
class Notice:
    """A message of our own, in its place among the replies."""

    frame: Frame


@dataclass(eq=False, slots=True)
class Lane:
    """name: its stream_id. waiting: what is to go on, in order. last: the call whose reply came
    last; steers: what the client said since then without a request. number: of the last event
    that went on. skips: the rest of a refused reply is not wanted."""

    name: str | None
    waiting: deque[Turn | Notice] = field(default_factory=deque)
    last: Call | None = None
    steers: list[Message] = field(default_factory=list)
    number: int = -1
    skips: bool = False

    @property
    def turns(self) -> list[Turn]:
        return [one for one in self.waiting if isinstance(one, Turn)]

    def current(self) -> Turn | None:
        """The reply that an event of this lane belongs to."""
        return next((turn for turn in self.turns if not turn.is_over), None)

    @property
    def is_busy(self) -> bool:
        """A reply is awaited, or comes."""
        turn = self.current()
        return turn is not None and (turn.is_asked or turn.is_reply)

    def end_aside(self, now: float) -> Turn | None:
        """End what came unasked and is no reply, if there is any: nothing in it says where it ends,
        and the client goes on."""
        turn = self.current()
        if turn is None or turn.guard is None or self.is_busy:
            return None
        turn.is_over, self.last = True, turn.call
        turn.guard.end(now, cut=False)
        return turn

    @property
    def is_idle(self) -> bool:
        """Nothing is held. A reply that is awaited may never come."""
        return not any(isinstance(one, Notice) or one.held for one in self.waiting)

    def feed(self, turn: Turn, guard: ReplyGuard, frame: Frame, said: Said, now: float) -> None:
        """An event of this reply."""
        turn.has_begun = True
        turn.is_reply = turn.is_reply or said.begins or said.response is not None
        turn.response = turn.response or said.response
        turn.held.append(frame)
        if said.number is not None:
            self.number = max(self.number, said.number)
        guard.feed(frames.as_event(frame.content.decode("utf-8", "surrogatepass")), now)
        if said.ends and not guard.done:
            self.end(turn, guard, now, cut=False)

    def end(self, turn: Turn, guard: ReplyGuard, now: float, *, cut: bool) -> None:
        turn.is_over = True
        self.last = turn.call
        self.steers.clear()
        guard.end(now, cut=cut)

    def released(self, turn: Turn, guard: ReplyGuard, now: float) -> list[Frame]:
        """Each event that the gate releases is one message: in the form of a stream it ends with
        what is nowhere else in it."""
        count = guard.take(now).count(frames.END)
        return [turn.held.popleft() for _ in range(min(count, len(turn.held)))]


class Lanes:
    """Those of one connection. last: the call whose reply was the last one to end. base: a call
    that asked nothing."""

    def __init__(self, base: Call) -> None:
        self.last: Call | None = None
        self._base = base
        self._lanes: dict[str | None, Lane] = {}

    def all(self) -> list[Lane]:
        return list(self._lanes.values())

    def get(self, name: str | None) -> Lane | None:
        return self._lanes.get(name)

    def named(self, name: str | None) -> Lane:
        """It is made if there is none. Raises NotUnderstoodError if there are too many."""
        if name not in self._lanes and len(self._lanes) >= MAX_LANES:
            idle = next((n for n, lane in self._lanes.items() if not lane.waiting), name)
            self._lanes.pop(idle, None)
            if len(self._lanes) >= MAX_LANES:
                raise NotUnderstoodError(f"more than {MAX_LANES} streams at once")
        return self._lanes.setdefault(name, Lane(name))

    def whose(self, name: str | None) -> Lane:
        """Where an event belongs. A server may not say it, or not as it was asked: then to the
        reply that is awaited."""
        lane = self._lanes.get(name)
        if lane is not None and (lane.skips or lane.current() is not None):
            return lane
        busy = self.busy()
        if len(busy) == 1:
            return busy[0]
        return lane or self.named(name)

    def busy(self) -> list[Lane]:
        """Those on which a reply is awaited."""
        return [lane for lane in self._lanes.values() if lane.current() is not None]

    def so_far(self, lane: Lane) -> Conversation:
        """All that was said on a lane."""
        turn = lane.current()
        call = turn.call if turn is not None else lane.last or self.last or self._base
        asked = call.asked.messages if call.asked else ()
        reply = call.reply_so_far or Reply(())
        return Conversation((*asked, *reply.turns, *lane.steers))

    def around(self, lane: Lane) -> Conversation:
        """The same, and all that was said where a reply is awaited: what comes unasked may belong
        there."""
        others = [one for one in self.busy() if one is not lane]
        told = [self.so_far(one) for one in (*others, lane)]
        return Conversation(tuple(message for each in told for message in each.messages))
