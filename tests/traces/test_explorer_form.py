"""What is pushed to an Explorer: nothing that it refuses or breaks, and every mark in its place."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invariant_addon.core.chat.message import read_message
from invariant_addon.core.located import texts_at
from invariant_addon.core.trace import Finding, Trace
from invariant_addon.core.verdict import Address
from invariant_addon.engines.normalise import arguments
from invariant_addon.traces import explorer_form
from invariant_addon.traces.explorer_form import FormError, annotations_of, payload
from invariant_addon.traces.explorer_messages import message_form, segments

from .seen import marked, stored

GUARDRAIL = {"id": "g1", "name": "no keys", "action": "block", "source": "file"}
PIXEL = "data:image/png;base64,iVBORw0KGgo="


def a_trace(
    *messages: Any,
    choices: tuple[Any, ...] = (),
    findings: tuple[Finding, ...] = (),
    **fields: Any,
) -> Trace:
    plain: dict[str, Any] = {
        "id": "t1",
        "started": 0.0,
        "status": "judged",
        "endpoint": "chat",
        "model": "gpt-x",
        "stream": False,
        "parameters": {},
    }
    plain |= fields
    return Trace(messages=messages, choices=choices, findings=findings, **plain)


def at(*addresses: Address, words: str = "found", effect: Any = "blocked") -> Finding:
    return Finding(GUARDRAIL, words, effect, addresses)


def pushed(trace: Trace) -> dict[str, Any]:
    """As the Explorer reads it."""
    read: dict[str, Any] = json.loads(explorer_form.body(trace, "agents"))
    return read


def addresses(trace: Trace) -> list[str]:
    (found,) = pushed(trace)["annotations"]
    return [annotation["address"] for annotation in found]


def test_what_was_masked_is_not_pushed() -> None:
    """What its owner keeps for himself stays on his machine."""
    masked = a_trace({"role": "user", "content": "my key is [masked]"}, findings=(at(),))
    kept = replace(masked, original=a_trace({"role": "user", "content": "my key is sk-1"}))
    assert pushed(kept) == pushed(masked)


def call(arguments: Any, name: str = "f") -> dict[str, Any]:
    return {"id": "c", "type": "function", "function": {"name": name, "arguments": arguments}}


def calling(*calls: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": list(calls)}


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


# -- messages -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ("plain", "plain"),
        ("nul \0", "nul \0"),
        (7, "7"),
        ([text("a")], [text("a")]),
        ([text("a"), text("b")], "a\nb"),
        (["a", text("b")], "a\nb"),
        (["a"], [text("a")]),
        (["a", None, ""], [text("a")]),
        ([text("a"), {"type": "input_audio", "input_audio": {"data": "QQ=="}}], None),
        ([{"type": "input_text", "text": "a"}], [text("a")]),
        ([{"type": "refusal", "refusal": "no"}], [text("no")]),
        ([{"type": "text", "text": {"odd": 1}}], [text('{"type":"text","text":{"odd":1}}')]),
        ([{"text": "no type"}], [text("no type")]),
        ([{"odd": 1}], [text('{"odd":1}')]),
        ([[1]], [text("[1]")]),
        ({"type": "text", "text": "a"}, [text("a")]),
        ([{"type": "image_url", "image_url": {"url": PIXEL}}], None),
        (
            [{"type": "image_url", "image_url": {"url": "https://a.example/b.png"}}],
            [text("[image: https://a.example/b.png]")],
        ),
        (
            [text("look"), {"type": "image_url", "image_url": "https://a.example/b.png"}],
            "look\n[image: https://a.example/b.png]",
        ),
        (
            [{"type": "image_url", "image_url": {"url": "data:image/png;base64,A"}}],
            [text("[image: data:image/png;base64]")],
        ),
        (
            [{"type": "image_url", "image_url": {"url": "data:text/plain;base64,QQ=="}}],
            [text("[image: data:text/plain;base64]")],
        ),
        ([{"type": "image_url"}], [text('{"type":"image_url"}')]),
        ("base64_img: not one", [text("base64_img: not one")]),
        ("lone \ud800 one", "lone \ufffd one"),
        ("a pair \ud83d\ude00 in halves", "a pair 😀 in halves"),
    ],
)
def test_content_is_written_so_that_the_explorer_can_keep_it(content: Any, wanted: Any) -> None:
    """Each of these is a 500, a trace that can never be read again, or a URL that is lost."""
    form = message_form({"role": "user", "content": content})
    assert form == {"role": "user", "content": content if wanted is None else wanted}
    stored(form)


@pytest.mark.parametrize(
    ("calls", "wanted"),
    [
        ([call('{"a": 1}')], {"a": 1}),
        ([call({"a": 1})], {"a": 1}),
        ([call("")], {}),
        ([call(None)], {}),
        ([call("{broken")], "{broken"),
        ([call("[1]")], {"__value__": [1]}),
        ([call('{"a": "\\ud800"}')], {"a": "\ufffd"}),
        ([call('{"a": NaN}')], {"a": "nan"}),
        ([{"id": "c", "type": "custom", "custom": {"name": "f", "input": "x"}}], {"input": "x"}),
        ([{"name": "f", "arguments": "{}"}], {}),
    ],
)
def test_a_call_is_a_function_call_with_an_object(calls: Any, wanted: Any) -> None:
    """A call without `function` is a 500, and the trace is lost."""
    (form,) = message_form(calling(*calls))["tool_calls"]
    assert form["type"] == "function" and isinstance(form["id"], str)
    assert form["function"] == {"name": "f", "arguments": wanted}


def test_a_legacy_call_is_shown_as_a_call() -> None:
    """Rules count it as the first call, and so do their addresses."""
    form = message_form({"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}})
    (shown,) = form["tool_calls"]
    assert shown["function"] == {"name": "f", "arguments": {}}
    assert "function_call" not in form


@pytest.mark.parametrize("message", ["text", 7, None, [], {"content": "x"}, {"role": 3}])
def test_what_is_no_message_becomes_one(message: Any) -> None:
    """The server calls .get on everything."""
    assert isinstance(message_form(message)["role"], str)


def test_calls_that_are_no_list_do_not_break_the_push() -> None:
    """The server would walk over the keys of an object."""
    form = message_form({"role": "assistant", "tool_calls": {"a": 1}})
    assert "tool_calls" not in form and form["tool_calls_as_sent"] == '{"a":1}'


def test_nothing_is_nested_deeper_than_a_database_reads() -> None:
    """Neither the JSON library nor Postgres goes on for ever."""
    deep: Any = "end"
    for _ in range(1000):
        deep = {"a": deep}
    trace = a_trace({"role": "user", "content": "x", "extra": deep}, parameters={"tools": deep})
    assert pushed(trace)["messages"][0][0]["content"] == "x"


# -- addresses ----------------------------------------------------------------------------------

SECRET = {"role": "user", "content": "my 😀 SECRET"}
ARGS = calling(call('{"to": "eve@a.example", "n": 1, "list": ["x"], "a.b": "x", "a:b": "x"}'))
MALFORMED = calling(call('{"to": "eve'))
TWO_TEXTS = {
    "role": "user",
    "content": [text("one"), {"type": "image_url", "image_url": {"url": PIXEL}}, text("two")],
}
LONG = {"role": "user", "content": "x" * 20_000}


@pytest.mark.parametrize(
    ("message", "address", "wanted"),
    [
        (SECRET, Address(1, "content", 5, 11), "messages.1.content:6-12"),
        (SECRET, Address(1, "content", 0, 2), "messages.1.content:0-2"),
        (SECRET, Address(1, "content"), "messages.1"),
        (SECRET, Address(1), "messages.1"),
        (SECRET, Address(1, "content", 5, 5), "messages.1"),
        (SECRET, Address(1, "content", 5, 99), "messages.1"),
        (SECRET, Address(1, "other", 0, 2), "messages.1"),
        (SECRET, Address(1, "role"), "messages.1"),
        (SECRET, Address(7, "content", 0, 2), "<root>"),
        (SECRET, Address(1, "tool_calls.0"), "messages.1"),
        (ARGS, Address(1, "tool_calls.0"), "messages.1.tool_calls.0"),
        (ARGS, Address(1, "tool_calls"), "messages.1"),
        (ARGS, Address(1, "tool_calls.0.function"), "messages.1.tool_calls.0"),
        (ARGS, Address(1, "tool_calls.9"), "messages.1"),
        (
            ARGS,
            Address(1, "tool_calls.0.function.name", 0, 1),
            "messages.1.tool_calls.0.function.name:0-1",
        ),
        (ARGS, Address(1, "tool_calls.0.function.arguments"), "messages.1.tool_calls.0"),
        (ARGS, Address(1, "tool_calls.0.function.arguments", 2, 4), "messages.1.tool_calls.0"),
        (
            ARGS,
            Address(1, "tool_calls.0.function.arguments.to", 0, 3),
            "messages.1.tool_calls.0.function.arguments.to:0-3",
        ),
        (
            ARGS,
            Address(1, "tool_calls.0.function.arguments.to"),
            "messages.1.tool_calls.0.function.arguments.to",
        ),
        (
            ARGS,
            Address(1, "tool_calls.0.function.arguments.n"),
            "messages.1.tool_calls.0.function.arguments.n",
        ),
        (
            ARGS,
            Address(1, "tool_calls.0.function.arguments.list.0", 0, 1),
            "messages.1.tool_calls.0.function.arguments.list",
        ),
        (ARGS, Address(1, "tool_calls.0.function.arguments.a.b", 0, 1), "messages.1.tool_calls.0"),
        (ARGS, Address(1, "tool_calls.0.function.arguments.a:b", 0, 1), "messages.1.tool_calls.0"),
        (
            calling(call('{"constructor": "x"}')),
            Address(1, "tool_calls.0.function.arguments.constructor", 0, 1),
            "messages.1.tool_calls.0",
        ),
        (
            MALFORMED,
            Address(1, "tool_calls.0.function.arguments", 8, 11),
            "messages.1.tool_calls.0.function.arguments:8-11",
        ),
        (
            MALFORMED,
            Address(1, "tool_calls.0.function.arguments.to", 0, 3),
            "messages.1.tool_calls.0",
        ),
        (
            calling({"type": "custom", "custom": {"name": "sh", "input": "rm x"}}),
            Address(1, "tool_calls.0.function.arguments.input", 0, 2),
            "messages.1.tool_calls.0.function.arguments.input:0-2",
        ),
        (
            {"role": "user", "content": ["one", "two"]},
            Address(1, "content", 4, 7),
            "messages.1.content:4-7",
        ),
        (
            {"role": "user", "content": ["one", "two"]},
            Address(1, "content", 2, 5),
            "messages.1.content:2-5",
        ),
        (TWO_TEXTS, Address(1, "content", 4, 7), "messages.1"),
        (
            {"role": "assistant", "refusal": "no", "content": "yes"},
            Address(1, "content", 3, 6),
            "messages.1.content:0-3",
        ),
        (
            {"role": "assistant", "refusal": "no", "content": "yes"},
            Address(1, "content", 0, 2),
            "messages.1",
        ),
        (LONG, Address(1, "content", 0, 5), "messages.1.content:0-5"),
        (LONG, Address(1, "content", 6000, 6005), "messages.1"),
    ],
)
def test_an_address_is_one_that_the_explorer_shows(
    message: Any, address: Address, wanted: str
) -> None:
    """A wrong one marks nothing, the wrong words, or breaks the page of the whole trace."""
    trace = a_trace({"role": "system", "content": "s"}, message, findings=(at(address),))
    assert addresses(trace) == [wanted]
    marked([stored(m) for m in pushed(trace)["messages"][0]], wanted)


def test_the_image_of_a_url_does_not_move_a_mark() -> None:
    """The text that stands for an image is none that rules read."""
    image = {"type": "image_url", "image_url": {"url": "https://a.example/b.png"}}
    message = {"role": "user", "content": [text("one"), image, text("two")]}
    trace = a_trace(message, findings=(at(Address(0, "content", 4, 7)),))
    (address,) = addresses(trace)
    assert marked(pushed(trace)["messages"][0], address) == ["two"]


def test_a_finding_without_a_place_is_shown_on_top() -> None:
    """Without an annotation nobody would see that a rule was broken."""
    assert addresses(a_trace(SECRET, findings=(at(),))) == ["<root>"]


def test_only_the_most_specific_places_are_marked_and_each_once() -> None:
    """Engines name the message beside the words in it; 1 is no prefix of 10."""
    places = (
        Address(1),
        Address(1, "content"),
        Address(1, "content", 0, 2),
        Address(1, "content", 0, 2),
        Address(1, "other", 3, 4),
        Address(10),
    )
    messages = [{"role": "user", "content": "words"}] * 11
    trace = a_trace(*messages, findings=(at(*places), at(*places)))
    assert addresses(trace) == ["messages.1.content:0-2", "messages.10"]


def test_muted_findings_are_not_shown() -> None:
    """A person said that they are none."""
    assert pushed(a_trace(SECRET, findings=(at(effect="muted"),)))["annotations"] is None


def test_an_annotation_names_the_guardrail() -> None:
    """The Explorer makes a box of it, with the guardrail's id."""
    (annotation,) = annotations_of(a_trace(SECRET, findings=(at(words="no \ud800"),)))
    assert annotation.value() == {
        "content": "no \ufffd",
        "address": "<root>",
        "extra_metadata": {
            "source": "guardrails-error",
            "guardrail": {"id": "g1", "name": "no keys", "action": "block"},
        },
    }


