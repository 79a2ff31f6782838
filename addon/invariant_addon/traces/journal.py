"""Records of bytes, appended to a file until they are somewhere else.

An append costs a few microseconds, and survives the death of the process (not a power failure).
Each writer has a file of its own beside the store, `traces.db.journal.<8 hex digits>-<number>`,
which only its owner may read, and a lock on it for as long as it lives: a journal without a lock is
of a program that was killed, and anybody may take in what is in it.

A record is its length and its CRC-32, 4 bytes each, the lowest first, and then the bytes. The last
one of a killed program may be torn: it was never acknowledged. No record is empty: zeros are what
a power failure can leave.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import struct
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import InvariantError
from ..rules import private
from ..rules.private import PrivateFileError

MAGIC = b"invariant journal 1\n"
_HEAD = struct.Struct("<II")
_POLL_SECONDS = 0.01
_HALF_MADE_NS = 60 * 10**9
"""One that has no name after so long is of a program that was killed."""

IS_POSSIBLE = private.CAN_LOCK
"""Whether this system tells the journals of killed programs from those of others."""


class JournalError(InvariantError):
    """A record was not written. The journal is as it was."""


class Journal:
    """Of one writer, for one thread at a time. `open` makes its file, or the first record."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self._path: Path | None = None
        self._number = -1
        self._name = secrets.token_hex(4)
        self._begun = 0
        self.size = 0  # bytes of records

    def open(self) -> None:
        """So that others see that this program is alive. Raises JournalError."""
        if self._path is not None:
            return
        try:
            self._make()
        except OSError as error:
            raise JournalError(f"{self._store}: {error.strerror or error}") from error
        except PrivateFileError as error:
            raise JournalError(str(error)) from error

    def append(self, record: bytes) -> None:
        """Raises JournalError."""
        data = b"".join((_HEAD.pack(len(record), zlib.crc32(record)), record))
        self.open()
        try:
            written = os.write(self._number, data)
            if written != len(data):  # the disk is full
                self._cut()
                raise JournalError(f"{self._store}: no room for its journal")
        except OSError as error:
            raise JournalError(f"{self._path}: {error.strerror or error}") from error
        self.size += len(data)

    def clear(self) -> None:
        """All records are somewhere else."""
        if self._path is None:
            return
        if not self.size:
            return
        try:
            is_whole = os.fstat(self._number).st_size == len(MAGIC) + self.size
            os.ftruncate(self._number, len(MAGIC))
        except OSError:
            self._forget()  # the next record begins another one
        else:
            self.size = 0
            if not is_whole or _identity(self._path) != _identity(self._number):
                self.close()  # somebody has cleaned up here

    def close(self, *, keep: bool = False) -> None:
        """keep: for whoever comes next, since not all records are somewhere else."""
        path, size = self._path, self.size
        if path is not None and not (keep and size):
            with contextlib.suppress(OSError):
                path.unlink()
        self._forget()

    @property
    def owner(self) -> str:
        """By which others see whether this program is alive (`living`); "" if they do not."""
        return self._name if self._path is not None else ""

    def _make(self) -> None:
        private.make_folder(self._store.parent)
        name = f"{self._store.name}.journal.{self._name}-{self._begun}"
        self._begun += 1
        # Nobody sees it under its name before it is locked, and takes it for an abandoned one.
        new = self._store.with_name(f".{name}")
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL
        number = os.open(new, flags | getattr(os, "O_CLOEXEC", 0), 0o600)
        try:
            private.try_lock(number)
            os.write(number, MAGIC)
            path = new.rename(self._store.with_name(name))
        except BaseException:
            os.close(number)
            with contextlib.suppress(OSError):
                new.unlink()
            raise
        self._path, self._number, self.size = path, number, 0

    def _cut(self) -> None:
        """Take half a record off: what came behind it could not be read."""
        try:
            os.ftruncate(self._number, len(MAGIC) + self.size)
        except OSError:
            self._forget()  # the next record begins another one

    def _forget(self) -> None:
        if self._path is not None:
            os.close(self._number)
        self._path, self._number, self.size = None, -1, 0


@dataclass(frozen=True, slots=True)
class Abandoned:
    """A journal of a program that was killed.

    unreadable: bytes behind the records, which are none: the last one was torn.
    """

    path: Path
    records: tuple[bytes, ...]
    unreadable: int

    def remove(self) -> None:
        with contextlib.suppress(OSError):
            self.path.unlink()


def living(store: Path) -> set[str]:
    """The owners of those that are in use."""
    return {
        path.name.rpartition(".")[2].partition("-")[0]
        for path in _journals(store)
        if _is_in_use(path)
    }


def has_records(store: Path) -> bool:
    return any(_size(path) > len(MAGIC) for path in _journals(store))


def abandoned(store: Path) -> Iterator[Abandoned]:
    """Each of them, while this program has it for itself, the oldest first: what one program left
    twice is in order. A file that somebody else could have written is left alone."""
    _clean_up(store)
    for path in sorted(_journals(store), key=_changed):
        with contextlib.suppress(OSError, PrivateFileError), private.taken(path) as number:
            if number is None or _identity(path) != _identity(number):
                continue
            with open(number, "rb", closefd=False) as file:  # of a descriptor
                data = file.read(len(MAGIC))  # what is not ours may be of any size
                data += file.read() if data == MAGIC else b""
            if not data.startswith(MAGIC):
                if MAGIC.startswith(data):
                    path.unlink()  # killed before its first record
                continue
            records, end = _records(data)
            yield Abandoned(path, records, len(data) - end)


def _clean_up(store: Path) -> None:
    """Remove what programs left that were killed while they began one."""
    for path in store.parent.glob(f".{store.name}.journal.*"):
        if time.time_ns() - _changed(path) > _HALF_MADE_NS:
            with contextlib.suppress(OSError, PrivateFileError), private.taken(path) as number:
                if number is not None:
                    path.unlink()


def await_cleared(store: Path, seconds: float) -> bool:
    """Wait until what programs that are alive have in their journals now is somewhere else, so long
    at most; whether it is."""
    until = time.monotonic() + seconds
    sizes = {path: _size(path) for path in _journals(store) if _is_in_use(path)}
    while True:
        # It grows, until it is cleared as a whole.
        sizes = {p: now for p, size in sizes.items() if len(MAGIC) < (now := _size(p)) >= size}
        if not sizes:
            return True
        if time.monotonic() >= until:
            return False
        time.sleep(_POLL_SECONDS)


def _journals(store: Path) -> list[Path]:
    return sorted(store.parent.glob(f"{store.name}.journal.*"))


def _is_in_use(path: Path) -> bool:
    try:
        with private.taken(path) as number:
            return number is None
    except PrivateFileError:
        return False  # it is gone, or none of ours


def _records(data: bytes) -> tuple[tuple[bytes, ...], int]:
    """Those that are whole, and where the last one ends."""
    found: list[bytes] = []
    at = len(MAGIC)
    while at + _HEAD.size <= len(data):
        length, check = _HEAD.unpack_from(data, at)
        if not length:
            break
        record = data[at + _HEAD.size : at + _HEAD.size + length]
        if len(record) != length or zlib.crc32(record) != check:
            break
        found.append(record)
        at += _HEAD.size + length
    return tuple(found), at


def _identity(file: Path | int) -> tuple[int, int]:
    """(0, 0) if there is none."""
    try:
        status = os.stat(file)  # noqa: PTH116  # a descriptor, too
    except OSError:
        return (0, 0)
    return status.st_dev, status.st_ino


def _changed(path: Path) -> int:
    try:
        return path.lstat().st_mtime_ns
    except OSError:
        return 0


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
