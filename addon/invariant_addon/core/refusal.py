"""What the client gets in place of what was not delivered.

The status is 400 and the body OpenAI's error object: the one answer that no client retries and
that every SDK turns into an exception with the message in it. A stream that has begun ends with
the same object in an event; every client raises on it.

Neither holds matched text or a rule's arguments: they could be the very thing that was blocked.
"""

from __future__ import annotations

from typing import Literal

import orjson

from .gate import Refusal
from .verdict import Address, Violation, most_specific

STATUS = 400
Phase = Literal["request", "response"]
_SHOWN = 3  # rules named in the message; `details` has them all


def summary(refusal: Refusal) -> str:
    """Which rules in their own words, or why there was no verdict. One line."""
    if not refusal.violations:
        return refusal.reason
    messages = list(dict.fromkeys(" ".join(v.message.split()) for v in refusal.violations))
    more = f" (and {len(messages) - _SHOWN} more)" if len(messages) > _SHOWN else ""
    return "; ".join(messages[:_SHOWN]) + more


def error_body(refusal: Refusal, phase: Phase, request_id: str) -> bytes:
    """The body of the 400: `{"error": {...}}` in OpenAI's shape, with `details` inside."""
    if refusal.violations:
        message = f"[Invariant] The {phase} did not pass the guardrails: {summary(refusal)}"
        code = "guardrail_violation"
    else:
        message = (
            f"[Invariant] The {phase} could not be checked by the guardrails, "
            f"and is withheld for that: {refusal.reason}"
        )
        code = "guardrail_unavailable"
    return orjson.dumps(
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


def chat_event(refusal: Refusal, request_id: str) -> bytes:
    """The event that ends a chat stream midway.

    It begins with a blank line: whatever went out before, this is an event of its own.
    """
    return b"\ndata: " + error_body(refusal, "response", request_id) + b"\n\n"


def _entry(violation: Violation) -> dict[str, object]:
    return {
        "args": [violation.message],
        "ranges": [_place(a) for a in most_specific(violation.addresses)],
        "guardrail": {
            "id": violation.guardrail.id,
            "name": violation.guardrail.name,
            "action": violation.guardrail.action.value,
        },
    }


def _place(address: Address) -> str:
    where = ".".join(part for part in (f"messages.{address.message}", address.path) if part)
    return where if address.start is None else f"{where}:{address.start}-{address.end}"
