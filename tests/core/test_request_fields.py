"""What a request says beside its messages: nothing of it is left unjudged, and places stay."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invariant_addon.core import mask
from invariant_addon.core.chat import bodies as chat
from invariant_addon.core.conversation import Conversation, Message
from invariant_addon.core.refusal import error_body
from invariant_addon.core.terms import Refusal
from invariant_addon.core.verdict import Address, Guardrail, Violation

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Says the weather",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "where", "enum": ["Rome"]}},
        },
    },
}
FORMAT = {
    "type": "json_schema",
    "json_schema": {"name": "answer", "schema": {"properties": {"why": {"description": "since"}}}},
}


def read(**fields: Any) -> Conversation:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}
    return chat.parse_request(json.dumps(body).encode()).conversation


def beside(**fields: Any) -> tuple[Message, ...]:
    conversation = read(**fields)
    assert conversation.messages[0].text == "hi"
    assert conversation.beside == len(conversation.messages) - 1
    return conversation.messages[1:]


def everything(messages: tuple[Message, ...]) -> str:
    return "\n".join(part.text for message in messages for part in message.parts)


def test_tools_are_read_with_their_schemas() -> None:
    """A description is text that the model obeys, and a poisoned one is an order."""
    (tools,) = beside(tools=[TOOL])
    assert tools.role == "tools"
    assert tools.text == "weather\nSays the weather\nwhere\nRome"
    assert everything((tools,)).endswith("city")


@pytest.mark.parametrize(
    ("field", "value", "role"),
    [
        ("functions", [{"name": "f", "description": "BLUEBIRD"}], "tools"),
        ("tools", [{"type": "custom", "custom": {"name": "f", "format": "BLUE BIRD"}}], "tools"),
        ("response_format", FORMAT, "other"),
        ("metadata", {"task": "BLUEBIRD"}, "other"),
        ("metadata", {"BLUEBIRD": ""}, "other"),
        ("user", "BLUEBIRD", "other"),
        ("safety_identifier", "BLUEBIRD", "other"),
        ("prompt_cache_key", "BLUEBIRD", "other"),
        ("stop", ["BLUEBIRD"], "other"),
        ("stop", "BLUEBIRD", "other"),
        ("web_search_options", {"user_location": {"approximate": {"city": "Rome"}}}, "other"),
        ("tool_choice", {"type": "function", "function": {"name": "a name of words"}}, "other"),
        ("model", "a name of words", "other"),
        ("logit_bias", {"some words": 1}, "other"),
        ("anything_new", {"deep": [["BLUEBIRD"]]}, "other"),
    ],
)
def test_other_fields_are_messages_behind_the_real_ones(field: str, value: Any, role: str) -> None:
    """Whatever is sent is judged, new fields included."""
    (message,) = beside(**{field: value})
    assert message.role == role and message.parts


def test_settings_are_no_text() -> None:
    """Numbers, switches and names of models raise no alarm and cost nothing."""
    assert not beside(
        temperature=0.5,
        stream=True,
        stream_options={"include_usage": True},
        n=2,
        seed=1,
        tool_choice="auto",
        reasoning_effort="high",
        modalities=["text", "audio"],
        audio={"voice": "alloy", "format": "wav"},
        logit_bias={"50256": -100},
        tools=None,
        user="",
        metadata={},
    )


def test_a_participants_name_is_judged_with_the_message() -> None:
    """The model reads it; a rule finds it in what is beside the content."""
    body = {"messages": [{"role": "user", "name": "BLUEBIRD", "content": "hi"}]}
    (message,) = chat.parse_request(json.dumps(body).encode()).conversation.messages
    assert message.text == "hi" and "BLUEBIRD" in everything((message,))


@given(
    st.dictionaries(st.sampled_from(["tools", "user", "x", "metadata", "model", "n"]), st.none()),
    st.lists(st.sampled_from(["a", "function", "description", "enum", "id", 0, 1]), max_size=5),
    st.sampled_from(["tools", "user", "x", "metadata", "model", "n", "stop", "audio"]),
)
def test_no_text_is_dropped_wherever_it_is(
    others: dict[str, None], path: list[str | int], field: str
) -> None:
    """A field that is not read is a way around the guardrails."""
    planted: Any = "a BLUEBIRD here"
    for step in reversed(path):
        planted = {step: planted} if isinstance(step, str) else [planted]
    assert "a BLUEBIRD here" in everything(beside(**{**others, field: planted}))


def test_they_can_be_masked() -> None:
    """Where a placeholder can stand, the call need not be blocked."""
    body = {"messages": [], "metadata": {"k": "a secret"}, "tools": [TOOL]}
    data = json.dumps(body).encode()
    guardrail = Guardrail("1", "g", "")
    found = Violation(guardrail, "w", (Address(0, "content", 2, 8),))
    conversation = chat.parse_request(data).conversation
    masked = mask.mask_request(data, conversation, [found], lambda name, text: f"[{name}]")
    assert json.loads(masked)["metadata"] == {"k": "a [g]"}


def test_a_refusal_says_that_it_is_beside_the_messages() -> None:
    """ "In message 2 of 2" would send the person to look where nothing is."""
    conversation = read(tools=[TOOL])
    guardrail = Guardrail("1", "g", "")

    def said(*addresses: Address) -> str:
        refusal = Refusal((Violation(guardrail, "w", addresses),))
        message = json.loads(error_body(refusal, "request", "r", conversation))["error"]["message"]
        assert isinstance(message, str)
        return message

    assert "in a field beside the messages" in said(Address(1, "content", 0, 2))
    assert "(found in message 1 (user) of 1)" in said(Address(0, "content", 0, 2))
    assert "earlier message" not in said(Address(0), Address(1))
