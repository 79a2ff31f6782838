"""Turns to what the page shows of them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from invariant_addon.core.trace import Finding, Trace
from invariant_addon.core.verdict import Address
from invariant_addon.page.server import _json
from invariant_addon.page.shapes import Conversation

from .days import call, file_agent, found, said, trace, user


def shown(*turns: Trace, texts: dict[str, str] | None = None) -> list[dict[str, Any]]:
    conversation = Conversation(texts or {})
    for number, turn in enumerate(turns, 1):
        conversation.add(number, turn)
    result = conversation.shown()
    json.loads(_json(result), parse_constant=pytest.fail)  # a browser reads no NaN
    return result


def texts(item: dict[str, Any]) -> str:
    return "".join(p.get("t", "") for block in item["blocks"] for p in block.get("pieces", ()))


def marked(value: Any) -> list[str]:
    """All that is marked anywhere in it."""
    if isinstance(value, list):
        return [text for each in value for text in marked(each)]
    if isinstance(value, dict):
        own = [value["t"]] if "m" in value else []
        return own + [text for each in value.values() for text in marked(each)]
    return []


def test_each_message_is_shown_once() -> None:
    """Each turn sends the whole history again."""
    first, second, third = shown(*file_agent(1))
    assert [item["role"] for item in first["items"]] == ["system", "user", "assistant"]
    assert [item["role"] for item in second["items"]] == ["tool", "assistant"]
    assert [item["role"] for item in third["items"]] == ["user", "assistant"]
    assert not any(turn["rewritten"] for turn in (first, second, third))
    assert second["again"] == 3


def test_a_blocked_call_is_marked_and_withheld() -> None:
    """What was blocked, where, by which rule, and that nobody got it."""
    _, turn, _ = shown(*file_agent(1), texts={"rule-files": "raise ..."})
    (finding,) = turn["findings"]
    text, delete = turn["items"][1]["blocks"]
    assert (finding["rule"], finding["effect"], finding["text"]) == (
        "files",
        "blocked",
        "raise ...",
    )
    assert finding["places"][1]["path"] == "tool_calls.0.function.arguments.name"
    assert marked(turn["items"]) == ["delete_file", "customers.db"]
    assert delete["withheld"] and not any("w" in piece for piece in text["pieces"])
    assert turn["withheld_calls"] == 1


def test_what_the_client_did_not_get_is_told_from_what_it_got() -> None:
    """To the character."""
    reply = said("🙂 good, then bad")
    (turn,) = shown(trace(1, [user("x")], choices=(reply,), delivered=7, withheld=9))
    pieces = turn["items"][1]["blocks"][0]["pieces"]
    assert pieces == [{"t": "🙂 good,"}, {"t": " then bad", "w": True}]


def test_a_finding_in_an_old_message_is_shown_where_that_message_is() -> None:
    """And not the message once more."""
    late = found("late", "w", "noted", Address(0, "content", 0, 5))
    first = trace(1, [user("hello there")], choices=(said("hi"),))
    history = [user("hello there"), said("hi"), user("more")]
    one, two = shown(first, trace(2, history, choices=(said("x"),), findings=(late,)))
    assert marked(one["items"]) == ["hello"] and not marked(two["items"])
    assert two["findings"][0]["places"][0]["item"] == one["items"][0]["key"]


def test_a_changed_history_is_said_and_shown() -> None:
    """Agents summarise; a page that hid it would lie."""
    first = trace(1, [user("a"), said("b"), user("c")], choices=(said("d"),))
    second = trace(2, [user("a"), said("summary"), user("c"), user("e")])
    _, turn = shown(first, second)
    assert turn["rewritten"]
    assert [texts(item) for item in turn["items"]] == ["summary", "c", "e"]
    refused = trace(3, [user("a"), user("again")])
    assert not shown(trace(1, [user("a")], choices=(said("bad"),)), refused)[1]["rewritten"]


def test_of_alternatives_nobody_knows_which_one_is_meant() -> None:
    """So none of them is marked, and the finding stands beside the turn."""
    finding = found("x", "w", "blocked", Address(1, "content", 0, 2))
    (turn,) = shown(
        trace(1, [user("q")], choices=(said("one"), said("two")), findings=(finding,), withheld=6)
    )
    assert not marked(turn["items"]) and turn["findings"][0]["places"][0]["item"] is None
    assert [item["alternatives"] for item in turn["items"][1:]] == [2, 2]
    assert all("w" in item["blocks"][0]["pieces"][0] for item in turn["items"][1:])


def test_what_is_said_beside_the_messages_is_shown() -> None:
    """A system text can be a parameter: it has one number, behind the reply's, and no places."""
    asked = {"system": "never say BLUEBIRD", "model": "m"}
    found_there = found("x", "w", "noted", Address(2))
    in_reply = found("y", "w", "noted", Address(1, "content", 0, 2))
    one = trace(
        1, [user("q")], choices=(said("hi"),), parameters=asked, findings=(found_there, in_reply)
    )
    two = trace(2, [user("q"), said("hi"), user("p")], choices=(said("ho"),), parameters=asked)
    first, second = shown(one, two)
    assert [item["role"] for item in first["items"]] == ["user", "system", "assistant"]
    assert first["findings"][0]["places"][0]["item"] == first["items"][1]["key"]
    assert marked(first["items"][2]) == ["hi"]
    assert [item["role"] for item in second["items"]] == ["user", "assistant"]
    assert not second["rewritten"]


