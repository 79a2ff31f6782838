"""Records of bytes, appended to files until they are somewhere else.

An append costs a few microseconds, and survives the death of the process (not a power failure).
Each writer has files of its own beside the store, `traces.db.journal.<8 hex digits>-<number>`,
which only its owner may read, and a lock on each for as long as it lives: a journal without a lock
is of a program that was killed, and anybody may take in what is in it (journals.py).

One file is written to. When it is full a new one is begun, so that it can go as soon as its records
are somewhere else, though more come all the time. Until then they can be read again.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import InvariantError
from ..rules import private
from ..rules.private import PrivateFileError
from .records import MAGIC, framed

PART_BYTES = 32 * 2**20
"""Of one file, but for its last record."""

_UNKNOWN = 2**62

IS_POSSIBLE = private.CAN_LOCK
"""Whether this system tells the journals of killed programs from those of others."""


class JournalError(InvariantError):
    """A record was not written. The journal is as it was."""


@dataclass(slots=True, eq=False)
class Part:
    """One file. number: of the open file. end: of its records. waiting: records in it that are
    nowhere else yet."""

    path: Path
    number: int
    end: int = len(MAGIC)
    waiting: int = 0


class Journal:
    """Of one writer, for one thread at a time. `open` makes its file, or the first record.

    size: bytes of all records in its files.
    """

    def __init__(self, store: Path) -> None:
        self._store = store
        self._parts: list[Part] = []
        self._part: Part | None = None  # the one that is written to, the last of them
        self._name = secrets.token_hex(4)
        self._begun = 0
        self.size = 0

    def open(self) -> Part:
        """So that others see that this program is alive. Raises JournalError."""
        if self._part is not None:
            return self._part
        try:
            return self._make()
        except OSError as error:
            raise JournalError(f"{self._store}: {error.strerror or error}") from error
        except PrivateFileError as error:
            raise JournalError(str(error)) from error

    def append(self, record: bytes) -> tuple[Part, int]:
        """Where it is now: it begins there, and ends where its part does. Raises JournalError."""
        data = framed(record)
        part = self._part or self.open()
        if part.end + len(data) > PART_BYTES and part.waiting:
            part = self._next() or part
        start = part.end
        try:
            written = os.write(part.number, data)
            if written != len(data):  # the disk is full
                self._cut(part)
                raise JournalError(f"{self._store}: no room for its journal")
        except OSError as error:
            raise JournalError(f"{part.path}: {error.strerror or error}") from error
        part.end = start + len(data)
        part.waiting += 1
        self.size += len(data)
        return part, start

    def done(self, part: Part, count: int = 1) -> None:
        """So many of its records are somewhere else."""
        part.waiting -= count
        if part.waiting:
            return
        if part is not self._part:
            self._remove(part)
        elif part.end > len(MAGIC):
            try:
                is_whole = os.fstat(part.number).st_size == part.end
                os.ftruncate(part.number, len(MAGIC))
            except OSError:
                is_whole = False
            if is_whole and not self.is_lost:
                self.size -= part.end - len(MAGIC)
                part.end = len(MAGIC)
            else:
                self.replace()

    def clear(self) -> None:
        """All records are somewhere else."""
        for part in tuple(self._parts):
            self.done(part, part.waiting)

    def mend(self) -> bool:
        """If somebody has removed or emptied the file that is written to, go on in another one;
        whether that was so."""
        part = self._part
        if part is None:
            return False
        try:
            is_whole = os.fstat(part.number).st_size >= part.end
        except OSError:
            is_whole = False
        if is_whole and not self.is_lost:
            return False
        self.replace()
        return True

    def replace(self) -> None:
        """Go on in another file, now or with the next record. Others see this program all the
        while, if they can."""
        old, self._part = self._part, None
        self._next()
        if old is not None and not old.waiting:
            self._remove(old)

    def close(self, *, keep: bool = False) -> None:
        """keep: for whoever comes next, what is nowhere else."""
        for part in tuple(self._parts):
            self._remove(part, keep=keep and part.waiting > 0)
        self._part = None

    @property
    def free(self) -> int:
        """Bytes that the disk has left for us; much, if nobody knows."""
        part = self._part
        if part is None:
            return _UNKNOWN
        try:
            found = os.fstatvfs(part.number)
        except OSError:
            return _UNKNOWN
        return found.f_bavail * found.f_frsize

    @property
    def owner(self) -> str:
        """By which others see whether this program is alive (journals.living); "" if they do
        not."""
        return self._name if self._parts else ""

    @property
    def is_lost(self) -> bool:
        """Whether the file that is written to is gone: only this program can read it."""
        part = self._part
        return part is not None and identity(part.path) != identity(part.number)

    def _make(self) -> Part:
        private.make_folder(self._store.parent)
        name = f"{self._store.name}.journal.{self._name}-{self._begun}"
        self._begun += 1
        # Nobody sees it under its name before it is locked, and takes it for an abandoned one.
        new = self._store.with_name(f".{name}")
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL
        number = os.open(new, flags | getattr(os, "O_CLOEXEC", 0), 0o600)
        try:
            private.try_lock(number)
            if os.write(number, MAGIC) != len(MAGIC):
                raise OSError("no room for a journal")
            path = new.rename(self._store.with_name(name))
        except BaseException:
            os.close(number)
            with contextlib.suppress(OSError):
                new.unlink()
            raise
        self._part = Part(path, number)
        self._parts.append(self._part)
        return self._part

    def _next(self) -> Part | None:
        """Another file; None if none can be made: then this one grows on."""
        with contextlib.suppress(OSError, PrivateFileError):
            return self._make()
        return None

    def _cut(self, part: Part) -> None:
        """Take half a record off: what came behind it could not be read."""
        try:
            os.ftruncate(part.number, part.end)
        except OSError:
            self.replace()

    def _remove(self, part: Part, *, keep: bool = False) -> None:
        if not keep and identity(part.path) == identity(part.number):
            with contextlib.suppress(OSError):
                part.path.unlink()
        os.close(part.number)
        self._parts.remove(part)
        self.size -= part.end - len(MAGIC)


def identity(file: Path | int) -> tuple[int, int]:
    """What tells a file from another one of the same name; (0, 0) if there is none."""
    try:
        status = os.stat(file)  # noqa: PTH116  # a descriptor, too
    except OSError:
        return (0, 0)
    return status.st_dev, status.st_ino
