"""normalise: what the engine reads, and the way back to our addresses."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from invariant_addon.core.conversation import Message, Part, ToolCall
from invariant_addon.core.verdict import Address
from invariant_addon.engines.normalise import MAX_DEPTH, arguments, locate, normalise

RULE = 'raise "no" if:\n    (m: Message)\n    "needle" in m.content.lower()\n'
CALLS = 'raise "no" if:\n    (o: ToolOutput)\n    o is tool:nothing({a: "b"})\n'

TEXTS = st.text(st.characters(codec=None), max_size=20) | st.sampled_from(
    ["", "42", "null", "{}", '{"a": [1, NaN, 1e999]}', '{"lower": 1}', "[" * 200, "\ud800", "\0"]
)
NAMES = st.none() | st.sampled_from(["", "a", "b", "call_0_0"])
KINDS = ["text", "refusal", "transcript", "reasoning", "image", "audio", "file", "other"]
CALL = st.builds(
    ToolCall, NAMES, st.sampled_from(["", "a", "b"]), TEXTS, st.sampled_from(["function", "custom"])
)
MESSAGES = st.lists(
    st.builds(
        Message,
        st.sampled_from(["system", "user", "assistant", "tool", "developer", "unknown", "", "x"]),
        st.lists(st.builds(Part, st.sampled_from(KINDS), TEXTS), max_size=4).map(tuple),
        st.lists(CALL, max_size=3).map(tuple),
        NAMES,
        NAMES,
    ),
    max_size=6,
)


def call(text: str, call_id: str | None = "c", name: str = "f") -> Message:
    return Message("assistant", (), (ToolCall(call_id, name, text),))


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(messages=MESSAGES, reply=MESSAGES)
def test_whatever_is_sent_can_be_judged(bench: Any, messages: Any, reply: Any) -> None:
    """A shape that the engine cannot read is a way around every guardrail, or blocks everybody."""
    from .conftest import question

    asked = question(messages, RULE, CALLS, then=((), tuple(reply)))
    for verdict in bench.run(bench.engine.check(asked)):
        assert [outcome.error for outcome in verdict.outcomes] == [None, None]


@given(messages=MESSAGES, reply=MESSAGES)
def test_a_digest_does_not_depend_on_where_it_was_continued(messages: Any, reply: Any) -> None:
    """The request is read once and reused for each piece of the reply: it must be the same."""
    base = normalise(messages)
    rest = normalise(reply, base)
    whole = normalise([*messages, *reply])
    assert json.dumps(base.messages + rest.messages) == json.dumps(whole.messages)
    assert (rest.places, rest.count, rest.ids) == (whole.places, whole.count, whole.ids)
    assert rest.unanswered == whole.unanswered


@given(messages=MESSAGES)
def test_everything_a_message_says_is_in_the_digest(messages: Any) -> None:
    """What the engine does not get to see passes unscanned."""
    turns = normalise(messages)
    said = "\n".join(str(turn["content"]) for turn in turns.messages)
    assert all(part.text in said for message in messages for part in message.parts)
    calls = sum(len(turn.get("tool_calls", ())) for turn in turns.messages)  # type: ignore[arg-type,misc]  # JSON
    assert calls == sum(len(message.tool_calls) for message in messages)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", {}),
        (" \n", {}),
        ('{"a": ', {"__raw__": '{"a": '}),
        ("[1]", {"__value__": [1]}),
        ('"hi"', {"__value__": "hi"}),
        ("null", {"__value__": None}),
        ('{"a": NaN}', {"a": "NaN"}),
        ('{"a": 1e999}', {"a": "1e999"}),
        ('{"a": ' + "1" * 5000 + "}", {"a": "1" * 5000}),
        ("[" * 100_000, {"__raw__": "[" * 100_000}),
    ],
)
def test_arguments_are_an_object_whatever_the_model_wrote(text: str, wanted: object) -> None:
    """Models write broken JSON; the engine raises on it before any rule runs."""
    assert arguments(ToolCall("c", "f", text)) == wanted


def test_custom_tools_have_their_text_as_input() -> None:
    """A rule must have a name for the text of a tool that takes no JSON."""
    assert arguments(ToolCall("c", "f", "{not json", "custom")) == {"input": "{not json"}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('{"a": "x", "a": "y"}', {"a": "y", "__hidden_1__": "x"}),
        ('{"a": {"b": 1, "b": 2}, "a": 3}', {"a": 3, "__hidden_1__": 1, "__hidden_2__": {"b": 2}}),
        ('[{"a": "x", "a": "y"}]', {"a": "y", "__value__": [{"a": "y"}], "__hidden_1__": "x"}),
        ('{"a": "x", "a": "x"}', {"a": "x"}),
        (
            '{"__hidden_1__": "x", "a": 1, "a": 2}',
            {"__hidden_1__": "x", "a": 2, "___hidden_1__": 1},
        ),
    ],
)
def test_a_key_that_comes_twice_hides_nothing(text: str, wanted: object) -> None:
    """The model reads the whole text, and so may whoever runs the tool."""
    assert arguments(ToolCall("c", "f", text)) == wanted


def test_deep_arguments_end_in_text() -> None:
    """The engine recurses; a thousand brackets must not end its check, nor hide what is inside."""
    text = '{"a": ' * 500 + '"needle"' + "}" * 500
    value: Any = arguments(ToolCall("c", "f", text))
    depth = 0
    while isinstance(value, dict):
        value, depth = value["a"], depth + 1
    assert depth == MAX_DEPTH
    assert "needle" in value


def test_a_call_without_id_gets_one_that_nobody_has() -> None:
    """Results are tied to calls by id; two calls of one id would swap their results."""
    clash = call("{}", "call_1_0")
    ids = normalise([clash, call("{}", None)]).ids
    assert len(ids) == 2


def test_a_legacy_result_belongs_to_the_last_open_call_of_its_name() -> None:
    """Functions of 2023 have no ids; `o is tool:x` must know what was called all the same."""
    result = Message("tool", (Part("text", "r"),), name="f")
    turns = normalise([call("{}", None), call("{}", None), result, result, result]).messages
    assert [turn.get("tool_call_id") for turn in turns[2:]] == ["call_1_0", "call_0_0", None]


def test_a_result_of_no_call_names_none() -> None:
    """Without the key, the engine would tie it to the last call there was: a wrong one."""
    result = Message("tool", (Part("text", "r"),), tool_call_id="other")
    assert normalise([call("{}"), result]).messages[1]["tool_call_id"] is None


def test_reasoning_is_a_message_of_its_own() -> None:
    """`m.content` of the assistant stays what its reader sees."""
    parts = (Part("reasoning", "hm"), Part("text", "yes"), Part("image", "http://x"))
    turns = normalise([Message("assistant", parts)]).messages
    assert [(turn["role"], turn["content"]) for turn in turns] == [
        ("reasoning", "hm"),
        ("other", "http://x"),
        ("assistant", "yes"),
    ]


@pytest.mark.parametrize(
    ("address", "wanted"),
    [
        ("0", Address(0, "reasoning")),
        ("messages.0.content:1-2", Address(0, "reasoning", 1, 2)),
        ("0.role:1-2", Address(0, "reasoning")),
        ("messages.1", Address(0)),
        ("1.content:0-2", Address(0, "content", 0, 2)),
        (
            "messages.2.tool_calls.0.function.arguments.cmd:4-10",
            Address(1, "tool_calls.0.function.arguments.cmd", 4, 10),
        ),
        (
            "2.tool_calls.0.function.arguments.__raw__:4-10",
            Address(1, "tool_calls.0.function.arguments", 4, 10),
        ),
        (
            "2.tool_calls.0.function.arguments.a:b",
            Address(1, "tool_calls.0.function.arguments.a:b"),
        ),
        ("7", None),
        ("", None),
        ("content", None),
    ],
)
def test_addresses_speak_of_our_messages(address: str, wanted: Address | None) -> None:
    """The person who reads a violation looks at the conversation that was sent."""
    places = normalise(
        [Message("assistant", (Part("reasoning", "hm"), Part("text", "yes"))), call("{}")]
    ).places
    assert locate(address, places) == wanted
