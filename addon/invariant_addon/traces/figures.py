"""The figures of a store -> lines for a terminal, or JSON."""

from __future__ import annotations

from collections.abc import Iterator

from ..core.trace import Json
from .archive import Stats
from .shown import line, when


def outline(found: Stats) -> dict[str, Json]:
    deliveries: dict[str, dict[str, int]] = {}
    for (sink, state), count in found.deliveries.items():
        deliveries.setdefault(sink, {})[state] = count
    return {
        "traces": found.traces,
        "bytes": found.bytes,
        "oldest": found.oldest,
        "newest": found.newest,
        "by_status": dict(found.by_status),
        "by_model": dict(found.by_model),
        "by_rule": dict(found.by_rule),
        "deliveries": deliveries,
        "unlooked": found.unlooked,
        "noted_bytes": found.noted,
        "pending_since": found.pending_since,
        "notes": [
            {"sink": sink, "state": state, "note": note, "traces": count}
            for (sink, state, note), count in found.notes.items()
        ],
    }


def lines(found: Stats, folder: object) -> Iterator[str]:
    yield f"{counted(found.traces, 'trace')}, {_size(found.bytes)} ({folder})"
    if found.oldest is not None and found.newest is not None:
        yield f"from {when(found.oldest)} to {when(found.newest)}"
    for title, counts in (
        ("status", found.by_status),
        ("rules that found something", found.by_rule),
        ("models", found.by_model),
    ):
        if counts:
            yield ""
            yield title
            for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
                yield f"  {count:>8}  {line(name)}"
        if title == "status" and found.unlooked:
            yield f"            {found.unlooked}: log rules had not looked when the proxy ended"
    if found.noted:
        yield ""
        yield f"{_size(found.noted)} in journals are not in the store yet"
        yield "if that stays so, its file is locked or full; the proxies go on trying"
    if found.deliveries:
        yield from _deliveries(found)


def _deliveries(found: Stats) -> Iterator[str]:
    yield ""
    yield "deliveries"
    for (sink, state), count in sorted(found.deliveries.items()):
        yield f"  {count:>8}  {line(state)} ({line(sink)})"
        notes = sorted(found.notes.items(), key=lambda item: -item[1])
        for (of, in_, note), many in notes:
            if (of, in_) == (sink, state):
                yield f"            {many}: {line(note)}"
    if found.pending_since is not None:
        yield f"the oldest that is still to be sent is of {when(found.pending_since)}"
    if any(state == "dead" for _, state in found.deliveries):
        yield "what is dead is not tried again; when you have mended it: scripts/traces retry"


def counted(number: int, what: str, many: str = "") -> str:
    return f"{number} {what if number == 1 else many or what + 's'}"


def _size(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return counted(count, "byte")
