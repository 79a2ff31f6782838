"""One SQLite file of turns, its owner's alone. It is a cache: what is lost is fetched again.

A turn holds what it added to the one before it, so a conversation of any length is kept once. All
that hang together by that go together: an old conversation is removed whole, and never cut.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..rules import private

APPLICATION = 0x1A7A2B18
VERSION = 1

_TABLES = """
CREATE TABLE turns (
  seq INTEGER PRIMARY KEY,
  root INTEGER NOT NULL,
  parent INTEGER,
  asked BLOB NOT NULL,
  said BLOB NOT NULL
);
CREATE INDEX turns_root ON turns (root);
CREATE TABLE roots (
  root INTEGER PRIMARY KEY,
  used REAL NOT NULL,
  size INTEGER NOT NULL
);
CREATE INDEX roots_used ON roots (used);
CREATE TABLE names (
  name BLOB PRIMARY KEY,
  seq INTEGER NOT NULL,
  root INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX names_root ON names (root)
"""
_CHAIN = """
WITH RECURSIVE chain (seq, parent, depth) AS (
  SELECT seq, parent, 0 FROM turns WHERE seq = ?
  UNION ALL
  SELECT t.seq, t.parent, depth + 1 FROM chain c JOIN turns t ON t.seq = c.parent
  LIMIT ?
)
SELECT t.seq, t.parent, t.asked, t.said FROM chain c JOIN turns t ON t.seq = c.seq
ORDER BY c.depth DESC
"""
_NAME_SIZE = 64
"""Bytes that a name takes, its index included, for the sums."""

_USED_EVERY = 3600


@dataclass(frozen=True, slots=True)
class Row:
    seq: int
    asked: bytes
    said: bytes


@dataclass(frozen=True, slots=True)
class Bounds:
    """turns in a chain; conversations, bytes of bodies and names, and seconds without use."""

    chain: int = 5_000
    conversations: int = 50_000
    size: int = 512 * 2**20
    age: float = 30 * 86_400


class Database:
    """For one thread at a time. Raises sqlite3.Error, PrivateFileError, OSError."""

    def __init__(self, path: Path, bounds: Bounds) -> None:
        self._bounds = bounds
        private.make_folder(path.parent)
        private.ensure(path)
        self._connection = sqlite3.connect(
            path, timeout=2, isolation_level=None, check_same_thread=False
        )
        try:
            self._prepare()
        except BaseException:
            self._connection.close()
            raise

    def _prepare(self) -> None:
        run = self._connection.execute
        (version,) = run("PRAGMA user_version").fetchone()
        (application,) = run("PRAGMA application_id").fetchone()
        if version not in (0, VERSION) or application not in (0, APPLICATION):
            raise sqlite3.DatabaseError("a file of another program or version")
        if version == 0:
            run("PRAGMA auto_vacuum=INCREMENTAL")
        for pragma in (
            *("journal_mode=WAL", "synchronous=NORMAL", "secure_delete=ON"),
            f"journal_size_limit={4 * 2**20}",
        ):
            run(f"PRAGMA {pragma}")
        if version:
            return
        run("BEGIN IMMEDIATE")
        (version,) = run("PRAGMA user_version").fetchone()
        if version == 0:  # nobody else was faster
            for statement in _TABLES.split(";"):
                run(statement)
            run(f"PRAGMA application_id={APPLICATION}")
            run(f"PRAGMA user_version={VERSION}")
        run("COMMIT")

    def find(self, name: bytes) -> int | None:
        row = self._connection.execute("SELECT seq FROM names WHERE name = ?", (name,)).fetchone()
        return row[0] if row else None

    def chain(self, seq: int) -> list[Row]:
        """The turns up to this one, the oldest first; [] if one of them is not there."""
        limit = self._bounds.chain
        rows = self._connection.execute(_CHAIN, (seq, limit)).fetchall()
        if not rows or rows[0][1] is not None:
            return []
        return [Row(found, asked, said) for found, _, asked, said in rows]

    def add(
        self, parent: int | None, asked: bytes, said: bytes, names: Sequence[bytes]
    ) -> int | None:
        """A turn behind another; its number. None if that one is gone. A name that is there
        already names this one from now on."""
        run = self._connection.execute
        run("BEGIN IMMEDIATE")
        try:
            root = None
            if parent is not None:
                row = run("SELECT root FROM turns WHERE seq = ?", (parent,)).fetchone()
                if row is None:
                    run("ROLLBACK")
                    return None
                (root,) = row
            cursor = run(
                "INSERT INTO turns (root, parent, asked, said) VALUES (?, ?, ?, ?)",
                (root or 0, parent, asked, said),
            )
            seq = cursor.lastrowid
            assert seq is not None
            if root is None:
                root = seq
                run("UPDATE turns SET root = ? WHERE seq = ?", (root, seq))
            size = len(asked) + len(said) + _NAME_SIZE * (len(names) + 1)
            run(
                "INSERT INTO roots VALUES (?, ?, ?) ON CONFLICT (root) DO UPDATE "
                "SET used = excluded.used, size = size + excluded.size",
                (root, time.time(), size),
            )
            self._connection.executemany(
                "INSERT OR REPLACE INTO names VALUES (?, ?, ?)",
                [(name, seq, root) for name in names],
            )
            run("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                run("ROLLBACK")
            raise
        return seq

    def used(self, seq: int) -> None:
        """Somebody goes on from this turn: its conversation stays for longer. Noted now and then:
        each time would be a write for each reading."""
        run, now = self._connection.execute, time.time()
        row = run(
            "SELECT root, used FROM roots WHERE root = (SELECT root FROM turns WHERE seq = ?)",
            (seq,),
        ).fetchone()
        if row is not None and row[1] < now - _USED_EVERY:
            run("UPDATE roots SET used = ? WHERE root = ?", (now, row[0]))

    def tidy(self) -> bool:
        """Remove some of what is too much or too old. Whether there may be more."""
        run = self._connection.execute
        count, size = run("SELECT count(*), coalesce(sum(size), 0) FROM roots").fetchone()
        bounds = self._bounds
        gone = []
        oldest = run("SELECT root, used, size FROM roots ORDER BY used LIMIT 200").fetchall()
        for root, used, its in oldest:
            if (
                count <= bounds.conversations
                and size <= bounds.size
                and used > time.time() - bounds.age
            ):
                break
            gone.append((root,))
            count -= 1
            size -= its
        if gone:
            run("BEGIN IMMEDIATE")
            for table in ("names", "turns", "roots"):
                self._connection.executemany(f"DELETE FROM {table} WHERE root = ?", gone)
            run("COMMIT")
            run("PRAGMA incremental_vacuum(2000)").fetchall()
            run("PRAGMA wal_checkpoint(PASSIVE)")
        return len(gone) == len(oldest) and bool(gone)

    def close(self) -> None:
        with suppress(sqlite3.Error):
            self._connection.close()
