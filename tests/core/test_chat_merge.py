"""Streamed chunks merge to what `stream: false` would have returned, and grow the right drafts."""

import itertools
import json
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from invariant_addon.core import sse
from invariant_addon.core.aside import KEY
from invariant_addon.core.chat import bodies as chat
from invariant_addon.core.conversation import Message, Part, ToolCall
from invariant_addon.core.draft import Merger, Need, Step
from invariant_addon.core.errors import NotUnderstoodError

DATA = Path(__file__).parents[1] / "data"
STREAMS = sorted(path.stem for path in DATA.glob("chat_*.sse"))
CALLING = {"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": "{"}}]}


def decode(pieces):
    decoder = sse.Decoder(2**24)
    events = [event for piece in pieces for event in decoder.feed(piece)]
    return events + decoder.end()


def merge(events):
    merger = chat.ChunkMerger()
    for event in events:
        if event.data is not None:
            merger.add(event.data)
    return merger


def chunk(delta=None, index=0, finish=None, **fields):
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    return json.dumps({"id": "x", "choices": [{**choice, **fields}]})


def said(*deltas):
    merger = chat.ChunkMerger()
    for delta in deltas:
        merger.add(chunk(delta))
    return merger


def closed(merger, index=0):
    return {name: channel.closed for name, channel in merger.choices[index].channels.items()}


def full(value):
    """Without the null and [] keys, which only bodies that are no stream have."""
    if isinstance(value, dict):
        return {k: full(v) for k, v in value.items() if v is not None and v != []}
    return [full(item) for item in value] if isinstance(value, list) else value


def test_there_are_streams():
    """An empty folder would let every test below pass."""
    assert len(STREAMS) >= 24


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_merges_to_what_no_stream_would_have_returned(name):
    """A rule must see the same message, streamed or not."""
    raw = (DATA / f"{name}.sse").read_bytes()
    expected = orjson.loads((DATA / f"{name}.expected.json").read_bytes())
    assert full(merge(decode([raw])).completion()) == full(expected)


@pytest.mark.parametrize("name", STREAMS)
def test_where_the_network_cuts_a_stream_does_not_matter(name):
    """The ancestor read 71 % of two-way cuts of a small stream wrongly: a bypass by TCP luck."""
    raw = (DATA / f"{name}.sse").read_bytes()
    whole = decode([raw])
    assert b"".join(event.raw for event in whole) == raw
    assert decode([raw[i : i + 1] for i in range(len(raw))]) == whole
    for cut in range(len(raw) + 1):
        assert decode([raw[:cut], raw[cut:]]) == whole


@pytest.mark.parametrize("name", STREAMS)
def test_the_last_snapshot_says_what_the_completion_says(name):
    """The gate judges the snapshot, the trace keeps the completion."""
    merger = merge(decode([(DATA / f"{name}.sse").read_bytes()]))
    merger.end()
    read = chat.reply_from_completion(merger.completion()).choices
    snapshot = merger.snapshot().turns
    joined = [("".join(p.text for p in m.parts if p.kind == "text"), m.tool_calls) for m in read]
    assert joined == [
        ("".join(p.text for p in m.parts if p.kind == "text"), m.tool_calls) for m in snapshot
    ]
    assert [m.role for m in read] == [m.role for m in snapshot]


@pytest.mark.parametrize("name", STREAMS)
def test_every_text_an_event_adds_is_named_in_its_needs(name):
    """What no need names would be released before anybody judged it."""
    merger = chat.ChunkMerger()
    for event in decode([(DATA / f"{name}.sse").read_bytes()]):
        if event.data is None:
            continue
        before = {
            (index, name): channel.length
            for index, choice in merger.choices.items()
            for name, channel in choice.channels.items()
        }
        needs = merger.add(event.data).needs
        grown = {
            Need(index, name, channel.length)
            for index, choice in merger.choices.items()
            for name, channel in choice.channels.items()
            if channel.length != before.get((index, name), 0)
        }
        assert grown <= set(needs)
        assert len(set(needs)) == len(needs)


