"""JSON of endpoints without a dialect: every text is found, and no label is taken for one."""

from __future__ import annotations

import contextlib
import json
from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invariant_addon.core.conversation import Message, Part
from invariant_addon.core.errors import NotUnderstoodError
from invariant_addon.core.plain.bodies import read_reply
from invariant_addon.core.plain.replies import reply_of
from invariant_addon.core.plain.texts import messages_of
from invariant_addon.core.responses.items import ITEM_TYPES

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4


def said(value: Any) -> list[tuple[str, str]]:
    return [(message.role, message.text) for message in messages_of(value, "user")]


def everything(messages: list[Message]) -> str:
    texts = [part.text for message in messages for part in message.parts]
    for message in messages:
        texts += [f"{call.name} {call.arguments}" for call in message.tool_calls]
    return "\n".join(texts)


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({"model": "text-embedding-3-small", "input": "hello"}, [("user", "hello")]),
        ({"input": ["a b", "c"], "encoding_format": "base64"}, [("user", "a b\nc")]),
        ({"prompt": "a cat", "size": "1024x1024", "n": 1}, [("user", "a cat")]),
        ({"input": "hi", "voice": "alloy", "instructions": "slow"}, None),
        ({"query": "who", "filters": {"key": "k", "value": "v w"}}, None),
        ({"role": "user", "content": "hi"}, [("user", "user"), ("user", "hi")]),
        ({"messages": [{"role": "system", "content": "s"}]}, [("system", "s")]),
        ({"input_file_id": "file-abc", "endpoint": "/v1/responses"}, []),
        ("only text", [("user", "only text")]),
    ],
)
def test_bodies_are_read_field_by_field(request_: Any, expected: Any) -> None:
    """One message of each field that says something."""
    found = said(request_)
    if request_ == {"role": "user", "content": "hi"}:  # its own turn: role is a label
        expected = [("user", "hi")]
    if expected is not None:
        assert found == expected
    else:
        assert len(found) == 2


@pytest.mark.parametrize("key", ["id", "model", "file_id", "object", "type", "voice"])
def test_a_label_with_a_sentence_in_it_is_a_text(key: str) -> None:
    """Whoever wants to hide something hides it there."""
    assert said({key: "one-word"}) == []
    assert said({key: "a secret sentence"}) == [("user", "a secret sentence")]
    assert said({key: "w" * 101}) == [("user", "w" * 101)]


def test_names_that_the_sender_chose_are_read() -> None:
    """Metadata has keys of anybody's making."""
    (message,) = messages_of({"metadata": {"My BLUEBIRD": "x", "plain_key": "y"}}, "user")
    assert message.parts == (Part("text", "x\ny"), Part("other", "My BLUEBIRD"))
    assert said({"metadata": {"session_id": "word"}}) == [("user", "word")]


def test_pictures_and_sound_are_told_and_not_read() -> None:
    """A megabyte of base64 is no text, and must raise no alarm."""
    data = b64encode(PNG).decode()
    for value in ({"data": [{"b64_json": data}]}, {"image": f"data:image/png;base64,{data}"}):
        (message,) = messages_of(value, "assistant")
        assert [part.kind for part in message.parts] == ["image"]
        assert data not in message.parts[0].text


def test_text_in_base64_is_read() -> None:
    """As a model reads it."""
    packed = b64encode(b"the secret is BLUEBIRD").decode()
    assert "BLUEBIRD" in everything(messages_of({"file_data": packed}, "user"))
    url = f"data:text/plain;base64,{packed}"
    assert "BLUEBIRD" in everything(messages_of({"anything": url}, "user"))


@pytest.mark.parametrize("word", ["BLUEBIRD" * 10, "A" * 300, "sk" + "x1" * 60])
def test_long_words_under_any_other_key_are_text(word: str) -> None:
    """They look like base64; a model reads them as they stand."""
    assert said({"input": word, "prompt": word}) == [("user", word), ("user", word)]


@pytest.mark.parametrize("head", ["", "data:image/png;base64,"])
@pytest.mark.parametrize("key", ["input", "data", "url"])
def test_what_only_looks_like_base64_is_read(key: str, head: str) -> None:
    """Letters alone decode to something; a model may read them as they stand."""
    assert "BLUEBIRD" in everything(messages_of({key: head + "BLUEBIRD" * 100}, "user"))


