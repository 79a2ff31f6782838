"""Questions to the store: one trace, a list of them, a conversation, figures."""

from __future__ import annotations

import datetime
import sqlite3
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..core.trace import Trace
from . import codec, outbox, search
from .row import unpacked

_SUMMARY = (
    "seq, id, started, status, endpoint, model, stream, messages, findings, rules, asked, said,"
    " total, http_status, client, dataset, size, version"
)
MAX_TURNS = 5_000
"""Of one conversation."""


@dataclass(frozen=True, slots=True)
class Summary:
    """A trace in a list.

    seq: its number in this store, higher for a later one. started: seconds since 1970. messages,
    findings: how many. rules: the names of those that found something. asked, said: the beginning
    of the user's newest message and of the reply. total: milliseconds. size: bytes of its JSON.
    version: 1, and one more with each revision.
    """

    seq: int
    id: str
    started: float
    status: str
    endpoint: str
    model: str
    stream: bool
    messages: int
    findings: int
    rules: tuple[str, ...]
    asked: str
    said: str
    total: float
    http_status: int | None
    client: str
    dataset: str
    size: int
    version: int


@dataclass(frozen=True, slots=True)
class Filter:
    """Which traces: all that is given must be so. before: a Summary's seq, for the next page.

    rule: the name of a guardrail that found something. text: see search.py.
    day: in this machine's time zone. found: with or without findings.
    """

    before: int | None = None
    status: str | None = None
    model: str | None = None
    rule: str | None = None
    text: str | None = None
    day: datetime.date | None = None
    dataset: str | None = None
    found: bool | None = None


@dataclass(frozen=True, slots=True)
class Stats:
    """Of a store.

    bytes: in use. by_status, by_model, by_rule: traces. deliveries: by sink and state; notes: why
    those are not sent that are not, by sink, state and note. pending_since: when the oldest started
    that is still to be sent. oldest, newest: when they started. unlooked: those of proxies that
    ended before their log rules had looked at them. noted: bytes in the journals of all proxies.
    waiting: traces that are not in the file yet. lost: traces that were dropped since the start.
    failures: of the file, since the start.
    """

    traces: int = 0
    bytes: int = 0
    oldest: float | None = None
    newest: float | None = None
    by_status: Mapping[str, int] = field(default_factory=dict)
    by_model: Mapping[str, int] = field(default_factory=dict)
    by_rule: Mapping[str, int] = field(default_factory=dict)
    deliveries: Mapping[tuple[str, str], int] = field(default_factory=dict)
    pending_since: float | None = None
    notes: Mapping[tuple[str, str, str], int] = field(default_factory=dict)
    unlooked: int = 0
    noted: int = 0
    waiting: int = 0
    lost: int = 0
    failures: int = 0


def body(connection: sqlite3.Connection, trace_id: str) -> Trace | None:
    row = connection.execute(
        "SELECT packed, body FROM bodies WHERE seq = (SELECT seq FROM traces WHERE id = ?)",
        (trace_id,),
    ).fetchone()
    if row is None:
        return None
    return codec.read(unpacked(*row))


def summaries(connection: sqlite3.Connection, limit: int, wanted: Filter) -> list[Summary]:
    """The newest first."""
    conditions: list[str] = []
    values: list[object] = []

    def must(condition: str, *more: object) -> None:
        conditions.append(condition)
        values.extend(more)

    if wanted.before is not None:
        must("seq < ?", wanted.before)
    for column in ("status", "model", "dataset"):
        if (value := getattr(wanted, column)) is not None:
            must(f"{column} = ?", value)
    if wanted.rule is not None:
        must("findings > 0 AND instr(rules, ?)", f"\n{wanted.rule}\n")
    if wanted.found is not None:
        must("findings > 0" if wanted.found else "findings = 0")
    if wanted.text is not None:
        is_said, more = search.condition(connection, wanted.text)
        must(is_said, *more)
    if wanted.day is not None:
        start = datetime.datetime.combine(wanted.day, datetime.time()).astimezone()
        next_day = wanted.day + datetime.timedelta(days=1)
        end = datetime.datetime.combine(next_day, datetime.time()).astimezone()
        must("started >= ? AND started < ?", start.timestamp(), end.timestamp())
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    rows = connection.execute(
        f"SELECT {_SUMMARY} FROM traces {where} ORDER BY seq DESC LIMIT ?", (*values, limit)
    )
    return [_summary(row) for row in rows]


def conversation(connection: sqlite3.Connection, trace_id: str) -> list[Summary]:
    """The turns of the agent run that this trace is one of, oldest first.

    They begin with the same messages. Where there are fewer messages than in the turn before,
    another run with the same beginning starts.
    """
    rows = connection.execute(
        f"SELECT {_SUMMARY} FROM traces WHERE opening = (SELECT opening FROM traces WHERE id = ?)"
        " ORDER BY seq LIMIT ?",
        (trace_id, MAX_TURNS),
    )
    run: list[Summary] = []
    has_it = False
    for row in rows:
        turn = _summary(row)
        if run and turn.messages < run[-1].messages:
            if has_it:
                break
            run = []
        run.append(turn)
        has_it = has_it or turn.id == trace_id
    return run if has_it else []


def stats(connection: sqlite3.Connection) -> Stats:
    traces, oldest, newest = connection.execute(
        "SELECT count(*), min(started), max(started) FROM traces"
    ).fetchone()
    by_rule: Counter[str] = Counter()
    for rules, count in connection.execute(
        "SELECT rules, count(*) FROM traces WHERE findings > 0 GROUP BY rules"
    ):
        for rule in rules.split("\n")[1:-1]:
            by_rule[rule] += count
    return Stats(
        traces=traces,
        unlooked=_unlooked(connection),
        bytes=used_bytes(connection),
        oldest=oldest,
        newest=newest,
        by_status=dict(connection.execute("SELECT status, count(*) FROM traces GROUP BY status")),
        by_model=dict(connection.execute("SELECT model, count(*) FROM traces GROUP BY model")),
        by_rule=dict(by_rule.most_common()),
        deliveries={
            (sink, state): count
            for sink, state, count in connection.execute(
                "SELECT sink, state, count(*) FROM deliveries GROUP BY sink, state"
            )
        },
        pending_since=outbox.backlog(connection).oldest,
        notes={
            (sink, state, note): count
            for sink, state, note, count in connection.execute(
                "SELECT sink, state, note, count(*) AS many FROM deliveries"
                " WHERE state <> 'sent' AND note <> '' GROUP BY sink, state, note"
                " ORDER BY many DESC LIMIT 20"
            )
        },
    )


def _unlooked(connection: sqlite3.Connection) -> int:
    names = connection.execute("SELECT name FROM pragma_table_info('traces')")
    if ("looking",) not in names.fetchall():
        return 0  # of an older version, in a folder that may only be read
    (count,) = connection.execute("SELECT count(*) FROM traces WHERE looking = '-'").fetchone()
    return int(count)


def used_bytes(connection: sqlite3.Connection) -> int:
    """Of the file, without the pages that are free."""
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    (size,) = connection.execute("PRAGMA page_size").fetchone()
    return int((pages - free) * size)


def _summary(row: tuple[Any, ...]) -> Summary:
    values = list(row)
    values[6] = bool(values[6])
    values[9] = tuple(values[9].split("\n")[1:-1])
    return Summary(*values)
