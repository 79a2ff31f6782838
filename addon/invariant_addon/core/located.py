"""An address -> the text that it points into, and the parts of the message that the text is of.

The texts are those that the engine reads (engines/normalise.py builds them): a message's texts
joined by line ends, what is judged apart from it, a call's arguments.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from .conversation import Message, ToolCall
from .errors import NotUnderstoodError
from .json_text import decode
from .verdict import Address

type Arguments = Callable[[ToolCall], Mapping[str, object]]
"""How a call's arguments are read."""

_CONTENT = ("text", "refusal", "transcript")
_OTHER = ("other", "image", "audio", "file")
_MAX_READINGS = 64
_MAX_STEPS = 400
"""Of a path: its keys are the model's, and a key may have dots in it."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Characters start..end of `whole`, which is one part's text, or a string of the arguments."""

    whole: str
    start: int
    end: int

    @property
    def text(self) -> str:
        return self.whole[self.start : self.end]


@dataclass(frozen=True, slots=True)
class Text:
    """A text that a rule reads. segments: where in it each part's text begins, and that text."""

    whole: str
    segments: tuple[tuple[int, str], ...]

    def pieces(self, start: int, end: int) -> tuple[Piece, ...]:
        """The characters start..end, part by part, without the line ends between parts."""
        found = (
            Piece(text, max(start - at, 0), min(end - at, len(text))) for at, text in self.segments
        )
        return tuple(piece for piece in found if piece.start < piece.end)


def plain_arguments(call: ToolCall) -> Mapping[str, object]:
    """The arguments as strict JSON, the text of a custom tool as `input`; {} if malformed.

    engines.normalise.arguments reads more, and is what rules see.
    """
    if call.kind == "custom":
        return {"input": call.arguments}
    try:
        value = decode(call.arguments)
    except NotUnderstoodError:
        return {}
    return value if isinstance(value, dict) else {"__value__": value}


def texts_at(message: Message, path: str, arguments: Arguments) -> tuple[Text, ...]:
    """The text at this path; more than one if keys with dots make it ambiguous, none if there is
    no text."""
    if path == "content":
        return (_joined([p.text for p in message.parts if p.kind in _CONTENT]),)
    if path == "reasoning":
        return (_joined([p.text for p in message.parts if p.kind == "reasoning" and p.text]),)
    if path == "other":
        return (_other(message),)
    steps = path.split(".")
    if steps[0] != "tool_calls" or steps[2:4] != ["function", "arguments"]:
        return ()
    if not steps[1].isdecimal() or int(steps[1]) >= len(message.tool_calls):
        return ()
    call = message.tool_calls[int(steps[1])]
    if len(steps) == 4:
        return (_joined([call.arguments]),)
    if len(steps) > _MAX_STEPS:
        return ()
    found = _strings_at(arguments(call), tuple(steps[4:]))
    return tuple(_joined([text]) for text in dict.fromkeys(found))


def matched(message: Message, address: Address, arguments: Arguments) -> tuple[str, ...]:
    """The characters that an address with a range points at; () if it has none, or is wrong."""
    start, end = address.start, address.end
    if start is None or end is None or not 0 <= start < end:
        return ()
    texts = texts_at(message, address.path, arguments)
    return tuple(text.whole[start:end] for text in texts if end <= len(text.whole))


def in_content(message: Message, address: Address) -> Address:
    """The same characters as the content has them, if the address is one of the text parts put
    together (Message.joined); else the address as it is."""
    start, end = address.start, address.end
    if address.path != "other" or message.joined is None:
        return address
    first = len(_other(message).whole) - len(message.joined)
    if start is None or end is None:
        return address if first else replace(address, path="content")
    if not first <= start < end <= first + len(message.joined):
        return address
    joined, content = first, 0
    found: list[int] = []
    for part in message.parts:
        if part.kind not in _CONTENT:
            continue
        if part.kind == "text":
            ends = (start, end - 1)[len(found) :]
            within = (at - joined for at in ends if joined <= at < joined + len(part.text))
            found.extend(content + at for at in within)
            joined += len(part.text)
        content += len(part.text) + 1
    return replace(address, path="content", start=found[0], end=found[1] + 1)


def _joined(texts: list[str]) -> Text:
    segments, at = [], 0
    for text in texts:
        segments.append((at, text))
        at += len(text) + 1
    return Text("\n".join(texts), tuple(segments))


def _other(message: Message) -> Text:
    """What nobody knows, and at its end the text parts put together without line ends."""
    found = _joined([p.text for p in message.parts if p.kind in _OTHER and p.text])
    if message.joined is None:
        return found
    at = len(found.whole) + 1 if found.segments else 0
    whole = f"{found.whole}\n{message.joined}" if found.segments else message.joined
    segments = list(found.segments)
    for part in message.parts:
        if part.kind == "text" and part.text:
            segments.append((at, part.text))
            at += len(part.text)
    return Text(whole, tuple(segments))


def _strings_at(value: object, steps: tuple[str, ...]) -> list[str]:
    """The strings that these steps can lead to. A key may have dots in it."""
    found: list[str] = []
    todo = [(value, 0)]
    for _ in range(_MAX_READINGS * len(steps)):
        if not todo:
            break
        value, done = todo.pop()
        if done == len(steps):
            if isinstance(value, str):
                found.append(value)
        elif isinstance(value, list):
            step = steps[done]
            if step.isdecimal() and len(step) < 8 and int(step) < len(value):
                todo.append((value[int(step)], done + 1))
        elif isinstance(value, Mapping):
            keys = ((".".join(steps[done:end]), end) for end in range(len(steps), done, -1))
            todo += [(value[key], end) for key, end in keys if key in value]
    return found


def canonical(message: Message) -> bytes:
    """All of a message, as bytes that are equal for equal messages only."""
    fields = [
        message.role,
        message.name,
        message.tool_call_id,
        [[part.kind, part.text] for part in message.parts],
        [[call.id, call.name, call.arguments, call.kind] for call in message.tool_calls],
    ]
    return json.dumps(fields).encode()
