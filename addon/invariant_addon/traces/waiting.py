"""What waits to be written into the store's file, in order, and its journal.

What waits is in the journal (journal.py), and the first of it in memory as well, up to
WINDOW_BYTES. The rest is read from the journal again when its turn has come: so a file that cannot
be written costs no memory, and no trace as long as the journal has room. Only what could not be
noted there (the disk is full, this system has no locks) is in memory alone, up to LOOSE_BYTES.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from . import records
from .entry import Entry, EntryError, entry_of, record
from .journal import Journal, JournalError, Part
from .tables import Losses

logger = logging.getLogger(__name__)

WINDOW_BYTES = 4 * 2**20
WINDOW_ENTRIES = 500
LOOSE_BYTES = 32 * 2**20
LOOSE_ENTRIES = 5_000
BATCH = 64
BATCH_BYTES = 2**20
"""Of one transaction, but for its last entry."""
_LOOK_EVERY = 2**20
"""Bytes of the journal."""
_RESERVE = 8
"""What says more about a trace that is there may use one part in so many beyond the limit."""


@dataclass(slots=True)
class _Stretch:
    """So many records of a journal, one behind the other."""

    part: Part
    start: int
    end: int
    count: int


class Waiting:
    """For several threads, but what is written (`batch`, `done`, `close`) is for one at a time.

    limit: bytes of the journal.
    """

    def __init__(self, path: Path, limit: int, losses: Losses) -> None:
        self.limit = limit
        self._path = path
        self._losses = losses
        self._lock = threading.Lock()  # never held for long: a hook waits for it
        self._queue: deque[Entry | _Stretch] = deque()
        self._count = 0  # of entries, those in stretches included
        self._stretches = 0
        self._window = 0  # bytes of what is in memory, and in the journal as well
        self._loose = self._loose_bytes = 0
        self._journal: Journal | None = None
        self._looked_at = 0  # whether the disk has room: then the journal had so many bytes
        self._has_told = False

    def __len__(self) -> int:
        return self._count

    @property
    def owner(self) -> str:
        """By which others see that this program is alive; "" if they do not."""
        return self._journal.owner if self._journal is not None else ""

    @property
    def has_journal(self) -> bool:
        return self._journal is not None

    def begin_journal(self) -> None:
        with self._lock:
            self._journal = Journal(self._path)
            with contextlib.suppress(JournalError):  # it is said when there is something to append
                self._journal.open()

    def mend(self) -> None:
        """Look whether the journal is still there."""
        with self._lock:
            is_mended = self._journal is not None and self._journal.mend()
        if is_mended:
            logger.warning("%s: its journal was removed; there is a new one", self._path)

    def add(self, entry: Entry, *, loose: bool = False) -> bool | None:
        """Whether it outlives this process; None if there is no room for it.

        loose: in memory alone, though there is a journal: that is full."""
        with self._lock:
            if self._is_full(entry) and not loose:
                return None
            noted = None if loose else self._note(entry)
            if noted is None:
                is_large = self._loose_bytes + entry.size > LOOSE_BYTES
                if self._loose and (is_large or self._loose >= LOOSE_ENTRIES):
                    return None
                self._loose += 1
                self._loose_bytes += entry.size
                self._queue.append(entry)
            elif self._stretches or self._is_window_full(entry):
                self._stretch(*noted)
            else:
                entry.part = noted[0]
                self._window += entry.size
                self._queue.append(entry)
            self._count += 1
            return noted is not None

    def batch(self) -> Sequence[Entry]:
        """The next ones to be written, together."""
        while self._load():
            pass
        found: list[Entry] = []
        size = 0
        with self._lock:
            for each in islice(self._queue, BATCH):
                if isinstance(each, _Stretch) or (found and size + each.size > BATCH_BYTES):
                    break
                size += each.size
                found.append(each)
        return found

    def done(self, batch: Sequence[Entry]) -> None:
        """These were written, or never will be."""
        with self._lock:
            parts: Counter[Part] = Counter()
            for entry in batch:
                self._queue.popleft()
                self._forget(entry)
                if entry.part is not None:
                    parts[entry.part] += 1
            for part, count in parts.items():
                if self._journal is not None:
                    self._journal.done(part, count)

    def close(self) -> tuple[int, int]:
        """What is in the journal stays there, for the next start. How many wait, and how many of
        them are in memory alone; those may still be written."""
        with self._lock:
            if self._journal is not None:
                for each in self._queue:
                    self._note_late(each)
            left, loose = self._count, [e for e in self._queue if _is_loose(e)]
            if self._journal is not None:
                self._journal.close(keep=True)
                self._journal = None
            self._queue = deque(loose)
            self._count = len(loose)
            self._window = self._stretches = 0
            return left, len(loose)

    # -- what comes -----------------------------------------------------------------------------

    def _is_full(self, entry: Entry) -> bool:
        """Whether the journal is too large to take this one."""
        if self._journal is None or not self._journal.size:
            return False
        size = self._journal.size + entry.size
        if entry.sinks is None:
            return size > self.limit + self.limit // _RESERVE or self._journal.free < size
        if size > self.limit:
            return True
        if 0 <= size - self._looked_at < _LOOK_EVERY:
            return False
        # What is in it has to fit into the file and its WAL, or a full disk stays full for ever.
        if self._journal.free < 2 * size:
            return True
        self._looked_at = size
        return False

    def _note(self, entry: Entry) -> tuple[Part, int] | None:
        """Where it is in the journal now."""
        if self._journal is None:
            return None
        try:
            return self._journal.append(record(entry))
        except JournalError as error:
            if not self._has_told:
                self._has_told = True
                logger.warning("traces are written one by one: %s", error)
            return None

    def _note_late(self, each: Entry | _Stretch) -> None:
        """It is the last chance, and there may be room by now."""
        if isinstance(each, Entry) and each.part is None and self._journal is not None:
            with contextlib.suppress(JournalError):
                each.part, _ = self._journal.append(record(each))
                self._loose -= 1
                self._loose_bytes -= each.size

    def _is_window_full(self, entry: Entry) -> bool:
        noted = self._count - self._loose
        return noted > 0 and (noted >= WINDOW_ENTRIES or self._window + entry.size > WINDOW_BYTES)

    def _stretch(self, part: Part, start: int) -> None:
        last = self._queue[-1] if self._queue else None
        if isinstance(last, _Stretch) and last.part is part and last.end == start:
            last.end = part.end
            last.count += 1
        else:
            self._queue.append(_Stretch(part, start, part.end, 1))
            self._stretches += 1

    # -- what goes ------------------------------------------------------------------------------

    def _load(self) -> bool:
        """Read some entries, if those that are next are in the journal alone; whether there may be
        others that have to be read."""
        with self._lock:
            first = self._queue[0] if self._queue else None
            if not isinstance(first, _Stretch):
                return False
            part, start, end, count = first.part, first.start, first.end, first.count
        # Meanwhile it may grow at its end.
        loaded: list[Entry] = []
        read = size = 0
        for data, ends in records.read(part.number, start, end):
            read, start = read + 1, ends
            try:
                loaded.append(entry_of(data))
            except EntryError as error:
                self._losses.tell(str(error))
            size += len(data)
            if read == BATCH or size >= BATCH_BYTES:
                break
        is_broken = read < count and read < BATCH and size < BATCH_BYTES
        gone = count if is_broken else read
        with self._lock:
            first.start, first.count = (end if is_broken else start), first.count - gone
            if not first.count:
                self._queue.popleft()
                self._stretches -= 1
            for entry in loaded:
                entry.part = part
                self._window += entry.size
            self._queue.extendleft(reversed(loaded))
            self._count -= gone - len(loaded)
            if self._journal is not None:
                if is_broken:  # or nobody could read what comes behind it
                    self._journal.replace()
                if gone > len(loaded):
                    self._journal.done(part, gone - len(loaded))
        for _ in range(gone - read):
            self._losses.tell(f"{part.path}: it cannot be read any more")
        return not loaded

    def _forget(self, entry: Entry) -> None:
        self._count -= 1
        if entry.part is None:
            self._loose -= 1
            self._loose_bytes -= entry.size
        else:
            self._window -= entry.size


def _is_loose(each: Entry | _Stretch) -> bool:
    return isinstance(each, Entry) and each.part is None


def leave(path: Path, entry: Entry) -> bool:
    """In a journal for the next start: it came after the end. Whether that is done."""
    left = Journal(path)
    try:
        left.append(record(entry))
    except JournalError:
        return False
    left.close(keep=True)
    return True
