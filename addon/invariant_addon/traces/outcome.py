"""What became of one try to deliver a trace."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sent:
    """It has arrived. remote_id: what it is called there."""

    remote_id: str = ""


@dataclass(frozen=True, slots=True)
class Later:
    """Not now. seconds: how long the receiver wants us to wait, None if it did not say."""

    note: str
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Dead:
    """Never: another try would end the same way."""

    note: str


type Outcome = Sent | Later | Dead