def test_a_long_history_is_cut_and_what_was_found_stays() -> None:
    """A thousand messages are not drawn to see one."""
    many = [user(f"message {n}") for n in range(1000)]
    finding = found("x", "w", "noted", Address(500, "content", 0, 7))
    (turn,) = shown(trace(1, many, findings=(finding,)))
    assert len(turn["items"]) + turn["left_out"] == 1000 and len(turn["items"]) < 100
    assert any(texts(item) == "message 500" for item in turn["items"])


def test_what_is_sent_has_a_limit() -> None:
    """Thirty turns of a long run are not fifty megabytes; the newest has the most room."""
    turns = []
    for n in range(8):
        messages = [user(f"{n}.{m} " + "x" * 19_000) for m in range(40)]
        turns.append(trace(n, messages))
    sent = shown(*turns)
    assert len(_json(sent)) < 4_000_000
    assert len(texts(sent[-1]["items"][0])) > 19_000 > 2_000 > len(texts(sent[0]["items"][0])) > 400


def test_one_message_can_be_had_whole() -> None:
    """With its marks."""
    text = "x" * 50_000 + "SECRET" + "y" * 50_000
    finding = found("x", "w", "blocked", Address(0, "content", 50_000, 50_006))
    conversation = Conversation({})
    conversation.add(4, trace(1, [user(text)], findings=(finding,)))
    cut = conversation.shown()[0]["items"][0]
    whole = conversation.whole("4.0")
    assert whole and texts(whole) == text and marked(whole) == marked(cut) == ["SECRET"]
    assert len(texts(cut)) < 20_000
    assert conversation.whole("4.1") is None


def test_arguments_are_shown_as_deep_as_they_are() -> None:
    """Row by row."""
    deep = call("shell", '{"command":["bash","-lc","ls"],"env":{"A":null},"n":3}')
    (turn,) = shown(trace(1, [user("q")], choices=(said(None, deep),)))
    rows = turn["items"][1]["blocks"][0]["members"]
    assert [(row["key"], row["depth"]) for row in rows] == [
        ("command", 0), ("0", 1), ("1", 1), ("2", 1), ("env", 0), ("A", 1), ("n", 0)
    ]  # fmt: skip


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4)
    ),
    max_leaves=12,
)
MESSAGES = st.lists(
    JSON
    | st.fixed_dictionaries(
        {},
        optional={
            "role": JSON,
            "content": JSON,
            "tool_calls": JSON | st.lists(st.fixed_dictionaries({"function": JSON}), max_size=2),
            "name": JSON,
        },
    ),
    max_size=4,
)
ADDRESSES = st.builds(
    Address,
    st.integers(-2, 6),
    st.sampled_from(
        ["", "content", "other", "tool_calls.0.function.arguments", "tool_calls.x", "."]
    ),
    st.none() | st.integers(-5, 50),
    st.none() | st.integers(-5, 50),
)


@given(st.lists(st.tuples(MESSAGES, MESSAGES, st.lists(ADDRESSES, max_size=3)), max_size=3))
@settings(max_examples=60)
def test_whatever_was_sent_is_shown(
    turns: list[tuple[list[Any], list[Any], list[Address]]],
) -> None:
    """A page that breaks on one trace hides all that is around it."""
    made = [
        trace(
            n,
            messages,
            choices=tuple(choices),
            findings=(Finding({}, "w", "blocked", tuple(addresses)),),
            usage={"prompt_tokens": 1},
            parameters={"system": messages[0] if messages else None, "prediction": choices},
            delivered=3,
            withheld=2,
        )
        for n, (messages, choices, addresses) in enumerate(turns)
    ]
    shown(*made)


def test_unknown_parameters_and_numbers_are_no_trouble() -> None:
    """They are the client's."""
    odd = replace(
        trace(1, [user("q")]),
        parameters={"a": 10**40, "b": "\ud800", "c": float("nan")},
        usage={"prompt_tokens": 10**30, "x": "y"},
        finishes=(None, "a", "b"),
    )
    shown(odd)