@pytest.mark.parametrize("words", ["", "x"])
def test_an_annotation_always_has_words(words: str) -> None:
    """One without would be a 500, after the trace was stored."""
    (annotation,) = annotations_of(a_trace(SECRET, findings=(at(words=words),)))
    assert annotation.content


# -- the rest of a push -------------------------------------------------------------------------


def test_the_first_choice_is_the_turn_and_the_others_are_beside_it() -> None:
    """Alternatives are no turns: nobody answered himself."""
    choices = tuple({"role": "assistant", "content": word} for word in ("a", "b", "c"))
    trace = a_trace(SECRET, choices=choices, findings=(at(Address(1, "content", 0, 1)),))
    push = pushed(trace)
    assert [message["content"] for message in push["messages"][0]] == [SECRET["content"], "a"]
    assert push["metadata"][0]["alternatives"] == list(choices[1:])
    # In which of them it was found nobody knows.
    assert addresses(trace) == ["messages.1"]


def test_metadata_are_the_parameters_and_what_came_of_them() -> None:
    """As invariant-gateway has them, and what a lost push is found again by."""
    trace = a_trace(
        SECRET,
        parameters={"temperature": 0.5, "user": None, "name": "x", "hierarchy_path": 7, "n": 2**70},
        usage={"total_tokens": 3},
        finishes=("stop",),
    )
    assert pushed(trace)["metadata"] == [
        {
            "temperature": 0.5,
            "n": str(2**70),
            "via_gateway": True,
            "model": "gpt-x",
            "usage": {"total_tokens": 3},
            "status": "judged",
            "finish_reason": "stop",
            "name": "my 😀 SECRET",
            "client_trace_id": "t1",
        }
    ]


