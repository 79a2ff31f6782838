"""Messages of a Responses WebSocket: what a client asks for, and events in the form of a stream.

A client's message is read here, and nothing is left over: what is not known is not understood. A
server's message is an event of the same kind as in an event stream, one JSON object each; it is
given the form of such a stream, so that one merger and one gate serve both.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from ..chat.known import check_keys
from ..conversation import Conversation
from ..errors import NotUnderstoodError
from ..json_text import carries_text, check_duplicates, decode, encode
from ..refusal import STATUS, Phase, error_body
from ..terms import Refusal
from .event import TERMINAL

type Asking = Literal["create", "steer", "quiet"]

_KINDS: dict[str, Asking] = {
    "response.create": "create",
    "response.steer": "steer",
    "response.cancel": "quiet",
}
_QUIET = frozenset(("type", "event_id", "stream_id", "response_id", "status"))
"""Keys that say nothing to the model."""
_ONCE = _QUIET | {"response", "input", "instructions"}
_STEERING = _QUIET | {"input", "instructions"}
_ID = re.compile(r"[\w.:-]{1,256}")
_LINE_ENDS = re.compile(r"\r\n|\r|\n")
END = b"\n\n"
"""Ends each event that `as_event` makes, and is nowhere else in it."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A message of a client. lane: its stream_id; messages of one lane are in order."""

    kind: Asking
    lane: str | None


@dataclass(frozen=True, slots=True)
class Said:
    """A message of a server. ends: nothing of the same reply follows. response: the id of the
    reply that it begins or ends, if it names one. number: its sequence_number."""

    lane: str | None
    begins: bool = False
    ends: bool = False
    response: str | None = None
    number: int | None = None


def read_asked(text: bytes) -> Asked:
    """Raises NotUnderstoodError."""
    message = decode(text)
    if not isinstance(message, dict):
        raise NotUnderstoodError("a message that is no JSON object")
    check_keys(message, _ONCE)
    check_duplicates(text, _ONCE, all_keys=True)
    name = message.get("type")
    kind = _KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise NotUnderstoodError("a message of a type that is not known")
    lane = message.get("stream_id")
    if not isinstance(lane, str | None) or (lane is not None and not _ID.fullmatch(lane)):
        raise NotUnderstoodError("a stream_id that is none")
    if kind == "quiet":
        if any(key not in _QUIET for key, value in message.items() if carries_text(value)):
            raise NotUnderstoodError(f"a {name} that says something")
        ids = (message.get(key) for key in _QUIET)
        if not all(isinstance(v, str) and _ID.fullmatch(v) for v in ids if v is not None):
            raise NotUnderstoodError(f"a {name} that says something")
    elif carries_text(message.get("response")):
        raise NotUnderstoodError("a request inside of a request")
    elif kind == "steer" and any(
        key not in _STEERING for key, value in message.items() if carries_text(value)
    ):
        raise NotUnderstoodError(f"a {name} that says something else")
    return Asked(kind, lane)


def read_said(text: bytes) -> Said:
    """Total: what cannot be read is left to the merger, which says so."""
    try:
        message = decode(text)
    except NotUnderstoodError:
        return Said(None)
    if not isinstance(message, dict):
        return Said(None)
    name, lane = message.get("type"), message.get("stream_id")
    response, number = message.get("response"), message.get("sequence_number")
    response_id = response.get("id") if isinstance(response, dict) else None
    return Said(
        lane if isinstance(lane, str) else None,
        begins=name == "response.created",
        ends=name == "error" or (isinstance(name, str) and name in TERMINAL),
        response=response_id if isinstance(response_id, str) else None,
        number=number if type(number) is int else None,
    )


def as_event(text: str) -> bytes:
    """The same as an event of a stream. A line end in JSON is white space, wherever it is."""
    lines = _LINE_ENDS.split(text)
    return "".join(f"data: {line}\n" for line in lines).encode("utf-8", "surrogatepass") + b"\n"


def refusal_message(
    refused: Refusal,
    phase: Phase,
    request_id: str,
    asked: Conversation | None = None,
    *,
    lane: str | None = None,
    number: int | None = None,
) -> bytes:
    """OpenAI's error message, with the status that no client tries again after."""
    error = orjson.loads(error_body(refused, phase, request_id, asked))["error"]
    message: dict[str, Any] = {"type": "error", "status": STATUS, "error": error}
    if lane is not None:
        message["stream_id"] = lane
    if number is not None:
        message["sequence_number"] = number
    return encode(message).encode("utf-8", "replace")
