"""The store of traces, as the sender wants it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..core.trace import Trace
from .delivery import Delivery


class Row(Protocol):
    """A delivery in the store."""

    @property
    def id(self) -> str: ...
    @property
    def tries(self) -> int: ...


class Rows(Protocol):
    """What the store has for senders. begin: its row, None if it must not be sent."""

    def due(self, sink: str, limit: int, now: float) -> Sequence[Row]: ...
    def begin(self, trace_id: str, sink: str) -> Row | None: ...
    def get(self, trace_id: str) -> Trace | None: ...
    def sent(self, trace_id: str, sink: str, remote_id: str) -> object: ...
    def retry(self, trace_id: str, sink: str, at: float, note: str) -> object: ...
    def dead(self, trace_id: str, sink: str, note: str) -> object: ...


class StoredOutbox:
    """An Outbox. unreadable: what the store raises for a trace that it cannot read; such a one is
    dead."""

    def __init__(self, rows: Rows, unreadable: type[Exception] = LookupError) -> None:
        self._rows = rows
        self._unreadable = unreadable

    def due(self, sink: str, limit: int, now: float) -> Sequence[Delivery]:
        found = []
        for row in self._rows.due(sink, limit, now):
            try:
                trace = self._rows.get(row.id)
            except self._unreadable:
                self._rows.dead(row.id, sink, "the trace cannot be read")
                continue
            if trace is not None:
                found.append(Delivery(row.id, sink, row.tries, trace))
        return found

    def begin(self, delivery: Delivery) -> bool:
        return self._rows.begin(delivery.trace_id, delivery.sink) is not None

    def sent(self, trace_id: str, sink: str, remote_id: str) -> None:
        self._rows.sent(trace_id, sink, remote_id)

    def retry(self, trace_id: str, sink: str, at: float, note: str) -> None:
        self._rows.retry(trace_id, sink, at, note)

    def dead(self, trace_id: str, sink: str, note: str) -> None:
        self._rows.dead(trace_id, sink, note)
