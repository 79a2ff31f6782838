"""What the client gets in place of what was not delivered.

The status is 400 and the body OpenAI's error object: the one answer that no client retries and
that every SDK turns into an exception with the message in it. A stream that has begun ends with
the same object in an event; every client raises on it.

Neither holds matched text or a rule's arguments: they could be the very thing that was blocked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Literal

import orjson

from .conversation import Conversation, Message
from .terms import Refusal
from .verdict import Address, Violation, most_specific

STATUS = 400
LAST_RESORT = (
    b'{"error":{"message":"[Invariant] The call could not be checked by the guardrails, and is '
    b'withheld for that","type":"invalid_request_error","param":null,'
    b'"code":"guardrail_unavailable"}}'
)
"""The body of a refusal that nothing can go wrong with."""
Phase = Literal["request", "response"]
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,31}|[0-9]{1,6}")
_FIELDS = ("user", "other")  # of a call that is no conversation
_SHOWN = 3  # rules named in the message; `details` has them all
ID_SHOWN = 16
"""Characters of a request id that are enough to find a call, in scripts/traces and in the log."""


def summary(refusal: Refusal) -> str:
    """Which rules in their own words, or why there was no verdict. One line."""
    if not refusal.violations:
        return refusal.reason
    messages = list(dict.fromkeys(" ".join(v.message.split()) for v in refusal.violations))
    more = f" (and {len(messages) - _SHOWN} more)" if len(messages) > _SHOWN else ""
    return "; ".join(messages[:_SHOWN]) + more


def error_body(
    refusal: Refusal, phase: Phase, request_id: str, asked: Conversation | None = None
) -> bytes:
    """The body of the 400: `{"error": {...}}` in OpenAI's shape, with `details` inside.

    asked: the request's conversation, so that the message can say where to look.
    """
    if refusal.violations:
        message = f"[Invariant] The {phase} did not pass the guardrails: {summary(refusal)}"
        if asked is not None:
            message += _whereabouts(refusal.violations, asked, phase)
        if refusal.trace:
            # Not `scripts/rules mute` as well: agents read this, too, and one that runs commands
            # would be told how to take its own guard off. To look at a trace changes nothing.
            message += f". A person can look at it: scripts/traces show {refusal.trace[:ID_SHOWN]}"
        code = "guardrail_violation"
    elif refusal.is_invalid:
        message = f"[Invariant] {refusal.reason}"
        code = "guardrail_invalid"
    else:
        message = (
            f"[Invariant] The {phase} could not be checked by the guardrails, "
            f"and is withheld for that: {refusal.reason}"
        )
        code = "guardrail_unavailable"
    return _dumps(
        {
            "error": {
                "message": message,
                "type": "invalid_request_error",
                "param": None,
                "code": code,
                "details": {
                    "request_id": request_id,
                    "phase": phase,
                    "errors": [_entry(v) for v in refusal.violations],
                },
            }
        }
    )


def _whereabouts(violations: tuple[Violation, ...], asked: Conversation, phase: Phase) -> str:
    """Which messages hold the findings; people count from 1."""
    count = len(asked.messages)
    turns = count - asked.beside
    found = sorted({a.message for v in violations for a in v.addresses if a.message < count})
    if not found:
        return ""
    beside = found[-1] >= turns
    found = [n for n in found if n < turns]
    if not found:
        return " (found in a field beside the messages: tools, metadata and the like)"
    shown = ", ".join(f"{n + 1} ({_role(asked.messages[n])})" for n in found[:_SHOWN])
    more = ", ..." if len(found) > _SHOWN else ""
    text = f" (found in message {shown}{more} of {turns})"
    if phase == "request" and asked.unsent.issuperset(found) and not beside:
        return text + (
            ". It is not in this request, but in what OpenAI keeps of the conversation: "
            "start a new one"
        )
    # Fields of an upload are no turns.
    has_turns = any(message.role not in _FIELDS for message in asked.messages[:turns])
    if phase == "request" and found[-1] < turns - 1 and has_turns and not beside:
        text += (
            ". It is in an earlier message, which is sent again with every request: "
            "take it out there, or start a new conversation"
        )
    return text


def whereabouts(violations: tuple[Violation, ...], messages: Sequence[Message]) -> str:
    """Where the findings are, exactly: " (message 3 (user), characters 10-24)", or ""."""
    found: dict[str, None] = {}
    for violation in violations:
        for address in most_specific(violation.addresses):
            role = _role(messages[address.message]) if address.message < len(messages) else "?"
            place = f"message {address.message + 1} ({role})"
            if address.path not in ("", "content"):
                place += f", {_steps(address)}"
            if address.start is not None:
                place += f", characters {address.start + 1}-{address.end}"
            found[place] = None
    shown = [*found][:_SHOWN]
    more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return f" ({'; '.join(shown)}{more})" if found else ""


def _role(message: Message) -> str:
    """It is the caller's own text, of any length and with any characters."""
    return message.role if _PLAIN.fullmatch(message.role) else "another role"


def _dumps(value: object) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:  # half a character, from a header or a rule
        return json.dumps(value).encode()


def chat_event(refusal: Refusal, request_id: str, asked: Conversation | None = None) -> bytes:
    """The event that ends a chat stream midway.

    It begins with a blank line: whatever went out before, this is an event of its own.
    """
    return b"\ndata: " + error_body(refusal, "response", request_id, asked) + b"\n\n"


def _entry(violation: Violation) -> dict[str, object]:
    return {
        "args": [violation.message],
        "ranges": [place(a) for a in most_specific(violation.addresses)],
        "guardrail": {
            "id": violation.guardrail.id,
            "name": violation.guardrail.name,
            "action": violation.guardrail.action.value,
        },
    }


def _steps(address: Address) -> str:
    # A key of a tool call's arguments is the model's own text, like any other.
    return ".".join(s if _PLAIN.fullmatch(s) else "*" for s in address.path.split(".") if s)


def place(address: Address) -> str:
    """`messages.2.content:10-24`, with `*` for what is the model's own text."""
    where = ".".join(part for part in (f"messages.{address.message}", _steps(address)) if part)
    return where if address.start is None else f"{where}:{address.start}-{address.end}"
