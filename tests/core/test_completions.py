"""The legacy completions dialect: prompts and texts are read as chat's messages are."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invariant_addon.core.completions import TextMerger, parse_reply, parse_request
from invariant_addon.core.draft import Need
from invariant_addon.core.errors import NotUnderstoodError
from invariant_addon.core.gate import Gate
from invariant_addon.core.terms import Limits, Mode


def asked(**request: object) -> list[tuple[str, str]]:
    conversation = parse_request(json.dumps(request).encode()).conversation
    return [(message.role, message.text) for message in conversation.messages]


def chunk(text: object, index: int = 0, **more: object) -> str:
    return json.dumps({"choices": [{"index": index, "text": text, **more}]})


def test_each_prompt_is_a_message_and_other_fields_come_behind() -> None:
    """Addresses count the prompts as they are on the wire."""
    assert asked(model="m", prompt="one") == [("user", "one")]
    found = asked(model="m", prompt=["one", "two"], suffix="three", stop="four", n=2, echo=True)
    assert found == [("user", "one"), ("user", "two"), ("user", "three"), ("other", "four")]
    assert asked(model="m") == []


@pytest.mark.parametrize("prompt", [[1, 2], [[1], [2]], ["a", 1], 7, {"text": "x"}, [["a"]]])
def test_tokens_are_not_understood(prompt: object) -> None:
    """Numbers hide the words, and which tokenizer they are for nobody says."""
    with pytest.raises(NotUnderstoodError):
        asked(prompt=prompt)


@pytest.mark.parametrize(
    "body",
    [b"[]", b"{", b'{"Prompt":"x"}', b'{"prompt":"x","prompt":"y"}', b'{"n":1,"prompt":1e3}'],
)
def test_what_could_be_read_otherwise_is_not_understood(body: bytes) -> None:
    """Another key's case, or a key twice: upstream may read the other one."""
    with pytest.raises(NotUnderstoodError):
        parse_request(body)


def test_a_reply_is_read_by_its_texts() -> None:
    """In the order of the indexes; log probabilities that repeat it add nothing."""
    body = {
        "choices": [
            {"index": 1, "text": "b", "finish_reason": "stop"},
            {"index": 0, "text": "a", "logprobs": {"tokens": ["a"], "token_logprobs": [0]}},
        ]
    }
    reply = parse_reply(json.dumps(body).encode())
    assert [(message.role, message.text, len(message.parts)) for message in reply.choices] == [
        ("assistant", "a", 1),
        ("assistant", "b", 1),
    ]


@pytest.mark.parametrize(
    "body",
    [
        b'{"choices":[{"text":"a","text":"b"}]}',
        b'{"choices":[{"text":["a"]}]}',
        b'{"choices":[{"text":"a","message":{"content":"b"}}]}',
        b'{"choices":1}',
        b"{}",
    ],
)
def test_an_odd_reply_is_not_understood(body: bytes) -> None:
    """What was not read was not judged."""
    with pytest.raises(NotUnderstoodError):
        parse_reply(body)


@given(st.lists(st.tuples(st.text(max_size=5), st.integers(0, 2)), max_size=12))
def test_chunks_merge_to_what_a_whole_reply_holds(pieces: list[tuple[str, int]]) -> None:
    """The result is that of `stream: false`."""
    merger = TextMerger()
    for text, index in pieces:
        merger.add(chunk(text, index, logprobs=None, finish_reason=None))
    merger.add("[DONE]")
    merger.end()
    whole = {index: "".join(t for t, i in pieces if i == index) for _, index in pieces}
    found = merger.completion()
    assert {c["index"]: c["text"] for c in found["choices"]} == whole
    assert found["object"] == "text_completion"
    assert [m.text for m in merger.snapshot().choices] == [whole[i] for i in sorted(whole)]


def test_a_chunk_needs_its_text_to_be_judged() -> None:
    """The gate holds it until then."""
    merger = TextMerger()
    assert merger.add(chunk("hello ")).needs == (Need(0, "content", 6),)
    assert merger.add("[DONE]").terminal


@pytest.mark.parametrize(
    "data",
    [
        '{"choices":[{"text":"a","text":"b"}]}',
        '{"choices":[{"text":1}]}',
        '{"choices":[{"text":"a","delta":{"content":"b"}}]}',
        "{",
        "[]",
    ],
)
def test_an_odd_chunk_is_not_understood_and_changes_nothing(data: str) -> None:
    """Clients take the last of two keys, others the first."""
    merger = TextMerger()
    merger.add(chunk("a"))
    with pytest.raises(NotUnderstoodError):
        merger.add(data + " " * 20)
    assert merger.snapshot().choices[0].text == "a"


def test_a_gate_streams_it() -> None:
    """The same gate as for chat: the unfinished word is held, the rest goes on unchanged."""
    gate = Gate(TextMerger(), Mode.VERIFIED, Limits(), 0.0)
    first = f"data: {chunk('hello ')}\n\n".encode()
    second = f"data: {chunk('wor')}\n\n".encode()
    gate.feed(first + second, 0.0)
    query = gate.next_query(0.0)
    assert query is not None and query.reply.choices[0].text == "hello "
    from invariant_addon.core.verdict import Verdict

    gate.answer(query, Verdict(), "", 0.0)
    assert gate.take(0.0) == first
