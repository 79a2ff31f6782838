"""The way into the file: in order, whole or not at all, and never with an exception.

Writing behind the caller's back (`write_behind`): an entry is appended to a journal (journal.py),
which is all that the caller waits for; a thread writes several at once into the file. What a killed
program left in its journal is taken in by the next one. Without that, or where the journal cannot
be written, an entry is written at once.

What cannot be written now (the file is locked, full, read-only, gone) waits in memory, up to
BACKLOG_BYTES; there is one warning for an outage, and a line when it is over. A damaged file is set
aside.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path

from . import journal, outbox
from .database import Database, StoreError
from .entry import Entry, EntryError, entry_of, record
from .journal import Journal, JournalError
from .outage import RETRY_SECONDS, Outage
from .tables import Losses, Tables

logger = logging.getLogger(__name__)

ADD_WAIT = 0.1
"""Seconds that the first one waits for a locked file; the next ones do not, until it is free."""
BEHIND_WAIT = 0.5
"""And the thread, for which nobody waits: another program may take in what one has left."""
CLOSE_WAIT = 1.0
BACKLOG_BYTES = 32 * 2**20
BACKLOG_ENTRIES = 5_000
BEHIND_SECONDS = 0.05
"""What comes within this time is written together: that is cheaper than one by one."""
BEHIND_BYTES = 4 * 2**20
BEHIND_ENTRIES = 500
"""From here on, who adds something waits until it is written: the thread does not keep up."""
JOURNAL_BYTES = 32 * 2**20
"""From here on, all wait until everything is written, and the journal can be cleared."""
_AT_ONCE = 64
_JOIN_SECONDS = 0.3


class Writer:
    """For several threads.

    key: see Tables.
    """

    def __init__(
        self,
        path: Path,
        max_rows: int,
        max_bytes: int,
        *,
        clock: Callable[[], float] = time.time,
        key: bytes = b"",
    ) -> None:
        self.database = Database(path, wait=ADD_WAIT)
        self._path = path
        self._clock = clock
        self._losses = Losses()
        self._tables = Tables(path, max_rows, max_bytes, clock=clock, key=key, losses=self._losses)
        # Whoever needs both takes `_writing` first.
        self._writing = threading.RLock()  # of the file
        self._lock = threading.RLock()  # of what waits, and its journal: never held for long
        self._outage = Outage(path, self.database, self._losses, self._writing, wait=ADD_WAIT)
        self._backlog: deque[Entry] = deque()
        self._backlog_bytes = 0
        self._journal: Journal | None = None
        self._has_told_of_journal = False
        self._thread: threading.Thread | None = None
        self._has_work = threading.Event()
        self._is_over = threading.Event()

    @property
    def waiting(self) -> int:
        return len(self._backlog)

    @property
    def lost(self) -> int:
        """Traces that were dropped."""
        return self._losses.count

    @property
    def failures(self) -> int:
        """Of the file."""
        return self._outage.failures

    @property
    def owner(self) -> str:
        """By which others see that this program is alive; "" if they do not."""
        return self._journal.owner if self._journal is not None else ""

    @property
    def is_behind(self) -> bool:
        return self._journal is not None

    def write_behind(self, told: Callable[[], None]) -> None:
        """From now on, until `close`. To be called before anything is sent.

        told: called when something is in the file, by the thread.
        Where programs cannot be seen to be dead, each entry is still written at once.
        """
        if self._thread is not None or not journal.IS_POSSIBLE:
            return
        self._journal = Journal(self._path)
        with contextlib.suppress(JournalError):  # it is said when there is something to append
            self._journal.open()
        if self._path.exists():
            self.set_free()
        self._thread = threading.Thread(
            target=self._run, args=(told,), name="invariant: traces", daemon=True
        )
        self._thread.start()

    def submit(self, entry: Entry) -> bool:
        """Write it, now or later; whether it outlives this process already. Never raises."""
        while not (taken := self._take(entry)):
            if not self.flush():  # who brings much waits; only trouble with the file costs a trace
                self.lose("too many wait for the file")
                return False
        is_noted, is_pressed = taken
        if is_noted and not self._has_work.is_set():
            self._has_work.set()
        if (not is_noted or is_pressed) and self._outage.may_try():
            self.flush(None if is_pressed else _AT_ONCE)
        if not (is_noted or entry.is_written) and self._thread and self._is_over.is_set():
            is_noted = self._leave(entry)
        return is_noted or entry.is_written

    def flush(self, limit: int | None = None) -> bool:
        """Write what waits, so many at most; whether the file could be written. Never raises."""
        with self._writing:
            for _ in range(2):  # once more after a damaged file was set aside
                try:
                    self._write_some(limit)
                except StoreError as error:
                    if self.fail(error, self.database):
                        continue
                    return False
                return True
            return False

    def settle(self) -> None:
        """Write what waits, for whoever wants to read it."""
        if self._backlog and self._outage.may_try():
            self.flush()

    def take_in(self) -> None:
        """Write what killed programs left in their journals. Never raises."""
        for left in journal.abandoned(self._path):
            entries = self._read(left.path, left.records)
            with self._writing:
                try:
                    for start in range(0, len(entries), _AT_ONCE):
                        with self.database.writing() as connection:
                            for entry in entries[start : start + _AT_ONCE]:
                                entry.at = min(entry.at, self._clock())  # nobody ends its hold
                                self._tables.write(connection, entry)
                except StoreError as error:
                    self.fail(error, self.database)
                    return
            left.remove()
            if left.unreadable:
                logger.warning("%s: %d bytes at its end are torn", left.path, left.unreadable)
            if entries:
                logger.info(
                    "%s: %d entries of a proxy that was killed are kept now",
                    self._path,
                    len(entries),
                )

    def set_free(self) -> None:
        """What killed proxies were sending need not wait for the end of their leases, nor what they
        held for its end. Never raises."""
        now = self._clock()
        with self._writing:
            try:
                with self.database.using() as connection:
                    waited_for = outbox.owners(connection, now)
                if not waited_for - journal.living(self._path):
                    return
                # Once more in a transaction: whoever begins a delivery has a journal before.
                with self.database.writing() as connection:
                    dead = waited_for - journal.living(self._path)
                    outbox.set_free(connection, dead, now=now)
            except StoreError as error:
                self.fail(error, self.database)

    def lose(self, why: str) -> None:
        self._losses.tell(why)

    def fail(self, error: StoreError, database: Database) -> bool:
        """Note a failure of the file; whether to try again at once, with a new one."""
        if self._outage.begin(error, database):
            self._tables.measure_again()
            return True
        return False

    def succeed(self) -> None:
        """The file could be written."""
        self._outage.end()

    def prune(self, database: Database, is_late: Callable[[], bool]) -> bool:
        """Remove old traces until there is room for more; whether there is more to do.

        Raises StoreError.
        """
        return self._tables.prune(database, is_late)

    def close(self) -> None:
        """Write what waits; it may be used again afterwards, and writes at once then."""
        self._is_over.set()
        self._has_work.set()
        if self._thread is not None:
            self._thread.join(_JOIN_SECONDS)  # or it might open the file again
        with self._writing:
            if self._backlog:
                self.database.wait(CLOSE_WAIT)
                self.flush()
                self.database.wait(ADD_WAIT)
            with self._lock:
                if self._backlog:
                    lost = sum(not entry.is_noted for entry in self._backlog)
                    logger.warning(
                        "%d traces could not be written; the next start tries again%s",
                        len(self._backlog),
                        f" (but {lost} are lost: they are not in the journal)" if lost else "",
                    )
                if self._journal is not None:
                    self._journal.close(keep=bool(self._backlog))
                    self._journal = None
            self.database.close()

    def _take(self, entry: Entry) -> tuple[bool, bool] | None:
        """Whether it is in the journal, and whether too much waits; None if it has no room."""
        with self._lock:
            is_large = self._backlog_bytes + entry.size > BACKLOG_BYTES
            if self._backlog and (is_large or len(self._backlog) >= BACKLOG_ENTRIES):
                return None
            self._backlog.append(entry)
            self._backlog_bytes += entry.size
            is_pressed = len(self._backlog) >= BEHIND_ENTRIES or self._backlog_bytes >= BEHIND_BYTES
            entry.is_noted = self._note(entry)
            return entry.is_noted, is_pressed

    def _leave(self, entry: Entry) -> bool:
        """In a journal for the next start: it came after `close`. Whether that is done."""
        left = Journal(self._path)
        try:
            left.append(record(entry))
        except JournalError:
            return False
        left.close(keep=True)
        return True

    # -- the thread that writes ---------------------------------------------------------------

    def _run(self, told: Callable[[], None]) -> None:
        self._try(self.take_in)
        while True:
            self._has_work.wait()
            if self._is_over.wait(BEHIND_SECONDS):
                return
            self._has_work.clear()
            if self._try(self._flush_patiently):
                self._try(told)
            elif not self._is_over.wait(RETRY_SECONDS):
                self._has_work.set()

    def _flush_patiently(self) -> bool:
        """As `flush`; what the event loop writes itself, because it must, waits less."""
        with self._writing:
            self._outage.wait(BEHIND_WAIT)
            try:
                return self.flush()
            finally:
                self._outage.wait(ADD_WAIT)

    def _try[T](self, work: Callable[[], T]) -> T | None:
        try:
            return work()
        except Exception:  # the edge: the next time may fare better
            logger.exception("traces could not be written")
            return None

    def _write_some(self, limit: int | None) -> None:
        """Raises StoreError."""
        done = 0
        while self._backlog and (limit is None or done < limit):
            # More than can be written may come all the time: then all wait until nothing waits,
            # for only then the journal can be cleared.
            is_long = self._journal is not None and self._journal.size >= JOURNAL_BYTES
            with self._lock if is_long else contextlib.nullcontext():
                done += self._write_batch()
                while is_long and self._backlog:
                    self._write_batch()

    def _write_batch(self) -> int:
        with self._lock:
            batch = list(islice(self._backlog, _AT_ONCE))
        with self.database.writing() as connection:
            written = [self._tables.write(connection, each, self.owner) for each in batch]
        with self._lock:
            for entry, is_written in zip(batch, written, strict=True):
                self._backlog.popleft()
                entry.is_written = is_written
                self._backlog_bytes -= entry.size
            if not self._backlog and self._journal is not None:
                self._journal.clear()
        self.succeed()
        return len(batch)

    def _note(self, entry: Entry) -> bool:
        """Whether it is in the journal."""
        if self._journal is None:
            return False
        try:
            self._journal.append(record(entry))
        except JournalError as error:
            if not self._has_told_of_journal:
                self._has_told_of_journal = True
                logger.warning("traces are written one by one: %s", error)
            return False
        return True

    def _read(self, path: Path, records: Iterable[bytes]) -> list[Entry]:
        entries = []
        for data in records:
            try:
                entries.append(entry_of(data))
            except EntryError as error:
                self.lose(f"{path}: {error}")
        return entries
