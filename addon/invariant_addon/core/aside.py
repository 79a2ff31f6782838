"""What upstream says beside a reply: errors in the middle of it, and the lines of a stream that
are no data (comments, ids, names of events).

They reach the client like the reply does, so rules read them; but they are nobody's turn: one
message of the role "error" holds them all, as for an error that comes in place of a reply
(whole.read_error). It is judged as a continuation of the request for itself.
"""

from __future__ import annotations

import re
from typing import Any

from . import sse
from .chat.limits import MAX_ASIDES, check_count
from .conversation import Message, Part
from .draft import ChoiceDraft, Lengths, Need, TextChannel
from .json_text import as_text, carries_text

ERROR = "error"
"""The role of what is nobody's turn."""
KEY = -(2**64)
"""Its place among the choices of a draft; no choice of a reply has it (chat/check.py)."""
ERROR_LABELS = ("message", "type", "code", "param", "status", "status_code", "object")
"""Keys of an error object: the server's words about itself, and not the model's."""
_CHANNEL = "words"
_LABEL = re.compile(r"[a-z0-9_]+(?:\.[a-z0-9_]+)*")
_LONGEST_LABEL = 80


class Aside:
    """drafts: of the merger that it belongs to, so that a gate knows how far it reaches."""

    def __init__(self, drafts: dict[int, ChoiceDraft]) -> None:
        self._drafts = drafts
        self._channel: TextChannel | None = None
        self._ends: dict[str, int] = {}
        self._ended = False

    def add(self, text: str) -> tuple[Need, ...]:
        """What its event needs. Said again (a heartbeat), it needs what was judged before.

        Raises NotUnderstoodError for too much.
        """
        if not text:
            return ()
        if self._channel is None:
            self._channel = TextChannel("other", atomic=True, closed=self._ended)
            self._drafts[KEY] = ChoiceDraft({_CHANNEL: self._channel}, finished=self._ended)
        if text not in self._ends:
            check_count(len(self._ends) + 1, MAX_ASIDES, "comments and errors in a stream")
            self._channel.append(f"\n{text}" if self._channel.length else text)
            self._ends[text] = self._channel.length
        return (Need(KEY, _CHANNEL, self._ends[text]),)

    def end(self) -> None:
        self._ended = True
        if self._channel is not None:
            self._channel.closed = True
            self._drafts[KEY].finished = True

    def messages(self, lengths: Lengths | None) -> tuple[Message, ...]:
        """At most one; see Merger.snapshot."""
        if self._channel is None:
            return ()
        limit = self._channel.length if lengths is None else lengths.get((KEY, _CHANNEL), 0)
        return spoken(self._channel.text()[:limit])


def spoken(text: str) -> tuple[Message, ...]:
    return (Message(ERROR, (Part("text", text),)),) if text else ()


def error_words(error: Any) -> str:
    """What an `error`, or another object with which a server explains itself, says of itself. What
    else is in it may be the model's (chat.known.error_text)."""
    if isinstance(error, dict):
        said = (error.get(key) for key in ERROR_LABELS)
        return "\n".join(as_text(value) for value in said if carries_text(value))
    return error if isinstance(error, str) else ""


def all_words(value: Any) -> str:
    """The same of an object of which nothing is the model's."""
    if isinstance(value, dict):
        return "\n".join(as_text(each) for each in value.values() if carries_text(each))
    return as_text(value) if carries_text(value) else ""


def is_label(name: str) -> bool:
    """Whether it looks like the name of an event, as servers make them up."""
    return len(name) <= _LONGEST_LABEL and _LABEL.fullmatch(name) is not None


def line_words(event: sse.Event, labels: set[str]) -> str:
    """What a block of a stream says beside its data. Names that the data has too say no more than
    that; they are added to `labels`, where they need not be looked for again."""
    name = event.name
    if not name or name in labels:
        return event.words
    if event.data is not None and is_label(name) and f'"{name}"' in event.data:
        labels.add(name)
        return event.words
    return f"{name}\n{event.words}" if event.words else name
