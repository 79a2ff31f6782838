"""Verified-prefix streaming: what of one streamed reply may go on, and when to ask for a verdict.

Bytes and verdicts in, questions and released bytes out; the caller brings the clock (seconds,
monotonic) and runs the checks. The rules it keeps:

- An event is released, unchanged and in order, once everything readable in it was judged clean.
- At most one check is under way. The end of the reply supersedes a check of a prefix.
- Only a final hit refuses a prefix; a suspicious one stops the release until the last check.
- A check without a verdict releases nothing; on the last check the on-failure rule decides.
- What cannot be read, or is too much to hold, falls under the on-failure rule as well.
- Before a refusal, the text in front of the violation is judged once more for itself, so that
  what is delivered of a refused reply does not depend on how fast it came.
"""

from __future__ import annotations

from . import sse
from .aside import KEY, line_words
from .conversation import Reply
from .draft import Lengths, Merger, Need, Step
from .errors import NotUnderstoodError
from .held import Held, Queue
from .rescue import is_within, lengths_before
from .terms import Limits, Mode, Query, Refusal
from .tokens import settled_length
from .verdict import Verdict

HELD = b": held\n\n"
"""A comment: every client skips it (https://html.spec.whatwg.org/#event-stream)."""

COST_FACTOR = 2
"""A stream keeps an engine busy for at most one part in this many."""


