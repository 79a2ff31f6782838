"""Files and forms: each line of a batch is judged as the request that it holds."""

from __future__ import annotations

import contextlib
import gzip
import json
import zipfile
from io import BytesIO
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from invariant_addon.core.conversation import Exchange, Message
from invariant_addon.core.coverage import unread
from invariant_addon.core.dialects import parse_line, plain
from invariant_addon.core.errors import NotUnderstoodError
from invariant_addon.core.plain.bodies import read_reply
from invariant_addon.core.plain.uploads import read_upload

PDF = b"%PDF-1.7\n\x00\xff\xfe\x01" + bytes(range(256)) + b"\n(BLUEBIRD in the clear)\n"


def line(**fields: object) -> bytes:
    return json.dumps(fields).encode() + b"\n"


def batched(body: object, url: str = "/v1/chat/completions", **more: object) -> bytes:
    return line(custom_id="a", method="POST", url=url, body=body, **more)


CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def form(files: dict[str, Any], **data: str) -> Exchange:
    request = httpx.Request("POST", "http://x", files=files, data=data)
    dialect = plain("/v1/files", asked_type=request.headers["content-type"])
    return dialect.parse_request(request.read())


def texts(messages: tuple[Message, ...] | list[Message]) -> str:
    return "\n".join(part.text for message in messages for part in message.parts)


def test_the_lines_of_a_batch_are_requests_that_stand_for_themselves() -> None:
    """In the dialect of the endpoint that each names; flow rules do not see two of them as one."""
    tool = {"id": "c", "type": "function", "function": {"name": "rm", "arguments": "{}"}}
    called = {"messages": [{"role": "assistant", "tool_calls": [tool]}]}
    data = batched(CHAT) + batched(called) + batched({"prompt": ["a", "b"]}, "/v1/completions")
    data += batched({"input": "embed me"}, "/v1/embeddings")
    exchange = form({"file": ("b.jsonl", data)}, purpose="batch")
    first, second, third, fourth = exchange.separate
    assert (first[0].role, first[0].text) == ("user", "hi")
    assert second[0].tool_calls[0].name == "rm"
    assert [message.text for message in third[:2]] == ["a", "b"]
    assert fourth[0].text == "embed me"
    assert "b.jsonl" in texts(exchange.conversation.messages)


@pytest.mark.parametrize(
    ("why", "data"),
    [
        ("a line that is no JSON", batched(CHAT) + b"hello\n"),
        ("a list", b"[1]\n"),
        ("an unknown endpoint", batched(CHAT, "/v1/tomorrow")),
        ("an endpoint that is set up past the proxy", batched({}, "/v1/realtime/sessions")),
        ("tokens", batched({"prompt": [1, 2]}, "/v1/completions")),
        ("no messages", batched({"messages": 1})),
        ("a key twice", b'{"url":"/v1/embeddings","body":{"input":"a"},"body":{"input":"b"}}\n'),
        ("a key twice inside", b'{"url":"/v1/embeddings","body":{"input":"a","input":"b"}}\n'),
        ("no text", gzip.compress(batched(CHAT), mtime=0)),
        ("a PDF", PDF),
    ],
)
def test_a_batch_that_cannot_be_read_is_not_understood(why: str, data: bytes) -> None:
    """OpenAI runs it later, and nobody would have seen it."""
    with pytest.raises(NotUnderstoodError):
        form({"file": ("b.jsonl", data)}, purpose="batch")


def test_requests_are_read_whatever_the_purpose_says() -> None:
    """A batch can be made of a file that was sent for something else; one bad line hides none."""
    data = b"# a comment\n" + batched({"messages": [{"role": "user", "content": "BLUEBIRD"}]})
    assert "BLUEBIRD" in texts(form({"file": ("x", data)}, purpose="user_data").separate[1])


def test_a_conversation_to_learn_from_is_read_as_chat() -> None:
    """Fine-tuning: a line is a conversation, its tools included."""
    data = line(messages=CHAT["messages"], tools=[{"function": {"name": "f", "description": "d"}}])
    ((first, tools),) = form({"file": ("x", data)}, purpose="fine-tune").separate
    assert first.text == "hi" and tools.role == "tools" and "d" in tools.text


@pytest.mark.parametrize(
    "data",
    [
        b"plain BLUEBIRD text",
        "BLUEBIRD".encode("utf-16"),
        b"\xef\xbb\xbfBLUEBIRD",
        b'{\n "nested": {"x": "BLUEBIRD"}\n}',
        b'["BLUEBIRD"]',
        b"{not json BLUEBIRD",
        PDF,
    ],
)
def test_documents_are_read_as_far_as_they_are_text(data: bytes) -> None:
    """In a PDF, at least what stands in the clear."""
    messages, separate = read_upload(data, "name.txt", parse_line)
    assert "BLUEBIRD" in texts([*messages, *(m for each in separate for m in each)])
    assert "name.txt" in texts(messages)


