"""The store of traces, as the sender wants it."""

from __future__ import annotations

from collections.abc import Sequence

from ..core.trace import Trace
from .codec import CodecError
from .delivery import Delivery
from .store import Store

LEASE = 120.0
"""Seconds: longer than any delivery takes, or another proxy would begin the same one."""


class StoredOutbox:
    """An Outbox. A trace that cannot be read is dead."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def due(self, sink: str, limit: int, now: float) -> Sequence[str]:
        return [row.id for row in self._store.due(sink, limit, now)]

    def begin(self, trace_id: str, sink: str) -> Delivery | None:
        """Raises StoreError."""
        row = self._store.begin(trace_id, sink, lease=LEASE)
        if row is None:
            return None
        # Not before: a revision between reading and taking it would not be sent.
        trace = self._read(trace_id, sink)
        return None if trace is None else Delivery(trace_id, sink, row.tries - 1, trace)

    def sent(self, delivery: Delivery, remote_id: str) -> None:
        self._store.sent(delivery.trace_id, delivery.sink, remote_id)

    def retry(self, delivery: Delivery, at: float, note: str) -> None:
        # Unless somebody else has it by now, because this took longer than its lease.
        tries = delivery.tries + 1
        self._store.retry(delivery.trace_id, delivery.sink, at, note, tries=tries)

    def dead(self, delivery: Delivery, note: str) -> None:
        tries = delivery.tries + 1
        self._store.dead(delivery.trace_id, delivery.sink, note, tries=tries)

    def _read(self, trace_id: str, sink: str) -> Trace | None:
        try:
            return self._store.get(trace_id)
        except CodecError:
            self._store.dead(trace_id, sink, "the trace cannot be read")
            return None
