"""What keeps the store small and quick: in short transactions, so that nobody waits long."""

from __future__ import annotations

import contextlib
import sqlite3
import zlib
from collections.abc import Callable

from . import queries
from .database import Database
from .row import AS_IT_IS, PACKED

BATCH = 32
"""Traces in one transaction, and how many bytes of them: a writer waits for it."""
BATCH_BYTES = 500_000
ABANDONED = 7 * 86_400.0
PACK_FROM = 8_000
"""Bytes of a body from which on it is compressed."""
_VACUUM_PAGES = 256
_FREE_SHARE = 8
"""The file gives pages back when more than one in so many is free."""


def prune(connection: sqlite3.Connection, now: float) -> int:
    """Remove some of the oldest traces that nobody waits for; how many.

    If there are none: of those that are to be sent, but have not been tried for ABANDONED seconds.
    Their sink is not configured any more, or the program whose key they need never came back.
    """
    found = _prunable(connection, float("-inf")) or _prunable(connection, now - ABANDONED)
    done: list[tuple[int]] = []
    total = 0
    for seq, size in found:
        total += size
        if done and total > BATCH_BYTES:
            break
        done.append((seq,))
    for table in ("bodies", "deliveries", "traces"):
        connection.executemany(f"DELETE FROM {table} WHERE seq = ?", done)
    return len(done)


def _prunable(connection: sqlite3.Connection, since: float) -> list[tuple[int, int]]:
    """seq and size of traces without a delivery that is pending, and due later than this."""
    return connection.execute(
        "SELECT seq, size FROM traces WHERE NOT EXISTS (SELECT 1 FROM deliveries"
        " WHERE deliveries.seq = traces.seq AND state = 'pending' AND next > ?)"
        " ORDER BY seq LIMIT ?",
        (since, BATCH),
    ).fetchall()


def measure(connection: sqlite3.Connection) -> tuple[int, int]:
    """Rows and bytes."""
    (rows,) = connection.execute("SELECT count(*) FROM traces").fetchone()
    return rows, queries.used_bytes(connection)


def pack(database: Database, is_late: Callable[[], bool]) -> bool:
    """Compress bodies, which takes too long for whoever adds them; whether some are left."""
    while not is_late():
        with database.using() as connection:
            found = connection.execute(
                "SELECT seq, length(body) FROM bodies WHERE packed = 0 ORDER BY seq LIMIT ?",
                (BATCH,),
            ).fetchall()
        if not found:
            return False
        total = 0
        packed = []
        for seq, size in found:
            if total and total + size > BATCH_BYTES:
                break
            total += size
            with database.using() as connection:
                row = connection.execute("SELECT body FROM bodies WHERE seq = ?", (seq,)).fetchone()
            if row is None:
                continue
            (body,) = row
            small = zlib.compress(body, 1)
            if len(small) < size:
                packed.append((small, PACKED, seq, body))
            else:
                packed.append((body, AS_IT_IS, seq, body))
        with database.writing() as connection:
            # Unless it was revised meanwhile.
            connection.executemany(
                "UPDATE bodies SET body = ?, packed = ? WHERE seq = ? AND body = ?", packed
            )
    return True


def checkpoint(connection: sqlite3.Connection) -> None:
    """The WAL into the file, and then nothing stays in the WAL, if nobody reads or writes."""
    _, pages, done = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    if pages != done:
        return
    (timeout,) = connection.execute("PRAGMA busy_timeout").fetchone()
    connection.execute("PRAGMA busy_timeout=0")
    try:
        with contextlib.suppress(sqlite3.OperationalError):
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    finally:
        connection.execute(f"PRAGMA busy_timeout={timeout}")


def shrink(connection: sqlite3.Connection) -> bool:
    """Give free pages back to the disk, some at a time; whether there are more."""
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    if free * _FREE_SHARE <= pages or free < _VACUUM_PAGES:
        return False
    connection.execute(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})").fetchall()
    return True
