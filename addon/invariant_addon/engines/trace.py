"""Messages for the engine -> its input, read once for all that follows them.

A stream asks many times about one request with a little more of the reply, and the next request
repeats nearly all of it. So a `History` is kept: its events, what they select, and what single
conditions said about single events.
Differences to the library's Input, which gives the same values for what normalise.py writes:

- the order of events is a number for each, where it keeps a set of all that came before (quadratic:
  half of the time for 600 messages);
- what a type selects is looked up once, not once for each combination of variables;
- nothing is copied: the messages come out of a pipe and are nobody else's.
"""

from __future__ import annotations

import marshal
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Any

from invariant.analyzer.runtime.input import Input, Selectable
from invariant.analyzer.runtime.nodes import Message, ToolCall, ToolOutput

from .frames import Json
from .marks import Places

DATA = "data"
"""The key of the conversation itself among the parameters."""
EVENTS = frozenset({"Message", "ToolCall", "ToolOutput"})
_WHOLE = frozenset({"Input", "list"})
"""Types that select the conversation itself, and not something in each event."""


class UnorderedError(Exception):
    """`->` or `~>` between things that are no events. That is the rule's fault in every binding,
    so it must not count as a missing key, although the library raises KeyError."""


type Facts = dict[tuple[object, int], bool | BaseException]
type Passed = dict[object, tuple[int, list[Any]]]


class History:
    """Events in a row. after: those that come before them, with all that is known of them.

    others: of the one that begins with most of the same messages, what is known of them is taken
    over. They have nothing before them, and neither has this. passed: by a variable's tests, how
    many of the events that it may stand for were tried, and which of them pass (see search.py).
    """

    def __init__(
        self,
        messages: list[Json],
        after: History | None = None,
        others: Iterable[History] = (),
    ) -> None:
        self.after = after
        self._digests = [] if after else _chained(messages)
        like = max(others, key=self._shared, default=None)
        shared = self._shared(like) if like else 0
        start = len(after.events) if after else 0
        calls: dict[str, Any] = dict(after.calls) if after else {}
        self.new: list[Any] = like.new[:shared] if like else []
        for event in self.new:
            _note_calls(event, calls)
        self.facts: Facts = like.facts_about(self.new) if like else {}
        for turn in messages[len(self.new) :]:
            self.new.append(_event(turn, start + len(self.new), calls))
        self.events: list[Any] = [*after.events, *self.new] if after else self.new
        self.calls: dict[str, Any] = calls
        goes_on = like is not None and shared == len(like.new)
        self.passed: Passed = dict(like.passed) if like and goes_on else {}
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

    def _shared(self, other: History) -> int:
        """With how many messages both begin."""
        ours, theirs = self._digests, other._digests
        least, most = 0, min(len(ours), len(theirs))
        middle = most  # one of them most often goes on from the other
        while least < most:
            if ours[middle - 1] == theirs[middle - 1]:
                least = middle
            else:
                most = middle - 1
            middle = (least + most + 1) // 2
        return least

    def facts_about(self, events: list[Any]) -> Facts:
        if len(events) == len(self.new):
            return dict(self.facts)
        about = {id(item) for item in _in_order(events)}
        return {key: said for key, said in self.facts.items() if key[1] in about}

    def facts_of(self, value: Any) -> Facts | None:
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

    def before(self, selector: Any) -> list[Any] | None:
        """Of the events that `select` finds, those of the history that is kept, which are the first
        of them. None if this type is of something else."""
        name = self.type_name(selector)
        if self.history.after is None or name not in EVENTS:
            return None
        return self.history.after.select(name)

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
    _note_calls(message, calls)
    return message


def _chained(messages: list[Json]) -> list[bytes]:
    """One for each message, equal where it and all before say the same to every rule: 1 is not
    true, and keys have an order."""
    found: list[bytes] = []
    before = b""
    for turn in messages:
        # In version 2 what is written depends on the value alone, and large texts cost little.
        before = blake2b(marshal.dumps(turn, 2), digest_size=16, key=before).digest()
        found.append(before)
    return found


def _note_calls(event: Any, calls: dict[str, Any]) -> None:
    if type(event) is Message:
        calls.update((call.id, call) for call in event.tool_calls)


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
