"""A reply that is still being written: what a gate can ask while it grows.

A dialect's merger fills a draft event by event; the gate reads how far each text has grown and
which tool calls are whole. The gate knows no dialect, and a dialect knows no gate.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from .conversation import PartKind, Reply


@dataclass(slots=True)
class TextChannel:
    """One growing text of one choice: its content, its refusal, its reasoning...

    atomic: its pieces are whole by themselves (a citation), so no token at the end is held.
    closed: it ended: the choice finished, or went on with another channel or a tool call.
    """

    kind: PartKind
    atomic: bool = False
    closed: bool = False
    length: int = 0
    """Characters so far."""
    _pieces: list[str] = field(default_factory=list)

    def append(self, text: str) -> None:
        self._pieces.append(text)
        self.length += len(text)

    def text(self) -> str:
        """The whole text. Joined once, however often it is asked for between two appends."""
        if len(self._pieces) > 1:
            self._pieces = ["".join(self._pieces)]
        return self._pieces[0] if self._pieces else ""

    def tail(self, limit: int) -> str:
        """The last `limit` characters, without joining the rest."""
        found: list[str] = []
        missing = limit
        for piece in reversed(self._pieces):
            if missing <= 0:
                break
            found.append(piece[-missing:])
            missing -= len(piece)
        return "".join(reversed(found))


@dataclass(slots=True)
class ChoiceDraft:
    """One choice: its text channels by name, in order of appearance.

    finished: its finish_reason came, or the stream ended: its tool calls are whole.
    calling: a tool call has begun.
    """

    channels: dict[str, TextChannel] = field(default_factory=dict)
    calling: bool = False
    finished: bool = False


@dataclass(frozen=True, slots=True)
class Need:
    """What must have been judged before an event may be released.

    choice: key of the choice. channel: which of its texts, up to `length` characters;
    None: the choice must be finished (the event carries a piece of a tool call).
    """

    choice: int
    channel: str | None
    length: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """What one event did to the draft.

    needs: empty if the event carries nothing that a rule could read.
    terminal: the last event of the dialect ([DONE]); failed: upstream reported an error in it.
    """

    needs: tuple[Need, ...] = ()
    terminal: bool = False
    failed: bool = False


Lengths = dict[tuple[int, str], int]
"""How many characters of each (choice, channel) a snapshot holds."""


class Merger(Protocol):
    """What a dialect offers to a gate."""

    choices: dict[int, ChoiceDraft]
    alternatives: bool
    """Whether several choices are several replies, or else one reply in pieces, in this order."""

    def add(self, data: str) -> Step:
        """Merge the data of one server-sent event.

        Raises NotUnderstoodError, and then has changed nothing.
        """

    def aside(self, words: str) -> tuple[Need, ...]:
        """What upstream says beside the reply, and what its event needs for that.

        Raises NotUnderstoodError for too much.
        """

    def end(self) -> None:
        """The stream is over, with or without its terminal event: every choice is finished."""

    def snapshot(self, lengths: Lengths | None = None) -> Reply:
        """The reply as far as it came: texts cut at `lengths` (a channel not named: left out;
        None: all), and of the tool calls those that are whole."""

    def completion(self) -> dict[str, Any]:
        """The reply in OpenAI's form, as a request without `stream` would have got it."""