@pytest.mark.parametrize("dataset", ["", "a b", "ab\n", "ä", "a/b", "x" * 300])
def test_a_dataset_that_cannot_be_is_refused_here(dataset: str) -> None:
    """The Explorer's own pattern lets a line end pass."""
    with pytest.raises(FormError):
        payload(a_trace(SECRET), dataset)


# -- whatever comes -----------------------------------------------------------------------------

words = st.text(st.sampled_from("aß😀\n\ud800\udc00\u2028 0"), max_size=12)
leaves = st.none() | st.booleans() | st.integers() | st.floats() | words
anything = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
parts = st.one_of(
    anything,
    words,
    st.builds(text, words),
    st.builds(lambda t: {"type": "refusal", "refusal": t}, words),
    st.builds(lambda u: {"type": "image_url", "image_url": {"url": u}}, words | st.just(PIXEL)),
    st.builds(lambda a: {"type": "image_url", "image_url": a}, anything),
    st.builds(lambda k, a: {"type": k, k: a}, st.sampled_from(["input_audio", "file"]), anything),
)
named = st.dictionaries(st.sampled_from(["to", "a.b", "c"]), words | anything, max_size=3)
arguments_texts = words | named.map(json.dumps)
calls = st.one_of(
    st.builds(call, arguments_texts | anything, words),
    st.builds(lambda t: {"type": "custom", "custom": {"name": "sh", "input": t}}, words),
    anything,
)
messages = st.one_of(
    anything,
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "tool"]) | anything},
        optional={
            "refusal": words | anything,
            "content": words | anything | st.lists(parts, max_size=4),
            "tool_calls": st.lists(calls, max_size=2) | anything,
            "function_call": st.builds(lambda t: {"name": "f", "arguments": t}, arguments_texts),
            "audio": st.builds(lambda t: {"id": "x", "transcript": t}, words),
            "reasoning_content": words,
        },
    ),
)


