"""The events that end a Responses stream midway."""

from __future__ import annotations

import json
from typing import Any

import pytest

from invariant_addon.core.responses.refusal import responses_events
from invariant_addon.core.terms import Refusal
from invariant_addon.core.verdict import Guardrail, Violation

HELD = b": held\n\n" * 20_000
RULE = Guardrail("id1", "no-keys", 'raise "..." if: ...')
REFUSAL = Refusal((Violation(RULE, "no keys"),))
CREATED = (
    b"event: response.created\ndata: "
    b'{"type":"response.created","response":{"id":"resp_9","model":"m","tools":[1]},'
    b'"sequence_number":0}\n\n'
)


def told(sent: bytes, refusal: Refusal = REFUSAL) -> tuple[Any, Any]:
    body = responses_events(refusal, "inv_1", None, sent)
    assert body.startswith(b"\nevent: error\ndata: ") and body.endswith(b"\n\n")
    first, second = body.strip(b"\n").split(b"\n\n")
    assert second.startswith(b"event: response.failed\ndata: ")
    return json.loads(first.split(b"data: ")[1]), json.loads(second.split(b"data: ")[1])


def test_the_error_comes_first_and_names_the_rule() -> None:
    """Every SDK raises on it; Codex reads only the second event, and only this code stops it."""
    error, failed = told(CREATED)
    assert error["type"] == "error" and "no keys" in error["error"]["message"]
    assert error["error"]["code"] == "guardrail_violation"
    assert error["error"]["details"]["request_id"] == "inv_1"
    assert failed["response"]["error"]["code"] == "invalid_prompt"
    assert failed["response"]["error"]["message"] == error["error"]["message"]


def test_it_is_the_response_that_has_begun() -> None:
    """Clients compare ids, and show the model."""
    _, failed = told(CREATED)
    response = failed["response"]
    assert (response["id"], response["model"], response["tools"]) == ("resp_9", "m", [1])
    assert (response["status"], response["output"]) == ("failed", [])


@pytest.mark.parametrize(
    ("sent", "number"),
    [
        (b"", 0),
        (CREATED, 1),
        (CREATED + b'data: {"delta":"\\"sequence_number\\":77","sequence_number": 5}\n\n', 6),
        (CREATED + b'data: {"type":"keepalive","sequence_number":41}\n\n' + HELD, 42),
        (b'data: {"type":"x"}\n\n', 0),
    ],
)  # fmt: skip
def test_the_numbers_go_on(sent: bytes, number: int) -> None:
    """A client that resumes after the last number must not miss the refusal."""
    error, failed = told(sent)
    assert error["sequence_number"] == number
    assert failed["sequence_number"] == number + 1


def test_without_a_beginning_it_is_a_response_all_the_same() -> None:
    """SDKs read its fields."""
    _, failed = told(b"data: {broken\n\n")
    assert failed["response"]["object"] == "response" and failed["response"]["id"]


def test_half_a_character_is_no_obstacle() -> None:
    """A refusal that cannot be written would let the stream hang."""
    sent = CREATED.replace(b'"m"', b'"\\ud800"')
    _, failed = told(sent, Refusal(reason="\ud800"))
    assert failed["response"]["status"] == "failed"
