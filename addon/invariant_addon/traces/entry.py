"""Something to be written about a trace, and the record of it in a journal."""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from ..core.errors import InvariantError
from .journal import Part


class EntryError(InvariantError):
    """A record is not one of ours."""


@dataclass(slots=True)
class Entry:
    """body: what codec.write made of the trace; None if only its deliveries need not wait any
    longer. sinks: of a new trace, None for a revision. updates: the sinks that take revisions.
    also: those that get it from now on. at: when it may be sent. is_held: log rules have yet to
    look at it, and what waits already goes on waiting. keeps: what is masked in it is kept beside
    it. part: of the journal that it is in. is_written: it is in the store's file.
    """

    id: str
    body: bytes | None
    at: float
    sinks: tuple[str, ...] | None = None
    updates: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    is_held: bool = False
    keeps: bool = False
    part: Part | None = None
    is_written: bool = False

    @property
    def size(self) -> int:
        return len(self.body or b"")


def record(entry: Entry) -> bytes:
    e = entry
    head = (e.id, e.at, e.sinks, e.updates, e.also, e.is_held, e.keeps)
    return b"%b\n%b" % (orjson.dumps(head), entry.body or b"")


def entry_of(data: bytes) -> Entry:
    """Raises EntryError."""
    head, _, body = data.partition(b"\n")
    try:
        identity, at, sinks, updates, also, is_held, *more = orjson.loads(head)
        return Entry(
            str(identity),
            body or None,
            float(at),
            None if sinks is None else tuple(map(str, sinks)),
            tuple(map(str, updates)),
            tuple(map(str, also)),
            is_held=bool(is_held),
            keeps=bool(more and more[0]),
        )
    except (ValueError, TypeError) as error:
        raise EntryError(f"not a record of a trace ({type(error).__name__})") from None
