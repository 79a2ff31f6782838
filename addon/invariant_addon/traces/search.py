"""A text in what was said: a condition in SQL, and the function that reads the bodies for it.

The beginnings of what was asked and said are columns; the rest is in the bodies, where the text is
looked for as JSON spells it, and then in the strings themselves, so that no name of a field is
found. Upper and lower case are alike.
"""

from __future__ import annotations

import json
import re
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
_PLAIN = re.compile(r"[0-9A-HJL-Za-hjl-z ]+")
"""What JSON spells in one way only, and what is no other letter's small one: not i (U+0130) and k
(the sign of the kelvin)."""


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
        if _spelled(text, data).lower() not in data.lower():
            return False
        trace = codec.read(data)
    except codec.CodecError:
        return False
    strings = _strings([*trace.messages, *trace.choices])
    if text.isascii():
        return any(_bytes(text) in _bytes(each) for each in strings)
    return any(text.lower() in each.lower() for each in strings)


def _spelled(text: str, body: bytes) -> bytes:
    """What is in this body if it says that, apart from the case of ASCII.

    The two cases of other letters are different bytes: there, what the text has of ASCII.
    """
    if not text.isascii():
        return max(_PLAIN.findall(text), key=len, default="").encode()
    return json.dumps(text)[1:-1].encode() if codec.is_ascii(body) else orjson.dumps(text)[1:-1]


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