def test_the_merger_is_what_the_gate_asks_for():
    """mypy checks the shape, this that the name is exported where it is looked for."""
    merger: Merger = chat.ChunkMerger()
    assert merger.snapshot().choices == ()


# -- steps ------------------------------------------------------------------------------------


def test_each_event_needs_the_text_up_to_itself():
    """So an event can go on as soon as exactly its text was judged."""
    merger = chat.ChunkMerger()
    assert merger.add(chunk({"role": "assistant", "content": ""})) == Step()
    assert merger.add(chunk({"content": "ab"})) == Step((Need(0, "content", 2),))
    assert merger.add(chunk({"content": "c"})) == Step((Need(0, "content", 3),))
    assert merger.add(chunk({}, finish="stop")) == Step()
    assert merger.add("[DONE]") == Step(terminal=True)
    assert merger.add("") == Step()


def test_a_piece_of_a_call_needs_the_whole_choice():
    """A call is judged with its arguments parsed, so no piece of it goes on before its end."""
    merger = said({"content": "Hm"})
    assert merger.add(chunk(CALLING)).needs == (Need(0, None),)
    assert merger.choices[0].calling and not merger.choices[0].finished
    assert merger.snapshot().choices[0].tool_calls == ()
    assert merger.add(chunk({}, finish="tool_calls")).needs == (Need(0, None),)
    assert merger.choices[0].finished
    assert merger.snapshot().choices[0].tool_calls == (ToolCall("c", "f", "{"),)


def test_the_end_of_the_stream_makes_every_call_whole():
    """Some upstreams send no finish_reason; a call must not escape by that."""
    merger = said(CALLING)
    merger.end()
    assert merger.snapshot().choices[0].tool_calls == (ToolCall("c", "f", "{"),)
    merger.add(chunk({"tool_calls": [{"index": 0, "function": {"arguments": "}"}}]}))
    merger.add(chunk(CALLING, index=1))
    assert [m.tool_calls[0].arguments for m in merger.snapshot().choices] == ["{}", "{"]


def test_a_call_after_the_finish_reason_is_not_whole_yet():
    """The gate must not take the verdict on the finished choice for one on this call."""
    merger = said({"content": "a"})
    merger.add(chunk({}, finish="stop"))
    assert merger.add(chunk(CALLING)).needs == (Need(0, None),)
    assert not merger.choices[0].finished


def test_a_text_ends_when_another_begins():
    """The last word of what has ended need not be held back."""
    merger = said({"reasoning": "so"}, {"content": "a"})
    assert closed(merger) == {"reasoning": True, "content": False}
    merger.add(chunk({"reasoning": " b"}))
    assert closed(merger) == {"reasoning": False, "content": True}
    merger.add(chunk(CALLING))
    assert closed(merger) == {"reasoning": True, "content": True}
    merger.add(chunk({"content": "c"}))
    assert closed(merger) == {"reasoning": True, "content": False}
    merger.add(chunk({}, finish="stop"))
    assert closed(merger) == {"reasoning": True, "content": True}
    assert merger.add(chunk({"content": "d"})).needs == (Need(0, "content", 3),)
    assert closed(merger) == {"reasoning": True, "content": False}


def test_texts_that_grow_in_one_event_do_not_end_each_other():
    """Else half a word of either would be delivered."""
    merger = said({"content": "a", "reasoning": "b"})
    assert closed(merger) == {"reasoning": False, "content": False}


def test_a_citation_between_two_pieces_does_not_end_the_text():
    """OpenRouter sends annotations first or midway; a key may be cut there."""
    merger = said({"content": "sk-"}, {"annotations": [{"url": "https://a.example"}]})
    assert closed(merger)["content"] is False
    assert merger.choices[0].channels["annotations"].atomic


def test_choices_do_not_end_each_other():
    """n > 1 interleaves the alternatives."""
    merger = said({"content": "a"})
    merger.add(chunk({"refusal": "b"}, index=1))
    assert closed(merger, 0) == {"content": False}
    assert merger.add(chunk({"content": "c"}, index=1)).needs == (Need(1, "content", 1),)


