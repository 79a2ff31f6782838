"""Entries into the tables, as long as there is room for them.

When the store is full, old traces go first (upkeep.py); what does not fit then is dropped, with one
warning. Whoever calls has begun a transaction, and calls from one thread at a time.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from ..core.mask import placeholder_for
from . import codec, outbox, upkeep
from .codec import CodecError
from .database import Database
from .entry import Entry
from .row import AS_IT_IS, COLUMNS, NOT_YET, row_of, unpacked
from .unsearched import without_certain_secrets

logger = logging.getLogger(__name__)

_MEASURE_EVERY = 256
_PRUNES = 8
"""At most, to make room for one trace; tidying up makes it for many."""
_FRUITLESS_SECONDS = 5.0

_INSERT = f"INSERT OR IGNORE INTO traces ({COLUMNS}, looking) VALUES ({', '.join('?' * 18)})"
_REVISED = ("findings", "rules", "asked", "said", "size", "status")
_REVISE = (
    "UPDATE traces SET version = version + 1, findings = ?, rules = ?, asked = ?, said = ?,"
    " size = ?, status = ?, looking = ? WHERE seq = ?"
)
_NEVER = "-"
"""Instead of an owner: log rules never looked."""
UNLOOKED = "log rules had not looked at it when the proxy ended"
_POISON = (
    *(CodecError, sqlite3.DataError, sqlite3.IntegrityError, RecursionError),
    *(ArithmeticError, AttributeError, LookupError, TypeError, ValueError),
)
"""What an entry leads to that can never be written; or it would be in the way for ever."""


class Losses:
    """Traces that were dropped, counted and told of. From any thread."""

    def __init__(self) -> None:
        self.count = 0
        self._lock = threading.Lock()

    def add(self) -> int:
        with self._lock:
            self.count += 1
            return self.count

    def tell(self, why: str) -> None:
        count = self.add()
        if count == 1 or count % 1000 == 0:
            logger.warning("lost a trace (%d so far): %s", count, why)


class Tables:
    """key: for the hash of a conversation's opening, and for placeholders."""

    def __init__(
        self,
        path: Path,
        max_rows: int,
        max_bytes: int,
        *,
        clock: Callable[[], float],
        key: bytes,
        losses: Losses,
    ) -> None:
        self._losses = losses
        self._path = path
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._clock = clock
        self._key = key
        self._placeholder = placeholder_for(key)
        self._rows = self._bytes = 0
        self._until_measured = 0
        self._full_until = 0.0
        self._said_full = False

    def write(self, connection: sqlite3.Connection, entry: Entry, owner: str = "") -> bool:
        """Whether it is there now. Raises sqlite3.Error; what could never be written is lost.

        owner: the proxy that ends its hold, and whose log rules look at it; "" if nobody knows one.
        """
        try:
            if entry.sinks is None:
                return self._revise(connection, entry, owner)
            return self._add(connection, entry, entry.sinks, owner)
        except _POISON as error:
            self._losses.tell(f"SQLite does not take it ({type(error).__name__})")
            return False

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

    def measure_again(self) -> None:
        """It is another file now."""
        self._until_measured = 0

    def _add(
        self, connection: sqlite3.Connection, entry: Entry, sinks: tuple[str, ...], owner: str
    ) -> bool:
        body = self._searched(entry)
        if not self._has_room(connection, len(body)):
            if not self._is_known(connection, entry.id):
                self._lose_for_size()
                return False
            return True
        looking = owner if entry.is_held else ""
        added = connection.execute(_INSERT, (*row_of(body, self._key), looking))
        if not added.rowcount:
            return True
        seq = added.lastrowid
        assert seq is not None
        connection.execute("INSERT INTO bodies VALUES (?, ?, ?)", (seq, _packable(body), body))
        if sinks:
            outbox.add(connection, seq, sinks, entry.at, owner)
        self._rows += 1
        self._bytes += len(body) + 512  # and the columns
        return True

    def _revise(self, connection: sqlite3.Connection, entry: Entry, owner: str) -> bool:
        found = connection.execute("SELECT seq FROM traces WHERE id = ?", (entry.id,)).fetchone()
        if found is None:
            return False
        (seq,) = found
        if entry.body is not None:
            self._replace(connection, seq, self._searched(entry), owner if entry.is_held else "")
        elif not entry.is_held:
            connection.execute(
                "UPDATE traces SET looking = '' WHERE seq = ? AND looking <> ''", (seq,)
            )
        outbox.add(connection, seq, entry.also, entry.at, owner)
        if not entry.is_held:
            outbox.revised(connection, seq, entry.updates, entry.at)
        return True

    def tell_unlooked(self, connection: sqlite3.Connection, dead: Iterable[str], limit: int) -> int:
        """In so many traces at most, that log rules of these proxies never looked; how many there
        were. Raises sqlite3.Error."""
        told = 0
        for owner in dead:
            rows = connection.execute(
                "SELECT seq, packed, body FROM traces JOIN bodies USING (seq)"
                " WHERE looking > '-' AND looking = ? ORDER BY seq LIMIT ?",
                (owner, limit - told),
            ).fetchall()
            for seq, packed, body in rows:
                try:
                    trace = codec.read(unpacked(packed, body))
                    # All others say already that not all of them was judged.
                    is_told = trace.status == "judged"
                    if is_told:
                        unlooked = replace(trace, status="partial", reason=UNLOOKED)
                        self._replace(connection, seq, codec.write(unlooked), _NEVER)
                except _POISON:
                    is_told = False  # nobody can read it
                if not is_told:
                    connection.execute("UPDATE traces SET looking = '' WHERE seq = ?", (seq,))
            told += len(rows)
        return told

    def _replace(self, connection: sqlite3.Connection, seq: int, body: bytes, looking: str) -> None:
        values = dict(zip(COLUMNS.split(", "), row_of(body, self._key), strict=True))
        connection.execute(_REVISE, (*(values[name] for name in _REVISED), looking, seq))
        connection.execute(
            "UPDATE bodies SET packed = ?, body = ? WHERE seq = ?", (_packable(body), body, seq)
        )

    def _searched(self, entry: Entry) -> bytes:
        return without_certain_secrets(entry.body or b"", self._placeholder, keeps=entry.keeps)

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
        self._losses.add()
        if not self._said_full:
            self._said_full = True
            logger.warning(
                "%s is full, and all that is in it is still to be sent: new traces are dropped",
                self._path,
            )

    def _is_known(self, connection: sqlite3.Connection, trace_id: str) -> bool:
        return bool(connection.execute("SELECT 1 FROM traces WHERE id = ?", (trace_id,)).fetchone())

    def _note_measure(self, rows: int, used: int) -> None:
        self._rows, self._bytes = rows, used
        self._until_measured = _MEASURE_EVERY


def _packable(body: bytes) -> int:
    return NOT_YET if len(body) >= upkeep.PACK_FROM else AS_IT_IS
