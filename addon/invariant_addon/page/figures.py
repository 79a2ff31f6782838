"""Figures over time: calls by what became of them, how long they took, tokens by model.

What a list of traces has not (first token, held, judged, tokens) is in the traces' bodies. They are
read once, the newest first, some at a time: `progress` says how far that is.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.trace import Trace
from ..traces import queries
from ..traces.codec import CodecError

BUCKETS = 48
SPANS = {"hour": 3600, "day": 86_400, "week": 7 * 86_400, "month": 30 * 86_400}
_READ_SECONDS = 0.25
_CHUNK = 50
_MAX_MODELS = 12
STATUSES = ("judged", "blocked", "not scanned", "error", "partial")


@dataclass(frozen=True, slots=True)
class Measures:
    """Of one call: milliseconds, and tokens."""

    started: float
    model: str
    first: float | None
    held: float | None
    judged: float | None
    asked: int
    said: int


class Ledger:
    """The measures of the traces that were read so far. For one thread."""

    def __init__(self) -> None:
        self._known: dict[int, Measures | None] = {}

    def read_on(self, connection: sqlite3.Connection, since: float) -> tuple[int, int]:
        """Read for a moment; how many of the traces since then are read, and how many there are."""
        found = connection.execute(
            "SELECT seq, id FROM traces WHERE started >= ? ORDER BY seq DESC", (since,)
        ).fetchall()
        (oldest,) = connection.execute("SELECT min(seq) FROM traces").fetchone()
        for gone in [seq for seq in self._known if oldest is None or seq < oldest]:
            del self._known[gone]
        until = time.monotonic() + _READ_SECONDS
        missing = [row for row in found if row[0] not in self._known]
        for number, (seq, identity) in enumerate(missing):
            if number % _CHUNK == 0 and time.monotonic() > until:
                break
            self._known[seq] = _measures(connection, identity)
        return sum(seq in self._known for seq, _ in found), len(found)

    def since(self, start: float) -> list[Measures]:
        return [each for each in self._known.values() if each is not None and each.started >= start]


def figures(
    connection: sqlite3.Connection, ledger: Ledger, span: str, now: float
) -> dict[str, Any]:
    """All that the plots of a span show, in buckets of equal length; span: a key of SPANS."""
    length = SPANS[span] / BUCKETS
    start = now - SPANS[span]
    read, total = ledger.read_on(connection, start)
    calls = {status: [0] * BUCKETS for status in STATUSES}
    for number, status, count in connection.execute(
        "SELECT CAST((started - ?) / ? AS INTEGER), status, count(*) FROM traces"
        " WHERE started >= ? GROUP BY 1, 2",
        (start, length, start),
    ):
        if status in calls:
            calls[status][min(max(number, 0), BUCKETS - 1)] += count
    measured = ledger.since(start)
    buckets: list[list[Measures]] = [[] for _ in range(BUCKETS)]
    for each in measured:
        buckets[min(int((each.started - start) / length), BUCKETS - 1)].append(each)
    return {
        "start": start,
        "bucket": length,
        "buckets": BUCKETS,
        "progress": [read, total],
        "calls": calls,
        "times": {
            name: {
                "p50": [quantile(_of(bucket, name), 0.5) for bucket in buckets],
                "p95": [quantile(_of(bucket, name), 0.95) for bucket in buckets],
                "all": [quantile(_of(measured, name), q) for q in (0.5, 0.95)],
            }
            for name in ("first", "held", "judged")
        },
        "tokens": _tokens(measured),
    }


def quantile(values: Sequence[float], q: float) -> float | None:
    """The smallest value that so many are not above (nearest rank); None of none."""
    if not values:
        return None
    ordered = sorted(values)
    rank = -(-len(ordered) * round(q * 1000) // 1000)
    return ordered[max(rank, 1) - 1]


def _of(some: Sequence[Measures], name: str) -> list[float]:
    return [value for each in some if (value := getattr(each, name)) is not None]


def _tokens(measured: Sequence[Measures]) -> list[dict[str, Any]]:
    sums: dict[str, list[int]] = {}
    for each in measured:
        if each.asked or each.said:
            entry = sums.setdefault(each.model, [0, 0, 0])
            entry[0] += each.asked
            entry[1] += each.said
            entry[2] += 1
    ranked = sorted(sums.items(), key=lambda item: -(item[1][0] + item[1][1]))
    shown = ranked[:_MAX_MODELS]
    if rest := ranked[_MAX_MODELS:]:
        shown.append(("(others)", [sum(entry[n] for _, entry in rest) for n in range(3)]))
    return [
        {"model": name, "asked": asked, "said": said, "calls": calls}
        for name, (asked, said, calls) in shown
    ]


def _measures(connection: sqlite3.Connection, identity: str) -> Measures | None:
    try:
        trace = queries.body(connection, identity)
    except CodecError:
        return None
    return None if trace is None else measures_of(trace)


def measures_of(trace: Trace) -> Measures:
    timing = trace.timing
    return Measures(
        started=trace.started,
        model=trace.model,
        first=timing.first,
        held=timing.held if timing.checks else None,
        judged=timing.judged if timing.checks else None,
        asked=_count(trace.usage, "prompt_tokens", "input_tokens"),
        said=_count(trace.usage, "completion_tokens", "output_tokens"),
    )


def _count(usage: Mapping[str, Any], *names: str) -> int:
    """They are upstream's words: a number or nothing."""
    for name in names:
        value = usage.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**12:
            return value
    return 0
