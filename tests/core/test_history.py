"""What a request refers to, and the whole that the model reads."""

from __future__ import annotations

import json
from typing import Any

import pytest

from invariant_addon.core.conversation import Exchange, Message, Part
from invariant_addon.core.errors import NotUnderstoodError
from invariant_addon.core.references import Reference
from invariant_addon.core.refusal import error_body
from invariant_addon.core.responses import history
from invariant_addon.core.responses.bodies import parse_request
from invariant_addon.core.terms import Refusal
from invariant_addon.core.verdict import Address, Guardrail, Violation

BEFORE = (Message("user", (Part("text", "hello"),)), Message("assistant", (Part("text", "hi"),)))


def opened(**request: Any) -> Exchange:
    return parse_request(json.dumps({"model": "m", **request}).encode())


def roles(exchange: Exchange) -> list[str]:
    return [message.text for message in exchange.conversation.messages]


def test_a_kept_reply_comes_behind_the_instructions() -> None:
    """So does it for the model."""
    exchange = opened(instructions="Be brief.", input="go on", previous_response_id="resp_1")
    whole = history.completed(exchange, {Reference("response", "resp_1"): BEFORE})
    assert roles(whole) == ["Be brief.", "hello", "hi", "go on"]
    assert whole.conversation.unsent == {1, 2}
    assert [m.text for m in history.new_turns(whole, 2)] == ["go on"]


def test_references_to_items_are_replaced_where_they_stand() -> None:
    """A flow from one message to the next depends on their order. The items of one reply are one
    turn."""
    exchange = opened(
        input=[
            {"role": "user", "content": "one"},
            {"type": "item_reference", "id": "rs_1"},
            {"type": "item_reference", "id": "msg_1"},
            {"role": "user", "content": "two"},
            {"id": "msg_2"},
        ]
    )
    said, more = BEFORE[1:], (Message("assistant", (Part("text", "more"),)),)
    known = {
        Reference("item", "rs_1"): said,
        Reference("item", "msg_1"): said,
        Reference("item", "msg_2"): more,
    }
    whole = history.completed(exchange, known)
    assert [text for text in roles(whole) if text] == ["one", "hi", "two", "more"]
    own, _ = history.sent(whole.conversation, ())
    assert own.messages == exchange.conversation.messages


@pytest.mark.parametrize(
    ("request_", "found"),
    [
        ({"previous_response_id": "r"}, Reference("response", "r")),
        ({"previous_response_id": ["r"]}, Reference("response", '["r"]')),
        ({"conversation": "c"}, Reference("conversation", "c")),
        ({"conversation": {"id": "c"}}, Reference("conversation", "c")),
        ({"conversation": {"ID": "c"}}, Reference("conversation", '{"ID":"c"}')),
        ({"conversation": None, "previous_response_id": None}, None),
    ],
)
def test_what_comes_before_is_named(request_: Any, found: Reference | None) -> None:
    """A name of an odd type is a name that nobody knows, and not no name."""
    refers = opened(input="x", **request_).refers
    assert refers is not None and refers.before == found


def test_a_stored_prompt_is_named() -> None:
    """Its text is OpenAI's alone."""
    refers = opened(input="x", prompt={"id": "pmpt_1", "version": "2"}).refers
    assert refers is not None and refers.prompt == "pmpt_1"


def test_both_ways_at_once_are_not_understood() -> None:
    """OpenAI refuses it; who knows what another server does."""
    with pytest.raises(NotUnderstoodError):
        opened(input="x", previous_response_id="r", conversation="c")


def test_a_compaction_is_known_by_its_text_alone() -> None:
    """Its id is the caller's to choose."""
    first = opened(input=[{"type": "compaction", "id": "a", "encrypted_content": "x"}]).refers
    other = opened(input=[{"type": "compaction", "id": "b", "encrypted_content": "x"}]).refers
    assert first is not None and other is not None and first.all == other.all


def test_findings_are_told_apart_by_who_has_the_message() -> None:
    """Only what is in the request can be masked in it, or taken out of it."""
    exchange = opened(input="go on", previous_response_id="resp_1")
    whole = history.completed(exchange, {Reference("response", "resp_1"): BEFORE}).conversation
    rule = Guardrail("g", "g", "")
    old = Violation(rule, "old", (Address(1, "content", 0, 2),))
    new = Violation(rule, "new", (Address(2, "content", 0, 2),))
    own, here = history.sent(whole, (old, new))
    assert [v.message for v in here] == ["new"] and here[0].addresses[0].message == 0
    assert len(own.messages) == 1
    told = error_body(Refusal(violations=(old,)), "request", "inv", whole)
    assert b"not in this request, but in what OpenAI keeps" in told
    assert b"OpenAI keeps" not in error_body(Refusal(violations=(new,)), "request", "inv", whole)


def test_what_is_kept_of_a_reply() -> None:
    """Its names; and nothing of one that is not over."""
    output = [{"type": "message", "id": "msg_1"}, {"type": "compaction", "encrypted_content": "x"}]
    done = {"id": "r", "status": "completed", "conversation": {"id": "c"}, "output": output}
    kept = history.kept(done)
    assert kept is not None and (kept.response, kept.conversation) == ("r", "c")
    assert [reference.kind for reference in kept.others] == ["item", "sealed"]
    assert history.kept({**done, "status": "queued"}) is None
    assert history.kept({**done, "id": None}) is None
