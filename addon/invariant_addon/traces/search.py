"""A text in what was said: a condition in SQL, and the function that reads the bodies for it.

The beginnings of what was asked and said are columns; the rest is in the bodies, where the text is
looked for as JSON spells it, and then in the strings themselves, so that no name of a field is
found. Upper and lower case of ASCII are alike.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence

import orjson

from ..core.trace import Json
from . import codec
from .row import storable, unpacked

_COLUMNS = ("asked", "said", "client")
_IN_BODY = (
    "EXISTS (SELECT 1 FROM bodies WHERE bodies.seq = traces.seq"
    " AND invariant_says(packed, body, ?))"
)
_NOT_SAID = frozenset(("role", "type"))


def condition(connection: sqlite3.Connection, text: str) -> tuple[str, Sequence[object]]:
    """What must be so of a row of `traces` in which this is said, or whose id begins so."""
    text = storable(text)
    connection.create_function("invariant_says", 3, _says)
    like = _escaped(text)
    parts = [f"{column} LIKE ? ESCAPE '!'" for column in _COLUMNS]
    values: list[object] = [f"%{like}%"] * len(parts)
    if text.startswith("inv_"):  # a request id, or the beginning of one
        parts.append("id LIKE ? ESCAPE '!'")
        values.append(f"{like}%")
    parts.append(_IN_BODY)
    values.append(text)
    return f"({' OR '.join(parts)})", values


def _says(packed: int, body: bytes, text: str) -> bool:
    """Whether a trace says this. Never raises: SQLite would end the whole search."""
    try:
        data = unpacked(packed, body)
        spelled = _spelled(text, data)
        if spelled is None or spelled.lower() not in data.lower():
            return False
        trace = codec.read(data)
    except codec.CodecError:
        return False
    wanted = _bytes(text)
    return any(wanted in _bytes(each) for each in _strings([*trace.messages, *trace.choices]))


def _spelled(text: str, body: bytes) -> bytes | None:
    """As the writer of this body has spelled it; None: it cannot be in it."""
    if codec.is_ascii(body):
        return json.dumps(text)[1:-1].encode("ascii")
    try:
        return orjson.dumps(text)[1:-1]
    except TypeError:  # a lone surrogate
        return None


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass").lower()


def _strings(value: Json) -> Iterator[str]:
    """All that is said in it. No recursion: the nesting is the sender's choice."""
    todo = [value]
    while todo:
        item = todo.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict):
            todo += [each for name, each in item.items() if name not in _NOT_SAID]
        elif isinstance(item, list | tuple):
            todo += item


def _escaped(text: str) -> str:
    return text.replace("!", "!!").replace("%", "!%").replace("_", "!_")
