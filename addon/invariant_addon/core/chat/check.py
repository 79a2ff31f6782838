"""Whether a streamed chunk can be merged: its shape is checked before any of it is.

What ChunkMerger could not merge without losing some of it is refused here.
"""

from __future__ import annotations

from typing import Any

from ..errors import NotUnderstoodError
from ..json_text import check_duplicates
from .limits import MAX_CALLS, MAX_CHOICES, MAX_INDEX, check_count

_NAMES = frozenset(
    (
        *("choices", "delta", "message", "content", "role", "tool_calls", "function_call"),
        *("function", "custom", "name", "arguments", "input"),
    )
)
_CALLING = tuple(
    f'"{name}"'
    for name in ("tool_calls", "function_call", "function", "custom", "name", "arguments", "input")
)


def check_keys_once(data: str, keys: int) -> None:
    """Refuse a chunk with a key that comes twice in one object: see check_duplicates.

    keys: how many keys it has at least, as decoded. If its text has no more colons, none was lost.
    Reading the whole text again is only for where it could find one: most chunks have each of
    these keys once, in letters that are not escaped.
    """
    count = data.count
    if count(":") <= keys:
        return
    if (
        count('"content"') > 1
        or count('"delta"') > 1
        or count('"choices"') > 1
        or count('"message"') > 1
        or count('"role"') > 1
        or "\\u" in data
        or (('"tool_calls"' in data or '"function_call"' in data) and _has_calling_key_twice(data))
    ):
        check_duplicates(data, _NAMES)


def _has_calling_key_twice(data: str) -> bool:
    return any(data.count(key) > 1 for key in _CALLING)


def check_chunk(chunk: Any) -> tuple[int, int]:
    """Refuse what Choice.merge, which is total, could not read, and more than limits.py allow.

    The result: how many keys the usual objects of the chunk have, and how many pieces of calls.
    """
    if type(chunk) is not dict:
        raise NotUnderstoodError("a chunk is not a JSON object")
    choices = chunk.get("choices")
    if choices is None:
        return len(chunk), 0
    if type(choices) is not list:
        raise NotUnderstoodError("a chunk's choices are not a list")
    check_count(len(choices), MAX_CHOICES, "choices in a chunk")
    keys, calls = len(chunk), 0
    for choice in choices:
        if choice is None:
            continue
        if type(choice) is not dict:
            raise NotUnderstoodError("a chunk's choice is not an object")
        index = choice.get("index")
        if index is not None and (type(index) is not int or abs(index) > MAX_INDEX):
            raise NotUnderstoodError("a choice's index is not an integer")
        keys += len(choice)
        for delta in (choice.get("delta"), choice.get("message")):
            if delta is not None:
                more, pieces = _check_delta(delta)
                keys += more
                calls += pieces
    if calls:
        check_count(calls, MAX_CALLS, "pieces of tool calls in a chunk")
    return keys, calls


def _check_delta(delta: Any) -> tuple[int, int]:
    """The result is as that of check_chunk."""
    if type(delta) is not dict:
        raise NotUnderstoodError("a delta is not an object")
    content = delta.get("content")
    if content is not None and type(content) not in (str, list, dict):
        raise NotUnderstoodError("a delta's content is no text")
    if len(delta) == 1 and content is not None:
        return 1, 0
    for key in ("function_call", "audio"):
        _check_object(delta.get(key), key)
    calls = delta.get("tool_calls")
    keys = len(delta)
    if calls is None:
        return keys, 0
    if type(calls) is not list:
        raise NotUnderstoodError("a delta's tool_calls are not a list")
    for call in calls:
        _check_object(call, "tool call")
        if call is None:
            continue
        index = call.get("index")
        if index is not None and type(index) is not int:
            raise NotUnderstoodError("a tool call's index is not an integer")
        keys += len(call)
        function = call.get("function")
        _check_object(function, "function")
        if function:
            keys += len(function)
        _check_object(call.get("custom"), "custom tool")
    return keys, len(calls)


def _check_object(value: Any, what: str) -> None:
    if value is not None and type(value) is not dict:
        raise NotUnderstoodError(f"a delta's {what} is not an object")
