"""What a rule pointed at -> addresses, by one index of the conversation.

The library notes an object's id for each place and then walks the whole conversation for every
hit: 200 tool calls that all match took two minutes. And it takes the first object with that id,
but Python keeps one object for equal short texts: a hit on the content "x" of the last message was
shown at the first. Here a place inside what the rule's variables stand for goes first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from invariant.analyzer.runtime.nodes import Contents, Event
from pydantic import BaseModel

from .base import MAX_ADDRESSES

MAX_MARKS = 1024
"""Places that are kept of one evaluation: `find` may give a million of them."""

_NOT_SENT = frozenset({"metadata", "server"})
"""Fields of the library's own, which are in no message."""


class Mark(NamedTuple):
    """An object by its id; start and end if it is a part of a text."""

    object_id: int
    start: int | None = None
    end: int | None = None


def mark(self: Any, obj: object, start: int | None = None, end: int | None = None) -> None:
    """Replaces Interpreter.mark, which recurses to its parents and builds a model each time."""
    found = Mark(id(obj), start, end)
    interpreter = self
    while interpreter is not None:
        if len(interpreter.ranges) < MAX_MARKS:
            interpreter.ranges.append(found)
        interpreter = interpreter.parent


class Places:
    """Where the objects of a conversation are."""

    def __init__(self, events: Sequence[Any]) -> None:
        self._by_id: dict[int, list[tuple[int, str]]] = {}
        for number, (path, value) in enumerate(_walk(events, "")):
            self._by_id.setdefault(id(value), []).append((number, path))

    def addresses(self, marks: Iterable[Mark], bound: Iterable[Any]) -> list[str]:
        """Of these marks, in the order of the conversation. bound: values of the variables."""
        events = [value for value in bound if isinstance(value, Event)]
        within = tuple(path for event in events for _, path in self._by_id.get(id(event), ()))
        found = {
            (number, m.start or 0, path if m.start is None else f"{path}:{m.start}-{m.end}")
            for m in marks
            for number, path in self._nearest(m, within)
        }
        return [address for _, _, address in sorted(found)[:MAX_ADDRESSES]]

    def _nearest(self, found: Mark, within: tuple[str, ...]) -> list[tuple[int, str]]:
        places = self._by_id.get(found.object_id, [])
        if len(places) > 1:
            inside = [p for p in places if any(_is_inside(p[1], path) for path in within)]
            return inside or places[:1]
        return places


def _is_inside(path: str, outer: str) -> bool:
    return path == outer or path.startswith(outer + ".")


def _walk(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """All objects below, each after what holds it. No recursion: arguments may be deep."""
    todo = [(path, value)]
    while todo:
        path, value = todo.pop()
        if path:
            yield path, value
        todo.extend(reversed([(f"{path}.{key}" if path else key, v) for key, v in _parts(value)]))


def _parts(value: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(value, dict):
        return ((str(key), v) for key, v in value.items())
    if isinstance(value, list | Contents):
        return ((str(i), v) for i, v in enumerate(value))
    if isinstance(value, BaseModel):
        return (
            (name, v)
            for name in type(value).model_fields
            if name not in _NOT_SENT and (v := getattr(value, name)) is not None
        )
    return ()
