"""What killed programs left -> the store's file: what is in their journals, and then what they were
sending, or held because log rules had yet to look at it.

That ends when all of it is in the file, and not before: a revision may be the last of it.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from . import journals, outbox
from .database import Database, StoreError
from .entry import Entry, EntryError, entry_of
from .journals import Abandoned
from .records import MAGIC
from .tables import Losses, Tables

logger = logging.getLogger(__name__)

_BATCH = 64
_BATCH_BYTES = 2**20


class Takeover:
    """lock: of the file. fail: told of each failure of the file."""

    def __init__(
        self,
        path: Path,
        database: Database,
        tables: Tables,
        losses: Losses,
        lock: threading.RLock,
        *,
        clock: Callable[[], float],
        fail: Callable[[StoreError, Database], bool],
    ) -> None:
        self._path = path
        self._database = database
        self._tables = tables
        self._losses = losses
        self._lock = lock
        self._clock = clock
        self._fail = fail

    def run(self) -> bool:
        """Whether something may be sent now. Never raises."""
        is_taken = self.take_in()
        return self.set_free() or is_taken

    def take_in(self) -> bool:
        """What is in their journals; whether there was anything. Never raises."""
        total = 0
        for left in journals.abandoned(self._path):
            try:
                count, end = self._take(left)
            except StoreError as error:
                self._fail(error, self._database)
                break
            left.remove()
            if end < left.size:
                logger.warning("%s: %d bytes at its end are torn", left.path, left.size - end)
            total += count
        if total:
            logger.info("%s: %d entries of killed proxies are kept now", self._path, total)
        return total > 0

    def set_free(self) -> bool:
        """What they were sending need not wait for the end of their leases, nor what they held for
        its end; whether there was anything. Never raises."""
        with self._lock:
            try:
                if not self._path.exists() or not self._dead(self._database):
                    return False
                while self._set_some_free():
                    pass
            except StoreError as error:
                self._fail(error, self._database)
                return False
            return True

    def is_wanted(self, database: Database) -> bool:
        """Whether there is something to take over, or to wait for. Never raises."""
        if journals.has_records(self._path) or any(journals.abandoned(self._path)):
            return True
        try:
            return self._path.exists() and bool(self._dead(database))
        except StoreError:
            return False

    def _take(self, left: Abandoned) -> tuple[int, int]:
        """How many entries, and where the last of them ends. Raises StoreError."""
        count, end = 0, len(MAGIC)
        for batch, ends in self._batches(left):
            with self._lock, self._database.writing() as connection:
                for entry in batch:
                    self._tables.write(connection, entry, left.owner)
            count, end = count + len(batch), ends
        return count, end

    def _batches(self, left: Abandoned) -> Iterator[tuple[list[Entry], int]]:
        batch: list[Entry] = []
        size = end = 0
        for data, end in left.records():  # it is where the last one ends
            try:
                batch.append(entry_of(data))
            except EntryError as error:
                self._losses.tell(f"{left.path}: {error}")
            size += len(data)
            if len(batch) >= _BATCH or size >= _BATCH_BYTES:
                yield batch, end
                batch, size = [], 0
        if end:
            yield batch, end

    def _dead(self, database: Database) -> set[str]:
        """The proxies for which somebody waits, though nothing will come of them. StoreError."""
        with database.using(create=False) as connection:
            return self._dead_by(connection, self._clock())

    def _dead_by(self, connection: sqlite3.Connection, now: float) -> set[str]:
        waited_for = outbox.owners(connection, now) | outbox.lookers(connection)
        return waited_for - journals.present(self._path)

    def _set_some_free(self) -> bool:
        """Whether there may be more. Raises StoreError."""
        # Once more in a transaction: whoever begins a delivery has a journal before.
        with self._database.writing() as connection:
            now = self._clock()
            dead = self._dead_by(connection, now)
            if self._tables.tell_unlooked(connection, dead, _BATCH):
                return True
            outbox.set_free(connection, dead, now=now)
            return False
