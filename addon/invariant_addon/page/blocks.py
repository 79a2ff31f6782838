"""A message -> blocks that the page shows: texts, reasoning, calls with their arguments."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from ..core.conversation import Message, Part
from ..core.errors import NotUnderstoodError
from ..core.json_text import encode
from ..core.located import texts_at
from ..core.trace import Json
from ..engines.normalise import arguments
from .marking import LONGEST, Range, pieces

_MOST_MEMBERS = 400
_DEEPEST = 8
_OPAQUE = 300
_BUDGET = 2_000_000
"""Characters of a conversation that are sent; when they are used up, texts are cut short."""
_SHORT = 1_000
ALL = -1
"""The end of a range that is all of a text."""


@dataclass(slots=True)
class Budget:
    left: int = _BUDGET

    @property
    def longest(self) -> int:
        return LONGEST if self.left > 0 else _SHORT


@dataclass(frozen=True, slots=True)
class Withheld:
    """From which character of its text on, and whether its calls, did not reach the client."""

    text_from: int | None = None
    calls: bool = False


class Writer:
    def __init__(
        self, ranges: Mapping[str, list[Range]], masked: frozenset[str], budget: Budget | None
    ) -> None:
        self._ranges = ranges
        self._masked = masked
        self._budget = budget
        self._members = 0

    def blocks(self, message: Message, withheld: Withheld) -> Iterator[dict[str, Json]]:
        for text in texts_at(message, "reasoning", arguments):
            if text.whole:
                yield {"kind": "reasoning", "pieces": self._pieces("reasoning", text.whole)}
        if message.text:
            shown = self._pieces("content", message.text, withheld.text_from)
            yield {"kind": "text", "pieces": shown}
        if self._ranges.get("other"):  # a place in what is not text is a place in all of it
            whole = texts_at(message, "other", arguments)[0].whole
            yield {"kind": "other", "pieces": self._pieces("other", whole)}
        else:
            yield from (_media(part) for part in message.parts if _is_media(part))
        for index, call in enumerate(message.tool_calls[:_MOST_MEMBERS]):
            path = f"tool_calls.{index}.function"
            yield {
                "kind": "call",
                "name": self._pieces(f"{path}.name", call.name),
                "id": call.id,
                "members": list(self._values(arguments(call), f"{path}.arguments", 0)),
                "withheld": withheld.calls,
                "about": [r.finding for r in self._ranges.get(f"tool_calls.{index}", ())],
            }

    def _pieces(self, path: str, text: str, withheld_from: int | None = None) -> list[Json]:
        found = self._ranges.get(path, ())
        shown = pieces(
            text,
            [replace(r, end=len(text)) if r.end == ALL else r for r in found],
            withheld_from=withheld_from,
            masked=self._masked,
            longest=None if self._budget is None else self._budget.longest,
        )
        if self._budget is not None:
            self._budget.left -= sum(len(piece.get("t", "")) for piece in shown)
        return shown

    def _values(self, value: Json, path: str, depth: int) -> Iterator[dict[str, Json]]:
        """What is in an object or a list: a row for each member, deeper ones further in."""
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            self._members += 1
            if self._members > _MOST_MEMBERS:
                yield {"key": "…", "depth": depth, "pieces": [{"cut": 0}]}
                return
            here = f"{path}.{key}"
            row: dict[str, Json] = {"key": str(key)[:_OPAQUE], "depth": depth}
            if isinstance(item, dict | list) and item and depth < _DEEPEST:
                yield row
                yield from self._values(item, here, depth + 1)
            elif isinstance(item, str):
                yield row | {"pieces": self._pieces(here, item), "text": True}
            else:
                yield row | {"pieces": self._pieces(here, written(item))}


def _is_media(part: Part) -> bool:
    return part.kind in ("image", "audio", "file", "other")


def _media(part: Part) -> dict[str, Json]:
    if part.kind == "other":
        return {"kind": "other", "pieces": pieces(part.text)}
    return {"kind": part.kind, "pieces": pieces(part.text[:_OPAQUE])}


def written(value: Json, *, indent: bool = False) -> str:
    try:
        if indent:
            return json.dumps(value, ensure_ascii=False, indent=2)
        return encode(value)
    except (NotUnderstoodError, RecursionError, ValueError):
        return "[nested too deeply]"
