"""A folder of traces that may only be read -> what is in it, with nothing written beside it.

On a read-only file system, or with somebody else's folder, the store cannot be opened as usual:
SQLite wants to write even where it reads (-wal, -shm), and what killed proxies noted in their
journals has to be taken in somewhere. So the file is read as it lies there if that is possible, and
otherwise (there is a journal, or a WAL that nobody may recover here) a private copy of it, which is
deleted as soon as it is open: https://www.sqlite.org/wal.html#read_only_databases
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import sqlite3
import stat
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from .database import APPLICATION, VERSION, StoreError
from .store import Store

WAIT = 2.0
"""Seconds to wait for a file that is locked."""
HEADING = 64
"""Bytes: a journal that is no longer holds no trace."""
_NEEDS_A_FILE = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)


def may_only_be_read(path: Path) -> bool:
    """Whether the store is there, if only as a journal yet, and cannot be opened as usual for want
    of rights."""
    may_add = os.access(path.parent, os.W_OK | os.X_OK)
    if not path.exists():
        return not may_add and any(_journals(path))
    return not (may_add and os.access(path, os.W_OK))


class Snapshot:
    """The connection to what is there, or to a copy of it; opened when it is first used."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection: sqlite3.Connection | None = None

    @contextlib.contextmanager
    def using(self) -> Iterator[sqlite3.Connection]:
        """Raises StoreError."""
        try:
            if self._connection is None:
                self._connection = _open(self.path)
                weakref.finalize(self, self._connection.close)
            yield self._connection
        except sqlite3.Error as error:
            raise StoreError("unusable", f"{self.path}: {error}") from error
        except OSError as error:
            raise StoreError("unusable", f"{self.path}: {error.strerror or error}") from error


def _open(path: Path) -> sqlite3.Connection:
    if not _size(path) and any(_journals(path)):  # killed before there was anything in the file
        return _copied(path, None)
    if not stat.S_ISREG(path.stat().st_mode):
        raise StoreError("unusable", f"{path}: not a plain file")
    if not os.access(path, os.R_OK):  # SQLite does not say so
        raise StoreError("unusable", f"{path}: you may not read it")
    has_journal = any(_size(each) > HEADING for each in _journals(path))
    try:
        connection = _connect(path, "mode=ro")
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF not in _NEEDS_A_FILE:
            raise
        # There is no -shm, and none can be made: so nobody has it open either.
        if not (_size(_wal(path)) or has_journal):
            return _connect(path, "immutable=1")
        return _copied(path, None)
    if not has_journal:
        return connection
    with contextlib.closing(connection):
        return _copied(path, connection)


def _copied(path: Path, connection: sqlite3.Connection | None) -> sqlite3.Connection:
    """A copy with what is in the WAL and in the journals. connection: to the file, if it can be
    opened; else nobody writes to it. The copy is gone when the connection is closed."""
    with tempfile.TemporaryDirectory(prefix="invariant-", ignore_cleanup_errors=True) as folder:
        copy = Path(folder, path.name)
        for name in _journals(path):  # before the file that they go into
            with contextlib.suppress(FileNotFoundError):  # all of it is in the file
                _copy(name, copy.with_name(name.name))
        if connection is None:
            if path.exists():
                _copy(path, copy)
            if _size(_wal(path)):
                _copy(_wal(path), _wal(copy))
        else:
            copy.touch(0o600)
            with contextlib.closing(sqlite3.connect(copy)) as target:
                connection.backup(target)
        store = Store(copy, key=secrets.token_bytes(32))
        store.open()
        store.take_in()  # and no more: whoever noted it may be alive
        store.close()
        return _connect(copy, "immutable=1")


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as read, target.open("xb") as written:
        os.chmod(target, 0o600)  # noqa: PTH101  # as it is made: nobody else may lock it
        shutil.copyfileobj(read, written)


def _connect(path: Path, how: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"file:{quote(str(path))}?{how}", uri=True, timeout=WAIT, isolation_level=None
    )
    try:
        connection.execute("PRAGMA query_only=ON")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        if application != APPLICATION:
            raise StoreError("unusable", f"{path}: not a file of traces")
        if not 1 <= version <= VERSION:
            raise StoreError("newer", f"{path}: tables {version}, and this knows {VERSION}")
    except BaseException:
        connection.close()
        raise
    return connection


def _journals(path: Path) -> list[Path]:
    """Those that may be read here: another user's may not."""
    found = path.parent.glob(f"{path.name}.journal.*")
    return [
        each
        for each in found
        if each.is_file() and not each.is_symlink() and os.access(each, os.R_OK)
    ]


def _wal(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