@pytest.mark.parametrize("tokens", [[1, 2, 3], [[1, 2], [3]], ["a", 5]])
@pytest.mark.parametrize("key", ["input", "prompt"])
def test_tokens_are_not_understood(key: str, tokens: object) -> None:
    """Numbers hide the words."""
    with pytest.raises(NotUnderstoodError):
        messages_of({key: tokens}, "user")


def test_calls_and_their_outputs_are_read_as_such() -> None:
    """Rules about tool calls hold for what is kept on a server, too."""
    items = [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        {"type": "function_call", "call_id": "c1", "name": "rm", "arguments": '{"path":"/"}'},
        {"type": "function_call_output", "call_id": "c1", "output": "done"},
        {"type": "custom_tool_call", "call_id": "c2", "name": "exec", "input": "rm -rf /"},
        {"id": "t", "type": "function", "function": {"name": "ls", "arguments": "{}"}},
    ]
    found = messages_of({"items": items}, "user")
    assert [m.role for m in found] == ["user", "assistant", "tool", "assistant", "assistant"]
    calls = [call for message in found for call in message.tool_calls]
    assert [(c.id, c.name, c.arguments, c.kind) for c in calls] == [
        ("c1", "rm", '{"path":"/"}', "function"),
        ("c2", "exec", "rm -rf /", "custom"),
        (None, "ls", "{}", "function"),
    ]
    assert found[2].tool_call_id == "c1" and found[2].text == "done"


def test_items_of_responses_are_read_as_there() -> None:
    """What a conversation keeps is what a later response goes on from."""
    items = [
        {"type": "mcp_call", "server_label": "s", "name": "t", "arguments": "{}", "output": "o"},
        {"type": "shell_call", "action": {"commands": ["rm -rf /"]}},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
    ]
    found = messages_of({"items": items}, "user")
    calls = [call for message in found for call in message.tool_calls]
    assert [call.name for call in calls] == ["mcp:s.t", "shell_call"]
    assert "rm -rf /" in calls[1].arguments
    assert found[-1].parts == (Part("reasoning", "hm"),)


def test_assistants_nest_their_texts() -> None:
    """`text.value` is what `text` is elsewhere."""
    content = [{"type": "text", "text": {"value": 'say "BLUEBIRD"\nnow', "annotations": []}}]
    (message,) = messages_of({"data": [{"role": "assistant", "content": content}]}, "user")
    assert message.text == 'say "BLUEBIRD"\nnow'


def test_stored_completions_are_read_as_completions() -> None:
    """With their tool calls, and one by one."""
    call = {"id": "c", "type": "function", "function": {"name": "rm", "arguments": "{}"}}
    one = {"object": "chat.completion", "choices": [{"message": {"tool_calls": [call]}}]}
    two = {"object": "text_completion", "choices": [{"text": "hello"}]}
    assert reply_of(one).choices[0].tool_calls[0].name == "rm"
    listed = reply_of({"object": "list", "data": [one, two, {"note": "more"}], "extra": "here"})
    assert [m.text for m in listed.choices] == ["", "hello", "more\nhere"]
    assert listed.choices[0].tool_calls


_KEYS = st.sampled_from(
    (
        *("type", "role", "content", "text", "name", "arguments", "input", "output", "call_id"),
        *("function", "data", "choices", "message", "delta", "tool_call_id", "image_url", "x"),
    )
)
_TYPES = st.sampled_from(sorted(ITEM_TYPES))
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | _TYPES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=5),
    max_leaves=25,
)


@given(_JSON, st.lists(_KEYS | st.integers(0, 2), max_size=6))
def test_no_text_is_dropped_wherever_it_is(value: Any, path: list[str | int]) -> None:
    """A shape that is not read is a way around the guardrails."""
    planted: Any = "zQ BLUEBIRD Qz"
    for step in reversed(path):
        planted = {step: planted} if isinstance(step, str) else [*[value] * step, planted]
    body = {"first": value, "planted": planted}
    try:
        found = messages_of(body, "user")
    except NotUnderstoodError:
        return
    assert "zQ BLUEBIRD Qz" in everything(found)
    try:
        reply = reply_of(body)
    except NotUnderstoodError:
        return
    assert "zQ BLUEBIRD Qz" in everything(list(reply.choices))


@given(_JSON, st.sampled_from(["", "application/json", "text/event-stream", "text/plain"]))
def test_any_json_can_be_read_or_is_not_understood(value: Any, content_type: str) -> None:
    """It comes from outside."""
    for body in (json.dumps(value).encode(), f"data: {json.dumps(value)}\n\n".encode()):
        with contextlib.suppress(NotUnderstoodError):
            read_reply(body, content_type)
