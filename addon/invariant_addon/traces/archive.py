"""What the command line asks of the traces that are kept here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from ..core.trace import Json, Trace
from ..rules.fingerprints import load_key
from . import explorer_form, queries
from .database import StoreError
from .read_only import Snapshot, may_only_be_read
from .store import Filter, Store

type Pushed = Callable[[Trace, str], Mapping[str, Json]]
"""A trace and a dataset -> what is pushed to an Explorer: lists of one each."""

FILE = "traces.db"
"""In the data folder."""


class Summary(Protocol):
    """A trace in a list. seq: higher for a later one. asked: how the newest words of the user
    begin. total: milliseconds. rules: the names of those that found something."""

    @property
    def seq(self) -> int: ...
    @property
    def id(self) -> str: ...
    @property
    def started(self) -> float: ...
    @property
    def status(self) -> str: ...
    @property
    def endpoint(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def stream(self) -> bool: ...
    @property
    def messages(self) -> int: ...
    @property
    def rules(self) -> tuple[str, ...]: ...
    @property
    def asked(self) -> str: ...
    @property
    def total(self) -> float: ...


class Stats(Protocol):
    """by_...: how many traces. deliveries: by sink and state; notes: why not, by sink, state and
    note. oldest, newest, pending_since (of those still to be sent): when they began. unlooked:
    those at which log rules had not looked when their proxy ended. noted: bytes that proxies have
    noted, and not put into the store yet."""

    @property
    def traces(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def oldest(self) -> float | None: ...
    @property
    def newest(self) -> float | None: ...
    @property
    def by_status(self) -> Mapping[str, int]: ...
    @property
    def by_model(self) -> Mapping[str, int]: ...
    @property
    def by_rule(self) -> Mapping[str, int]: ...
    @property
    def deliveries(self) -> Mapping[tuple[str, str], int]: ...
    @property
    def pending_since(self) -> float | None: ...
    @property
    def notes(self) -> Mapping[tuple[str, str, str], int]: ...
    @property
    def unlooked(self) -> int: ...
    @property
    def noted(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which traces: all that is given must be so."""

    status: str | None = None
    rule: str | None = None
    model: str | None = None
    text: str | None = None


class Archive(Protocol):
    """All methods raise InvariantError if the traces cannot be read."""

    def get(self, identity: str, /) -> Trace | None: ...

    def page(self, limit: int, before: int | None, wanted: Wanted) -> Sequence[Summary]:
        """The newest first. before: the last one's seq, for the next page."""
        ...

    def stats(self) -> Stats: ...

    def revive(self, sink: str) -> int:
        """What could not be delivered to this sink ("" for any) is tried again; how many."""


class _Kept:
    """The proxy's own store."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._store = Store(folder / FILE)

    def get(self, identity: str, /) -> Trace | None:
        return self._caught_up().get(identity)

    def page(self, limit: int, before: int | None, wanted: Wanted) -> Sequence[Summary]:
        store = self._caught_up() if before is None else self._store
        return store.list(limit, Filter(before=before, **asdict(wanted)))

    def stats(self) -> Stats:
        return self._caught_up().stats()

    def revive(self, sink: str) -> int:
        self._store.stats()  # or it would make a file where there is none
        return self._store.revive(sink)

    def _caught_up(self) -> Store:
        """With what proxies have noted up to now, those that were killed included."""
        if self._store.has_to_catch_up():
            writing = Store(self._store.path, key=load_key(self._folder))
            writing.catch_up()
            writing.close()
        return self._store


class ReadOnly:
    """The proxy's own store, where it may only be read. note: what to know of all answers."""

    def __init__(self, path: Path) -> None:
        self._cannot = f"{path.parent} can only be read here"
        self.note = f"{self._cannot}: what a running proxy has just noted may be missing"
        self._snapshot = Snapshot(path)

    def get(self, identity: str, /) -> Trace | None:
        with self._snapshot.using() as connection:
            return queries.body(connection, identity)

    def page(self, limit: int, before: int | None, wanted: Wanted) -> Sequence[Summary]:
        with self._snapshot.using() as connection:
            return queries.summaries(connection, limit, Filter(before=before, **asdict(wanted)))

    def stats(self) -> Stats:
        with self._snapshot.using() as connection:
            return queries.stats(connection)

    def revive(self, _: str) -> int:
        raise StoreError("read-only", self._cannot)


def kept(folder: Path) -> Archive:
    """The traces in this data folder."""
    path = folder / FILE
    return ReadOnly(path) if may_only_be_read(path) else _Kept(folder)


def pushed(trace: Trace, dataset: str) -> Mapping[str, Json]:
    """What is pushed to an Explorer for a trace. Raises InvariantError."""
    return explorer_form.payload(trace, dataset)
