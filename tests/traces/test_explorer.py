"""What an Explorer answers to a push, and whether what was pushed is there."""

from __future__ import annotations

import logging
import time
from typing import Any

import pytest

from invariant_addon.traces.explorer import MAX_REFUSALS, ExplorerSink
from invariant_addon.traces.sink import Dead, Retry, Sent

from .chaos import KEY, ChaosExplorer
from .memory import MemoryOutbox
from .pushes import Start, a_trace, arrived, eventually

# -- what an Explorer answers -------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 413, 422])
def test_what_the_explorer_refuses_for_good_is_kept_as_dead(
    chaos: ChaosExplorer, start: Start, said: Any, status: int
) -> None:
    """Trying it again would only be more of the same."""
    chaos.status = status
    outbox = MemoryOutbox(a_trace(1))
    start(outbox)
    outbox.wait("dead")
    assert outbox.rows["trace-1"].note == f"the Explorer answered with status {status}"
    assert chaos.count("push") == 1
    eventually(lambda: bool(said(logging.WARNING)))  # it is said after it is kept
    assert len(said(logging.WARNING)) == 1


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (401, "INVARIANT_API_KEY"),
        (403, "INVARIANT_API_KEY"),
        (404, "URL"),
        (405, "URL"),
        (302, "URL"),
    ],
)
def test_what_a_person_has_to_mend_is_said_once_and_tried_seldom(
    chaos: ChaosExplorer, start: Start, said: Any, status: int, advice: str
) -> None:
    """Nothing is lost meanwhile, and no server is bothered."""
    chaos.status = status
    outbox = MemoryOutbox(*(a_trace(number) for number in range(10)))
    start(outbox)
    eventually(lambda: bool(said(logging.WARNING)))
    time.sleep(0.2)
    assert chaos.count("push") <= 3
    assert set(outbox.states()) == {"pending"}
    (warning,) = said(logging.WARNING)
    assert advice in warning and "explorer" in warning
    tried = [row for row in outbox.rows.values() if row.delivery.tries]
    assert all(row.at > time.time() + 50 for row in tried)


def test_an_outage_is_said_once_and_so_is_its_end(
    chaos: ChaosExplorer, start: Start, said: Any
) -> None:
    """One warning for an outage, not for a trace; and few traces are tried meanwhile."""
    chaos.down()
    outbox = MemoryOutbox(*(a_trace(number) for number in range(50)))
    start(outbox)
    eventually(lambda: bool(said(logging.WARNING)))
    time.sleep(0.3)
    assert sum(row.delivery.tries > 0 for row in outbox.rows.values()) < 20
    (warning,) = said(logging.WARNING)
    assert "cannot be reached" in warning and "kept and sent later" in warning
    chaos.up()
    outbox.wait("sent")
    assert said(logging.INFO) == ["explorer takes traces again"]
    assert len(said(logging.WARNING)) == 1
    assert arrived(chaos) == sorted(outbox.rows)


def test_a_trace_that_is_always_a_500_does_not_go_on_for_ever(
    chaos: ChaosExplorer, start: Start
) -> None:
    """Many faults of clients are a 500 there; what is not stored after some is dead."""

    class Refusing(ChaosExplorer):
        def _push(self, body: bytes, owner: str) -> tuple[int | None, Any]:
            return 500, {"detail": "'function'"}

    refusing = Refusing()
    outbox = MemoryOutbox(a_trace(1))
    start(outbox, ExplorerSink(refusing.url, f"Bearer {KEY}"))
    outbox.wait("dead")
    assert refusing.count("push") == MAX_REFUSALS
    refusing.down()


def test_a_server_that_asks_for_a_pause_gets_it(chaos: ChaosExplorer) -> None:
    """429 and 503 may say when."""
    chaos.status, chaos.retry_after = 429, "7"
    sink = ExplorerSink(chaos.url, f"Bearer {KEY}")
    outcome = sink.deliver(a_trace(1), 0)
    assert isinstance(outcome, Retry) and outcome.pause == 7 and outcome.is_outage
    sink.close()


@pytest.mark.parametrize("dataset", ["", "no good", "ab\n"])
def test_a_trace_without_a_good_dataset_is_not_sent(chaos: ChaosExplorer, dataset: str) -> None:
    """The Explorer would store it where nobody looks, or refuse it."""
    sink = ExplorerSink(chaos.url, f"Bearer {KEY}")
    assert isinstance(sink.deliver(a_trace(1, dataset=dataset), 0), Dead)
    assert chaos.requests == []


def test_connections_are_used_again(chaos: ChaosExplorer, start: Start) -> None:
    """A new one for each trace costs more than the trace."""
    outbox = MemoryOutbox(*(a_trace(number) for number in range(50)))
    start(outbox)
    outbox.wait("sent")
    assert chaos.connections <= 3
    assert chaos.count("byuser") == 0, "a first try needs no questions"


# -- looking for what was stored ----------------------------------------------------------------


@pytest.mark.parametrize(("others", "gap"), [(0, 0), (30, 0), (400, 0), (30, 3), (60, 2)])
def test_a_trace_that_was_stored_is_found_below_others(
    chaos: ChaosExplorer, others: int, gap: int
) -> None:
    """Other proxies push meanwhile; deleted traces leave gaps above the number of those there."""
    sink = ExplorerSink(chaos.url, f"Bearer {KEY}")
    chaos.gap = gap
    assert isinstance(sent := sink.deliver(a_trace(0), 0), Sent)
    for number in range(1, others + 1):
        sink.deliver(a_trace(number), 0)
    assert sink.deliver(a_trace(0), 1) == sent
    assert len(chaos.stored) == others + 1
    sink.close()


def test_a_trace_is_found_when_all_older_ones_were_deleted(chaos: ChaosExplorer) -> None:
    """Its index is far above the number of traces then."""
    sink = ExplorerSink(chaos.url, f"Bearer {KEY}")
    chaos.gap = 500
    sent = sink.deliver(a_trace(0), 0)
    assert sink.deliver(a_trace(0), 1) == sent
    sink.close()


def test_nothing_is_sent_while_it_is_not_clear_whether_it_is_there(chaos: ChaosExplorer) -> None:
    """A 404 of something in front of the Explorer does not mean that there is no dataset."""
    sink = ExplorerSink(chaos.url, f"Bearer {KEY}")
    sink.deliver(a_trace(0), 0)
    for status in (404, 500, 502, 400):
        chaos.status = status
        assert isinstance(sink.deliver(a_trace(0), 1), Retry)
    chaos.status = None
    assert chaos.count("push") == 1
    assert isinstance(sink.deliver(a_trace(0), 1), Sent)
    assert chaos.count("push") == 1
    sink.close()


def test_a_slow_explorer_that_stored_it_gets_it_once(chaos: ChaosExplorer, start: Start) -> None:
    """No answer in time does not mean that nothing arrived."""
    outbox = MemoryOutbox(a_trace(1))
    chaos.delay = 0.4
    start(outbox, ExplorerSink(chaos.url, f"Bearer {KEY}", timeout=0.2))
    time.sleep(0.5)
    chaos.delay = 0.0
    outbox.wait("sent")
    assert arrived(chaos) == ["trace-1"]


@pytest.mark.parametrize("key", ["", "secret", "Bearer ", "bearer x", "Bearer a\nb", "Bearer ä"])
def test_a_key_that_cannot_be_sent_is_refused_without_quoting_it(key: str) -> None:
    """The HTTP library would quote it in its error."""
    with pytest.raises(ValueError) as raised:
        ExplorerSink("http://127.0.0.1:1", key)
    assert "secret" not in str(raised.value)
