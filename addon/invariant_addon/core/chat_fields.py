"""What grows beside the text of a streamed chat reply: metadata, log probabilities, thoughts."""

from __future__ import annotations

from typing import Any

from .json_text import carries_text, encode


class Details:
    """OpenRouter's reasoning_details: entries with an index go on, the others are whole."""

    __slots__ = ("_by_index", "_entries")

    def __init__(self) -> None:
        self._entries: list[Any] = []
        self._by_index: dict[int, tuple[dict[str, Any], dict[str, list[str]]]] = {}

    def add(self, entry: Any) -> None:
        index = entry.get("index") if isinstance(entry, dict) else None
        if type(index) is not int:
            self._entries.append(entry)
            return
        if index not in self._by_index:
            self._by_index[index] = ({}, {})
            self._entries.append(self._by_index[index])
        fields, texts = self._by_index[index]
        for key, value in entry.items():
            if key in ("text", "summary", "data") and isinstance(value, str):
                texts.setdefault(key, []).append(value)
            elif value is not None:
                fields[key] = value

    def value(self) -> list[Any]:
        return [
            {**entry[0], **{key: "".join(pieces) for key, pieces in entry[1].items()}}
            if isinstance(entry, tuple)  # JSON has no tuples: it is one of ours
            else entry
            for entry in self._entries
        ]


class Metadata:
    """Fields around the text: counts, filter results, sources. No rule reads them.

    An object is updated, a list grows, of anything else the last value counts; null never does.
    """

    __slots__ = ("_last", "values")

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self._last: dict[str, Any] = {}

    def merge(self, fields: dict[str, Any], known: frozenset[str]) -> None:
        for key, value in fields.items():
            if value is None or key in known:
                continue
            # A list that comes again unchanged (Perplexity's citations) is the same list.
            if self._last.get(key) == value:
                continue
            self._last[key] = value
            old = self.values.get(key)
            if isinstance(value, dict):
                self.values[key] = {**old, **value} if isinstance(old, dict) else value
            elif isinstance(value, list):
                self.values[key] = extended(old, value)
            else:
                self.values[key] = value


def extended(old: Any, new: list[Any]) -> list[Any]:
    """`old` with `new` at its end, in place once it is our own list."""
    if isinstance(old, list):
        old += new
        return old
    return list(new)


def token_text(entry: Any) -> str:
    token = entry.get("token") if isinstance(entry, dict) else None
    if isinstance(token, str):
        return token
    return encode(entry) if carries_text(entry) else ""
