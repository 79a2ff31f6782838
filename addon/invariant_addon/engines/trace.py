"""Messages for the engine -> its input, read once for all that follows them.

A stream asks many times about one request with a little more of the reply. So a `History` is kept:
its events, what they select, and what single conditions said about single events.
Differences to the library's Input, which gives the same values for what normalise.py writes:

- the order of events is a number for each, where it keeps a set of all that came before (quadratic:
  half of the time for 600 messages);
- what a type selects is looked up once, not once for each combination of variables;
- nothing is copied: the messages come out of a pipe and are nobody else's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from invariant.analyzer.runtime.input import Input, Selectable
from invariant.analyzer.runtime.nodes import Message, ToolCall, ToolOutput

from .frames import Json
from .marks import Places

DATA = "data"
"""The key of the conversation itself among the parameters."""
_WHOLE = frozenset({"Input", "list"})
"""Types that select the conversation itself, and not something in each event."""


class UnorderedError(Exception):
    """`->` or `~>` between things that are no events. That is the rule's fault in every binding,
    so it must not count as a missing key, although the library raises KeyError."""


class History:
    """Events in a row. after: those that come before them, with all that is known of them."""

    def __init__(self, messages: list[Json], after: History | None = None) -> None:
        self.after = after
        start = len(after.events) if after else 0
        calls: dict[str, Any] = dict(after.calls) if after else {}
        self.new = [_event(turn, start + i, calls) for i, turn in enumerate(messages)]
        self.events: list[Any] = [*after.events, *self.new] if after else self.new
        self.calls: dict[str, Any] = calls
        self.facts: dict[tuple[object, int], bool | BaseException] = {}
        self._selected: dict[str, list[Any]] = {}
        self._order: dict[int, int] | None = None

    def select(self, type_name: str) -> list[Any]:
        found = self._selected.get(type_name)
        if found is None:
            found = _selected(self.new, type_name)
            if self.after:
                found = [*self.after.select(type_name), *found]
            self._selected[type_name] = found
        return found

    @property
    def order(self) -> dict[int, int]:
        """The position of each message and call, by id."""
        if self._order is None:
            self._order = dict(self.after.order) if self.after else {}
            for item in _in_order(self.new):
                self._order.setdefault(id(item), len(self._order))
        return self._order

    def facts_of(self, value: Any) -> dict[tuple[object, int], bool | BaseException] | None:
        """Where to keep what is known of this message or call: as long as it lives itself.

        None for anything else: the id of a text that a rule made is soon another's.
        """
        if self.after and id(value) in self.after.order:
            return self.after.facts
        return self.facts if id(value) in self.order else None


class Trace(Input):  # type: ignore[misc]  # the library has no types
    """The library's Input over a history.

    parameters: what a rule reads as `input.<key>`, beside `input.data`, which is this. A parameter
    of that name hides nothing and is not read: then the key counts as not set.
    """

    def __init__(self, history: History, parameters: dict[str, Json] | None = None) -> None:
        self.history = history
        self.data = history.events
        self._given = parameters or {}
        self._places: Places | None = None

    @property
    def parameters(self) -> dict[str, Any]:
        """For the library's context."""
        if DATA in self._given:
            return {key: value for key, value in self._given.items() if key != DATA}
        return {**self._given, DATA: self}

    @property
    def places(self) -> Places:
        if self._places is None:
            self._places = Places(self.data)
        return self._places

    def select(self, selector: Any, data: Any = "<root>") -> Any:
        name = self.type_name(selector)
        if type(data) is not str or data != "<root>" or name in _WHOLE:
            return super().select(selector, data)
        return self.history.select(name)

    def has_flow(self, a: Any, b: Any) -> bool:
        first, second = self._positions(a, b)
        return first < second

    def is_parent(self, a: Any, b: Any) -> bool:
        first, second = self._positions(a, b)
        return first + 1 == second

    def _positions(self, a: Any, b: Any) -> tuple[int, int]:
        order = self.history.order
        if id(a) not in order or id(b) not in order:
            raise UnorderedError
        return order[id(a)], order[id(b)]


def _event(turn: Any, index: int, calls: dict[str, Any]) -> Any:
    metadata = {"trace_idx": index}
    if turn["role"] == "tool":
        output = ToolOutput(**turn, metadata=metadata)
        output._tool_call = calls.get(turn["tool_call_id"])
        return output
    message = Message(**turn, metadata=metadata)
    for call in message.tool_calls:
        call.metadata["trace_idx"] = index
        calls[call.id] = call
    return message


def _selected(events: list[Any], type_name: str) -> list[Any]:
    """As the library does it, which looks for messages and calls in every text, too."""
    if type_name in ("Message", "ToolOutput"):
        return [event for event in events if type(event).__name__ == type_name]
    if type_name == "ToolCall":
        return [call for event in events if type(event) is Message for call in event.tool_calls]
    return list(Selectable(events).select(type_name))


def _in_order(events: list[Any]) -> Iterator[Message | ToolCall | ToolOutput]:
    for event in events:
        yield event
        if type(event) is Message:
            yield from event.tool_calls
