"""The traces' file, opened to be read and nothing else, beside the proxies that write it.

The connection cannot write (`mode=ro`), and nothing is made where there is nothing yet.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from ..rules import private
from ..rules.private import PrivateFileError
from ..traces.database import APPLICATION, VERSION, StoreError

WAIT = 2.0
"""Seconds to wait for a file that is locked."""


class Reader:
    """For several threads, one at a time. All that it does raises StoreError for trouble."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._file = (0, 0)

    @contextlib.contextmanager
    def using(self) -> Iterator[sqlite3.Connection]:
        """The connection, in one transaction: what is asked of it is of one moment."""
        with self._lock, self._named():
            connection = self._open()
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    def version(self) -> tuple[int, int, int]:
        """Another one whenever somebody has changed the file; zeros if there is none."""
        with self._lock:
            try:
                with self._named():
                    connection = self._open()
                    (number,) = connection.execute("PRAGMA data_version").fetchone()
                    return (*self._file, int(number))
            except StoreError:
                return (0, 0, 0)

    def close(self) -> None:
        with self._lock:
            self._close()

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            self._close()
            raise StoreError("unusable", f"{self.path}: {error}") from error
        except (PrivateFileError, OSError) as error:
            self._close()
            raise StoreError("unusable", str(error)) from error

    def _open(self) -> sqlite3.Connection:
        file = _file(self.path)
        if self._connection is not None:
            if file == self._file:
                return self._connection
            self._close()  # it was removed, or set aside
        if file == (0, 0):
            raise StoreError("unusable", f"{self.path}: no traces yet")
        private.ensure(self.path)  # a plain file that is mine alone
        connection = sqlite3.connect(
            f"file:{quote(str(self.path))}?mode=ro",
            uri=True,
            timeout=WAIT,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            (application,) = connection.execute("PRAGMA application_id").fetchone()
            if application != APPLICATION:
                raise StoreError("unusable", f"{self.path}: not a file of traces (yet)")
            if not 1 <= version <= VERSION:  # what is read here was there from the first one on
                raise StoreError(
                    "newer", f"{self.path}: tables {version}, and this knows {VERSION}"
                )
        except BaseException:
            connection.close()
            raise
        self._connection, self._file = connection, file
        return connection


def _file(path: Path) -> tuple[int, int]:
    try:
        status = os.stat(path)  # noqa: PTH116  # one call
    except OSError:
        return (0, 0)
    return (status.st_dev, status.st_ino)
