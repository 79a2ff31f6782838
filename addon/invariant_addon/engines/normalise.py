"""Messages -> what invariant-ai reads in every shape, and its addresses back to ours.

The engine raises on much of what OpenAI clients send: null content, malformed arguments, tool
results without a call (facts: 298 of 700 cells). So it only ever sees the few shapes built here:

- content is a text, never null: `Message.text`;
- reasoning is judged apart, in a message of role "reasoning" just before its message; images,
  files and what nobody knows in one of role "other";
- arguments are an object: parsed, or `{"__raw__": text}` if malformed, `{"__value__": v}` if not
  an object (each with what a lenient client would read, see leniently.py), `{"input": text}` for
  custom tools, cut to JSON text below MAX_DEPTH; of a key that comes twice the last value counts,
  as in most languages, and the others are `__hidden_1__` and so on: a model reads all of them;
- every call has an id, and a tool result names a call that exists, or none.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..core.conversation import Message, ToolCall
from ..core.verdict import Address
from .frames import Json
from .leniently import repaired

MAX_DEPTH = 80
"""Levels of arguments that the engine may walk: it recurses a few frames for each."""

MAX_DIGITS = 4000
"""Longer integers stay text: Python refuses to convert more than 4300 digits."""

_ASIDES = {
    "reasoning": "reasoning",
    "other": "other",
    "image": "other",
    "audio": "other",
    "file": "other",
}
_ADDRESS = re.compile(r"(?:messages\.)?(\d+)(?:\.(.*?))?(?::(\d+)-(\d+))?\Z", re.DOTALL)
_HIDDEN = re.compile(r"(_+)hidden_")
_RAW = ".function.arguments.__raw__"


@dataclass(frozen=True, slots=True)
class Place:
    """Where an engine message comes from.

    message: index of ours. aside: "" for the message itself, else which of its asides.
    """

    message: int
    aside: str = ""


@dataclass(frozen=True, slots=True)
class Digest:
    """Messages for the engine, and what is needed to go on after them.

    messages: only the new ones. places: one for each engine message, those before included.
    count: how many of our messages are behind this. ids: of all tool calls so far.
    unanswered: id and name of the calls that have no result yet, oldest first.
    """

    messages: tuple[dict[str, Json], ...] = ()
    places: tuple[Place, ...] = ()
    count: int = 0
    ids: frozenset[str] = frozenset()
    unanswered: tuple[tuple[str, str], ...] = ()


def normalise(messages: Sequence[Message], after: Digest | None = None) -> Digest:
    """Digest of these messages, as the continuation of those in `after`."""
    writer = _Writer(after or Digest())
    for message in messages:
        writer.write(message)
    return writer.digest()


def locate(address: str, places: Sequence[Place]) -> Address | None:
    """Our address for one of the engine's, such as `messages.1.content:0-2` or `1.content:0-2`.

    None if it is not an address or points at nothing.
    """
    match = _ADDRESS.match(address)
    if match is None or int(match[1]) >= len(places):
        return None
    place = places[int(match[1])]
    path = match[2] or ""
    start, end = (int(match[3]), int(match[4])) if match[3] else (None, None)
    if place.aside:
        if path != "content":
            start = end = None
        return Address(place.message, place.aside, start, end)
    if path.endswith(_RAW):  # the malformed text is the arguments, our key is not on the wire
        path = path.removesuffix(".__raw__")
    return Address(place.message, path, start, end)


def arguments(call: ToolCall) -> dict[str, Json]:
    """A call's arguments as an object, whatever they were on the wire. Never raises."""
    if call.kind == "custom":
        return {"input": call.arguments}
    if not call.arguments or call.arguments.isspace():
        return {}
    hidden: list[Json] = []

    def last(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
        found = dict(pairs)
        if len(found) != len(pairs):
            hidden.extend(v for key, v in pairs if v != found[key])
        return found

    try:
        value: Json = json.loads(
            call.arguments,
            object_pairs_hook=last,
            parse_int=_integer,
            parse_float=_number,
            parse_constant=str,
        )
        if not isinstance(value, dict):
            value = {**repaired(call.arguments), "__value__": value}
        # A key that is there is not to be hidden by ours.
        depth = max((len(m[1]) for m in map(_HIDDEN.match, value) if m), default=1)
        more = {f"{'_' * (depth + 1)}hidden_{n}__": v for n, v in enumerate(hidden, 1)}
        return {key: _cut(v, MAX_DEPTH - 1) for key, v in {**value, **more}.items()}
    except (ValueError, RecursionError):
        return {**repaired(call.arguments), "__raw__": call.arguments}


class _Writer:
    def __init__(self, after: Digest) -> None:
        self._messages: list[dict[str, Json]] = []
        self._places = list(after.places)
        self._count = after.count
        self._ids = set(after.ids)
        self._unanswered = dict(after.unanswered)
        self._by_name: dict[str, list[str]] | None = None  # made when it is first needed

    def digest(self) -> Digest:
        return Digest(
            tuple(self._messages),
            tuple(self._places),
            self._count,
            frozenset(self._ids),
            tuple(self._unanswered.items()),
        )

    def write(self, message: Message) -> None:
        for aside, text in _asides(message).items():
            self._add({"role": aside, "content": text}, aside)
        if message.role == "tool":
            if message.tool_calls:  # a result cannot call, but what is there must be seen
                self._add({"role": "other", "content": "", "tool_calls": self._calls(message)})
            self._add(
                {"role": "tool", "content": message.text, "tool_call_id": self._answered(message)}
            )
        else:
            turn: dict[str, Json] = {"role": message.role or "unknown", "content": message.text}
            if message.tool_calls:
                turn["tool_calls"] = self._calls(message)
            self._add(turn)
        self._count += 1

    def _add(self, turn: dict[str, Json], aside: str = "") -> None:
        self._messages.append(turn)
        self._places.append(Place(self._count, aside))

    def _calls(self, message: Message) -> Json:
        calls: list[Json] = []
        for index, call in enumerate(message.tool_calls):
            call_id = call.id or self._new_id(index)
            self._ids.add(call_id)
            self._unanswered.pop(call_id, None)  # a client that reuses ids: the newest counts
            self._unanswered[call_id] = call.name
            if self._by_name is not None:
                self._by_name.setdefault(call.name, []).append(call_id)
            function: Json = {"name": call.name, "arguments": arguments(call)}
            calls.append({"id": call_id, "type": "function", "function": function})
        return calls

    def _new_id(self, index: int) -> str:
        call_id = f"call_{self._count}_{index}"
        while call_id in self._ids:
            call_id += "_"
        return call_id

    def _answered(self, message: Message) -> str | None:
        """The call that a tool result answers. None, not a missing key: for that the engine
        takes the last call there was."""
        call_id = message.tool_call_id
        if not call_id and message.name:
            call_id = self._newest_of(message.name)
        if not call_id or call_id not in self._ids:
            return None
        self._unanswered.pop(call_id, None)
        return call_id

    def _newest_of(self, name: str) -> str | None:
        """The newest call of this function that has no result yet."""
        if self._by_name is None:
            self._by_name = {}
            for call_id, called in self._unanswered.items():
                self._by_name.setdefault(called, []).append(call_id)
        waiting = self._by_name.get(name, [])
        while waiting and self._unanswered.get(waiting[-1]) != name:
            waiting.pop()  # it was answered by its id
        return waiting[-1] if waiting else None


def _asides(message: Message) -> dict[str, str]:
    asides: dict[str, list[str]] = {"reasoning": [], "other": []}
    for part in message.parts:
        if part.text and part.kind in _ASIDES:
            asides[_ASIDES[part.kind]].append(part.text)
    if message.joined is not None:  # a word may be split over two parts
        asides["other"].append(message.joined)
    return {aside: "\n".join(texts) for aside, texts in asides.items() if texts}


def _integer(digits: str) -> int | str:
    return int(digits) if len(digits) <= MAX_DIGITS else digits


def _number(text: str) -> float | str:
    value = float(text)
    return value if math.isfinite(value) else text


def _cut(value: Json, depth: int) -> Json:
    if not isinstance(value, dict | list):
        return value
    if depth <= 0:
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, dict):
        return {key: _cut(v, depth - 1) for key, v in value.items()}
    return [_cut(v, depth - 1) for v in value]