def test_a_snapshot_holds_what_was_asked_for():
    """A verdict counts for what was judged, and not for a character more."""
    merger = said({"reasoning": "think"}, {"content": "answer"})
    assert merger.snapshot({(0, "content"): 3}).choices == (
        Message("assistant", (Part("text", "ans"),)),
    )
    assert merger.snapshot({(0, "content"): 0}).choices == (Message("assistant"),)
    assert merger.snapshot().choices[0].parts == (
        Part("reasoning", "think"),
        Part("text", "answer"),
    )


def test_sound_waits_for_its_transcript():
    """Nobody can judge base64, but what is said in it was said in the transcript before."""
    merger = said({"audio": {"id": "a"}})
    assert merger.add(chunk({"audio": {"data": "UklG"}})).needs == ()
    merger.add(chunk({"audio": {"transcript": "Hi"}}))
    assert merger.add(chunk({"audio": {"data": "Rg=="}})).needs == (Need(0, "transcript", 2),)
    assert merger.snapshot().choices[0].parts == (Part("transcript", "Hi"), Part("audio", ""))


# -- fields that only some send ---------------------------------------------------------------


def test_an_unknown_text_grows_and_a_label_does_not():
    """Whatever a vendor invents, a rule can read it."""
    merger = said({"thinking_text": "SEC", "channel": "analysis"})
    step = merger.add(chunk({"thinking_text": "RET", "channel": "analysis", "token_id": 7}))
    assert step.needs == (Need(0, "other:thinking_text", 6),)
    assert [p.text for p in merger.snapshot().choices[0].parts] == ["SECRET", "analysis"]


def test_an_unknown_object_is_read_as_json():
    """Groq's executed_tools hold code and its output."""
    merger = said({"executed_tools": [{"arguments": "rm -rf /"}], "ids": [1, 2]})
    assert merger.snapshot().choices[0].parts == (Part("other", '[{"arguments":"rm -rf /"}]'),)


def test_the_same_thought_under_two_keys_counts_once():
    """A doubled text would tear words apart that a rule looks for."""
    merger = said(
        {"reasoning": "sec", "reasoning_details": [{"type": "reasoning.text", "text": "sec"}]},
        {"reasoning": "ret", "reasoning_content": "ret"},
        {"reasoning": "!", "reasoning_content": "other"},
    )
    assert [p.text for p in merger.snapshot().choices[0].parts] == ["secret!", "other"]


def test_tokens_without_their_text_are_read():
    """logprobs repeat the content; if the content is missing, they deliver it."""
    tokens = {"content": [{"token": "SEC"}, {"token": "RET"}]}
    merger = chat.ChunkMerger()
    with_text = merger.add(chunk({"content": "SECRET"}, logprobs=tokens))
    assert with_text.needs == (Need(0, "content", 6),)
    assert merger.add(chunk({}, logprobs=tokens)).needs == (Need(0, "other:logprobs", 6),)


def test_metadata_needs_nothing_and_is_kept():
    """Filter results come for every token; they hold nobody up."""
    merger = said({"content": "a"})
    around = {"provider": "a", "choices": [{"content_filter_results": {"a": 1}}]}
    assert merger.add(json.dumps(around)) == Step()
    assert merger.add(json.dumps(around)) == Step()
    assert merger.completion()["provider"] == "a"
    assert merger.completion()["choices"][0]["content_filter_results"] == {"a": 1}


def test_sources_that_come_with_each_chunk_are_judged_once():
    """Perplexity repeats its citations; clients show them."""
    merger = said({"content": "a"})
    around = json.dumps({"citations": ["https://a.example"]})
    assert merger.add(around) == Step((Need(0, "other:citations", 21),))
    assert merger.add(json.dumps({"usage": {"total_tokens": 1}})) == Step()
    assert merger.add(around) == Step()
    assert merger.completion()["citations"] == ["https://a.example"]


def test_a_message_beside_deltas_is_read_apart():
    """Some vendors repeat the whole message at the end; it must not double the content."""
    merger = said({"content": "abc"})
    choice = {"index": 0, "message": {"content": "abc!"}}
    assert merger.add(json.dumps({"choices": [choice]})).needs == (Need(0, "other:message", 18),)
    assert merger.completion()["choices"][0]["message"]["content"] == "abc"


