"""What the sender wants of a sink: one trace delivered, and what became of that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ..core.trace import Trace


@dataclass(frozen=True, slots=True)
class Sent:
    """It is there. remote_id: its id there, or ""."""

    remote_id: str = ""


@dataclass(frozen=True, slots=True)
class Retry:
    """It may not be there; another try can help.

    note: why, in words for a person, without keys and text. is_outage: the next trace would fare no
    better. advice: what a person has to do about it. pause: seconds at least.
    """

    note: str
    is_outage: bool = False
    advice: str = ""
    pause: float = 0.0


@dataclass(frozen=True, slots=True)
class Dead:
    """It can never be delivered as it is. note: as in Retry."""

    note: str


type Outcome = Sent | Retry | Dead


class Sink(Protocol):
    """Called from several threads at once."""

    @property
    def name(self) -> str:
        """As the outbox knows it."""
        ...

    def deliver(self, trace: Trace, tries: int) -> Outcome:
        """Sends it, and waits at most some seconds. tries: how often that was begun before: if it
        was, the trace may be there already, and must not be there twice. Does not raise."""
        ...

    def close(self) -> None:
        """Not while something is being delivered."""
        ...