class Gate:
    """One streamed reply.

    first_message: the index of its message in the conversation, as addresses count.
    """

    def __init__(
        self, merger: Merger, mode: Mode, limits: Limits, now: float, first_message: int = 0
    ) -> None:
        self.merger = merger
        self.refusal: Refusal | None = None
        self.unjudged: str | None = None
        """Why something passed without a verdict (on-failure rule `pass`)."""
        self.done = False
        """All that may be released is released, or the reply is refused."""
        self.mode = mode
        self._first = first_message
        self._limits = limits
        self._decoder = sse.Decoder(limits.held_bytes)
        self._held = Queue()
        self._ready: list[bytes] = []
        self._labels: set[str] = set()  # names of events that need no look
        self._started = False  # has anything been released?
        self._position = 0  # number of the newest event
        self._readable = 0  # ... and of the newest one that holds something to judge
        self._calls: dict[int, int] = {}  # choice -> newest event with a piece of a call
        self._judged = 0  # newest event that a clean check has seen
        self._judged_lengths: Lengths = {}
        self._judged_calls: frozenset[int] = frozenset()
        self._judged_last: int | None = None
        self._query: Query | None = None
        self._next_check = now
        self._last_sent = now
        self._suspicious = False
        self._complete = False  # the terminal event, or the end of the message
        self._ended = False  # the end of the message
        self._open = False  # the on-failure rule lets everything pass from here on
        self._damage: str | None = None  # what stopped the reading
        self._condemned: Refusal | None = None  # refused, as soon as the clean part is judged
        self._rescue: Lengths | None = None  # ... which reaches so far

    # -- bytes in ---------------------------------------------------------------------------

    def feed(self, data: bytes, now: float) -> None:
        """Bytes from upstream."""
        if self.done or self._damage or self._condemned:
            return
        if self._open:
            self._ready.append(data)
            return
        try:
            events = self._decoder.feed(data)
        except sse.EventTooLargeError as error:
            self._give_up(str(error), data)
            return
        for event in events:
            self._take(event)
            if self._damage:
                break
        self._release(now)
        if not self._open and self._held.size + self._decoder.pending > self._limits.held_bytes:
            self._give_up(f"more than {self._limits.held_bytes} bytes waited for a verdict")

    def end(self, now: float, *, cut: bool = False) -> None:
        """The message is over. cut: because upstream went away in the middle of it."""
        if self.done or self._ended or self._condemned:
            return
        self._ended = True
        if not self._damage and not self._open:
            for event in self._decoder.end():
                self._take(event, cut=cut)
        self.merger.end()
        self._complete = True
        self._release(now)
        self._finish()

    def _take(self, event: sse.Event, *, cut: bool = False) -> None:
        self._position += 1
        try:
            if event.stray:
                raise NotUnderstoodError("a line of the stream is not of the event stream format")
            step = self.merger.add(event.data) if event.data is not None else Step()
            needs = step.needs
            if words := line_words(event, self._labels):
                needs = (*needs, *self.merger.aside(words))
        except NotUnderstoodError as error:
            if not cut:  # half an event is no news when the connection broke
                self._damaged(str(error), event.raw)
            return
        if step.terminal:
            self._complete = True
            self.merger.end()
        for need in needs:
            self._readable = self._position
            if need.channel is None:
                self._calls[need.choice] = self._position
        self._hold(event.raw, needs)

    def _hold(self, raw: bytes, needs: tuple[Need, ...]) -> None:
        self._held.add(raw, needs, self._position, ending=self._complete)

    def _damaged(self, reason: str, raw: bytes) -> None:
        if self._limits.fail_open:
            self.unjudged = reason
            self._hold(raw, ())
            return
        # Read no further; what came before is judged once more, and then the reply is refused.
        self._damage = reason
        self._complete = True
        self.merger.end()

    def _give_up(self, reason: str, rest: bytes = b"") -> None:
        if not self._limits.fail_open:
            self._refuse(Refusal(reason=reason))
            return
        self.unjudged = reason
        self._open = True
        self._query = None
        self._ready.extend(self._held.drain())
        self._ready.append(self._decoder.drain() + rest)

    def abort(self, reason: str) -> None:
        """Refuse whatever is configured: this gate can no longer be relied on."""
        if not self.done:
            self._refuse(Refusal(reason=reason))

    # -- verdicts ---------------------------------------------------------------------------

    @property
    def holds(self) -> bool:
        """Something that came has not gone on."""
        return bool(self._held)

    @property
    def is_through(self) -> bool:
        """All of the reply was judged and released, its terminal event too: what may be missing is
        the end of the message, and many clients do not wait for that."""
        is_whole = self._complete and not self._held and self._last_was_clean()
        return is_whole and self.refusal is None and self._damage is None

    def next_query(self, now: float) -> Query | None:
        """The check to start now, if any. It supersedes the one that is under way."""
        if self.done or self._open:
            return None
        if self._condemned:
            lengths, self._rescue = self._rescue, None
            if lengths is None:
                return None
            return self._ask(self.merger.snapshot(lengths), False, lengths, frozenset(), now)
        if self._complete:
            if self._query is not None and self._query.last:
                return None
            if not self._last_is_due():
                return None
            return self._ask(self.merger.snapshot(), True, {}, frozenset(), now)
        if now < self._next_check or not self._may_check_prefix():
            return None
        lengths = self._settled()
        called = frozenset(choice for choice in self._calls if self.merger.choices[choice].finished)
        if not self._grew(lengths, called):
            return None
        return self._ask(self.merger.snapshot(lengths), False, lengths, called, now)

    def _ask(
        self, reply: Reply, last: bool, lengths: Lengths, called: frozenset[int], now: float
    ) -> Query:
        self._query = Query(reply, last, self._position, lengths, called, now)
        return self._query

    def _last_is_due(self) -> bool:
        return not self._last_was_clean()

    def _last_was_clean(self) -> bool:
        """A last check has seen everything readable that came so far."""
        return self._judged_last is not None and self._readable <= self._judged_last

    def _settled(self) -> Lengths:
        return {
            (key, name): settled_length(channel, self._limits.holdback)
            for key, choice in self.merger.choices.items()
            for name, channel in choice.channels.items()
        }

    def _grew(self, lengths: Lengths, called: frozenset[int]) -> bool:
        return any(
            length > self._judged_lengths.get(key, 0) for key, length in lengths.items()
        ) or any(self._calls[choice] > self._judged for choice in called)

    def answer(self, query: Query, verdict: Verdict | None, reason: str, now: float) -> None:
        """The verdict on a query, None (with a reason) if there is none.

        Answers to superseded queries change nothing.
        """
        if query is not self._query or self.done:
            return
        self._query = None
        self._next_check = query.started + max(
            self._limits.interval, COST_FACTOR * (now - query.started)
        )
        failed = verdict is None or bool(verdict.failures)
        if self._condemned:
            if verdict is not None and verdict.is_clean:
                self._judged = query.position
                self._judged_lengths = query.lengths
                self._release(now)
            self._refuse(self._condemned)
            return
        if verdict is not None and verdict.blocking:
            if query.last or any(v.final for v in verdict.blocking):
                self._condemn(Refusal(violations=verdict.blocking))
            else:
                self._suspicious = True
            return
        if failed and not query.last:
            return
        if failed:
            reason = reason or "a guardrail gave no verdict"
            if not self._limits.fail_open:
                self._refuse(Refusal(reason=reason))
                return
            self.unjudged = reason
        self._judged = query.position
        self._judged_lengths = query.lengths
        self._judged_calls = query.called
        if query.last:
            self._judged_last = query.position
            self._suspicious = False
        self._release(now)
        self._finish()

    def _condemn(self, refusal: Refusal) -> None:
        """Refuse, but let the text in front of the violation go if it is clean by itself."""
        lengths: Lengths | None = None
        if self.mode is Mode.VERIFIED:
            settled = self._settled()
            lengths = lengths_before(self.merger, settled, refusal.violations, self._first)
        first = self._held.first.needs if self._held.first else ()
        if not lengths or not first or not all(is_within(need, lengths) for need in first):
            self._refuse(refusal)  # not even the first event that waits could go
        else:
            self._condemned, self._rescue = refusal, lengths

    def _refuse(self, refusal: Refusal) -> None:
        self.refusal = refusal
        self.done = True
        self._query = None
        self._held.clear()
        if self.mode is Mode.BUFFER:  # nothing has gone out, and nothing shall
            self._ready.clear()

    def _finish(self) -> None:
        if self._held or self.done or (self._complete and not self._open and self._last_is_due()):
            return
        if self._damage:
            self._refuse(Refusal(reason=self._damage))
        elif self._ended:
            self.done = True

    # -- bytes out --------------------------------------------------------------------------

    def _release(self, now: float) -> None:
        while (first := self._held.first) and self._may_go(first):
            self._ready.extend(self._held.pop())

    def _may_go(self, held: Held) -> bool:
        if self._judged_last is not None and held.position <= self._judged_last:
            return True
        if not held.needs and self._last_was_clean():
            return True  # it came after the last verdict, and there is nothing to read in it
        if self.mode is Mode.BUFFER:
            return False
        if self.mode is Mode.OBSERVE:
            return not held.ending
        if not held.needs:
            return not held.ending and not self._suspicious
        if not all(self._is_met(need) for need in held.needs):
            return False
        # Upstream's own words are what they were: a heartbeat that was judged once may go on.
        return held.position <= self._judged or all(need.choice == KEY for need in held.needs)

    def _is_met(self, need: Need) -> bool:
        if need.channel is None:
            return need.choice in self._judged_calls
        return is_within(need, self._judged_lengths)

    def take(self, now: float) -> bytes:
        """What may be sent now; a comment if the client waited long for nothing; or b""."""
        if self._ready:
            released = b"".join(self._ready)
            self._ready.clear()
            if released:
                self._started = True
                self._last_sent = now
            return released
        if self._keep_alive_due() and now >= self._last_sent + self._limits.keep_alive:
            self._last_sent = now
            return HELD
        return b""

    def _keep_alive_due(self) -> bool:
        if self.done or self.mode is Mode.BUFFER or (first := self._held.first) is None:
            return False
        # A byte order mark counts only as the first bytes of the stream.
        return self._started or not first.raws[0].startswith(b"\xef\xbb\xbf")

    def wake_at(self, now: float) -> float | None:
        """When to ask again although nothing happened; None: only when something does."""
        times = []
        if self._keep_alive_due():
            times.append(self._last_sent + self._limits.keep_alive)
        if self._held and now < self._next_check and self._may_check_prefix():
            times.append(self._next_check)
        return min(times, default=None)

    def _may_check_prefix(self) -> bool:
        if self._query is not None or self.mode is Mode.OBSERVE or self._condemned:
            return False
        return not (self.done or self._open or self._complete or self._suspicious)
