"""The events of Responses streams: what they merge to, what flows, what is held."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from invariant_addon.core import sse
from invariant_addon.core.aside import KEY
from invariant_addon.core.conversation import Message, Part, ToolCall
from invariant_addon.core.dialects import RESPONSES
from invariant_addon.core.draft import Need
from invariant_addon.core.errors import NotUnderstoodError
from invariant_addon.core.gate import Gate
from invariant_addon.core.responses.bodies import parse_reply
from invariant_addon.core.responses.merge import EventMerger
from invariant_addon.core.responses.shelf import AROUND
from invariant_addon.core.terms import Limits, Mode
from invariant_addon.core.verdict import Address, Guardrail, Outcome, Verdict, Violation
from invariant_addon.core.whole import completion, read_stream
from invariant_addon.engines.normalise import normalise

DATA = Path(__file__).parents[1] / "data"
NAMES = sorted(path.stem for path in DATA.glob("responses_*.sse"))
each_stream = pytest.mark.parametrize("name", NAMES)

MESSAGE = {"type": "message", "role": "assistant", "id": "m", "content": []}


def raw(name: str) -> bytes:
    return (DATA / f"{name}.sse").read_bytes()


def payloads(name: str) -> list[dict[str, Any]]:
    decoder = sse.Decoder(2**24)
    return [json.loads(event.data or "") for event in decoder.feed(raw(name))]


def merged(*events: Any, end: bool = True) -> EventMerger:
    merger = EventMerger()
    for event in events:
        merger.add(event if isinstance(event, str) else json.dumps(event))
    if end:
        merger.end()
    return merger


def said(*events: Any) -> Message:
    (message,) = merged(*events).snapshot().choices
    return message


def everything(*events: Any) -> str:
    return repr(normalise(merged(*events).snapshot().choices).messages)


def text(delta: str, index: int = 0, **more: Any) -> dict[str, Any]:
    at = {"output_index": index, "content_index": 0, "item_id": f"m{index}"}
    return {"type": "response.output_text.delta", **at, "delta": delta, **more}


def added(item: dict[str, Any] = MESSAGE, index: int = 0) -> dict[str, Any]:
    return {"type": "response.output_item.added", "output_index": index, "item": item}


def done(item: dict[str, Any], index: int = 0) -> dict[str, Any]:
    return {"type": "response.output_item.done", "output_index": index, "item": item}


def message_item(*texts: str) -> dict[str, Any]:
    return {**MESSAGE, "content": [{"type": "output_text", "text": t} for t in texts]}


def completed(*items: Any, **more: Any) -> dict[str, Any]:
    return {"type": "response.completed", "response": {"id": "r", "output": [*items], **more}}


def function(arguments: str, name: str = "f") -> dict[str, Any]:
    return {"type": "function_call", "id": "fc", "call_id": "c", "name": name,
            "arguments": arguments}  # fmt: skip


# -- whole streams ---------------------------------------------------------------------------


@each_stream
def test_a_stream_merges_to_its_final_response(name: str) -> None:
    """It is what a request without `stream` would have got."""
    merger = merged(*payloads(name))
    final = payloads(name)[-1]["response"]
    assert merger.completion() == final
    assert completion(raw(name), RESPONSES) == final


@each_stream
def test_a_stream_reads_as_its_final_response(name: str) -> None:
    """Switching `stream` on or off is no way around a rule."""
    if name == "responses_error":
        pytest.skip("its final response has no output")
    whole = RESPONSES.parse_reply(json.dumps(completion(raw(name), RESPONSES)).encode())
    assert read_stream(raw(name), RESPONSES) == whole


@each_stream
def test_no_cut_in_two_changes_what_is_delivered(name: str) -> None:
    """A packet boundary is not an event boundary."""
    body = raw(name)
    for cut in range(0, len(body), 61):  # test_recorded_streams tries every one
        assert delivered([body[:cut], body[cut:]]) == body
    assert delivered([body[i : i + 1] for i in range(len(body))]) == body


def delivered(pieces: list[bytes]) -> bytes:
    gate = Gate(EventMerger(), Mode.VERIFIED, Limits(interval=0, keep_alive=1e9), 0.0)
    sent, now = b"", 0.0

    def settle() -> None:
        nonlocal sent
        while (query := gate.next_query(now)) is not None:
            gate.answer(query, Verdict(), "", now)
        sent += gate.take(now)

    for piece in pieces:
        now += 1
        gate.feed(piece, now)
        settle()
    gate.end(now)
    settle()
    assert gate.done and gate.refusal is None
    return sent


def test_what_was_said_is_read() -> None:
    """Calls with their names and arguments, texts as texts."""
    (message,) = read_stream(raw("responses_custom_tool"), RESPONSES).choices
    assert message.text == "I will look at the files. \u00fc"
    call = ToolCall("call_1", "exec", 'ls -la /tmp\ncat "a b"', "custom")
    assert message.tool_calls == (call,)

    (message,) = read_stream(raw("responses_mcp"), RESPONSES).choices
    assert [c.name for c in message.tool_calls] == ["mcp:mail.send"]
    assert "Sends mail." in message.parts[-2].text and message.parts[-1].text == "sent to ann"

    (message,) = read_stream(raw("responses_shell"), RESPONSES).choices
    assert "uname -a" in message.tool_calls[0].arguments
    assert Part("other", "Linux\n") in message.parts

    (message,) = read_stream(raw("responses_refusal"), RESPONSES).choices
    assert message.parts == (Part("refusal", "I can't help with that."),)


# -- what flows and what is held ----------------------------------------------------------------


def steps(*events: Any) -> list[Any]:
    merger = EventMerger()
    return [merger.add(json.dumps(event)) for event in events]


def test_text_flows_and_needs_only_itself() -> None:
    """That is the whole point of streaming."""
    _, first, second = steps(added(), text("One"), text(" two"))
    assert first.needs == (Need(0, "content:0", 3),)
    assert second.needs == (Need(0, "content:0", 7),)


def test_a_call_is_whole_when_its_item_is_done() -> None:
    """Not a piece of it goes out before; what comes behind it need not wait for the end."""
    merger = EventMerger()
    pieces = [
        added(function("")),
        {"type": "response.function_call_arguments.delta", "output_index": 0, "delta": "{}"},
        {"type": "response.function_call_arguments.done", "output_index": 0, "arguments": "{}"},
    ]
    for event in pieces:
        assert Need(0, None) in merger.add(json.dumps(event)).needs
        assert not merger.choices[0].finished
        assert merger.snapshot().choices[0].tool_calls == ()
    assert Need(0, None) in merger.add(json.dumps(done(function("{}")))).needs
    assert merger.choices[0].finished
    assert merger.snapshot().choices[0].tool_calls == (ToolCall("c", "f", "{}"),)


@pytest.mark.parametrize(
    "event",
    [
        {"type": "keepalive", "sequence_number": 3},
        {"type": "response.web_search_call.searching", "output_index": 0, "item_id": "x"},
        {"type": "response.created", "response": {"id": "r", "output": [], "instructions": "x"}},
        added(),
    ],
)
def test_an_event_without_text_needs_nothing(event: Any) -> None:
    """It goes on as it came."""
    assert steps(event)[0].needs == ()


def test_what_began_before_the_stream_is_held_until_it_is_whole() -> None:
    """`starting_after` begins in the middle: half a word is clean, and the word may not be."""
    merger = EventMerger()
    assert Need(0, None) in merger.add(json.dumps(text("BIRD"))).needs
    assert not merger.choices[0].finished
    merger.add(json.dumps(done(message_item("BLUEBIRD"))))
    assert "BLUEBIRD" in repr(merger.snapshot())


def test_the_sound_waits_for_what_is_said_in_it() -> None:
    """Nobody can read the sound."""
    said_, sound = steps(
        {"type": "response.audio.transcript.delta", "delta": "hello"},
        {"type": "response.audio.delta", "delta": "AAAA"},
    )
    assert said_.needs == sound.needs == (Need(AROUND, "transcript", 5),)


# -- whatever is said twice, and not alike ---------------------------------------------------------

WORD = "BLUEBIRD"
CLEAN = [added(), text("fine")]


@pytest.mark.parametrize(
    "event",
    [
        {"type": "response.output_text.done", "output_index": 0, "content_index": 0, "text": WORD},
        {"type": "response.output_text.done", "output_index": 0, "text": {"value": WORD}},
        {"type": "response.content_part.done", "output_index": 0, "content_index": 0,
         "part": {"type": "output_text", "text": WORD}},
        {"type": "response.content_part.done", "output_index": 0, "content_index": 0,
         "part": {"type": "new", "words": [WORD]}},
        {"type": "response.content_part.done", "output_index": 0, "part": WORD},
        done(message_item(WORD)),
        done(message_item("fine", WORD)),
        done({**message_item("fine"), "new": {"x": WORD}}),
        done({"type": "message", "content": WORD}),
        done({**message_item("fine"), "role": WORD}),
        done(function(WORD)),
        done({"type": "new", "x": [[WORD]]}),
        done(message_item(WORD), 7),
        added(function(WORD)),
        added({"type": ["message"], "x": WORD}),
        completed(message_item(WORD)),
        completed(message_item("fine"), function(WORD)),
        completed({"type": "new", "x": WORD}),
        completed(message_item("fine"), output_text=WORD),
        completed(message_item("fine"), new=[WORD]),
        completed(message_item("fine"), error={"message": "x", "generated": WORD}),
        {"type": "response.completed", "response": {"output_text": WORD}},
        {"type": "response.completed", "output": [message_item(WORD)]},
        {"type": "response.created", "response": {"output": [message_item(WORD)]}},
        {"type": "response.output_text.annotation.added", "output_index": 0,
         "annotation": {"title": WORD}},
        {"type": "response.output_text.delta", "output_index": 0, "delta": "", "text": WORD},
        {"type": "response.output_text.delta", "output_index": 0, "delta": "x",
         "logprobs": [{"token": WORD, "logprob": 0}]},
        {"type": "response.output_text.delta", "output_index": 0, "Delta": WORD},
        {"type": "response.function_call_arguments.delta", "output_index": 0, "delta": WORD},
        {"type": "response.function_call_arguments.done", "output_index": 0, "arguments": WORD},
        {"type": "response.custom_tool_call_input.delta", "item_id": "unknown", "delta": WORD},
        {"type": "response.shell_call_output_content.delta", "output_index": 3,
         "delta": {"stdout": WORD}},
        {"type": "response.image_generation_call.partial_image", "output_index": 3,
         "partial_image_b64": f"not base64: {WORD}"},
        {"type": "response.audio.delta", "delta": f"not base64: {WORD}"},
        {"type": "response.new.delta", "delta": WORD},
        {"type": "response.new", "deep": {"er": [WORD]}},
        {"delta": WORD},
        {"type": "error", "error": {"message": "x", "generated": WORD}},
        {"choices": [{"delta": {"content": WORD}}]},
        {"type": "keepalive", "text": WORD},
    ],
)  # fmt: skip
def test_no_event_hides_a_word(event: Any) -> None:
    """Whatever a client might read is judged, wherever it stands and however it is called."""
    merger = merged(*CLEAN, end=False)
    step = merger.add(json.dumps(event))
    merger.end()
    assert WORD in repr(normalise(merger.snapshot().choices).messages)
    assert step.needs


@pytest.mark.parametrize(
    "events",
    [
        [added(), text("BLUE"), added(index=1), text("BIRD", 1)],
        [added(), text("BLUE"), added(index=1), text("x", 1), text("BIRD")],
        [added(), added(index=1), text("a BLUE"), text("x", 1), text("BIRD", 0)],
        [added(), text("x"), text("BLUE", 1), text("y", 2), text("BIRD", 1)],
        [added(), text("BLUE"), done(message_item("other")), added(index=1), text("BIRD", 1)],
        [added(), text("BIRD"), added(index=1), text("BLUE", 1),
         completed(message_item("BLUE", "BIRD"))],
        [added(), text("a"), text("BLUE", 1), done(message_item("b")), text("BIRD", 1)],
    ],
)  # fmt: skip
def test_no_order_hides_a_word(events: Any) -> None:
    """A client may put texts together as they come, or item by item."""
    assert WORD in everything(*events)


def test_texts_that_take_turns_wait_for_the_last_check() -> None:
    """Only it knows how they go on."""
    merger = EventMerger()
    for event in (added(), text("a b "), added(index=1), text("c d ", 1)):
        assert Need(AROUND, None) not in merger.add(json.dumps(event)).needs
    assert Need(AROUND, None) in merger.add(json.dumps(text("e", 0))).needs
    assert not merger.choices[AROUND].finished
    merger.end()
    assert merger.choices[AROUND].finished


def test_an_index_that_is_used_again_hides_no_call() -> None:
    """The first call may have gone to the client in the same event as ever."""
    events = [added(function("")), done(function("one")), added(function("two", "g")), text("x")]
    calls = said(*events).tool_calls
    assert {(call.name, call.arguments) for call in calls} == {("f", "one"), ("g", "two")}


def test_pieces_of_a_call_that_differ_from_the_whole_are_a_call() -> None:
    """Some clients put the pieces together, some take the whole."""
    piece = {"type": "response.function_call_arguments.delta", "output_index": 0, "delta": "rm"}
    calls = said(added(function("")), piece, done(function("ls"))).tool_calls
    assert [call.arguments for call in calls] == ["ls", "rm"]


def test_a_call_of_which_only_the_pieces_came_is_a_call() -> None:
    """The connection broke before it was done."""
    piece = {"type": "response.function_call_arguments.delta", "output_index": 0, "delta": "{}"}
    merger = merged(added(function("")), piece)
    assert merger.snapshot().choices[0].tool_calls == (ToolCall("c", "f", "{}"),)
    (item,) = merger.completion()["output"]
    assert item["arguments"] == "{}"


def test_more_of_a_call_after_its_end_is_held() -> None:
    """It is not whole yet."""
    merger = merged(added(function("")), done(function("ls")), end=False)
    piece = {"type": "response.function_call_arguments.delta", "output_index": 0, "delta": "rm"}
    assert Need(0, None) in merger.add(json.dumps(piece)).needs
    assert not merger.choices[0].finished


def test_escapes_are_read() -> None:
    """JSON has more than one way to write a letter."""
    escaped = json.dumps(text("x")).replace('"x"', '"\\u0042LUE\\u0042IRD"')
    assert said(added(), escaped).text == WORD


def test_ids_that_change_are_not_relied_on() -> None:
    """Copilot and OpenRouter give an item another id in each event."""
    one, two = text("BLUE"), text("BIRD")
    one["item_id"], two["item_id"] = "a", "b"
    assert said(added(), one, two).text == WORD


def test_items_without_an_index_belong_together_by_their_id() -> None:
    """There is nothing else to go by."""
    events = [text("BLUE"), text("x"), text("BIRD")]
    for event, name in zip(events, "aba", strict=True):
        del event["output_index"]
        event["item_id"] = name
    assert WORD in everything(*events)


@pytest.mark.parametrize(
    "event",
    [
        "x", "[]", "3", '{"type": 3}', '{"type": ["response.output_text.delta"]}',
        json.dumps(text("x", -1)), '{"type":"response.output_text.delta","output_index":"0"}',
        '{"type":"response.output_text.delta","output_index":true,"delta":"x"}',
        '{"type":"response.output_text.delta","output_index":0,"delta":{"x":"y"}}',
        '{"type":"response.output_text.delta","output_index":0,"delta":"a","delta":"b"}',
        '{"type":"response.output_text.delta","output_index":0,"delta":"a","\\u0064elta":"b"}',
        '{"type":"response.output_text.delta","output_index":0,"output_index":1,"delta":"b"}',
        '{"type":"keepalive","type":"response.output_text.delta","delta":"b"}',
        '{"type":"response.output_item.done","output_index":0,"item":{"type":"a","type":"b"}}',
        '{"type":"response.completed","response":{"output":[1],"output":[]}}',
        '{"type":"response.completed","response":{"output":{"x":"y"}}}',
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_not_understood(event: str) -> None:
    """Then the gate refuses: an event is delivered as it was judged, or not at all."""
    with pytest.raises(NotUnderstoodError):
        merged(added(), event)


def test_too_much_is_not_understood() -> None:
    """An adversary who makes many items would keep the proxy busy."""
    with pytest.raises(NotUnderstoodError):
        merged(*(text("x", n) for n in range(2000)))
    with pytest.raises(NotUnderstoodError):
        merged(*(text("x", content_index=n) for n in range(2000)))
    with pytest.raises(NotUnderstoodError):
        merged(*(added(function(str(n))) for n in range(50)))


def test_an_error_is_kept_and_its_words_are_the_servers() -> None:
    """It is nothing that the model said; but the client gets it, so it is judged."""
    merger = merged(*payloads("responses_error"))
    assert merger.error["code"] == "server_error"
    message, error = merger.snapshot().choices
    assert message == Message("assistant", (Part("text", "It began w"),))
    assert error.role == "error" and "The server had an error." in error.text


FAILED = {"id": "r", "status": "failed", "output": []}


@pytest.mark.parametrize(
    "event",
    [
        {"type": "error", "error": {"type": "server_error", "message": "BLUEBIRD"}},
        {"type": "error", "message": "BLUEBIRD", "code": "c", "param": None},
        {"type": "error", "error": "BLUEBIRD"},
        {"type": "error", "error": {"code": "BLUEBIRD"}},
        {"type": "response.failed", "response": {**FAILED, "error": {"message": "BLUEBIRD"}}},
        {
            "type": "response.incomplete",
            "response": {**FAILED, "incomplete_details": {"reason": "BLUEBIRD"}},
        },
        {
            "type": "response.incomplete",
            "response": {**FAILED, "incomplete_details": {"reason": "steered", "x": ["BLUEBIRD"]}},
        },
        {"type": "response.in_progress", "response": {"error": {"message": "BLUEBIRD"}}},
        {"type": "a BLUEBIRD flies"},
        {"type": "BLUEBIRD"},
    ],
)
def test_what_an_event_says_of_itself_is_judged(event: dict[str, Any]) -> None:
    """Nobody had read it, and every client shows it."""
    merger = EventMerger()
    step = merger.add(json.dumps(event))
    assert any(need.choice == KEY for need in step.needs)
    assert "BLUEBIRD" in merger.snapshot().choices[-1].text
    assert merger.snapshot().choices[-1].role == "error"
    assert "BLUEBIRD" not in "".join(m.text for m in merger.snapshot().turns)
    assert merger.snapshot({}).choices[1:] == ()


def test_the_usual_ends_say_nothing_new() -> None:
    """One more check for each reply that was cut at its limit would be a waste."""
    merger = EventMerger()
    response = {**FAILED, "incomplete_details": {"reason": "max_output_tokens"}}
    merger.add(json.dumps({"type": "response.incomplete", "response": response}))
    assert len(merger.snapshot().choices) == 1
    body = {"output": [], "error": {"message": "BLUEBIRD"}, "status": "failed"}
    assert parse_reply(json.dumps(body).encode()).choices[1].text == "BLUEBIRD"


def test_done_of_openrouter_ends_the_stream() -> None:
    """OpenAI sends none here, others do."""
    merger = EventMerger()
    assert merger.add("[DONE]").terminal and merger.add("").needs == ()
    assert merger.snapshot().choices == () and merger.completion() == {}


KEYS = st.sampled_from(
    ["type", "item", "part", "delta", "response", "output", "content", "text", "output_index",
     "content_index", "item_id", "id", "summary", "arguments", "role", "error", "annotation"]
)  # fmt: skip
TYPES = st.sampled_from(
    [
        *sorted({p["type"] for name in NAMES for p in payloads(name)}),
        *("message", "reasoning", "function_call", "mcp_call", "output_text", "summary_text"),
    ]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.text(max_size=4) | TYPES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=6),
    max_leaves=12,
)
EVENTS = st.fixed_dictionaries(
    {"type": TYPES},
    optional={
        "item": VALUES, "part": VALUES, "delta": VALUES, "response": VALUES, "text": VALUES,
        "output_index": st.integers(0, 2) | st.none(), "content_index": st.integers(0, 2),
        "item_id": VALUES, "arguments": VALUES, "logprobs": VALUES, "annotation": VALUES,
    },
)  # fmt: skip


@settings(deadline=None)
@given(st.lists(EVENTS | VALUES, max_size=8))
def test_any_json_is_merged_or_refused(events: list[Any]) -> None:
    """Whatever comes, the only exception is the one that means "not understood"; and every need
    is of a choice and a channel that the gate can find."""
    merger = EventMerger()
    for event in events:
        try:
            step = merger.add(json.dumps(event))
        except NotUnderstoodError:
            continue
        for need in step.needs:
            choice = merger.choices[need.choice]
            assert need.channel is None or need.length <= choice.channels[need.channel].length
        normalise(merger.snapshot().choices)
    merger.end()
    reply = merger.snapshot()
    normalise(reply.choices)
    RESPONSES.said(merger.completion(), reply)
    json.dumps(merger.completion())
    assert all(choice.finished for choice in merger.choices.values())


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(NAMES), st.data())
def test_any_event_may_be_missing(name: str, data: st.DataObject) -> None:
    """What the others say is judged all the same."""
    events = payloads(name)
    gone = data.draw(st.sets(st.integers(0, len(events) - 1), max_size=4))
    kept = [event for n, event in enumerate(events) if n not in gone]
    seen = everything(*kept)
    for event in kept:
        for word in itertools.chain(words(event.get("item")), words(event.get("part"))):
            assert repr(word)[1:-1] in seen or json.dumps(word)[1:-1] in seen


def words(value: Any) -> list[str]:
    """Of texts in an item or a part."""
    if not isinstance(value, dict):
        return []
    parts = [value, *(value.get("content") or ()), *(value.get("summary") or ())]
    keys = ("text", "refusal", "input", "code")
    return [part[key] for part in parts for key in keys if part.get(key)]


def test_what_is_in_front_of_a_violation_is_delivered_however_fast_it_came() -> None:
    """The items are one message, and its addresses count over all of them."""
    item = {**MESSAGE, "id": "m1"}
    events = [added(), text("First. "), done(message_item("First. "))]
    events += [added(item, 1), text("Then a ", 1), text("BLUEBIRD", 1), text(" and more", 1)]
    body = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
    guardrail = Guardrail("1", "g", "x")
    for pieces in ([body], [body[at : at + 40] for at in range(0, len(body), 40)]):
        gate = Gate(EventMerger(), Mode.VERIFIED, Limits(interval=0, keep_alive=1e9), 0.0, 0)
        sent = b""
        for piece in [*pieces, b""]:
            gate.feed(piece, 0.0) if piece else gate.end(0.0)
            while (query := gate.next_query(0.0)) is not None:
                (found,) = query.reply.choices
                at = found.text.find(WORD)
                address = Address(0, "content", at, at + len(WORD))
                violations = (
                    (Violation(guardrail, "no", (address,), final=True),) if at >= 0 else ()
                )
                gate.answer(query, Verdict((Outcome(guardrail, violations),)), "", 0.0)
            sent += gate.take(0.0)
        assert gate.refusal is not None
        assert b"First. " in sent and b"Then a " in sent and b"BLUEBIRD" not in sent
