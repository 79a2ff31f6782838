"""The traces of this machine, and what is still to be sent of them, in one SQLite file.

- Who adds a trace is never kept waiting for long, and never gets an exception: when the file is
  locked, full, read-only or gone there is one warning, the traces wait in the journal (waiting.py)
  and are written when the file can be written again. A damaged file is set aside.
- What `add` said True to survives the death of the process. A power failure can cost the last ones
  (database.py). While a proxy writes behind its callers' backs, it is in a journal at first, and in
  the file some hundredths of a second later (writer.py); what a killed one left there is taken in
  by the next one, or by a reader who catches up.
- The store is bounded. When it is full, the oldest traces go of which nothing is to be sent; then
  those that no sender has tried for a week; if there are none, new ones are dropped and counted.
- Secrets: give it what redact.py has made of a trace. Keys, private keys and logins in addresses
  that are in it still are masked before it is in the file (unsearched.py). What a revision has
  masked is overwritten.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from ..core.trace import Trace
from . import codec, journals, outbox, queries, upkeep
from .codec import CodecError
from .database import Database, StoreError
from .entry import Entry
from .outbox import Backlog, Delivery
from .queries import Filter, Stats, Summary
from .row import storable
from .writer import Writer

__all__ = ["Backlog", "Delivery", "Filter", "Stats", "Store", "StoreError", "Summary"]

WAIT = 5.0
"""Seconds that senders, readers and `tidy` wait for a locked file."""
LEASE = 60.0
TIDY_SECONDS = 2.0
CATCH_UP_SECONDS = 0.5


class Store:
    """For several threads; several programs may share the file.

    key: for the hash of a conversation's opening, and for placeholders; kept outside of the file.
    keeps_secrets: also what a trace was before they were masked.
    clock: seconds since 1970.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_rows: int = 100_000,
        max_bytes: int = 2**30,
        clock: Callable[[], float] = time.time,
        key: bytes = b"",
        keeps_secrets: bool = False,
    ) -> None:
        self.path = path
        self._keeps = keeps_secrets
        self._clock = clock
        self._writer = Writer(path, max_rows, max_bytes, clock=clock, key=key)
        self._back = Database(path, wait=WAIT)

    # -- the proxy ----------------------------------------------------------------------------

    def open(self) -> None:
        """Make the file, or look whether it can be used: what is wrong is said at the start.

        Raises StoreError. Nobody has to call it.
        """
        with self._writer.database.using():
            pass

    def write_behind(self, told: Callable[[], None]) -> None:
        """From now on, until `close`, whoever adds a trace does not wait for the file.

        To be called before anything is sent. told: called when something is in the file, from a
        thread.
        """
        self._writer.write_behind(told)

    def add(self, trace: Trace, sinks: Sequence[str] = (), *, hold: float = 0.0) -> bool:
        """Keep a trace, to be sent to these sinks; whether it is in the file (or was already) or
        in the journal.

        False: it waits in memory, or it is lost; both are counted. hold: seconds in which it is
        not sent, because findings of log rules are still to come (`revise` ends it).
        """
        try:
            body = codec.write(trace)
        except CodecError as error:
            self._writer.lose(str(error))
            return False
        return self.add_written(trace.id, body, sinks, hold=hold)

    def add_written(
        self, trace_id: str, body: bytes, sinks: Sequence[str] = (), *, hold: float = 0.0
    ) -> bool:
        """The same. body: what codec.write made of the trace."""
        at, name = self._clock() + hold, storable(trace_id)
        return self._submit(Entry(name, body, at, tuple(sinks), is_held=hold > 0))

    def revise(
        self,
        trace: Trace,
        updates: Collection[str] = (),
        sinks: Sequence[str] = (),
        *,
        hold: float | None = None,
    ) -> bool:
        """Put it in the place of what is kept under its id; whether that is done.

        Whatever sink has not sent it yet will send this. Of those that have, the ones in
        `updates` get it once more, as an update; the others keep what they have. sinks: those
        that get it too, from now on. hold: None if it need not be held any longer.
        """
        try:
            body = codec.write(trace)
        except CodecError as error:
            self._writer.lose(str(error))
            return False
        at, is_held = self._clock() + (hold or 0.0), hold is not None
        new, again, name = tuple(sinks), tuple(updates), storable(trace.id)
        return self._submit(Entry(name, body, at, updates=again, also=new, is_held=is_held))

    def release(self, trace_id: str) -> bool:
        """It need not be held any longer: no findings came late. Whether that is done."""
        return self._writer.submit(Entry(storable(trace_id), None, self._clock()))

    def has_to_catch_up(self) -> bool:
        """Whether killed proxies left something that `catch_up` would take in, or living ones have
        noted something that is not in the file yet. Never raises."""
        return self._writer.is_takeover_wanted(self._back)

    def settle(self) -> None:
        """What was added is in the file when this returns, unless the file cannot be written."""
        self._writer.settle()

    def close(self) -> None:
        """Write what waits. It may be used again afterwards: a late hook still keeps its trace."""
        self._writer.close()
        self._back.close(wait=0.2)  # the end waits for no other program's lock

    # -- a background thread ------------------------------------------------------------------

    def tidy(self, seconds: float = TIDY_SECONDS) -> bool:
        """Write what waits, prune, compress, checkpoint; whether there is more to do.

        To be called every few seconds, not on the proxy's event loop. Never raises.
        """
        until = time.monotonic() + seconds

        def is_late() -> bool:
            return time.monotonic() >= until

        self._writer.take_over()
        while self._writer.waiting:  # some at a time: others add meanwhile
            if is_late() or not self._writer.flush(1):
                return False
        try:
            more = self._writer.prune(self._back, is_late)
            more = upkeep.pack(self._back, is_late) or more
            with self._back.using() as connection:
                while not is_late() and upkeep.shrink(connection):
                    pass
                upkeep.checkpoint(connection)
        except StoreError as error:
            self._writer.fail(error, self._back)
            return False
        return more

    # -- senders ------------------------------------------------------------------------------

    def due(self, sink: str, limit: int = 100, now: float | None = None) -> Sequence[Delivery]:
        """What may be sent to this sink now, by nobody else. [] if the file cannot be used."""
        at = self._now(now)
        return self._try(lambda connection: outbox.due(connection, sink, limit, at)) or []

    def begin(
        self, trace_id: str, sink: str, *, lease: float = LEASE, now: float | None = None
    ) -> Delivery | None:
        """Take a delivery for so many seconds (at most outbox.MAX_LEASE), and count the try.

        None: somebody else has it, it is done, or the try could not be counted: don't send.
        """
        at, owner = self._now(now), self._writer.owner
        return self._change(
            lambda connection: outbox.begin(connection, trace_id, sink, lease, at, owner)
        )

    def sent(self, trace_id: str, sink: str, remote_id: str = "") -> bool:
        """It has arrived; False if that could not be noted (it will be tried again)."""
        now = self._clock()
        return bool(self._change(lambda c: outbox.sent(c, trace_id, sink, remote_id, now=now)))

    def retry(
        self, trace_id: str, sink: str, at: float, note: str, *, tries: int | None = None
    ) -> bool:
        """Try again at this time. tries: only if it is still that try (Delivery.tries)."""
        at = min(at, self._clock() + outbox.MAX_WAIT)
        return bool(self._change(lambda c: outbox.retry(c, trace_id, sink, at, note, tries=tries)))

    def dead(self, trace_id: str, sink: str, note: str, *, tries: int | None = None) -> bool:
        """Never try again; the trace stays here, with the note."""
        return bool(self._change(lambda c: outbox.dead(c, trace_id, sink, note, tries=tries)))

    def revive(self, sink: str = "") -> int:
        """What is dead is tried once more, for this sink or for all; how many. Raises StoreError,
        for a person asked for it."""
        with self._back.writing() as connection:
            return outbox.revive(connection, sink, now=self._clock())

    def catch_up(self, seconds: float = CATCH_UP_SECONDS) -> None:
        """For readers: take in what killed proxies left in their journals, and wait, so long at
        most, until those that are alive have written what they noted. Never raises."""
        self._writer.take_over()
        journals.await_cleared(self.path, seconds)

    def take_in(self) -> None:
        """Of that, what is in journals which nobody holds. Never raises."""
        self._writer.take_in()

    # -- readers: these raise StoreError --------------------------------------------------------

    def get(self, trace_id: str) -> Trace | None:
        """Raises StoreError, and CodecError if the trace cannot be read."""
        with self._reading() as connection:
            return queries.body(connection, trace_id)

    def deliveries(self, trace_id: str) -> Sequence[Delivery]:
        with self._reading() as connection:
            return outbox.of(connection, trace_id)

    def list(self, limit: int = 50, wanted: Filter | None = None) -> Sequence[Summary]:
        """The newest first. For the next page: Filter(before=) the last one's seq."""
        with self._reading() as connection:
            return queries.summaries(connection, limit, wanted or Filter())

    def conversation(self, trace_id: str) -> Sequence[Summary]:
        """All turns of the agent run that this trace belongs to, oldest first; [] if unknown."""
        with self._reading() as connection:
            return queries.conversation(connection, trace_id)

    def stats(self) -> Stats:
        with self._reading() as connection:
            found = queries.stats(connection)
        writer = self._writer
        return dataclasses.replace(
            found,
            noted=journals.noted(self.path),
            waiting=writer.waiting,
            lost=writer.lost,
            failures=writer.failures,
        )

    def backlog(self) -> Backlog:
        with self._reading() as connection:
            found = outbox.backlog(connection)
        writer = self._writer
        return dataclasses.replace(
            found, waiting=writer.waiting, lost=writer.lost, failures=writer.failures
        )

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        if self._writer.is_behind:
            self._writer.settle()
        with self._back.using(create=False) as connection:
            yield connection

    def _submit(self, entry: Entry) -> bool:
        entry.keeps = self._keeps
        return self._writer.submit(entry)

    def _now(self, now: float | None) -> float:
        return self._clock() if now is None else now

    def _change[T](self, change: Callable[[sqlite3.Connection], T]) -> T | None:
        """What it returns, None if the file cannot be written."""
        try:
            with self._back.writing() as connection:
                result = change(connection)
        except StoreError as error:
            self._writer.fail(error, self._back)
            return None
        self._writer.succeed()
        return result

    def _try[T](self, ask: Callable[[sqlite3.Connection], T]) -> T | None:
        """What it returns, None if the file cannot be read."""
        try:
            with self._back.using() as connection:
                return ask(connection)
        except StoreError as error:
            self._writer.fail(error, self._back)
            return None