@given(message=messages)
def test_segments_are_what_rules_read(message: Any) -> None:
    """Every mark is found by them."""
    if isinstance(message, dict):
        assert "\n".join(s.text for s in segments(message)) == read_message(message).text


@given(data=st.data(), conversation=st.lists(messages, max_size=3))
def test_a_mark_cuts_out_what_was_found(data: st.DataObject, conversation: list[Any]) -> None:
    """Rules count code points in the text that they read, the UI UTF-16 units in what it shows."""
    readable = [
        (index, path, found.whole)
        for index, message in enumerate(conversation)
        if isinstance(message, dict)
        for path in ("content", *_paths(read_message(message)))
        for found in texts_at(read_message(message), path, arguments)
        if found.whole
    ]
    anywhere = [(0, data.draw(st.sampled_from(["", "content", "tool_calls.0.x"])), "")]
    index, path, whole = data.draw(st.sampled_from(readable or anywhere))
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, len(whole)))
    finding = at(Address(index, path, start, end))
    trace = a_trace(*conversation, findings=(finding,))
    shown = [stored(message) for message in pushed(trace)["messages"][0]]
    cuts = [marked(shown, address) for address in addresses(trace)]
    if any(cuts):
        assert all(len(cut) == 1 for cut in cuts), "a range counts in every text part"
        # A line end between two parts is nobody's text.
        said = _healed("\n".join(cut[0] for cut in cuts))
        assert said.strip("\n") == _healed(whole[start:end]).strip("\n")


def _paths(message: Any) -> list[str]:
    found = []
    for index, made in enumerate(message.tool_calls):
        base = f"tool_calls.{index}.function.arguments"
        found += [base, *(f"{base}.{key}" for key in arguments(made))]
    return found


def _healed(said: str) -> str:
    return said.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


@given(conversation=st.lists(messages, max_size=3), choices=st.lists(messages, max_size=2))
def test_a_push_is_always_json(conversation: list[Any], choices: list[Any]) -> None:
    """One that is not, or that has a lone surrogate in it, is lost or can never be read."""
    trace = a_trace(*conversation, choices=tuple(choices), parameters={"x": conversation})
    body = explorer_form.body(replace(trace, findings=(at(),)), "agents")
    read = json.loads(body)
    read["messages"] = [[stored(message) for message in read["messages"][0]]]
    json.dumps(read, ensure_ascii=False, allow_nan=False).encode()
