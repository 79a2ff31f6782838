"""The way into the file: in order, whole or not at all, and never with an exception.

What cannot be written now (the file is locked, full, read-only, gone) waits in memory, up to
BACKLOG_BYTES; there is one warning for an outage, and a line when it is over. A damaged file is set
aside.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import outbox, queries, upkeep
from .database import Database, StoreError
from .row import COLUMNS, Row

logger = logging.getLogger(__name__)

ADD_WAIT = 0.1
"""Seconds that the first one waits for a locked file; the next ones do not, until it is free."""
CLOSE_WAIT = 1.0
RETRY_SECONDS = 0.25
BACKLOG_BYTES = 32 * 2**20
BACKLOG_ENTRIES = 5_000
_AT_ONCE = 64
_MEASURE_EVERY = 256
_PRUNES = 8
"""At most, to make room for one trace; tidying up makes it for many."""
_FRUITLESS_SECONDS = 5.0
_ASIDE_SECONDS = 60.0

_INSERT = f"INSERT OR IGNORE INTO traces ({COLUMNS}) VALUES ({', '.join('?' * 17)})"
_REVISE = (
    "UPDATE traces SET version = version + 1, findings = ?, rules = ?, asked = ?, said = ?,"
    " size = ?, status = ? WHERE seq = ?"
)


@dataclass(slots=True)
class Entry:
    """Something to be written about a trace.

    row: None if only its deliveries need not wait any longer. sinks: of a new trace, None for a
    revision. updates: the sinks that take revisions. also: those that get it from now on. at: when
    it may be sent; is_held: what waits already goes on waiting. is_written: it is in the file.
    """

    id: str
    row: Row | None
    at: float
    sinks: tuple[str, ...] | None = None
    updates: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    is_held: bool = False
    is_written: bool = False


class Writer:
    """For several threads. lost: traces that were dropped. failures: of the file."""

    def __init__(
        self, path: Path, max_rows: int, max_bytes: int, clock: Callable[[], float] = time.time
    ) -> None:
        self.database = Database(path, wait=ADD_WAIT)
        self.lost = 0
        self.failures = 0
        self._path = path
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._clock = clock
        self._lock = threading.RLock()
        self._backlog: deque[Entry] = deque()
        self._backlog_bytes = 0
        self._in_trouble = False
        self._next_try = 0.0
        self._next_aside = 0.0
        self._rows = self._bytes = 0
        self._until_measured = 0
        self._full_until = 0.0
        self._said_full = False

    @property
    def waiting(self) -> int:
        return len(self._backlog)

    def submit(self, entry: Entry) -> bool:
        """Write it now, or later; whether it is in the file. Never raises."""
        with self._lock:
            size = len(entry.row.body) if entry.row else 0
            if (self._backlog_bytes + size > BACKLOG_BYTES and self._backlog) or len(
                self._backlog
            ) >= BACKLOG_ENTRIES:
                self.lose("too many wait for the file")
                return False
            self._backlog.append(entry)
            self._backlog_bytes += size
            if not self._in_trouble or time.monotonic() >= self._next_try:
                self.flush(_AT_ONCE)
            return entry.is_written

    def flush(self, limit: int | None = None) -> bool:
        """Write what waits, so many at most; whether the file could be written. Never raises."""
        with self._lock:
            for _ in range(2):  # once more after a damaged file was set aside
                try:
                    self._write_some(limit)
                except StoreError as error:
                    if self.fail(error, self.database):
                        continue
                    return False
                return True
            return False

    def lose(self, why: str) -> None:
        with self._lock:
            self.lost += 1
            if self.lost == 1 or self.lost % 1000 == 0:
                logger.warning("lost a trace (%d so far): %s", self.lost, why)

    def fail(self, error: StoreError, database: Database) -> bool:
        """Note a failure of the file; whether to try again at once, with a new one."""
        with self._lock:
            self.failures += 1
            self._next_try = time.monotonic() + RETRY_SECONDS
            if error.trouble == "damaged" and time.monotonic() >= self._next_aside:
                self._next_aside = time.monotonic() + _ASIDE_SECONDS
                try:
                    aside = database.set_aside()
                except (StoreError, OSError) as failure:
                    logger.warning("%s is damaged, and cannot be moved: %s", self._path, failure)
                else:
                    if aside is not None:
                        logger.warning("%s is damaged: it is %s now", self._path, aside)
                    self._until_measured = 0
                    return True
            if not self._in_trouble:
                self._in_trouble = True
                self.database.wait(0.0)
                logger.warning(
                    "traces wait in memory, for the file is %s: %s", error.trouble, error
                )
            return False

    def succeed(self) -> None:
        """The file could be written."""
        with self._lock:
            if self._in_trouble:
                self._in_trouble = False
                self.database.wait(ADD_WAIT)
                logger.warning("traces can be written again (%d were lost)", self.lost)

    def prune(self, database: Database, is_late: Callable[[], bool]) -> bool:
        """Remove old traces until there is room for more; whether there is more to do.

        Raises StoreError.
        """
        while True:
            with database.using() as connection:
                rows, used = upkeep.measure(connection)
            self._note_measure(rows, used)
            if rows <= 0.95 * self._max_rows and used <= 0.95 * self._max_bytes:
                return False
            if is_late():
                return True
            with database.writing() as connection:
                if not upkeep.prune(connection, self._clock()):
                    return False

    def close(self) -> None:
        """Write what waits; it may be used again afterwards."""
        with self._lock:
            if self._backlog:
                self.database.wait(CLOSE_WAIT)
                self.flush()
                self.database.wait(ADD_WAIT)
            if self._backlog:
                logger.warning("%d traces could not be written", len(self._backlog))
            self.database.close()

    def _write_some(self, limit: int | None) -> None:
        while self._backlog:
            count = min(len(self._backlog), _AT_ONCE)
            with self.database.writing() as connection:
                written = [self._write_or_lose(connection, self._backlog[n]) for n in range(count)]
            for is_written in written:
                entry = self._backlog.popleft()
                entry.is_written = is_written
                self._backlog_bytes -= len(entry.row.body) if entry.row else 0
            if self._in_trouble:
                self.succeed()
            if limit is not None and count >= limit:
                return

    def _write_or_lose(self, connection: sqlite3.Connection, entry: Entry) -> bool:
        try:
            return self._write(connection, entry)
        except (OverflowError, sqlite3.DataError) as error:  # or it would be in the way for ever
            self.lose(f"SQLite does not take it ({type(error).__name__})")
            return False

    def _write(self, connection: sqlite3.Connection, entry: Entry) -> bool:
        if entry.sinks is None:
            return self._revise(connection, entry)
        assert entry.row is not None
        if not self._has_room(connection, len(entry.row.body)):
            if not self._is_known(connection, entry.id):
                self._lose_for_size()
                return False
            return True
        added = connection.execute(_INSERT, entry.row.values)
        if not added.rowcount:
            return True
        seq = added.lastrowid
        assert seq is not None
        body = entry.row.body
        connection.execute("INSERT INTO bodies VALUES (?, ?, ?)", (seq, _packable(body), body))
        if entry.sinks:
            outbox.add(connection, seq, entry.sinks, entry.at)
        self._rows += 1
        self._bytes += len(body) + 512  # and the columns
        return True

    def _revise(self, connection: sqlite3.Connection, entry: Entry) -> bool:
        found = connection.execute("SELECT seq FROM traces WHERE id = ?", (entry.id,)).fetchone()
        if found is None:
            return False
        (seq,) = found
        if entry.row is not None:
            body = entry.row.body
            values = dict(zip(COLUMNS.split(", "), entry.row.values, strict=True))
            names = ("findings", "rules", "asked", "said", "size", "status")
            connection.execute(_REVISE, (*(values[name] for name in names), seq))
            connection.execute(
                "UPDATE bodies SET packed = ?, body = ? WHERE seq = ?", (_packable(body), body, seq)
            )
        outbox.add(connection, seq, entry.also, entry.at)
        if not entry.is_held:
            outbox.revised(connection, seq, entry.updates, entry.at)
        return True

    def _has_room(self, connection: sqlite3.Connection, size: int) -> bool:
        self._until_measured -= 1
        if self._until_measured < 0:
            self._note_measure(*upkeep.measure(connection))
        for _ in range(_PRUNES):
            if self._rows < self._max_rows and self._bytes + size <= self._max_bytes:
                self._said_full = False
                return True
            if size > self._max_bytes or time.monotonic() < self._full_until:
                break
            if not upkeep.prune(connection, self._clock()):
                self._full_until = time.monotonic() + _FRUITLESS_SECONDS
                break
            self._note_measure(*upkeep.measure(connection))
        return False

    def _lose_for_size(self) -> None:
        self.lost += 1
        if not self._said_full:
            self._said_full = True
            logger.warning(
                "%s is full, and all that is in it is still to be sent: new traces are dropped",
                self._path,
            )

    def _is_known(self, connection: sqlite3.Connection, trace_id: str) -> bool:
        return bool(connection.execute("SELECT 1 FROM traces WHERE id = ?", (trace_id,)).fetchone())

    def _note_measure(self, rows: int, used: int) -> None:
        with self._lock:
            self._rows, self._bytes = rows, used
            self._until_measured = _MEASURE_EVERY


def _packable(body: bytes) -> int:
    return queries.NOT_YET if len(body) >= upkeep.PACK_FROM else queries.AS_IT_IS
