"""Traces on their way from the outbox to sinks, in threads of its own.

Rules kept here:
- A hook never waits for a sink: it only wakes the sender.
- A try is counted in the outbox before it begins, so that after a crash at any moment it is known
  that the trace may be there already.
- The outbox is spoken to from one thread only; deliveries run in a few others, which nobody waits
  for longer than he said.
- While a sink is out of reach, one trace at a time knocks, more and more seldom; it is said once,
  and once when it is over. Logs have no keys and no text.
"""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from .delivery import Delivery, Outbox
from .sink import Dead, Outcome, Retry, Sent, Sink

logger = logging.getLogger(__name__)

IN_FLIGHT = 3
"""Deliveries at once, for each sink."""
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 60.0
"""Seconds until a trace is tried again: after its first try, and in the end."""
POLL_SECONDS = 1.0
"""Between two looks into the outbox, if nobody wakes us."""
IN_A_ROW = 5
"""Failures of any kind that count as an outage."""
QUIET_SECONDS = 60.0
"""From one warning about a sink to the next."""


@dataclass(frozen=True, slots=True)
class _Done:
    lane: _Lane
    delivery: Delivery
    outcome: Outcome


class _Lane:
    """One sink with its threads, and how it fares."""

    def __init__(self, sink: Sink, threads: int) -> None:
        self.sink = sink
        self.threads = threads
        self.jobs: queue.SimpleQueue[Delivery | None] = queue.SimpleQueue()
        self.in_flight: set[str] = set()  # by trace
        self.dead = 0  # that were not told of
        self.dead_told_at = float("-inf")
        self.failures = 0  # in a row
        self.is_down = False
        self.is_told = False
        self.told_at = float("-inf")
        self.knocks = 0  # since it is down
        self.not_before = 0.0  # monotonic
        self.running = threads
        self.lock = threading.Lock()

    def room(self) -> int:
        if self.is_down:
            return 1 if not self.in_flight and time.monotonic() >= self.not_before else 0
        return self.threads - len(self.in_flight)


