"""How one streamed choice's draft grows: which of its channels, and which of them end by that."""

from __future__ import annotations

from typing import Any

from ..conversation import PartKind
from ..draft import ChoiceDraft, Need, TextChannel
from .limits import MAX_UNKNOWN_CHANNELS


class Growth:
    """Appends to a draft, and remembers what the chunk that is being merged appended.

    grown: the channels that grew by this chunk, by name. Set it to {} before each.
    flowed: whether one of them is a text that goes on, and no atom. `settle` resets it.
    """

    __slots__ = ("_ended", "_index", "_shared", "_unknown", "draft", "flowed", "grown")

    def __init__(self, index: int) -> None:
        self.draft = ChoiceDraft()
        self.grown: dict[str, TextChannel] = {}
        self.flowed = False
        self._index = index
        self._ended = False
        self._unknown: set[str] = set()  # keys with a channel of their own
        self._shared = ""  # the key that the shared channel's end belongs to

    def add(self, name: str, kind: PartKind, text: str) -> None:
        """Append to a text that goes on from chunk to chunk."""
        channel = self.draft.channels.get(name)
        if channel is None:
            channel = self.draft.channels[name] = TextChannel(kind)
        channel.append(text)
        channel.closed = False
        self.grown[name] = channel
        self.flowed = True

    def add_atom(self, name: str, text: str, separator: str = "\n") -> None:
        """Append text that is whole in itself, or of which nobody knows how it goes on."""
        channel = self.draft.channels.get(name)
        if channel is None:
            channel = self.draft.channels[name] = TextChannel("other", atomic=True)
        channel.append(separator + text if channel.length else text)
        channel.closed = False
        self.grown[name] = channel

    def add_unknown(self, key: str, text: str, separator: str) -> None:
        """Append an atom under a key that the wire named. Only so many have their own channel,
        since each event looks at each channel."""
        if key not in self._unknown:
            if len(self._unknown) >= MAX_UNKNOWN_CHANNELS:
                self.add_atom("other:*", text, separator if key == self._shared else "\n")
                self._shared = key
                return
            self._unknown.add(key)
        self.add_atom("other:" + key, text, separator)

    def text(self, name: str) -> str:
        """The whole text of a channel, "" if there is none."""
        channel = self.draft.channels.get(name)
        return channel.text() if channel else ""

    def settle(self, called: bool, finish: Any) -> None:
        """Close what the chunk ended. called: it had a piece of a call. finish: its reason."""
        draft = self.draft
        if called:
            draft.calling = True
            draft.finished = self._ended  # a call after the finish_reason: not whole yet
        if finish:
            draft.finished = True
        if called or finish:
            self._close_all()
        elif self.flowed and len(draft.channels) > 1:
            # An atom does not end the text: the next piece may go on with the same word.
            for name, channel in draft.channels.items():
                if not channel.atomic and name not in self.grown:
                    channel.closed = True
        self.flowed = False

    def add_needs(self, needs: list[Need], called: bool, finish: Any, audio: bool) -> None:
        """Add what must be judged before the chunk may go on. audio: it had sound in it."""
        for name, channel in self.grown.items():
            needs.append(Need(self._index, name, channel.length))
        if called or (finish and self.draft.calling):  # the end must not overtake the call
            needs.append(Need(self._index, None))
        if audio and "transcript" not in self.grown:
            # Nobody can read the sound; what is said in it is judged by its transcript.
            transcript = self.draft.channels.get("transcript")
            if transcript is not None:
                needs.append(Need(self._index, "transcript", transcript.length))

    def end(self) -> None:
        """The stream is over. What clients read after it still grows, and is whole at once."""
        self._ended = True
        self.draft.finished = True
        self._close_all()

    def _close_all(self) -> None:
        for channel in self.draft.channels.values():
            channel.closed = True