def test_messages_in_place_of_deltas_grow():
    """Other vendors send each piece as a message."""
    merger = chat.ChunkMerger()
    for text in ("Hel", "lo"):
        merger.add(json.dumps({"choices": [{"index": 0, "message": {"content": text}}]}))
    assert merger.snapshot().choices[0].text == "Hello"


def test_an_error_is_told_and_kept_apart():
    """Half a reply must not look like a whole one."""
    merger = said({"content": "Half"})
    assert merger.add('{"error": {"code": 503}}') == Step(failed=True)
    assert merger.add('{"error": {"code": 503}}') == Step(failed=True)
    assert merger.error == {"code": 503}
    assert [message.text for message in merger.snapshot().choices] == ["Half"]
    assert chat.ChunkMerger().add('{"error": null, "choices": []}') == Step()


@pytest.mark.parametrize(
    ("chunk", "words"),
    [
        ({"error": {"message": "no", "code": "c", "param": None, "type": "t"}}, "no\nt\nc"),
        ({"error": "no"}, "no"),
        ({"error": {"message": {"a": ["no"]}}}, '{"a":["no"]}'),
        ({"object": "error", "message": "no", "code": 1}, "no\nerror"),
        ({"error": {"message": "no"}, "choices": []}, "no"),
    ],
)
def test_an_errors_words_are_judged_and_nobodys_turn(chunk, words):
    """Whoever answers in upstream's place could say anything in them."""
    merger = said({"content": "Half"})
    step = merger.add(json.dumps(chunk))
    assert step.failed and step.needs == (Need(KEY, "words", len(words)),)
    [reply, error] = merger.snapshot().choices
    assert (reply.text, error) == ("Half", Message("error", (Part("text", words),)))
    assert merger.snapshot().turns == (reply,)
    assert merger.snapshot({(KEY, "words"): 2}).choices[1].text == words[:2]
    assert merger.add(json.dumps(chunk)).needs == step.needs  # said again: known
    assert merger.snapshot().choices == (reply, error)
    assert "error" not in merger.completion()


def test_a_name_in_pieces_is_shown_in_every_reading():
    """openai-python joins the pieces, openai-node takes the last: a rule must see both."""
    merger = said(
        {"tool_calls": [{"index": 0, "id": "c", "function": {"name": "safe_"}}]},
        {"tool_calls": [{"index": 0, "function": {"name": "exec", "arguments": "{}"}}]},
    )
    merger.end()
    names = [call.name for call in merger.snapshot().choices[0].tool_calls]
    assert names == ["safe_exec", "safe_", "exec"]


def test_parallel_calls_that_share_an_index_are_two_calls():
    """Gemini's compatibility layer numbers them all 0."""
    merger = said(
        {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}}]},
        {"tool_calls": [{"index": 0, "id": "b", "function": {"name": "g", "arguments": "{"}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "}"}}]},
    )
    merger.end()
    assert merger.snapshot().choices[0].tool_calls == (
        ToolCall("a", "f", "{}"),
        ToolCall("b", "g", "{}"),
    )


def test_an_empty_finish_reason_finishes_nothing():
    """Some vendors send "" where others send null."""
    merger = chat.ChunkMerger()
    merger.add(chunk(CALLING, finish=""))
    assert not merger.choices[0].finished


# -- what is not understood -------------------------------------------------------------------

