"""The store as an outbox: what cannot be read, or is somebody else's, is not sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from invariant_addon.core.trace import Trace
from invariant_addon.traces.stored import StoredOutbox

from .pushes import a_trace


@dataclass
class Row:
    id: str
    tries: int


class Rows:
    """A store with one readable trace, one that is gone, and one that cannot be read."""

    def __init__(self) -> None:
        self.said: list[tuple[object, ...]] = []

    def due(self, sink: str, limit: int, now: float) -> Sequence[Row]:
        return [Row("gone", 0), Row("broken", 0), Row("trace-1", 2)][:limit]

    def begin(self, trace_id: str, sink: str) -> Row | None:
        return None if self.said else Row(trace_id, 3)

    def get(self, trace_id: str) -> Trace | None:
        if trace_id == "broken":
            raise LookupError
        return None if trace_id == "gone" else a_trace(1)

    def sent(self, *said: object) -> bool:
        self.said.append(("sent", *said))
        return True

    def retry(self, *said: object) -> bool:
        self.said.append(("retry", *said))
        return True

    def dead(self, *said: object) -> bool:
        self.said.append(("dead", *said))
        return True


def test_a_trace_that_cannot_be_read_is_dead_and_the_others_go_on() -> None:
    """It would stand at the head of the queue for ever."""
    rows = Rows()
    (delivery,) = StoredOutbox(rows).due("explorer", 9, 0.0)
    assert (delivery.trace_id, delivery.sink, delivery.tries) == ("trace-1", "explorer", 2)
    assert delivery.trace == a_trace(1)
    assert rows.said == [("dead", "broken", "explorer", "the trace cannot be read")]


def test_what_the_store_does_not_give_is_not_begun() -> None:
    """Somebody else has it, or the try could not be counted."""
    rows = Rows()
    outbox = StoredOutbox(rows)
    (delivery,) = outbox.due("explorer", 9, 0.0)
    assert outbox.begin(delivery) is False
    rows.said.clear()
    assert outbox.begin(delivery) is True
    outbox.sent("trace-1", "explorer", "r")
    outbox.retry("trace-1", "explorer", 5.0, "later")
    assert rows.said == [
        ("sent", "trace-1", "explorer", "r"),
        ("retry", "trace-1", "explorer", 5.0, "later"),
    ]
