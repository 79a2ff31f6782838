"""What the sender wants of the store: traces that are due, and what became of them.

All methods are called from one thread, the sender's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ..core.trace import Trace


@dataclass(frozen=True, slots=True)
class Delivery:
    """One trace for one sink. tries: how often it was sent before, as far as anybody knows."""

    trace_id: str
    sink: str
    tries: int
    trace: Trace


class Outbox(Protocol):
    """Where traces wait until each sink has them. Times: seconds since 1970."""

    def due(self, sink: str, limit: int, now: float) -> Sequence[str]:
        """Ids of at most so many that may be sent now, oldest first."""
        ...

    def begin(self, trace_id: str, sink: str) -> Delivery | None:
        """It is about to be sent: counts the try, for what comes after may not be told; the trace
        as it is then. None: it must not be sent, somebody else has it, it cannot be read, or the
        try could not be counted."""
        ...

    def sent(self, delivery: Delivery, remote_id: str) -> None: ...

    def retry(self, delivery: Delivery, at: float, note: str) -> None:
        """It is due again at this time. note: why; never text of the trace."""
        ...

    def dead(self, delivery: Delivery, note: str) -> None:
        """It is not tried again, and stays."""
        ...
