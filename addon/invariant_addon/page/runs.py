"""Traces -> conversations: the turns of one agent run belong together, as in traces/queries.py.

Turns begin with the same messages (column `opening`); where there are fewer messages than in the
turn before, another run with the same beginning starts.
"""

from __future__ import annotations

import datetime
import sqlite3
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ..traces import search
from ..traces.queries import Filter

CHUNK = 400
"""Traces that are looked at in one go, until a page of conversations is full."""
SEARCHED = 500
"""And so many where their bodies are searched."""


@dataclass(frozen=True, slots=True)
class Run:
    """A conversation in a list.

    id: that of its first turn. newest: that of the newest turn that was asked for. title: how its
    first turn begins; said: how the model ended. turns: how many. change: another number whenever
    anything of it has changed.
    """

    id: str
    newest: str
    started: float
    ended: float
    turns: int
    statuses: tuple[str, ...]
    models: tuple[str, ...]
    rules: tuple[str, ...]
    findings: int
    title: str
    said: str
    client: str
    change: int


@dataclass(frozen=True, slots=True)
class _Range:
    """A run in the table: of one opening, from this number to that one."""

    opening: bytes
    first: int
    last: int


class _Ranges:
    """The runs of each opening, looked up once."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._known: dict[bytes, tuple[list[int], list[_Range]]] = {}

    def of(self, opening: bytes, seq: int) -> _Range:
        if opening not in self._known:
            found = list(self._ranges(opening))
            self._known[opening] = ([each.first for each in found], found)
        firsts, found = self._known[opening]
        return found[bisect_right(firsts, seq) - 1]

    def _ranges(self, opening: bytes) -> Iterator[_Range]:
        first = last = None
        messages = 0
        for seq, count in self._connection.execute(
            "SELECT seq, messages FROM traces WHERE opening = ? ORDER BY seq", (opening,)
        ):
            if first is not None and last is not None and count < messages:
                yield _Range(opening, first, last)
                first = None
            first = seq if first is None else first
            last, messages = seq, count
        if first is not None and last is not None:
            yield _Range(opening, first, last)


def newest(
    connection: sqlite3.Connection,
    limit: int,
    wanted: Filter,
    is_late: Callable[[], bool] = lambda: False,
) -> tuple[list[Run], int | None]:
    """The conversations with a turn that was asked for, the newest first; and what is
    Filter(before=) for the next page, None if this was the last.

    is_late: whether to leave the rest to the next page. This one may be empty then.
    """
    ranges = _Ranges(connection)
    where, values = condition(connection, wanted)
    # Where bodies are searched, each row takes its time.
    window = SEARCHED if wanted.text is not None else None
    found: list[Run] = []
    shown: set[_Range] = set()
    (top,) = connection.execute("SELECT coalesce(max(seq), 0) + 1 FROM traces").fetchone()
    if wanted.before is not None:
        top = min(top, wanted.before)
    while top > 1:
        bottom = max(top - window, 1) if window is not None else 1
        rows = connection.execute(
            f"SELECT seq, id, opening FROM traces WHERE {where} AND seq >= ? AND seq < ?"
            " ORDER BY seq DESC LIMIT ?",
            (*values, bottom, top, CHUNK),
        ).fetchall()
        for seq, identity, opening in rows:
            here = ranges.of(opening, seq)
            if here in shown:
                continue
            shown.add(here)
            if wanted.before is not None and _is_on_an_earlier_page(
                connection, here, wanted.before, where, values
            ):
                continue
            found.append(_run(connection, here, identity))
            if len(found) == limit:
                return found, seq
        top = bottom if len(rows) < CHUNK else rows[-1][0]
        if top > 1 and is_late():
            return found, top
    return found, None


def turns(connection: sqlite3.Connection, trace_id: str) -> Sequence[tuple[int, str]]:
    """Number and id of each turn of the run that this trace is one of, oldest first."""
    row = connection.execute("SELECT opening, seq FROM traces WHERE id = ?", (trace_id,)).fetchone()
    if row is None:
        return []
    here = _Ranges(connection).of(*row)
    return connection.execute(
        "SELECT seq, id FROM traces WHERE opening = ? AND seq BETWEEN ? AND ? ORDER BY seq",
        (here.opening, here.first, here.last),
    ).fetchall()


def condition(connection: sqlite3.Connection, wanted: Filter) -> tuple[str, list[object]]:
    """What must be so of a trace, in SQL; without `before`. As traces/queries.py understands it."""
    parts: list[str] = ["1"]
    values: list[object] = []
    for column in ("status", "model", "dataset"):
        if (value := getattr(wanted, column)) is not None:
            parts.append(f"{column} = ?")
            values.append(value)
    if wanted.rule is not None:
        parts.append("findings > 0 AND instr(rules, ?)")
        values.append(f"\n{wanted.rule}\n")
    if wanted.found is not None:
        parts.append("findings > 0" if wanted.found else "findings = 0")
    if wanted.text is not None:
        is_said, more = search.condition(connection, wanted.text)
        parts.append(is_said)
        values += more
    if wanted.day is not None:
        parts.append("started >= ? AND started < ?")
        values += [_midnight(wanted.day), _midnight(wanted.day + datetime.timedelta(days=1))]
    return " AND ".join(parts), values


def _midnight(day: datetime.date) -> float:
    """In this machine's time zone."""
    return datetime.datetime.combine(day, datetime.time()).astimezone().timestamp()


def _is_on_an_earlier_page(
    connection: sqlite3.Connection, here: _Range, before: int, where: str, values: list[object]
) -> bool:
    """Whether a newer turn of it was asked for, too."""
    return (
        connection.execute(
            f"SELECT 1 FROM traces WHERE opening = ? AND seq BETWEEN ? AND ? AND {where} LIMIT 1",
            (here.opening, max(here.first, before), here.last, *values),
        ).fetchone()
        is not None
    )


def _run(connection: sqlite3.Connection, here: _Range, newest: str) -> Run:
    place = (here.opening, here.first, here.last)
    inside = "FROM traces WHERE opening = ? AND seq BETWEEN ? AND ?"
    count, started, ended, findings, change = connection.execute(
        f"SELECT count(*), min(started), max(started), sum(findings), sum(version) {inside}", place
    ).fetchone()
    first_id, title = connection.execute(
        "SELECT id, asked FROM traces WHERE seq = ?", (here.first,)
    ).fetchone()
    said, client = connection.execute(
        "SELECT said, client FROM traces WHERE seq = ?", (here.last,)
    ).fetchone()

    def all_of(column: str) -> tuple[str, ...]:
        found = connection.execute(f"SELECT DISTINCT {column} {inside} LIMIT 50", place)
        return tuple(value for (value,) in found)

    rules = dict.fromkeys(name for each in all_of("rules") for name in each.split("\n")[1:-1])
    return Run(
        id=first_id,
        newest=newest,
        started=started,
        ended=ended,
        turns=count,
        statuses=all_of("status"),
        models=all_of("model"),
        rules=tuple(rules),
        findings=findings,
        title=title,
        said=said,
        client=client,
        change=change + here.last,
    )
