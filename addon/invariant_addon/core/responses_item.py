"""One output item of a streamed Responses reply, put together from its events.

Its texts are channels of a draft, so that they flow; all else is held until the item is done, and
read as a reply that is no stream would hold it. The wire says everything up to four times (deltas,
`*.done`, `output_item.done`, the final response). Each saying is compared with what is known, and
one that differs is a text, or a call, of its own: nobody can tell which of them a client reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from .chat_limits import MAX_PARTS, MAX_UNKNOWN_CHANNELS, check_count
from .conversation import Part, PartKind, ToolCall
from .draft import ChoiceDraft, Need, TextChannel
from .responses_items import TEXT_TYPES, read_item, readable, spoken
from .responses_parts import around_text, read_part, text_of

SPOKEN = ("text", "refusal")
"""Kinds of text that a client may put together over parts and items."""

_MAX_VALUES = 16
"""Times that one item may be said as a whole; two are usual."""


class Item:
    """key: its place in the gate's choices. value: the newest object that stands for it."""

    def __init__(self, key: int, *, ended: bool) -> None:
        self.key = key
        self.draft = ChoiceDraft(finished=ended)
        self.held = True
        """Its events wait until it is done. Not so once it has begun as a text."""
        self.value: dict[str, Any] | None = None
        self.is_done = False
        self.differs = False
        """One of its texts was said in two ways, or not in pieces."""
        self._ended = ended
        self._values: list[dict[str, Any]] = []
        self._pieces: dict[str, list[str]] = {}  # of what grows, and is no text
        self._wholes: list[Any] = []  # what was said as a whole, in events of its own
        self._again: set[tuple[PartKind, str]] = set()
        self._read: tuple[list[Part], list[ToolCall]] | None = None
        self._grown: dict[str, TextChannel] = {}
        self._called = False

    # -- what events say ------------------------------------------------------------------------

    def begin(self, value: dict[str, Any]) -> None:
        """`output_item.added`."""
        is_text = _type(value) in TEXT_TYPES
        if is_text and not self._values and not self.draft.channels and not self._pieces:
            self.held = False
        elif not is_text:
            self.held = True
        self._say(value)

    def finish(self, value: dict[str, Any]) -> None:
        """`output_item.done`."""
        self._say(value)
        self.is_done = True
        self.draft.finished = True
        self._close()

    def _say(self, value: dict[str, Any]) -> None:
        check_count(len(self._values) + 1, _MAX_VALUES, "versions of an item")
        self.value = value
        if _type(value) not in TEXT_TYPES:
            self._values.append(value)
            self._touch()
            return
        for group in ("content", "summary"):
            parts = value.get(group)
            if isinstance(parts, list):
                check_count(len(parts), MAX_PARTS, "parts of a message")
                for index, part in enumerate(parts):
                    self.part(group, index, part)
        rest = {k: v for k, v in value.items() if not _is_list(k, v)}
        for message in read_item(rest, "assistant"):
            for part in spoken(message, rest):
                self.again(part.kind, part.text)
        if self.held:
            self._touch()

    def part(self, group: str, index: int, part: Any) -> None:
        """A part said as a whole."""
        if (found := text_of(part)) is None:
            for other in read_part(part):
                self.again(other.kind, other.text)
            return
        kind, text = found
        self.whole(channel_name(group, index, kind), kind, text)
        for more in around_text(part):
            self.again("other", more)

    def open_part(self) -> None:
        """A part begins: its text is known from its start."""
        if not self._values and not self.draft.channels and not self._pieces and not self.is_done:
            self.held = False

    def grow(self, name: str, kind: PartKind, text: str) -> None:
        """A text goes on."""
        if text:
            self._append(name, kind, text)

    def whole(self, name: str, kind: PartKind, text: str) -> None:
        """A text as a whole."""
        channel = self.draft.channels.get(name)
        if channel is None:
            self.differs = self.differs or (bool(text) and kind in SPOKEN)
            self.grow(name, kind, text)
        elif channel.text() != text:
            self.again(kind, text)
        if (channel := self.draft.channels.get(name)) is not None:
            self._grown[name] = channel

    def again(self, kind: PartKind, text: str) -> None:
        """Add a text unless it is known already."""
        if not text or (kind, text) in self._again:
            return
        for name, channel in self.draft.channels.items():
            if channel.kind == kind and channel.length == len(text) and channel.text() == text:
                self.need(name)
                return
        self._again.add((kind, text))
        if kind == "other":
            self.atom("other:again", text)
            return
        self.differs = self.differs or kind in SPOKEN
        name = f"again:{len(self._again)}"
        self._append(name, kind, text)
        self.close(name)

    def need(self, name: str) -> None:
        """The event that is merged needs this text, as it is."""
        self._grown[name] = self.draft.channels[name]

    def close(self, name: str) -> None:
        if (channel := self.draft.channels.get(name)) is not None:
            channel.closed = True

    def atom(self, name: str, text: str) -> None:
        """A text that is whole in itself, behind those of the same name."""
        channel = self.draft.channels.get(name)
        self._append(name, "other", "\n" + text if channel else text, atomic=True)

    def unknown(self, name: str, text: str, *, grows: bool) -> None:
        """A text of which nobody knows what it is. Only so many have a channel of their own."""
        if name not in self.draft.channels:
            others = sum(1 for each in self.draft.channels if each.startswith("other:"))
            if others >= MAX_UNKNOWN_CHANNELS:
                name, grows = "other:*", False
        if grows:
            self._append(name, "other", text)
        else:
            self.atom(name, text)

    def piece(self, what: str, text: str) -> None:
        """What is no text grows: arguments, code, a command, a patch."""
        self._pieces.setdefault(what, []).append(text)
        check_count(len(self._pieces), MAX_PARTS, "parts of a call")
        self.hold()

    def said(self, what: Any) -> None:
        """What is no text, said as a whole."""
        self._wholes.append(what)
        check_count(len(self._wholes), MAX_PARTS, "parts of a call")
        self.hold()

    def hold(self) -> None:
        self.held = True
        self._touch()

    def _touch(self) -> None:
        """An event that a client can do something with only once the item is whole."""
        self._called = True
        self._read = None
        self.draft.calling = True
        self.draft.finished = self._ended  # after `done`: not whole yet

    def _append(self, name: str, kind: PartKind, text: str, *, atomic: bool = False) -> None:
        channel = self.draft.channels.get(name)
        if channel is None:
            check_count(len(self.draft.channels) + 1, MAX_PARTS, "parts of a message")
            channel = self.draft.channels[name] = TextChannel(kind, atomic=atomic)
        channel.append(text)
        channel.closed = self._ended
        self._grown[name] = channel

    # -- for the gate ---------------------------------------------------------------------------

    def settle(self, needs: list[Need]) -> None:
        """Add what the event that was merged needs."""
        if not self._grown and not self._called:
            return
        for name, channel in self._grown.items():
            needs.append(Need(self.key, name, channel.length))
        if self._called or self.held:
            needs.append(Need(self.key, None))
        if self.held:
            self.draft.finished = self.draft.finished or self._ended
        self._grown = {}
        self._called = False

    def end(self) -> None:
        self._ended = True
        self.draft.finished = True
        self._close()

    def _close(self) -> None:
        for channel in self.draft.channels.values():
            channel.closed = True

    # -- what it is -----------------------------------------------------------------------------

    def reading(self) -> tuple[list[Part], list[ToolCall]]:
        """All that is no channel: the calls in every way that they were said, and what else."""
        if self._read is None:
            self._read = self._readings()
        return self._read

    def _readings(self) -> tuple[list[Part], list[ToolCall]]:
        parts: dict[Part, None] = {}
        calls: dict[tuple[str, str, str], ToolCall] = {}
        known: set[str] = set()
        for value in self._values_that_differ():
            known.update(strings_of(value))
            for message in read_item(value, "assistant"):
                parts.update(dict.fromkeys(spoken(message, value)))
                for call in message.tool_calls:
                    calls[call.name, call.arguments, call.kind] = call
        first = next(iter(calls.values()), None)
        for text in self._strays(known):
            if first is None:
                parts[Part("other", text)] = None
            else:
                calls[first.name, text, first.kind] = ToolCall(
                    first.id, first.name, text, first.kind
                )
        return list(parts), _without_empty(list(calls.values()))

    def _values_that_differ(self) -> Iterator[dict[str, Any]]:
        """Each time that the item was said, the last one first, unless it says nothing new: when
        it was added it had only begun."""
        known: set[str] = {""}
        for value in reversed(self._values):
            said = set(strings_of(readable(value)))
            if not said <= known or len(known) == 1:
                yield value
            known |= said

    def _strays(self, known: set[str]) -> Iterator[str]:
        """What was said and is not in the item."""
        for pieces in self._pieces.values():
            if len(pieces) > 1:
                pieces[:] = ["".join(pieces)]
            if pieces[0] and pieces[0] not in known:
                yield pieces[0]
        for whole in self._wholes:
            texts = [whole] if isinstance(whole, str) else strings_of(whole)
            yield from (text for text in texts if text and text not in known)

    def content(self) -> dict[str, Any]:
        """The item in OpenAI's form, also if it was cut."""
        value = dict(self.value or {"type": "message", "role": "assistant"})
        if self.is_done:
            return value
        texts = {name: c.text() for name, c in self.draft.channels.items() if ":" in name}
        if said := [t for name, t in texts.items() if name.startswith("content:")]:
            value["content"] = [
                {"type": "output_text", "text": text, "annotations": []} for text in said
            ]
        if said := [t for name, t in texts.items() if name.startswith("summary:")]:
            value["summary"] = [{"type": "summary_text", "text": text} for text in said]
        for _, calls in (self.reading(),):
            if calls and "arguments" in value:
                value["arguments"] = calls[-1].arguments
        return value


def channel_name(group: str, index: int, kind: PartKind) -> str:
    """Deltas and whole parts must name the same text alike."""
    if kind == "refusal":
        return f"refusal:{index}"
    if kind == "reasoning":
        return f"{'summary' if group == 'summary' else 'reasoning'}:{index}"
    return f"content:{index}"


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


def _type(value: dict[str, Any]) -> Any:
    kind = value.get("type")
    if kind is None and "role" in value:
        return "message"
    return kind if isinstance(kind, str) else None


def _is_list(key: str, value: Any) -> bool:
    return key in ("content", "summary") and isinstance(value, list)


def _without_empty(calls: Iterable[ToolCall]) -> list[ToolCall]:
    """Without the calls that had only begun: a name, and nothing to call it with."""
    found = list(calls)
    named = {call.name for call in found if call.arguments}
    return [call for call in found if call.arguments or call.name not in named]