def test_what_is_not_read_is_told() -> None:
    """Never silently unscanned."""
    archive = BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.txt", "x")
    for data, said in ((PDF, "files"), (archive.getvalue(), "files"), (b"plain", "")):
        messages, _ = read_upload(data, "n", parse_line)
        assert unread(messages) == said
    exchange = form({"image": ("a.png", b"\x89PNG\r\n\x1a\n\x00\x00")}, prompt="a cat")
    assert unread(exchange.conversation.messages) == "pictures"
    assert "a cat" in texts(exchange.conversation.messages)


@pytest.mark.parametrize("data", [gzip.compress(b"x", mtime=0), b"\x00\x01\x02", b"\x7fELF\x00"])
def test_a_file_of_no_known_kind_is_not_understood(data: bytes) -> None:
    """Nobody can say what is in it."""
    with pytest.raises(NotUnderstoodError):
        read_upload(data, "n", parse_line)


def test_a_value_that_is_sent_as_a_file_is_read() -> None:
    """Servers take it for the same."""
    exchange = form({"prompt": ("x", b"BLUEBIRD"), "image": ("a", b"\x89PNG\r\n\x1a\n\x00")})
    assert "BLUEBIRD" in texts(exchange.conversation.messages)


def test_the_results_of_a_batch_are_replies() -> None:
    """With their tool calls, one by one."""
    call = {"id": "c", "type": "function", "function": {"name": "rm", "arguments": "{}"}}
    said = [{"content": "hello"}, {"tool_calls": [call]}]
    data = b"".join(
        line(custom_id="a", response={"status_code": 200, "body": {"choices": [{"message": m}]}})
        for m in said
    )
    reply = read_reply(data, "application/octet-stream")
    assert any(message.text == "hello" for message in reply.choices)
    assert any(message.tool_calls for message in reply.choices)


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"BLUEBIRD", "text/plain"),
        (b'{"text":"BLUEBIRD"}', "application/json"),
        (b'{"text":"BLUEBIRD"}', "text/html"),
        (b"1\n00:00 --> 00:01\nBLUEBIRD\n", "application/x-subrip"),
        (b'data: {"type":"transcript.text.delta","delta":"BLUE"}\n\ndata: {"type":"transcript.tex'
         b't.delta","delta":"BIRD"}\n\n', "text/event-stream"),
        (b'event: thread.message.delta\ndata: {"delta":{"content":[{"text":{"value":"BLUE"}}]}}\n\n'
         b'event: thread.message.delta\ndata: {"delta":{"content":[{"text":{"value":"BIRD"}}]}}\n\n'
         b"event: done\ndata: [DONE]\n\n", "application/json"),
        (b'data: BLUEBIRD\n\n', "text/event-stream"),
        (b'BLUEBIRD: {"x":1}\n\n', "text/event-stream"),
        (b"\xef\xbb\xbf" + b'data: {"text":"BLUEBIRD"}', ""),
    ],
)  # fmt: skip
def test_replies_are_read_as_what_they_are(body: bytes, content_type: str) -> None:
    """Clients go by what they asked for, and not by the content type."""
    assert "BLUEBIRD" in texts(list(read_reply(body, content_type).choices))


def test_sound_that_comes_back_is_told() -> None:
    """It is what was asked for; and no rule can read it."""
    assert unread(read_reply(b"\x00\x01" * 50, "audio/pcm").choices) == "sound"
    with pytest.raises(NotUnderstoodError):
        read_reply(b"\x00\x01" * 50, "application/octet-stream")


@given(st.binary(max_size=300), st.booleans())
def test_any_file_can_be_read_or_is_not_understood(data: bytes, is_batch: bool) -> None:
    """It comes from outside."""
    with contextlib.suppress(NotUnderstoodError):
        read_upload(data, "n", parse_line, is_batch=is_batch)
    with contextlib.suppress(NotUnderstoodError):
        read_upload(b'{"url":"/v1/chat/completions","body":' + data, "", parse_line)
    with contextlib.suppress(NotUnderstoodError):
        read_reply(data, "")


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=80))
def test_no_word_of_a_text_file_is_lost(text: str) -> None:
    """Whatever it looks like."""
    planted = f"{text} BLUEBIRD"
    messages, separate = read_upload(planted.encode(), "", parse_line)
    assert "BLUEBIRD" in texts([*messages, *(m for each in separate for m in each)])


@pytest.mark.parametrize("url", ["/v1/responses/resp_1/cancel", "/v1/responses/input_tokens"])
def test_a_line_for_any_endpoint_is_judged(url: str) -> None:
    """A cancelled response has no body; a line that is called so may have one."""
    exchange = form({"file": ("b.jsonl", batched({"input": "BLUEBIRD"}, url))}, purpose="batch")
    assert "BLUEBIRD" in texts(exchange.separate[0])
