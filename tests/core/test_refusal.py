"""Refusals: what a program and its author read when something was blocked."""

from __future__ import annotations

import json
from typing import Any

from invariant_addon.core.conversation import Conversation, Message, Part
from invariant_addon.core.refusal import chat_event, error_body, summary
from invariant_addon.core.terms import Refusal
from invariant_addon.core.verdict import Address, Guardrail, Violation

RULE = Guardrail("id1", "no-keys", 'raise "..." if: ...')
ASKED = Conversation(
    tuple(
        Message(role, (Part("text", "the secret itself"),)) for role in ("system", "user", "user")
    )
)


def violation(text: str = "no keys in prompts", *addresses: Address) -> Violation:
    return Violation(RULE, text, addresses)


def error(refusal: Refusal, asked: Conversation | None = ASKED) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(error_body(refusal, "request", "inv_1", asked))["error"]
    return body


def test_the_message_names_the_rule_and_the_place() -> None:
    """Somebody has to find it, in a conversation of many messages."""
    found = error(Refusal((violation("no keys in prompts", Address(2, "content", 0, 3)),)))
    assert found["message"] == (
        "[Invariant] The request did not pass the guardrails: no keys in prompts "
        "(found in message 3 (user) of 3)"
    )
    assert found["details"]["errors"][0]["ranges"] == ["messages.2.content:0-3"]
    assert found["details"]["request_id"] == "inv_1"


def test_a_person_is_told_where_to_look_and_not_how_to_go_on() -> None:
    """Agents read it as well: one that runs commands must not learn here how to mute its guard."""
    refusal = Refusal((violation("no keys", Address(2)),), trace="inv_0123456789abcdef")
    assert error(refusal)["message"] == (
        "[Invariant] The request did not pass the guardrails: no keys (found in message 3 (user) "
        "of 3). A person can look at it: scripts/traces show inv_0123456789ab"
    )
    assert "mute" not in json.dumps(error(refusal))
    assert "scripts/" not in error(Refusal((violation("no keys"),)))["message"]  # no trace is kept
    outage = error(Refusal(reason="no verdict within 2000 ms", trace="inv_0123456789abcdef"))
    assert outage["message"].endswith("no verdict within 2000 ms")


def test_an_old_finding_comes_with_what_to_do() -> None:
    """The history is sent again with each request, so one finding would lock the conversation."""
    found = error(Refusal((violation("no keys", Address(0)),)))
    assert "start a new conversation" in found["message"]


def test_fields_of_an_upload_are_no_turns() -> None:
    """Nobody starts a new conversation because of a file's name."""
    fields = tuple(Message("user", (Part("text", name),)) for name in ("a key.txt", "whisper-1"))
    found = error(Refusal((violation("no keys", Address(0)),)), Conversation(fields))
    assert found["message"].endswith("(found in message 1 (user) of 2)")


def test_a_finding_in_the_reply_has_no_place_in_the_request() -> None:
    """Nothing to count there."""
    body = chat_event(Refusal((violation("no", Address(3, "content", 0, 1)),)), "inv_1", ASKED)
    assert body.startswith(b'\ndata: {"error"') and body.endswith(b"\n\n")
    assert b"found in message" not in body


def test_neither_matched_text_nor_the_rules_source_is_repeated() -> None:
    """It may be the very thing that was blocked."""
    raw = error_body(
        Refusal((violation("no", Address(1, "content", 0, 9)),)), "request", "x", ASKED
    )
    assert b"the secret itself" not in raw and b"raise" not in raw


def test_no_verdict_has_its_own_code() -> None:
    """A program may want to tell an outage from a violation."""
    found = error(Refusal(reason="no verdict within 2000 ms"))
    assert found["code"] == "guardrail_unavailable" and "2000 ms" in found["message"]
    assert found["type"] == "invalid_request_error"


def test_many_rules_are_summed_up() -> None:
    """One readable line."""
    many = Refusal(tuple(violation(f"rule {n}\nin lines") for n in range(5)))
    assert summary(many) == "rule 0 in lines; rule 1 in lines; rule 2 in lines (and 2 more)"


def test_argument_keys_are_repeated_only_if_they_look_like_keys() -> None:
    """A key is text of the model's, and could be what was blocked."""
    paths = ["tool_calls.0.function.arguments.cmd", "tool_calls.0.function.arguments.my secret!"]
    found = error(Refusal(tuple(violation("no", Address(2, path, 0, 1)) for path in paths)))
    assert [entry["ranges"] for entry in found["details"]["errors"]] == [
        ["messages.2.tool_calls.0.function.arguments.cmd:0-1"],
        ["messages.2.tool_calls.0.function.arguments.*:0-1"],
    ]