class Sender:
    """Delivers what is due in the outbox to each of these sinks, and to those that are added.

    first_pause, longest_pause: as the constants. clock: seconds since 1970, for the outbox.
    """

    def __init__(
        self,
        outbox: Outbox,
        sinks: Sequence[Sink],
        *,
        in_flight: int = IN_FLIGHT,
        first_pause: float = FIRST_PAUSE,
        longest_pause: float = LONGEST_PAUSE,
        poll: float = POLL_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._outbox = outbox
        self._lanes = tuple(_Lane(sink, in_flight) for sink in sinks)
        self._changing = threading.Lock()  # of the lanes
        self._pauses = first_pause, longest_pause
        self._poll = poll
        self._clock = clock
        self._mail: queue.SimpleQueue[_Done | None] = queue.SimpleQueue()
        self._is_woken = threading.Event()
        self._until: float | None = None  # when to be gone, monotonic; None: nobody asked
        self._outbox_told = float("-inf")
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Once. What is due from earlier times is sent, too."""
        if self._thread is not None:
            raise RuntimeError("the sender was started before")
        self._thread = threading.Thread(target=self._run, name="invariant: sender", daemon=True)
        with self._changing:
            for lane in self._lanes:
                self._begin(lane)
        self._thread.start()

    def add(self, sink: Sink) -> None:
        """One more, after the start; one delivery to it at a time. From any thread."""
        lane = _Lane(sink, 1)
        with self._changing:
            if self._until is None:
                self._begin(lane)
                self._lanes = (*self._lanes, lane)
        self.wake()

    def remove(self, name: str) -> None:
        """No more to this sink; what is under way is finished. From any thread."""
        with self._changing:
            gone = [lane for lane in self._lanes if lane.sink.name == name]
            self._lanes = tuple(lane for lane in self._lanes if lane not in gone)
        for lane in gone:
            _end(lane)

    def _begin(self, lane: _Lane) -> None:
        for number in range(lane.threads):
            threading.Thread(
                target=self._work,
                args=(lane,),
                name=f"invariant: {lane.sink.name} {number + 1}",
                daemon=True,  # one that waits for a sink must not keep the proxy from ending
            ).start()

    def wake(self) -> None:
        """There is something new in the outbox. From any thread; costs nothing."""
        if not self._is_woken.is_set():
            self._is_woken.set()
            self._mail.put(None)

    def stop(self, grace: float) -> bool:
        """Send what is due as long as that works, at most `grace` seconds; what is not sent then
        stays in the outbox. The outbox is left alone when this returns True; False: a call of it
        did not return in time."""
        thread = self._thread
        if thread is None:
            return True
        with self._changing:
            self._until = time.monotonic() + grace
        self._mail.put(None)
        thread.join(grace + 0.2)  # it has to notice
        return not thread.is_alive()

    # -- the thread that speaks with the outbox -------------------------------------------------

    def _run(self) -> None:
        while True:
            self._is_woken.clear()
            for lane in self._lanes:
                self._claim(lane)
            if self._is_over():
                break
            self._await_mail()
        for lane in self._lanes:
            _end(lane)

    def _is_over(self) -> bool:
        if self._until is None:
            return False
        return time.monotonic() >= self._until or not any(lane.in_flight for lane in self._lanes)

    def _await_mail(self) -> None:
        pause = self._poll
        if self._until is not None:
            pause = min(pause, max(self._until - time.monotonic(), 0.0))
        try:
            done = self._mail.get(timeout=pause)
        except queue.Empty:
            return
        while True:
            if done is not None:
                self._settle(done)
            try:
                done = self._mail.get_nowait()
            except queue.Empty:
                return

    def _claim(self, lane: _Lane) -> None:
        """Send off what is due, as far as there is room."""
        if self._until is not None and (lane.failures or time.monotonic() >= self._until):
            return  # nobody waits for a sink that does not work
        if not (room := lane.room()):
            return
        try:
            # More than there is room for: some may be under way, for longer than their lease.
            for trace_id in self._outbox.due(lane.sink.name, room + lane.threads, self._clock()):
                if len(lane.in_flight) >= lane.threads or not room:
                    break
                if trace_id in lane.in_flight:
                    continue
                if (delivery := self._outbox.begin(trace_id, lane.sink.name)) is not None:
                    room -= 1
                    lane.in_flight.add(trace_id)
                    lane.jobs.put(delivery)
        except Exception as error:  # noqa: BLE001  # the edge: the next look may fare better
            self._tell_outbox(error)

    def _settle(self, done: _Done) -> None:
        lane, delivery, outcome = done.lane, done.delivery, done.outcome
        lane.in_flight.discard(delivery.trace_id)
        try:
            match outcome:
                case Sent():
                    self._works(lane)
                    self._outbox.sent(delivery, outcome.remote_id)
                case Dead():
                    self._works(lane)
                    self._outbox.dead(delivery, outcome.note)
                    self._tell_dead(lane, delivery, outcome)
                case Retry():
                    self._failed(lane, outcome)
                    at = self._clock() + self._pause(delivery.tries, outcome.pause)
                    self._outbox.retry(delivery, at, outcome.note)
        except Exception as error:  # noqa: BLE001  # the edge: it will be due again
            self._tell_outbox(error)

    def _tell_dead(self, lane: _Lane, delivery: Delivery, outcome: Dead) -> None:
        """The first at once, those that follow in one line now and then: there may be many."""
        lane.dead += 1
        if time.monotonic() - lane.dead_told_at < QUIET_SECONDS:
            return
        logger.warning(
            "%s: trace %s is not sent: %s%s",
            lane.sink.name,
            delivery.trace_id,
            outcome.note,
            f" (and {lane.dead - 1} before it)" if lane.dead > 1 else "",
        )
        lane.dead, lane.dead_told_at = 0, time.monotonic()

    def _works(self, lane: _Lane) -> None:
        if lane.is_told:
            logger.info("%s takes traces again", lane.sink.name)
        lane.failures = lane.knocks = 0
        lane.is_down = lane.is_told = False

    def _failed(self, lane: _Lane, outcome: Retry) -> None:
        lane.failures += 1
        if not outcome.is_outage and lane.failures < IN_A_ROW:
            return
        lane.is_down = True
        lane.not_before = time.monotonic() + self._pause(lane.knocks, outcome.pause)
        lane.knocks += 1
        if not lane.is_told and time.monotonic() - lane.told_at >= QUIET_SECONDS:
            lane.is_told, lane.told_at = True, time.monotonic()
            logger.warning(
                "%s: %s; traces are kept and sent later%s",
                lane.sink.name,
                outcome.note,
                f" ({outcome.advice})" if outcome.advice else "",
            )

    def _pause(self, tries: int, least: float) -> float:
        """Later each time, and not all together."""
        first, longest = self._pauses
        pause = min(longest, first * 2.0 ** min(tries, 16)) * random.uniform(0.5, 1)
        return max(least, pause)

    def _tell_outbox(self, error: Exception) -> None:
        if time.monotonic() - self._outbox_told >= QUIET_SECONDS:
            self._outbox_told = time.monotonic()
            logger.error("the store of traces failed: %s", _where(error))

    # -- the threads that deliver ---------------------------------------------------------------

    def _work(self, lane: _Lane) -> None:
        while (delivery := lane.jobs.get()) is not None:
            try:
                outcome = lane.sink.deliver(delivery.trace, delivery.tries)
            except Exception as error:  # noqa: BLE001  # the edge: a trace that nobody foresaw
                outcome = Dead(f"it could not be written: {_where(error)}")
            self._mail.put(_Done(lane, delivery, outcome))
        with lane.lock:
            lane.running -= 1
            is_last = not lane.running
        if is_last:
            lane.sink.close()


def _end(lane: _Lane) -> None:
    for _ in range(lane.threads):
        lane.jobs.put(None)


def _where(error: Exception) -> str:
    """What was raised, and where; without its words, which may quote a trace."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {PurePath(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return type(error).__name__ + place
