"""Which trace goes where, and how far it has come.

A delivery is `pending`, `sent` or `dead`. A try is counted, and the row is taken for a while (a
lease), before anything is sent: so no two senders send the same trace at once, and who dies while
sending leaves a row with a try on it, for which the sink first looks whether it arrived.

Times are the wall clock's, because other programs and later starts read them. A clock that is set
back must not stop deliveries: what lies further ahead than MAX_WAIT or MAX_LEASE counts as past.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

MAX_WAIT = 3600.0
MAX_LEASE = 600.0

type State = Literal["pending", "sent", "dead"]

_COLUMNS = "id, sink, state, tries, next, note, remote, version"
_JOINED = f"SELECT {_COLUMNS} FROM deliveries JOIN traces USING (seq)"
_IS_MINE = (
    "seq = (SELECT seq FROM traces WHERE id = :id) AND sink = :sink AND state = 'pending'"
    " AND (:tries IS NULL OR tries = :tries)"
)


@dataclass(frozen=True, slots=True)
class Delivery:
    """A trace on its way to a sink.

    tries: those begun, this one included. next: when the next one may begin. remote_id: what the
    sink calls it; if there is one, an earlier version was delivered, and this is an update of it.
    version: of the trace: 1, and one more with each revision.
    """

    id: str
    sink: str
    state: State
    tries: int
    next: float
    note: str
    remote_id: str
    version: int


@dataclass(frozen=True, slots=True)
class Backlog:
    """Deliveries that are not done.

    oldest: when the first trace began that is still to be sent; seconds since 1970. waiting, lost,
    failures: as in queries.Stats.
    """

    pending: int = 0
    dead: int = 0
    oldest: float | None = None
    waiting: int = 0
    lost: int = 0
    failures: int = 0


def add(
    connection: sqlite3.Connection, seq: int, sinks: Iterable[str], at: float, owner: str
) -> None:
    """owner: the proxy that holds them, "" for none (Journal.owner)."""
    connection.executemany(
        "INSERT OR IGNORE INTO deliveries (seq, sink, next, owner) VALUES (?, ?, ?, ?)",
        [(seq, sink, at, owner) for sink in sinks],
    )


def due(connection: sqlite3.Connection, sink: str, limit: int, now: float) -> list[Delivery]:
    """Those first that were tried before: they may have arrived, and the sooner one looks, the less
    there is to look through. Then the oldest."""
    free = "state = 'pending' AND sink = ? AND (lease <= ? OR lease > ?) AND "
    rows: list[tuple[object, ...]] = []
    for which in ("tries > 0", "tries = 0"):
        for when, at in (("next <= ?", now), ("next > ?", now + MAX_WAIT)):
            rows += connection.execute(
                f"{_JOINED} WHERE {free}{which} AND {when} ORDER BY next, seq LIMIT ?",
                (sink, now, now + MAX_LEASE, at, limit - len(rows)),
            )
    return [Delivery(*row) for row in rows]  # type: ignore[arg-type]  # as the columns are


def begin(
    connection: sqlite3.Connection, trace_id: str, sink: str, lease: float, now: float, owner: str
) -> Delivery | None:
    """Take it, and count the try; None if somebody else has it, or it is done."""
    taken = connection.execute(
        "UPDATE deliveries SET tries = tries + 1, lease = :until, stale = 0, owner = :owner"
        f" WHERE {_IS_MINE} AND (lease <= :now OR lease > :now + :longest)",
        {
            "id": trace_id,
            "sink": sink,
            "tries": None,
            "now": now,
            "until": now + min(lease, MAX_LEASE),
            "longest": MAX_LEASE,
            "owner": owner,
        },
    ).rowcount
    return get(connection, trace_id, sink) if taken else None


def get(connection: sqlite3.Connection, trace_id: str, sink: str) -> Delivery | None:
    row = connection.execute(f"{_JOINED} WHERE id = ? AND sink = ?", (trace_id, sink)).fetchone()
    return Delivery(*row) if row else None


def of(connection: sqlite3.Connection, trace_id: str) -> list[Delivery]:
    return [Delivery(*row) for row in connection.execute(f"{_JOINED} WHERE id = ?", (trace_id,))]


def sent(
    connection: sqlite3.Connection, trace_id: str, sink: str, remote_id: str, *, now: float
) -> bool:
    """Done; pending again if the trace was revised meanwhile, and the sink takes updates."""
    return (
        connection.execute(
            "UPDATE deliveries SET remote = :remote, lease = 0, note = '', next = :now,"
            " tries = CASE stale WHEN 1 THEN 0 ELSE tries END,"
            " state = CASE stale WHEN 1 THEN 'pending' ELSE 'sent' END, stale = 0"
            " WHERE seq = (SELECT seq FROM traces WHERE id = :id) AND sink = :sink"
            " AND state <> 'sent'",
            {"id": trace_id, "sink": sink, "remote": remote_id, "now": now},
        ).rowcount
        > 0
    )


def retry(
    connection: sqlite3.Connection,
    trace_id: str,
    sink: str,
    at: float,
    note: str,
    *,
    tries: int | None,
) -> bool:
    return (
        connection.execute(
            f"UPDATE deliveries SET lease = 0, next = :next, note = :note WHERE {_IS_MINE}",
            {"id": trace_id, "sink": sink, "tries": tries, "next": at, "note": note},
        ).rowcount
        > 0
    )


def dead(
    connection: sqlite3.Connection, trace_id: str, sink: str, note: str, *, tries: int | None
) -> bool:
    return (
        connection.execute(
            f"UPDATE deliveries SET state = 'dead', lease = 0, note = :note WHERE {_IS_MINE}",
            {"id": trace_id, "sink": sink, "tries": tries, "note": note},
        ).rowcount
        > 0
    )


def revive(connection: sqlite3.Connection, sink: str, *, now: float) -> int:
    """sink: "" for all. The tries stay counted: it may have arrived all the same."""
    return connection.execute(
        "UPDATE deliveries SET state = 'pending', lease = 0, next = ? WHERE state = 'dead'"
        " AND (sink = ? OR ? = '')",
        (now, sink, sink),
    ).rowcount


def owners(connection: sqlite3.Connection, now: float) -> set[str]:
    """The proxies for which somebody else has to wait."""
    rows = connection.execute(
        "SELECT DISTINCT owner FROM deliveries WHERE state = 'pending' AND owner <> ''"
        " AND (lease > ? OR next > ?)",
        (now, now),
    )
    return {owner for (owner,) in rows}


def lookers(connection: sqlite3.Connection) -> set[str]:
    """The proxies whose log rules have yet to look at a trace."""
    rows = connection.execute("SELECT DISTINCT looking FROM traces WHERE looking > '-'")
    return {owner for (owner,) in rows}


def set_free(connection: sqlite3.Connection, dead: Iterable[str], *, now: float) -> None:
    """What these proxies had begun, or held, need not wait: they will not end it."""
    connection.executemany(
        "UPDATE deliveries SET lease = 0, owner = '',"
        " next = CASE tries WHEN 0 THEN min(next, ?) ELSE next END"
        " WHERE state = 'pending' AND owner = ?",
        [(now, owner) for owner in dead],
    )


def backlog(connection: sqlite3.Connection) -> Backlog:
    counts = connection.execute(
        "SELECT state, count(*) FROM deliveries WHERE state <> 'sent' GROUP BY state"
    )
    (oldest,) = connection.execute(
        "SELECT min(started) FROM traces WHERE seq = (SELECT min(seq) FROM deliveries"
        " WHERE state = 'pending')"
    ).fetchone()
    found = dict(counts.fetchall())
    return Backlog(found.get("pending", 0), found.get("dead", 0), oldest)


def revised(connection: sqlite3.Connection, seq: int, updates: Iterable[str], now: float) -> None:
    """The trace has changed. What was not sent yet goes as it is now, and may go at once."""
    connection.execute(
        "UPDATE deliveries SET next = min(next, ?)"
        " WHERE seq = ? AND state = 'pending' AND tries = 0",
        (now, seq),
    )
    for sink in updates:
        connection.execute(
            "UPDATE deliveries SET state = 'pending', tries = 0, next = ?, lease = 0"
            " WHERE seq = ? AND sink = ? AND state = 'sent'",
            (now, seq, sink),
        )
        connection.execute(  # it is on its way: to be sent again when it has arrived
            "UPDATE deliveries SET stale = 1"
            " WHERE seq = ? AND sink = ? AND state = 'pending' AND tries > 0",
            (seq, sink),
        )
