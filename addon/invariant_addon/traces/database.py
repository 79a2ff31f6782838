"""One SQLite file for the traces: opened when it is first needed, and again after trouble.

The file is its owner's alone (0600, in a folder of 0700). A newer version's file, or one of another
program, is refused; a damaged one can be set aside, so that a new one is begun. Several programs
may have it open.

WAL with synchronous=NORMAL: what was committed survives the death of any process. A power failure
can cost what was committed since the last checkpoint (Store.tidy makes one), and never damages the
file: https://www.sqlite.org/pragma.html#pragma_synchronous
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from ..core.errors import InvariantError
from ..rules import private
from ..rules.private import PrivateFileError

logger = logging.getLogger(__name__)

APPLICATION = 0x1A7A2B17
"""Says in the file's header whose it is (PRAGMA application_id)."""
VERSION = 3
"""Of the tables. A file with a higher one is left alone."""
CHECKPOINT_PAGES = 16_000
"""Of the WAL at which a writer makes the checkpoint itself, if nobody tidies up (64 MB)."""

type Trouble = Literal["locked", "full", "read-only", "damaged", "newer", "unusable"]

_TROUBLES: dict[int, Trouble] = {
    sqlite3.SQLITE_BUSY: "locked",
    sqlite3.SQLITE_LOCKED: "locked",
    sqlite3.SQLITE_PROTOCOL: "locked",
    sqlite3.SQLITE_FULL: "full",
    sqlite3.SQLITE_READONLY: "read-only",
    sqlite3.SQLITE_PERM: "read-only",
    sqlite3.SQLITE_CORRUPT: "damaged",
    sqlite3.SQLITE_NOTADB: "damaged",
}

# traces.looking: the proxy whose log rules have yet to look at it, "-" if they never did, else "".
_TABLES = """
CREATE TABLE traces (
  seq INTEGER PRIMARY KEY,
  id TEXT NOT NULL UNIQUE,
  opening BLOB NOT NULL,
  started REAL NOT NULL,
  status TEXT NOT NULL,
  endpoint TEXT NOT NULL,
  model TEXT NOT NULL,
  stream INTEGER NOT NULL,
  messages INTEGER NOT NULL,
  findings INTEGER NOT NULL,
  rules TEXT NOT NULL,
  asked TEXT NOT NULL,
  said TEXT NOT NULL,
  total REAL NOT NULL,
  http_status INTEGER,
  client TEXT NOT NULL,
  dataset TEXT NOT NULL,
  size INTEGER NOT NULL,
  version INTEGER NOT NULL DEFAULT 1,
  looking TEXT NOT NULL DEFAULT ''
);
CREATE INDEX traces_opening ON traces (opening, seq);
CREATE INDEX traces_looking ON traces (looking) WHERE looking > '-';
CREATE TABLE bodies (
  seq INTEGER PRIMARY KEY,
  packed INTEGER NOT NULL,
  body BLOB NOT NULL
);
CREATE INDEX bodies_unpacked ON bodies (seq) WHERE packed = 0;
CREATE TABLE deliveries (
  seq INTEGER NOT NULL,
  sink TEXT NOT NULL,
  state TEXT NOT NULL DEFAULT 'pending',
  tries INTEGER NOT NULL DEFAULT 0,
  next REAL NOT NULL,
  lease REAL NOT NULL DEFAULT 0,
  stale INTEGER NOT NULL DEFAULT 0,
  note TEXT NOT NULL DEFAULT '',
  remote TEXT NOT NULL DEFAULT '',
  owner TEXT NOT NULL DEFAULT '',
  PRIMARY KEY (seq, sink)
) WITHOUT ROWID;
CREATE INDEX deliveries_due ON deliveries (sink, next, seq) WHERE state = 'pending';
CREATE INDEX deliveries_again ON deliveries (sink, next, seq)
  WHERE state = 'pending' AND tries > 0;
CREATE INDEX deliveries_open ON deliveries (seq) WHERE state = 'pending';
"""


class StoreError(InvariantError):
    """The file of the traces cannot be used at present: what is the trouble, and a sentence."""

    def __init__(self, trouble: Trouble, text: str) -> None:
        super().__init__(text)
        self.trouble = trouble


