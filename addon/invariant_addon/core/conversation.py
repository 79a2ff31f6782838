"""The one model that dialects produce and that engines, traces and views read.

A dialect (`chat`, later `responses`) turns whatever went over the wire into these values.
Nothing is dropped on the way: what has no place of its own becomes a part of kind "other".
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from .references import References

PartKind = Literal["text", "refusal", "transcript", "reasoning", "image", "audio", "file", "other"]
"""What a part is. A rule reads text, refusal and transcript as the message's content;
reasoning and other are judged apart from it (see engines/normalise.py)."""

CallKind = Literal["function", "custom"]


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a message's content.

    text: what a rule can read of it: the text itself, a transcript, an image's URL, a file's
    name, or the JSON text of something unknown. "" if it is opaque (base64 audio).
    """

    kind: PartKind
    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model asks for.

    arguments: as on the wire: JSON text (perhaps malformed) for kind "function", free text for
    kind "custom". Legacy `function_call` is kind "function" with id None.
    """

    id: str | None
    name: str
    arguments: str
    kind: CallKind = "function"


@dataclass(frozen=True, slots=True)
class Message:
    """One turn.

    role: in a request as on the wire, "unknown" if there was none; legacy "function" results are
    "tool". In a reply always "assistant".
    tool_call_id: for role "tool": the call that this answers, if it says so.
    name: the participant's or (legacy) the function's name.
    """

    role: str
    parts: tuple[Part, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None

    @property
    def text(self) -> str:
        """What the reader of this message sees as its content."""
        return "\n".join(p.text for p in self.parts if p.kind in ("text", "refusal", "transcript"))

    @property
    def joined(self) -> str | None:
        """The text parts put together without a line end, as some models and clients read them;
        None unless that makes words which `text` does not have ("BLUE", "BIRD")."""
        texts = [part.text for part in self.parts if part.kind == "text" and part.text]
        for left, right in pairwise(texts):
            if not left[-1].isspace() and not right[0].isspace():
                return "".join(texts)
        return None


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Conversation:
    """All messages of a request, in order. Compared by identity: engines cache by it.

    beside: how many of them, at the end, are no turns: they hold other fields of the request (the
    tools' descriptions, metadata). unsent: numbers of those that are not in the request: OpenAI
    keeps them, and the model reads them (core/responses/history.py).
    """

    messages: tuple[Message, ...]
    beside: int = 0
    unsent: frozenset[int] = frozenset()

    @property
    def opening(self) -> tuple[Message, ...]:
        """All up to the first message of the user: what every later turn begins with."""
        for index, message in enumerate(self.messages):
            if message.role == "user":
                return self.messages[: index + 1]
        return self.messages


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back: one message for each choice (n > 1), in the order of their indexes.

    The choices are alternatives: each continues the request for itself. A message of the role
    "error" is none of them: upstream's own words (aside.py).
    """

    choices: tuple[Message, ...]

    @property
    def turns(self) -> tuple[Message, ...]:
        """What the model said."""
        return tuple(message for message in self.choices if message.role != "error")


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request: what was asked, and how.

    n: how many choices were asked for. stream: whether the client asked for an event stream.
    separate: requests that stand for themselves (the lines of a batch's file): each is judged as a
    continuation of the conversation, apart from the others.
    continues: the id of the reply that it goes on from, whose turns OpenAI keeps. refers: all that
    it names and does not send. only_answers: it asks for an answer and leaves nothing else behind
    (effects.py).
    """

    endpoint: str
    model: str
    stream: bool
    n: int
    conversation: Conversation
    separate: tuple[tuple[Message, ...], ...] = ()
    continues: str | None = None
    refers: References | None = None
    only_answers: bool = False
