"""What of a streamed item is no text: a call in all the ways that it was said.

It is said when it begins, in pieces, as `*.done`, as a whole item, and perhaps again. A saying
that is only the beginning of another one says nothing; any other that differs is a call too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..chat.limits import MAX_PARTS, check_count
from ..conversation import Part, ToolCall
from .items import read_item, readable, spoken

_MAX_VALUES = 16
"""Times that one item may be said as a whole; two are usual."""

type Reading = tuple[list[Part], list[ToolCall]]


class Sayings:
    """Of one item."""

    __slots__ = ("_pieces", "_read", "_values", "_wholes")

    def __init__(self) -> None:
        self._values: list[dict[str, Any]] = []
        self._pieces: dict[str, list[str]] = {}
        self._wholes: list[Any] = []
        self._read: Reading | None = None

    def __bool__(self) -> bool:
        return bool(self._values or self._pieces or self._wholes)

    def add_item(self, value: dict[str, Any]) -> bool:
        """The item as a whole. Whether it says anything."""
        check_count(len(self._values) + 1, _MAX_VALUES, "versions of an item")
        self._values.append(value)
        self._read = None
        return any(strings_of(readable(value)))

    def add_piece(self, what: str, text: str) -> None:
        self._pieces.setdefault(what, []).append(text)
        check_count(len(self._pieces), MAX_PARTS, "parts of a call")
        self._read = None

    def add_whole(self, value: Any) -> None:
        self._wholes.append(value)
        check_count(len(self._wholes), MAX_PARTS, "parts of a call")
        self._read = None

    def reading(self) -> Reading:
        """The calls, and what else there is to read."""
        if self._read is None:
            self._read = self._readings()
        return self._read

    def _readings(self) -> Reading:
        parts: dict[Part, None] = {}
        calls: dict[tuple[str, str, str], ToolCall] = {}
        known: set[str] = set()
        for value in self._different():
            known.update(strings_of(readable(value)))
            for message in read_item(value, "assistant"):
                parts.update(dict.fromkeys(spoken(message, value)))
                for call in message.tool_calls:
                    calls[call.name, call.arguments, call.kind] = call
                    known.add(call.arguments)
        first = next(iter(calls.values()), None)
        for text in self._strays(known):
            if first is None:
                parts[Part("other", text)] = None
            else:
                key = first.name, text, first.kind
                calls[key] = ToolCall(first.id, first.name, text, first.kind)
        named = {call.name for call in calls.values() if call.arguments}
        # A name, and nothing to call it with: it had only begun.
        whole = [call for call in calls.values() if call.arguments or call.name not in named]
        return list(parts), whole

    def _different(self) -> list[dict[str, Any]]:
        """The newest first, without those that are the beginning of another one."""
        found: list[dict[str, Any]] = []
        for value in reversed(self._values):
            kind = value.get("type")
            if not any(
                other.get("type") == kind and _is_beginning(readable(value), readable(other))
                for other in found
            ):
                found.append(value)
        return found

    def _strays(self, known: set[str]) -> Iterator[str]:
        """What was said beside the item, and is not in it."""
        for pieces in self._pieces.values():
            if len(pieces) > 1:
                pieces[:] = ["".join(pieces)]
            if pieces[0] and pieces[0] not in known:
                yield pieces[0]
        for whole in self._wholes:
            texts = [whole] if isinstance(whole, str) else strings_of(whole)
            yield from (text for text in texts if text and text not in known)


def strings_of(value: Any) -> list[str]:
    """All strings in a JSON value, keys and numbers included. No recursion: the nesting is the
    sender's choice."""
    found: list[str] = []
    todo = [value]
    while todo:
        one = todo.pop()
        if isinstance(one, str):
            found.append(one)
        elif isinstance(one, dict):
            found += one.keys()
            todo += one.values()
        elif isinstance(one, list):
            todo += one
        elif one is not None:
            found.append(repr(one))
    return found


def _is_beginning(left: Any, right: Any) -> bool:
    """Whether `right` is `left` with what was still empty in it."""
    todo = [(left, right)]
    while todo:
        one, other = todo.pop()
        if one is None or one in ("", other):
            continue
        if isinstance(one, dict) and isinstance(other, dict):
            if not one.keys() <= other.keys():
                return False
            todo += ((item, other[key]) for key, item in one.items())
        elif isinstance(one, list) and isinstance(other, list) and len(one) <= len(other):
            todo += zip(one, other, strict=False)
        else:
            return False
    return True
