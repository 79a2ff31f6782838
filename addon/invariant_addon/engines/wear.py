"""When a worker that works is replaced all the same."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Wear:
    """Libraries leak, and rules may hold on to what they see.

    answers: after so many. growth_mb: when its resident memory is so much above that of its start
    (measured where /proc is). measured_every: answers from one look at the memory to the next; a
    look costs as much as a small check.
    """

    answers: int = 20_000
    growth_mb: int = 512
    measured_every: int = 16
