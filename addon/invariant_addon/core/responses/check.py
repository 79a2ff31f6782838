"""Whether an event can be merged: its shape is checked before any of it is."""

from __future__ import annotations

from typing import Any

from ..errors import NotUnderstoodError
from ..json_text import check_duplicates
from .bodies import ITEM_NAMES
from .event import DELTAS

_MAX_INDEX = 100_000
_INDEXES = ("output_index", "content_index", "summary_index")
_NAMES = ITEM_NAMES.union(
    ("delta", "item", "response", "part", "annotation", "diff", "command", "item_id", *_INDEXES)
)
_COUNTED = tuple(f'"{name}"' for name in sorted(_NAMES))


def check_event(event: Any, data: str) -> None:
    """Raise NotUnderstoodError for what is no event, and for what may read otherwise elsewhere.

    data: what the event was decoded from.
    """
    if type(event) is not dict:
        raise NotUnderstoodError("an event is not a JSON object")
    if not isinstance(event.get("type"), str | None):
        raise NotUnderstoodError("an event's type is no text")
    for key in _INDEXES:
        index = event.get(key)
        if index is not None and (type(index) is not int or not 0 <= index <= _MAX_INDEX):
            raise NotUnderstoodError(f"an event's {key} is no index")
    if event.get("type") in _TEXTS:
        delta = event.get("delta")
        if delta is not None and type(delta) is not str:
            raise NotUnderstoodError("a delta is no text")
        is_plain = True
    else:
        is_plain = not any(value and isinstance(value, dict | list) for value in event.values())
    # No more colons than keys: none was lost. Else only where a key could come twice.
    if is_plain and (data.count(":") <= len(event) or not _may_hide(data)):
        return
    check_duplicates(data, _NAMES)


_TEXTS = frozenset(DELTAS)


def _may_hide(data: str) -> bool:
    return "\\u" in data or any(data.count(name) > 1 for name in _COUNTED)