class Database:
    """A connection for one thread at a time; the others wait.

    wait: seconds to wait for another connection that writes.
    """

    def __init__(self, path: Path, *, wait: float) -> None:
        self.path = path
        self._wait = wait
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._file = (0, 0)

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all of it, or nothing. Raises StoreError."""
        with self._lock, self._named():
            connection = self._open(create=True)
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:  # SQLite ends some by itself
                    connection.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def using(self, *, create: bool = True) -> Iterator[sqlite3.Connection]:
        """The connection, without a transaction. Raises StoreError.

        create: make the file if there is none; else that is an error.
        """
        with self._lock, self._named():
            yield self._open(create=create)

    def wait(self, seconds: float) -> None:
        """From now on, wait so long for others."""
        with self._lock:
            if seconds != self._wait:
                self._wait = seconds
                if self._connection is not None:
                    self._connection.execute(f"PRAGMA busy_timeout={int(seconds * 1000)}")

    def close(self, wait: float = -1) -> None:
        """It may be used again afterwards. wait: so many seconds at most for whoever uses it now,
        then it stays open."""
        if not self._lock.acquire(timeout=wait):
            return
        try:
            connection, self._connection = self._connection, None
            if connection is not None:
                with contextlib.suppress(sqlite3.Error):
                    connection.close()
        finally:
            self._lock.release()

    def set_aside(self) -> Path | None:
        """Move a damaged file out of the way; where to, or None if somebody else has done it."""
        with self._lock:
            damaged = self._file
            self.close()
            with private.locked(self.path.with_name(self.path.name + ".lock"), seconds=2) as mine:
                if not mine or _file(self.path) != damaged:
                    return None
                stamp = time.strftime("%Y%m%d-%H%M%S")
                aside = self.path.with_name(f"{self.path.name}.damaged-{stamp}")
                for end in ("-wal", ""):  # the file last: whoever sees none begins a new one
                    with contextlib.suppress(FileNotFoundError):
                        Path(f"{self.path}{end}").rename(f"{aside}{end}")
                Path(f"{self.path}-shm").unlink(missing_ok=True)
                return aside

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """SQLite's errors as ours."""
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            trouble = _TROUBLES.get(code, "unusable")
            if trouble != "locked":
                file = self._file
                self.close()
                self._file = file  # for set_aside
            raise StoreError(trouble, f"{self.path}: {error}") from error
        except PrivateFileError as error:
            raise StoreError("unusable", str(error)) from error
        except OSError as error:
            reason = error.strerror or error
            raise StoreError("unusable", f"{self.path}: {reason}") from error

    def _open(self, *, create: bool) -> sqlite3.Connection:
        if self._connection is not None:
            if _file(self.path) == self._file:
                return self._connection
            self.close()  # somebody removed the file, or set it aside
        if not create and not self.path.exists():
            raise StoreError("unusable", f"{self.path}: no traces yet")
        private.make_folder(self.path.parent)
        private.ensure(self.path)
        self._file = _file(self.path)
        connection = sqlite3.connect(
            self.path, timeout=self._wait, isolation_level=None, check_same_thread=False
        )
        try:
            _prepare(connection, self.path)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Set the connection up, and make the tables if there are none."""
    # The tables first: another program may be making them just now, and names them as its last.
    has_tables = connection.execute("SELECT 1 FROM sqlite_master").fetchone() is not None
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    if application not in (0, APPLICATION) or (application == 0 and has_tables):
        raise StoreError("unusable", f"{path}: a database of another program")
    if version > VERSION:
        raise StoreError(
            "newer", f"{path}: written by a newer version (tables {version}, this knows {VERSION})"
        )
    if version == 0:
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")  # only before there are tables
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
    # What is masked or removed later is overwritten, not just forgotten.
    connection.execute("PRAGMA secure_delete=ON")
    if version < VERSION:
        _make_tables(connection)


def _make_tables(connection: sqlite3.Connection) -> None:
    """Or what this version has more of them."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version == 0:  # nobody else was faster
            for statement in _TABLES.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id={APPLICATION}")
        if version == 1:
            connection.execute("ALTER TABLE deliveries ADD COLUMN owner TEXT NOT NULL DEFAULT ''")
            connection.execute(
                "CREATE INDEX deliveries_again ON deliveries (sink, next, seq)"
                " WHERE state = 'pending' AND tries > 0"
            )
        if version in (1, 2):
            connection.execute("ALTER TABLE traces ADD COLUMN looking TEXT NOT NULL DEFAULT ''")
            connection.execute(
                "CREATE INDEX traces_looking ON traces (looking) WHERE looking > '-'"
            )
        if version < VERSION:
            connection.execute(f"PRAGMA user_version={VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _file(path: Path) -> tuple[int, int]:
    """What tells a file from another one of the same name; (0, 0) if there is none."""
    try:
        status = os.stat(path)  # noqa: PTH116  # for each trace: half of what Path.stat takes
    except OSError:
        return (0, 0)
    return (status.st_dev, status.st_ino)
