"""An outbox in memory, as strict as the one on disk."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from invariant_addon.core.trace import Trace
from invariant_addon.traces.delivery import Delivery

LEASE = 60.0


@dataclass
class Row:
    delivery: Delivery
    at: float = 0.0
    state: str = "pending"
    note: str = ""


class MemoryOutbox:
    """rows: by id, oldest first. pauses: seconds until a retry, of each. fail: raise instead.
    taken: somebody else has these."""

    def __init__(self, *traces: Trace, sink: str = "explorer") -> None:
        self.rows: dict[str, Row] = {}
        self.fail = False
        self.sink = sink
        self.taken: set[str] = set()
        self.pauses: list[float] = []
        self._lock = threading.Lock()
        self._threads: set[int] = set()
        for trace in traces:
            self.put(trace)

    def put(self, trace: Trace) -> None:
        with self._lock:
            self.rows.setdefault(trace.id, Row(Delivery(trace.id, self.sink, 0, trace)))

    def states(self) -> list[str]:
        with self._lock:
            return [row.state for row in self.rows.values()]

    def release(self) -> None:
        """As if all leases had run out."""
        for row in self.rows.values():
            row.at = 0.0

    def wait(self, *states: str, seconds: float = 30.0) -> list[str]:
        """Until all rows are in one of these states; the states."""
        until = time.monotonic() + seconds
        while not set(found := self.states()) <= set(states):
            assert time.monotonic() < until, f"after {seconds} s: {found}"
            time.sleep(0.005)
        return found

    # -- what the sender calls

    def due(self, sink: str, limit: int, now: float) -> Sequence[str]:
        assert sink == self.sink and limit > 0
        with self._called():
            rows = [r for r in self.rows.values() if r.state == "pending" and r.at <= now][:limit]
            return [row.delivery.trace_id for row in rows]

    def begin(self, trace_id: str, sink: str) -> Delivery | None:
        with self._called():
            row = self.rows[trace_id]
            if trace_id in self.taken:
                row.at = time.time() + LEASE
                return None
            assert row.state == "pending" and row.at <= time.time(), "somebody has it"
            row.at = time.time() + LEASE
            delivery = row.delivery
            row.delivery = replace(delivery, tries=delivery.tries + 1)
            return delivery

    def sent(self, delivery: Delivery, remote_id: str) -> None:
        self._change(delivery.trace_id, "sent", remote_id)

    def retry(self, delivery: Delivery, at: float, note: str) -> None:
        self.pauses.append(at - time.time())
        self._change(delivery.trace_id, "pending", note, at)

    def dead(self, delivery: Delivery, note: str) -> None:
        self._change(delivery.trace_id, "dead", note)

    def _change(self, trace_id: str, state: str, note: str, at: float = 0.0) -> None:
        with self._called():
            row = self.rows[trace_id]
            row.state, row.note, row.at = state, note, at

    def _called(self) -> threading.Lock:
        if self.fail:
            raise OSError("disk full: sk-secret")
        self._threads.add(threading.get_ident())
        assert len(self._threads) == 1, "the outbox belongs to one thread"
        return self._lock
