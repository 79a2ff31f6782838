"""Where the messages of a Responses request stand in its JSON, for masks (see layout.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..layout import BESIDE, Layout, Spot
from ..request_fields import SETTINGS
from .bodies import ON_WIRE, placed
from .items import result_keys

_LABELS = frozenset(
    (
        *("role", "type", "id", "call_id", "item_id", "status", "phase", "index", "file_id"),
        *("format", "detail", "encrypted_content", "fingerprint", "container_id", "namespace"),
        *("approval_request_id", "server_label", "caller_id", "execution"),
    )
)
"""Keys whose values have to be what they are, or upstream refuses the request."""
_BESIDE = ("messages", "prediction", "system", "prompt")
_CALLED = ("function_call", "mcp_call", "mcp_approval_request", "tool_search_call")


@dataclass(frozen=True, slots=True)
class _ResponsesLayout:
    """numbers: of the first message that stands at a path. calls: paths of items whose arguments
    are JSON. results: keys that the second message of an item is read from."""

    on_wire: int
    numbers: dict[tuple[str | int, ...], int]
    calls: frozenset[tuple[str | int, ...]]
    results: dict[tuple[str | int, ...], tuple[str, ...]]

    def spot(self, path: list[str | int]) -> Spot | None:
        if not path:
            return None
        if path[0] in _BESIDE:
            return Spot(BESIDE, is_label=path[0] == "prompt" and path[1:2] != ["variables"])
        if path[0] not in ON_WIRE:
            is_setting = path[0] in SETTINGS
            is_label = len(path) > 1 and path[-1] in _LABELS
            return None if is_setting else Spot(BESIDE, is_label=is_label)
        at = tuple(path[:2])
        number = self.numbers.get(at)
        if number is None:
            at = tuple(path[:1])
            number = self.numbers.get(at)
            if number is None:
                return None
            return Spot(number, is_label=len(path) > 1 and path[-1] in _LABELS)
        if path[2:3] and path[2] in self.results.get(at, ()):
            number += 1
        is_call = at in self.calls and path[2:3] == ["arguments"]
        is_name = path[2:] == ["name"]
        is_label = len(path) > 2 and (path[-1] in _LABELS or is_name)
        return Spot(number, 3 if is_call else None, is_label)


def responses_layout(request: Any) -> Layout:
    if not isinstance(request, dict):
        return _ResponsesLayout(0, {}, frozenset(), {})
    numbers: dict[tuple[str | int, ...], int] = {}
    calls = set()
    results: dict[tuple[str | int, ...], tuple[str, ...]] = {}
    count = 0
    for path, messages in placed(request):
        numbers[path] = count
        count += len(messages)
        if len(path) == 2:
            item = request[path[0]][path[1]]
            if isinstance(item, dict) and item.get("type") in _CALLED:
                calls.add(path)
            if len(messages) > 1:
                results[path] = result_keys(item)
    return _ResponsesLayout(count, numbers, frozenset(calls), results)
