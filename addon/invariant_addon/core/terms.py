"""What a gate is told, and what it answers: modes, limits, queries, refusals."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from .conversation import Reply
from .draft import Lengths
from .verdict import Violation


class Mode(StrEnum):
    VERIFIED = "verified"
    BUFFER = "buffer"
    OBSERVE = "observe"


@dataclass(frozen=True, slots=True)
class Limits:
    """How a gate holds: seconds, bytes and characters.

    interval: from the start of one prefix check to the next. keep_alive: silence after which a
    comment is sent. held_bytes: what may wait. holdback: characters held at the end of a text.
    fail_open: invariant_on_failure is `pass`.
    """

    interval: float = 0.05
    keep_alive: float = 10.0
    held_bytes: int = 8 * 2**20
    holdback: int = 0
    fail_open: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """A check that the gate wants: of the reply so far, or (last) of all of it."""

    reply: Reply
    last: bool
    position: int
    lengths: Lengths
    called: frozenset[int]
    started: float


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request, or the rest of a reply, is not delivered.

    violations; or (none) a reason in words: there was no verdict, or (is_invalid) the request
    itself asks for something that cannot be done. trace: the id under which a person finds it in
    the traces; "" if none are kept.
    """

    violations: tuple[Violation, ...] = ()
    reason: str = ""
    is_invalid: bool = False
    trace: str = ""
