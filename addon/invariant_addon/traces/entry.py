"""Something to be written about a trace, and the record of it in a journal."""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from ..core.errors import InvariantError


class EntryError(InvariantError):
    """A record is not one of ours."""


@dataclass(slots=True)
class Entry:
    """body: what codec.write made of the trace; None if only its deliveries need not wait any
    longer. sinks: of a new trace, None for a revision. updates: the sinks that take revisions.
    also: those that get it from now on. at: when it may be sent; is_held: what waits already goes
    on waiting. is_written: it is in the store's file.
    """

    id: str
    body: bytes | None
    at: float
    sinks: tuple[str, ...] | None = None
    updates: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    is_held: bool = False
    is_written: bool = False

    @property
    def size(self) -> int:
        return len(self.body or b"")


def record(entry: Entry) -> bytes:
    head = (entry.id, entry.at, entry.sinks, entry.updates, entry.also, entry.is_held)
    return b"%b\n%b" % (orjson.dumps(head), entry.body or b"")


def entry_of(data: bytes) -> Entry:
    """Raises EntryError."""
    head, _, body = data.partition(b"\n")
    try:
        identity, at, sinks, updates, also, is_held = orjson.loads(head)
        return Entry(
            str(identity),
            body or None,
            float(at),
            None if sinks is None else tuple(map(str, sinks)),
            tuple(map(str, updates)),
            tuple(map(str, also)),
            is_held=bool(is_held),
        )
    except (ValueError, TypeError) as error:
        raise EntryError(f"not a record of a trace ({type(error).__name__})") from None
