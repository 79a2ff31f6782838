"""Where in a request's JSON a message's texts are: what masking has to know of a dialect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from .request_fields import SETTINGS

BESIDE = -1
"""Stands for all messages that are nowhere on the wire as messages (they come last)."""

_LABELS = frozenset(
    ("role", "type", "id", "tool_call_id", "call_id", "index", "file_id", "format", "detail")
)
"""Keys whose values have to be what they are, or upstream refuses the request."""
_CALLS = ("function", "custom", "function_call")


class Spot(NamedTuple):
    """A place in a request that belongs to a message.

    message: its index, or BESIDE. arguments: how many steps of the path lead to a call's
    arguments, if the place is in one; what is at that place is JSON text if it is a string.
    is_label: what stands here has to stay as it is.
    """

    message: int
    arguments: int | None = None
    is_label: bool = False


class Layout(Protocol):
    """Of one request."""

    @property
    def on_wire(self) -> int:
        """How many messages have a place of their own; the others are BESIDE."""

    def spot(self, path: list[str | int]) -> Spot | None:
        """What is at this path (keys and positions); None if it is not judged."""


@dataclass(frozen=True, slots=True)
class _ChatLayout:
    on_wire: int

    def spot(self, path: list[str | int]) -> Spot | None:
        if not path:
            return None
        message, top = BESIDE, 1
        if path[0] == "messages":
            if len(path) < 2 or not isinstance(path[1], int):
                return None
            message, top = path[1], 2
        elif path[0] in SETTINGS:
            return None
        below = path[top : top + 5]  # that much tells what it is
        within = _arguments_at(below)
        return Spot(message, None if within is None else top + within, _is_label(path[-1], below))


def chat_layout(request: Any) -> Layout:
    messages = request.get("messages") if isinstance(request, dict) else None
    return _ChatLayout(len(messages) if isinstance(messages, list) else 0)


@dataclass(frozen=True, slots=True)
class _PromptLayout:
    """Of a legacy completion: each prompt is a message."""

    on_wire: int

    def spot(self, path: list[str | int]) -> Spot | None:
        if not path or path[0] in SETTINGS:
            return None
        if path[0] != "prompt":
            return Spot(BESIDE, None, len(path) > 1 and path[-1] in _LABELS)
        return Spot(path[1] if len(path) > 1 and isinstance(path[1], int) else 0)


def prompt_layout(request: Any) -> Layout:
    prompt = request.get("prompt") if isinstance(request, dict) else None
    return _PromptLayout(len(prompt) if isinstance(prompt, list) else 1)


class _NoLayout:
    """Of a request without places for placeholders: what is to be masked in it blocks it."""

    on_wire = 0

    def spot(self, path: list[str | int]) -> None:
        return None


def no_layout(request: Any) -> Layout:
    return _NoLayout()


def _arguments_at(below: list[str | int]) -> int | None:
    """How many steps below its message a call's arguments are, if this path leads there."""
    match below:
        case ["tool_calls", int(), "function", "arguments", *_]:
            return 4
        case ["tool_calls", int(), "arguments", *_]:
            return 3
        case ["function_call", "arguments", *_]:
            return 2
    return None


def _is_label(last: str | int, below: list[str | int]) -> bool:
    if not below:
        return False
    if last != "name":
        return last in _LABELS
    match below:
        case ["name"] | ["function_call", "name"] | ["tool_calls", int(), "name"]:
            return True
        case ["tool_calls", int(), str(kind), "name"]:
            return kind in _CALLS
    return False
