"""JSON text to values and back, as leniently as the clients behind the proxy read it.

orjson first, because it is fast. What it refuses is tried again with the standard library, since
that is what Python clients and servers use: NaN, lone surrogates, deep nesting, a BOM, UTF-16.
What neither reads is not understood.
"""

from __future__ import annotations

import json
from collections.abc import Set
from typing import Any

import orjson

from .errors import NotUnderstoodError

MAX_DEPTH = 1200
"""Levels of nesting. orjson reads 1024; the standard library goes on to what the C stack bears
(1500 in Python 3.12), and what was read must also be compared and written again."""


def decode(text: bytes | str) -> Any:
    """The value of a JSON text. Of equal keys the last one wins.

    Strings may hold lone surrogates. Raises NotUnderstoodError.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        pass
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):  # ValueError: bad JSON, bad UTF-8, an endless number
        raise NotUnderstoodError("not JSON") from None
    if _deeper_than(value, MAX_DEPTH):
        raise NotUnderstoodError(f"JSON nested deeper than {MAX_DEPTH} levels")
    return value


def check_duplicates(text: bytes | str, names: Set[str], *, all_keys: bool = False) -> None:
    """Refuse an object that has one of these keys twice, with unequal values.

    Python, JavaScript and orjson take the last one; other languages take the first. all_keys: any
    key; the names are those that may be said. For texts that `decode` has read. Raises
    NotUnderstoodError.
    """

    def look(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            for key, value in pairs:
                if (all_keys or key in names) and found[key] != value:
                    which = f'the key "{key}"' if key in names else "a key"
                    raise NotUnderstoodError(f"{which} comes twice in one object")
        return found

    try:
        json.loads(text, object_pairs_hook=look)
    except (ValueError, RecursionError):
        raise NotUnderstoodError("not JSON") from None


def encode(value: Any) -> str:
    """The compact JSON text of what `decode` returned. Raises NotUnderstoodError."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # a lone surrogate, an integer over 64 bits, more than 254 levels
        pass
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except (ValueError, RecursionError):
        raise NotUnderstoodError("JSON that cannot be written again") from None


def as_text(value: Any) -> str:
    return value if isinstance(value, str) else encode(value)


def carries_text(value: Any) -> bool:
    """Whether a rule could read anything in it: a string with a letter in it, or a key."""
    if isinstance(value, str):
        return bool(value)
    if isinstance(value, list):
        open_lists = [value]
        while open_lists:  # no recursion: the nesting is the sender's choice
            for item in open_lists.pop():
                if isinstance(item, list):
                    open_lists.append(item)
                elif item and isinstance(item, str | dict):
                    return True
        return False
    return bool(value) and isinstance(value, dict)


def _deeper_than(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit + 1):
        level = [
            item
            for parent in level
            if isinstance(parent, dict | list)
            for item in (parent.values() if isinstance(parent, dict) else parent)
        ]
        if not level:
            return False
    return True