BAD = [
    "not json",
    "[1]",
    '"text"',
    "null",
    '{"choices": {}}',
    '{"choices": ["a"]}',
    '{"choices": [{"index": "0"}]}',
    '{"choices": [{"delta": "a"}]}',
    '{"choices": [{"delta": {"content": 5}}]}',
    '{"choices": [{"message": "a"}]}',
    '{"choices": [{"delta": {"tool_calls": {}}}]}',
    '{"choices": [{"delta": {"tool_calls": ["a"]}}]}',
    '{"choices": [{"delta": {"tool_calls": [{"index": "0"}]}}]}',
    '{"choices": [{"delta": {"tool_calls": [{"function": "f"}]}}]}',
    '{"choices": [{"delta": {"function_call": "f"}}]}',
    '{"choices": [{"delta": {"audio": "UklG"}}]}',
    '{"choices": [{"delta": {"content": "lost"}}, 5]}',
    '{"id": "y", "usage": {}, "choices": [{"delta": {"content": "lost"}}, {"delta": 5}]}',
    "[DONE] and more",
    '{"a": ' + "[" * 100_000,
]


@pytest.mark.parametrize("data", BAD, ids=lambda data: data[:70])
def test_what_is_not_understood_is_said_and_changes_nothing(data):
    """The gate then decides by invariant_on_failure, on a draft that is still right."""
    merger = said({"content": "a"})
    before = merger.completion()
    with pytest.raises(NotUnderstoodError) as error:
        merger.add(data)
    assert merger.completion() == before
    assert "lost" not in str(error.value)


def test_deep_nesting_is_read_or_refused():
    """A chunk of brackets must not end the proxy with a RecursionError."""
    for depth in (10, 300, 1050, 1150, 1300, 50_000):
        data = '{"choices":[{"delta":{"x":' + '["a",' * depth + "1" + "]" * depth + "}}]}"
        merger = chat.ChunkMerger()
        try:
            merger.add(data)
            merger.add(data)
        except NotUnderstoodError:
            assert depth > 1200
        else:
            assert merger.snapshot().choices[0].parts[0].text.count("a") == depth


_KEYS = st.sampled_from(
    (
        *("index", "delta", "message", "finish_reason", "logprobs", "content", "role", "refusal"),
        *("tool_calls", "function_call", "function", "custom", "name", "arguments", "input", "id"),
        *("audio", "transcript", "data", "reasoning", "reasoning_details", "annotations", "text"),
        *("type", "token", "error", "usage", "object", "model", "extra"),
    )
)
_SCALARS = st.none() | st.booleans() | st.integers(-2, 2) | st.floats() | st.text(max_size=3)
_JSON = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=5),
    max_leaves=25,
)
_DELTAS = st.dictionaries(_KEYS, _JSON, max_size=5)
_CHOICES = st.fixed_dictionaries(
    {}, optional={"index": st.integers(0, 2) | _SCALARS, "delta": _DELTAS, "message": _DELTAS}
) | st.dictionaries(_KEYS, _JSON, max_size=4)
_CHUNKS = st.fixed_dictionaries({"choices": st.lists(_CHOICES, max_size=2)}) | _JSON


@given(st.lists(_CHUNKS, max_size=6))
def test_no_chunk_raises_anything_but_not_understood(chunks):
    """Nobody can crash the proxy by what they stream, and nothing is half merged."""
    merger = chat.ChunkMerger()
    for value in chunks:
        before = repr((merger.completion(), merger.snapshot()))
        try:
            merger.add(json.dumps(value))
        except NotUnderstoodError:
            assert repr((merger.completion(), merger.snapshot())) == before
        merger.snapshot({(0, "content"): 2})
    merger.end()
    assert all(choice.finished for choice in merger.choices.values())
    chat.reply_from_completion(merger.completion())


@given(st.text(max_size=30))
def test_no_data_raises_anything_but_not_understood(data):
    """The same for what is no JSON."""
    try:
        chat.ChunkMerger().add(data)
    except NotUnderstoodError as error:
        assert error.args  # noqa: PT017 - it may raise, and only this


@given(st.lists(st.sampled_from(["content", "refusal", "reasoning"]), max_size=12))
def test_the_pieces_of_a_text_are_joined_as_they_came(keys):
    """Whatever the order, a rule reads each text whole."""
    deltas = [{key: f"{number} "} for number, key in enumerate(keys)]
    merger = said(*deltas)
    for key, group in itertools.groupby(sorted(deltas, key=list), key=lambda d: next(iter(d))):
        assert merger.choices[0].channels[key].text() == "".join(d[key] for d in group)
