"""The way into the file: in order, whole or not at all, and never with an exception.

Writing behind the caller's back (`write_behind`): an entry is appended to a journal (journal.py),
which is all that the caller waits for; a thread writes several at once into the file. What a killed
program left in its journal is taken in by the next one (takeover.py). Without that, or where the
journal cannot be written, an entry is written at once.

What cannot be written now (the file is locked, full, read-only, gone) waits in the journal, as long
as that has room (waiting.py); there is one warning for an outage, and a line when it is over. A
damaged file is set aside.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from . import journal
from .database import Database, StoreError
from .entry import Entry
from .outage import RETRY_SECONDS, Outage
from .tables import Losses, Tables
from .takeover import Takeover
from .waiting import Waiting, leave

logger = logging.getLogger(__name__)

ADD_WAIT = 0.1
"""Seconds that the first one waits for a locked file; the next ones do not, until it is free."""
BEHIND_WAIT = 0.5
"""And the thread, for which nobody waits: another program may take in what one has left."""
CLOSE_WAIT = 1.0
CLOSE_SECONDS = 1.0
"""At the end, for all that waits. What is in the journal then is for the next start."""
SETTLE_SECONDS = 1.0
"""That a reader waits for what is not in the file yet."""
BEHIND_SECONDS = 0.05
"""What comes within this time is written together: that is cheaper than one by one."""
_SLICE = 1_000
"""Entries after which the thread tells that there is something to be sent."""
_JOIN_SECONDS = 0.3


class Writer:
    """For several threads.

    max_bytes: of the file, and of the journal. key: see Tables.
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
        self._losses = Losses()
        self._tables = Tables(path, max_rows, max_bytes, clock=clock, key=key, losses=self._losses)
        self._writing = threading.RLock()  # of the file
        self._outage = Outage(path, self.database, self._losses, self._writing, wait=ADD_WAIT)
        self._waiting = Waiting(path, max_bytes, self._losses)
        self._takeover = Takeover(
            path,
            self.database,
            self._tables,
            self._losses,
            self._writing,
            clock=clock,
            fail=self.fail,
        )
        self._thread: threading.Thread | None = None
        self._has_work = threading.Event()
        self._is_over = threading.Event()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

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
        return self._waiting.owner

    @property
    def is_behind(self) -> bool:
        return self._waiting.has_journal

    def write_behind(self, told: Callable[[], None]) -> None:
        """From now on, until `close`. To be called before anything is sent.

        told: called when something is in the file, by the thread.
        Where programs cannot be seen to be dead, each entry is still written at once.
        """
        if self._thread is not None or not journal.IS_POSSIBLE:
            return
        self._waiting.begin_journal()
        self._thread = threading.Thread(
            target=self._run, args=(told,), name="invariant: traces", daemon=True
        )
        self._thread.start()

    def submit(self, entry: Entry) -> bool:
        """Write it, now or later; whether it outlives this process already. Never raises."""
        while (is_noted := self._waiting.add(entry)) is None:
            # Who brings much waits; only trouble with the file costs a trace.
            if self._outage.may_try() and self.flush(1):
                continue
            is_noted = self._waiting.add(entry, loose=True)
            if is_noted is None:
                self.lose("there is no room for more until the file can be written")
                return False
            break
        if is_noted:
            if not self._has_work.is_set():
                self._has_work.set()
            return True
        if self._outage.may_try():
            self.flush(1)
        if not entry.is_written and self._thread is not None and self._is_over.is_set():
            return leave(self._path, entry)
        return entry.is_written

    def flush(self, limit: int | None = None, until: float | None = None) -> bool:
        """Write what waits: so many at most (but one batch in any case), until this time of the
        monotonic clock; whether the file could be written. Never raises."""
        done = 0
        while True:
            with self._writing:  # others have a chance between two batches
                written = self._write_batch()
            if written is None:
                return False
            done += written
            is_late = until is not None and time.monotonic() >= until
            if not written or is_late or (limit is not None and done >= limit):
                return True

    def settle(self) -> None:
        """Write what waits, for whoever wants to read it."""
        if self.waiting and self._outage.may_try():
            self.flush(until=time.monotonic() + SETTLE_SECONDS)

    def take_over(self) -> bool:
        """Write what killed programs left in their journals, and end what they had begun; whether
        there was anything. Never raises."""
        return self._takeover.run()

    def take_in(self) -> None:
        """The first half of that."""
        self._takeover.take_in()

    def is_takeover_wanted(self, database: Database) -> bool:
        """database: to look with."""
        return self._takeover.is_wanted(database)

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
            if self.waiting:
                self.database.wait(CLOSE_WAIT)
                self.flush(until=time.monotonic() + CLOSE_SECONDS)
                self.database.wait(ADD_WAIT)
            left, loose = self._waiting.close()
            if left:
                logger.warning(
                    "%d traces could not be written; the next start tries again%s",
                    left,
                    f" (but {loose} are lost: they are not in the journal)" if loose else "",
                )
            self.database.close()

    # -- the thread that writes ---------------------------------------------------------------

    def _run(self, told: Callable[[], None]) -> None:
        if self._try(self.take_over):
            self._try(told)
        while True:
            self._has_work.wait()
            if self._is_over.wait(BEHIND_SECONDS):
                return
            self._has_work.clear()
            self._try(self._waiting.mend)
            if self._try(self._flush_patiently):
                self._try(told)
                if self.waiting:
                    self._has_work.set()
            elif not self._is_over.wait(RETRY_SECONDS):
                self._has_work.set()

    def _flush_patiently(self) -> bool:
        """As `flush`; what the event loop writes itself, because it must, waits less."""
        done = 0
        while done < _SLICE and not self._is_over.is_set():
            with self._writing:
                self._outage.wait(BEHIND_WAIT)
                try:
                    written = self._write_batch()
                finally:
                    self._outage.wait(ADD_WAIT)
            if written is None:
                return False
            if not written:
                break
            done += written
        return True

    def _try[T](self, work: Callable[[], T]) -> T | None:
        try:
            return work()
        except Exception:  # the edge: the next time may fare better
            logger.exception("traces could not be written")
            return None

    def _write_batch(self) -> int | None:
        """How many were written; None if the file could not be. Whoever calls has `_writing`."""
        batch = self._waiting.batch()
        if not batch:
            return 0
        for _ in range(2):  # once more after a damaged file was set aside
            try:
                with self.database.writing() as connection:
                    written = [self._tables.write(connection, e, self.owner) for e in batch]
            except StoreError as error:
                if self.fail(error, self.database):
                    continue
                return None
            for entry, is_written in zip(batch, written, strict=True):
                entry.is_written = is_written
            self._waiting.done(batch)
            self.succeed()
            return len(batch)
        return None
