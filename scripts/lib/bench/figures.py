"""Replies to figures, and figures of several rounds to one. Pure: no clock, no process."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from scenarios import Scenario
from wire import Reply

Figures = Mapping[str, float]


def quantile(values: Sequence[float], part: float) -> float:
    """The smallest value that `part` (0..1) of all values do not exceed. 0.0 if there are none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)]


def summary(replies: Sequence[Reply], scenario: Scenario, wall: float) -> dict[str, float]:
    """The figures of one run: rates per second, times in milliseconds.

    first: from the request to the first event, or to the whole body. gap: from one read that
    completed events to the next. late: how long after the fake was due to send it an event came.
    """
    firsts = [reply.first for reply in replies]
    found = {
        "calls": float(len(replies)),
        "requests_s": len(replies) / wall,
        "chunks": float(sum(sum(reply.counts) for reply in replies)),
        "first_p50": 1000 * quantile(firsts, 0.5),
        "first_p99": 1000 * quantile(firsts, 0.99),
    }
    found["chunks_s"] = found["chunks"] / wall
    if scenario.is_paced:
        gaps = [b - a for reply in replies for a, b in pairwise(reply.arrivals)]
        delays = [delay for reply in replies for delay in lateness(reply, scenario.gap)]
        for name, values in (("gap", gaps), ("late", delays)):
            for part in (50, 95, 99):
                found[f"{name}_p{part}"] = 1000 * quantile(values, part / 100)
            found[f"{name}_max"] = 1000 * max(values, default=0.0)
    return found


def lateness(reply: Reply, gap: float) -> Iterable[float]:
    """For each event of a paced reply: seconds from when it was due to when it came."""
    number = 0
    for when, count in zip(reply.arrivals, reply.counts, strict=True):
        for _ in range(count):
            yield when - number * gap
            number += 1


def median(rounds: Sequence[Figures]) -> dict[str, float]:
    """The median over the rounds, figure by figure. All rounds have the same figures."""
    return {name: statistics.median(r[name] for r in rounds) for name in rounds[0]}


def ratios(
    rounds: Sequence[Figures], base: Sequence[Figures], name: str, *, less_is_better: bool = False
) -> list[float]:
    """This contender's figure against the base's of the same round; more than 1 is better."""
    found = []
    for ours, theirs in zip(rounds, base, strict=True):
        over, under = (theirs, ours) if less_is_better else (ours, theirs)
        if under[name] and over[name]:
            found.append(over[name] / under[name])
    return found


def spread(values: Sequence[float]) -> str:
    """Median, and if there are several, how far apart they were: `0.92 (0.88-0.97)`."""
    if not values:
        return "-"
    text = f"{statistics.median(values):.2f}"
    return text if len(values) < 2 else f"{text} ({min(values):.2f}-{max(values):.2f})"
