"""One output item of a streamed Responses reply, put together from its events.

Its texts are channels of a draft, so that they flow; all else is held until the item is done, and
read as a reply that is no stream would hold it. The wire says everything up to four times (deltas,
`*.done`, `output_item.done`, the final response). Each saying is compared with what is known, and
one that differs is a text, or a call, of its own: nobody can tell which of them a client reads.
"""

from __future__ import annotations

from typing import Any

from ..chat.limits import MAX_PARTS, MAX_UNKNOWN_CHANNELS, check_count
from ..conversation import PartKind
from ..draft import ChoiceDraft, Need, TextChannel
from .call import Reading, Sayings
from .items import TEXT_TYPES, read_item, spoken
from .parts import around_text, read_part, text_of
from .spoken import KINDS


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
        self._sayings = Sayings()
        self._again: set[tuple[PartKind, str]] = set()
        self._grown: dict[str, TextChannel] = {}
        self._called = False

    # -- what events say ------------------------------------------------------------------------

    def begin(self, value: dict[str, Any]) -> None:
        """`output_item.added`."""
        is_text = _type(value) in TEXT_TYPES
        if is_text and self._is_new():
            self.held = False
        elif not is_text:
            self.held = True
        self._say(value)

    def finish(self, value: dict[str, Any]) -> None:
        """`output_item.done`."""
        self._say(value)
        if _type(value) not in TEXT_TYPES:
            self._touch()
        self.is_done = True
        self.draft.finished = True
        self._close()

    def _say(self, value: dict[str, Any]) -> None:
        self.value = value
        if _type(value) not in TEXT_TYPES:
            if self._sayings.add_item(value):  # a search that begins says nothing yet
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
        if self._is_new():
            self.held = False

    def _is_new(self) -> bool:
        return not (self._sayings or self.draft.channels or self.is_done)

    def grow(self, name: str, kind: PartKind, text: str) -> None:
        """A text goes on."""
        if text:
            self._append(name, kind, text)

    def whole(self, name: str, kind: PartKind, text: str) -> None:
        """A text as a whole."""
        channel = self.draft.channels.get(name)
        if channel is None:
            self.differs = self.differs or (bool(text) and kind in KINDS)
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
        self.differs = self.differs or kind in KINDS
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
        self._sayings.add_piece(what, text)
        self.hold()

    def said(self, what: Any) -> None:
        """What is no text, said as a whole."""
        self._sayings.add_whole(what)
        self.hold()

    def hold(self) -> None:
        self.held = True
        self._touch()

    def _touch(self) -> None:
        """An event that a client can do something with only once the item is whole."""
        self._called = True
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
        if needs or self._grown:  # of an unknown text nobody says that it ends
            for name, channel in self.draft.channels.items():
                if name.startswith("other:") and name not in self._grown:
                    channel.closed = True
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

    def reading(self) -> Reading:
        """All that is no channel: the calls in every way that they were said, and what else."""
        return self._sayings.reading()

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
        _, calls = self.reading()
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


def _type(value: dict[str, Any]) -> Any:
    kind = value.get("type")
    if kind is None and "role" in value:
        return "message"
    return kind if isinstance(kind, str) else None


def _is_list(key: str, value: Any) -> bool:
    return key in ("content", "summary") and isinstance(value, list)
