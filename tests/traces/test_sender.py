"""Traces reach an Explorer, each once, whatever happens on the way; and nobody waits for it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from invariant_addon.core.trace import Trace
from invariant_addon.traces.sink import Outcome, Retry, Sent

from .chaos import ChaosExplorer
from .memory import MemoryOutbox
from .pushes import SECRET, Start, a_trace, arrived, eventually, in_place

# -- chaos --------------------------------------------------------------------------------------


def test_every_trace_arrives_once_through_an_explorer_that_fails(
    chaos: ChaosExplorer, start: Start
) -> None:
    """Two of five pushes fail, and most of those were stored; half way it is gone for a while."""
    traces = [a_trace(number) for number in range(200)]
    outbox = MemoryOutbox(*traces[:80])
    chaos.faults = 0.4
    sender = start(outbox)
    outbox.wait("sent")
    chaos.down()
    for trace in traces[80:140]:
        outbox.put(trace)
        sender.wake()
    time.sleep(0.2)
    chaos.up()
    for trace in traces[140:]:
        outbox.put(trace)
        sender.wake()
    outbox.wait("sent", seconds=60)
    assert arrived(chaos) == sorted(trace.id for trace in traces)
    assert in_place(chaos)
    assert {row.note for row in outbox.rows.values()} == {trace.id for trace in chaos.stored}


def test_a_new_start_goes_on_where_the_last_one_was_torn_away(
    chaos: ChaosExplorer, start: Start
) -> None:
    """What was under way may have arrived: it is looked for before it is sent again."""
    outbox = MemoryOutbox(*(a_trace(number) for number in range(20)))
    chaos.delay = 0.05
    first = start(outbox)
    eventually(lambda: "sent" in outbox.states())
    assert first.stop(0.0), "nobody waits for the sink"
    time.sleep(0.2)
    assert set(outbox.states()) == {"sent", "pending"}
    chaos.delay = 0.0
    outbox.release()
    outbox._threads.clear()
    start(outbox)
    outbox.wait("sent")
    assert arrived(chaos) == sorted(outbox.rows)


# -- the sender itself --------------------------------------------------------------------------


class Plain:
    """A sink that does as it is told."""

    name = "plain"

    def __init__(self, deliver: Callable[[Trace, int], Outcome]) -> None:
        self.deliver = deliver
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


def test_stop_sends_what_is_due(chaos: ChaosExplorer, start: Start) -> None:
    """The last trace before the end is no less a trace."""
    outbox = MemoryOutbox()
    sender = start(outbox, poll=60.0)
    for number in range(20):
        outbox.put(a_trace(number))
    assert sender.stop(5.0)
    assert set(outbox.states()) == {"sent"}
    assert arrived(chaos) == sorted(outbox.rows)


def test_stop_does_not_wait_for_a_sink_that_hangs(start: Start) -> None:
    """A proxy has to end when it is told to."""
    go_on = threading.Event()

    def hang(trace: Trace, tries: int) -> Outcome:
        go_on.wait(10)
        return Sent()

    outbox = MemoryOutbox(a_trace(1), sink="plain")
    sink = Plain(hang)
    sender = start(outbox, sink)
    time.sleep(0.05)
    began = time.monotonic()
    assert sender.stop(0.2)
    assert time.monotonic() - began < 0.5
    assert sink.closed == 0, "not while it is in use"
    go_on.set()
    time.sleep(0.05)
    assert sink.closed == 1
    assert outbox.states() == ["pending"]


def test_stop_does_not_wait_for_an_outage(chaos: ChaosExplorer, start: Start) -> None:
    """What could not be sent stays for the next start."""
    chaos.down()
    outbox = MemoryOutbox(*(a_trace(number) for number in range(5)))
    sender = start(outbox)
    eventually(lambda: any(row.note for row in outbox.rows.values()))
    began = time.monotonic()
    assert sender.stop(5.0)
    assert time.monotonic() - began < 0.5


def test_a_wake_is_answered_at_once(chaos: ChaosExplorer, start: Start) -> None:
    """Who watches the Explorer sees his agent's calls as they happen."""
    outbox = MemoryOutbox()
    sender = start(outbox, poll=60.0)
    time.sleep(0.05)
    outbox.put(a_trace(1))
    sender.wake()
    outbox.wait("sent", seconds=2.0)


def test_a_bug_costs_one_trace_and_not_the_sender(start: Start, said: Any) -> None:
    """It is kept as dead, with where it happened and without the words of the error."""

    def deliver(trace: Trace, tries: int) -> Outcome:
        if trace.id == "trace-1":
            raise ValueError(SECRET)
        return Sent()

    outbox = MemoryOutbox(*(a_trace(number) for number in range(3)), sink="plain")
    start(outbox, Plain(deliver))
    assert outbox.wait("sent", "dead") == ["sent", "dead", "sent"]
    assert "ValueError at test_sender.py" in outbox.rows["trace-1"].note


def test_a_store_that_fails_is_said_once_and_asked_again(
    chaos: ChaosExplorer, start: Start, said: Any
) -> None:
    """A full disk is somebody's to mend; the sender is there when it is."""
    outbox = MemoryOutbox(a_trace(1))
    outbox.fail = True
    start(outbox)
    time.sleep(0.1)
    outbox.fail = False
    outbox.wait("sent")
    assert len(said(logging.ERROR)) == 1


def test_a_try_is_counted_before_it_begins(start: Start) -> None:
    """After a crash in the middle of one it is known that the trace may be there."""
    counted = []
    outbox = MemoryOutbox(a_trace(1), sink="plain")

    def deliver(trace: Trace, tries: int) -> Outcome:
        counted.append((tries, outbox.rows[trace.id].delivery.tries))
        return Sent() if tries else Retry("again")

    start(outbox, Plain(deliver))
    outbox.wait("sent")
    assert counted == [(0, 1), (1, 2)]


def test_a_trace_is_tried_again_later_each_time(start: Start) -> None:
    """And never more seldom than the longest pause."""
    outbox = MemoryOutbox(a_trace(1), sink="plain")

    def deliver(trace: Trace, tries: int) -> Outcome:
        return Sent() if tries == 4 else Retry("again")

    start(outbox, Plain(deliver), first_pause=0.02, longest_pause=0.1)
    outbox.wait("sent")
    for pause, most in zip(outbox.pauses, (0.02, 0.04, 0.08, 0.1), strict=True):
        assert most / 2 - 0.01 <= pause <= most


def test_what_somebody_else_has_is_not_sent(chaos: ChaosExplorer, start: Start) -> None:
    """Two proxies may share a store."""
    outbox = MemoryOutbox(a_trace(1), a_trace(2))
    outbox.taken.add("trace-1")
    start(outbox)
    eventually(lambda: outbox.states() == ["pending", "sent"])
    assert arrived(chaos) == ["trace-2"]
