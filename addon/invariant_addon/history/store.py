"""Turns by the names that OpenAI gave them: in memory for the newest, on disk for the rest.

It never raises. Where the disk fails, one warning says so, and what is in memory still counts.
"""

from __future__ import annotations

import logging
import sqlite3
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..core.conversation import Message
from ..core.references import Reference
from ..rules.private import PrivateFileError
from . import codec
from .codec import CodecError, Scope
from .database import Bounds, Database

logger = logging.getLogger(__name__)

FILE = "history.db"
_TIDY_EVERY = 256
"""Turns between two looks at what is too much."""
_MEMORY_TURNS = 2_000
_MEMORY_SIZE = 64 * 2**20
"""Bytes of the turns that are held in memory, roughly, where there is no disk."""
_AT_HAND_SIZE = 16 * 2**20
"""The same where they are on disk as well."""
_OBJECTS_SIZE = 500
"""Bytes of what a message is made of, without its texts."""
_READ_LIMIT = 64 * 2**20
"""Bytes of a conversation that are read from disk."""


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """messages: all up to its end. said: its reply alone. seq: its number on disk, if it is there.
    size: bytes, roughly, that it added."""

    messages: tuple[Message, ...]
    said: tuple[Message, ...]
    seq: int | None = None
    size: int = 0


class Store:
    """For several threads. path: None for memory alone."""

    def __init__(self, path: Path | None, bounds: Bounds | None = None) -> None:
        self._path = path
        self._bounds = bounds or Bounds()
        self._lock = threading.RLock()  # of the disk; nobody on the event loop waits for it
        self._memory_lock = threading.Lock()
        self._database: Database | None = None
        self._has_failed = False
        self._turns: OrderedDict[bytes, Turn] = OrderedDict()
        self._size = 0
        self._added = 0

    # -- in memory: at once ---------------------------------------------------------------------

    def at_hand(self, scope: Scope, reference: Reference) -> Turn | None:
        """What is known without a look at the disk."""
        name = scope.name(reference.kind, reference.id)
        with self._memory_lock:
            turn = self._turns.get(name)
            if turn is not None:
                self._turns.move_to_end(name)
            return turn

    # -- on disk: in a thread -------------------------------------------------------------------

    def find(self, scope: Scope, reference: Reference) -> Turn | None:
        """The turn with this name, of this caller's."""
        name = scope.name(reference.kind, reference.id)
        with self._lock:
            if (turn := self.at_hand(scope, reference)) is not None:
                return turn
            database = self._open()
            if database is None:
                return None
            try:
                turn = self._read(database, name, scope)
            except (sqlite3.Error, CodecError) as error:
                self._fail(error)
                return None
            if turn is not None:
                self._hold((name,), turn)
            return turn

    def _read(self, database: Database, name: bytes, scope: Scope) -> Turn | None:
        seq = database.find(name)
        if seq is None:
            return None
        rows = database.chain(seq)
        size = sum(len(row.asked) + len(row.said) for row in rows)
        if not rows or size > _READ_LIMIT:
            return None
        messages: list[Message] = []
        said: tuple[Message, ...] = ()
        for row in rows:
            messages += codec.read(row.asked, scope)
            said = codec.read(row.said, scope)
            messages += said
        database.used(seq)
        whole = tuple(messages)
        return Turn(whole, said, seq, _size(whole, whole))

    def add(
        self,
        scope: Scope,
        before: Turn | None,
        asked: tuple[Message, ...],
        said: tuple[Message, ...],
        names: Iterable[Reference],
        *,
        on_disk: bool = True,
    ) -> Turn:
        """A turn that went on from another. asked: without what came before."""
        messages = (*(before.messages if before else ()), *asked, *said)
        known = tuple(scope.name(name.kind, name.id) for name in names)
        with self._lock:
            seq = self._write(scope, before, asked, said, known) if on_disk else None
            # Now: what was written as UTF-8 keeps that beside it, if it is not ASCII.
            turn = Turn(messages, said, seq, _size(messages, (*asked, *said)))
            self._hold(known, turn)
        return turn

    def _write(
        self,
        scope: Scope,
        before: Turn | None,
        asked: tuple[Message, ...],
        said: tuple[Message, ...],
        names: tuple[bytes, ...],
    ) -> int | None:
        database = self._open()
        if database is None:
            return None
        try:
            said_body = codec.write(said, scope)
            parent = before.seq if before else None
            seq = None
            if before is None or parent is not None:
                seq = database.add(parent, codec.write(asked, scope), said_body, names)
            if seq is None and before is not None:  # what it goes on from is not there: all of it
                whole = codec.write((*before.messages, *asked), scope)
                seq = database.add(None, whole, said_body, names)
            self._added += 1
            if self._added % _TIDY_EVERY == 0:
                while database.tidy():
                    pass
        except (sqlite3.Error, CodecError) as error:
            self._fail(error)
            return None
        return seq

    def close(self) -> None:
        with self._lock:
            if self._database is not None:
                self._database.close()
            self._database = None
            self._path = None

    # -- inside ---------------------------------------------------------------------------------

    def _hold(self, names: Iterable[bytes], turn: Turn) -> None:
        with self._memory_lock:
            for name in names:
                self._drop(name)
                self._turns[name] = turn
                self._size += turn.size
            limit = _AT_HAND_SIZE if self._path is not None else _MEMORY_SIZE
            while self._turns and (len(self._turns) > _MEMORY_TURNS or self._size > limit):
                _, gone = self._turns.popitem(last=False)
                self._size -= gone.size

    def _drop(self, name: bytes) -> None:
        if (gone := self._turns.pop(name, None)) is not None:
            self._size -= gone.size

    def _open(self) -> Database | None:
        if self._database is None and self._path is not None:
            try:
                self._database = Database(self._path, self._bounds)
            except sqlite3.DatabaseError as error:
                self._set_aside(error)
            except (PrivateFileError, OSError) as error:
                self._fail(error)
        return self._database

    def _set_aside(self, error: sqlite3.Error) -> None:
        """A file that is no database of ours makes room for a new one: it is a cache."""
        code = getattr(error, "sqlite_errorcode", None)
        if self._path is None or code not in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            self._fail(error)
            return
        try:
            for end in ("", "-wal", "-shm"):
                Path(f"{self._path}{end}").unlink(missing_ok=True)
            self._database = Database(self._path, self._bounds)
            logger.warning("%s was damaged; conversations are kept anew", self._path)
        except (sqlite3.Error, PrivateFileError, OSError) as again:
            self._fail(again)

    def _fail(self, error: Exception) -> None:
        if not self._has_failed:
            logger.warning("conversations cannot be kept in %s: %s", self._path, error)
        self._has_failed = True
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) or isinstance(error, CodecError):
            return
        if self._database is not None:
            self._database.close()
        self._database = None
        if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            return  # the next one sets it aside
        self._path = None  # memory alone, until the next start


def _size(messages: tuple[Message, ...], added: Iterable[Message]) -> int:
    """messages: all that a turn names; added: those that no other one has."""
    return sys.getsizeof(messages) + sum(
        _OBJECTS_SIZE
        + sum(sys.getsizeof(part.text) for part in message.parts)
        + sum(sys.getsizeof(call.arguments) for call in message.tool_calls)
        for message in added
    )
