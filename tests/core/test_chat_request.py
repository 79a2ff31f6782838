"""Requests and replies of the chat dialect: nothing in them stays unseen, no shape is too odd."""

import json
from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invariant_addon.core import json_text
from invariant_addon.core.chat import bodies as chat
from invariant_addon.core.conversation import Message, Part, Reply, ToolCall
from invariant_addon.core.errors import NotUnderstoodError

A = "assistant"


def text(value):
    return Part("text", value)


def other(value):
    return Part("other", value)


def called(*calls, parts=()):
    return Message(A, parts, tuple(calls))


def function(**fields):
    return {"role": A, "tool_calls": [{"id": "c", "type": "function", "function": fields}]}


DEEP: dict[str, object] = {"a": 1}
for _ in range(400):
    DEEP = {"a": DEEP}

# (why, a message as it is sent, what the model has of it)
PDF = "data:application/pdf;base64," + b64encode(b"%PDF-1.7\n\x00\xff\xfe\x01 stream").decode()
TXT = b64encode(b"a secret BLUEBIRD").decode()
SHAPES = [
    ("text", {"role": "user", "content": "hi"}, Message("user", (text("hi"),))),
    ("developer", {"role": "developer", "content": "x"}, Message("developer", (text("x"),))),
    (
        "name",
        {"role": "user", "name": "Bo", "content": ""},
        Message("user", (Part("other", "Bo"),), name="Bo"),
    ),
    ("content null", {"role": A, "content": None}, Message(A)),
    ("content missing", {"role": A}, Message(A)),
    ("content int", {"role": "user", "content": 42}, Message("user", (text("42"),))),
    ("content bool", {"role": "user", "content": False}, Message("user", (text("false"),))),
    (
        "content dict",
        {"role": "user", "content": {"a": "b"}},
        Message("user", (other('{"a":"b"}'),)),
    ),
    (
        "content dict that is a part",
        {"role": "user", "content": {"type": "text", "text": "b"}},
        Message("user", (text("b"),)),
    ),
    (
        "text parts",
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"text": "b"}, None]},
        Message("user", (text("a"), text("b"))),
    ),
    (
        "text part with more",
        {"role": "user", "content": [{"type": "text", "text": "a", "note": "b"}]},
        Message("user", (text("a"), other('{"note":"b"}'))),
    ),
    (
        "plain strings",
        {"role": "user", "content": ["a", "", "b"]},
        Message("user", (text("a"), text("b"))),
    ),
    ("odd entries", {"role": "user", "content": [5]}, Message("user", (other("5"),))),
    (
        "image",
        {"content": [{"type": "image_url", "image_url": {"url": "http://a/b", "detail": "low"}}]},
        Message("unknown", (Part("image", "http://a/b"),)),
    ),
    (
        "image as a string",
        {"content": [{"type": "image_url", "image_url": "http://a/b"}]},
        Message("unknown", (Part("image", "http://a/b"),)),
    ),
    (
        "image in base64",
        {"content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBO"}}]},
        Message("unknown", (Part("image", "data:image/png;base64"),)),
    ),
    (
        "image that is text",
        {"content": [{"type": "image_url", "image_url": {"url": "data:image/svg+xml,<svg/>"}}]},
        Message("unknown", (Part("image", "data:image/svg+xml,<svg/>"),)),
    ),
    (
        "sound",
        {"content": [{"type": "input_audio", "input_audio": {"data": "UklG", "format": "wav"}}]},
        Message("unknown", (Part("audio", ""),)),
    ),
    (
        "file",
        {"content": [{"type": "file", "file": {"filename": "a.pdf", "file_data": PDF}}]},
        Message("unknown", (Part("file", "a.pdf"), Part("other", "data:application/pdf;base64"))),
    ),
    (
        "file of text",
        {"content": [{"type": "file", "file": {"filename": "a.txt", "file_data": TXT}}]},
        Message("unknown", (Part("other", "a.txt"), Part("other", "a secret BLUEBIRD"))),
    ),
    (
        "short file of text",
        {"content": [{"type": "file", "file": {"filename": "a", "file_data": "QkxVRUJJUkQ="}}]},
        Message("unknown", (Part("other", "a"), Part("other", "BLUEBIRD"))),
    ),
    (
        "file by id",
        {"content": [{"type": "file", "file": {"file_id": "file-1"}}]},
        Message("unknown", (Part("file", "file-1"),)),
    ),
    (
        "refusal part",
        {"role": A, "content": [{"type": "refusal", "refusal": "no"}]},
        Message(A, (Part("refusal", "no"),)),
    ),
    (
        "thinking part",
        {"role": A, "content": [{"type": "thinking", "thinking": [{"type": "text", "text": "t"}]}]},
        Message(A, (Part("reasoning", "t"),)),
    ),
    (
        "unknown part",
        {"role": "user", "content": [{"type": "video_url", "video_url": {"url": "http://a"}}]},
        Message("user", (other('{"type":"video_url","video_url":{"url":"http://a"}}'),)),
    ),
    (
        "part of the wrong shape",
        {"role": "user", "content": [{"type": "text", "text": {"a": "b"}}]},
        Message("user", (other('{"type":"text","text":{"a":"b"}}'),)),
    ),
    ("refusal", {"role": A, "refusal": "no"}, Message(A, (Part("refusal", "no"),))),
    ("sound said before", {"role": A, "audio": {"id": "a"}}, Message(A, (Part("audio", ""),))),
    (
        "transcript",
        {"role": A, "audio": {"id": "a", "data": "UklG", "transcript": "hi", "expires_at": 1}},
        Message(A, (Part("audio", ""), Part("transcript", "hi"))),
    ),
    (
        "reasoning",
        {"role": A, "reasoning_content": "a", "content": "b"},
        Message(A, (Part("reasoning", "a"), text("b"))),
    ),
    (
        "reasoning twice",
        {"role": A, "reasoning": "a", "reasoning_details": [{"text": "a"}, {"summary": "b"}]},
        Message(A, (Part("reasoning", "a"), Part("reasoning", "b"))),
    ),
    (
        "encrypted reasoning",
        {"role": A, "reasoning_details": [{"type": "reasoning.encrypted", "data": "QUJD"}]},
        Message(A),
    ),
    ("call", function(name="f", arguments="{}"), called(ToolCall("c", "f", "{}"))),
    ("malformed arguments", function(name="f", arguments='{"a'), called(ToolCall("c", "f", '{"a'))),
    ("no arguments", function(name="f"), called(ToolCall("c", "f", ""))),
    ("null arguments", function(name="f", arguments=None), called(ToolCall("c", "f", ""))),
    (
        "arguments as an object",
        function(name="f", arguments={"a": [1]}),
        called(ToolCall("c", "f", '{"a":[1]}')),
    ),
    (
        "deep arguments",
        function(name="f", arguments=DEEP),
        called(ToolCall("c", "f", json.dumps(DEEP, separators=(",", ":")))),
    ),
    (
        "call without type and id",
        {"role": A, "content": None, "tool_calls": [{"id": None, "function": {"name": "f"}}]},
        called(ToolCall(None, "f", "")),
    ),
    (
        "custom call",
        {
            "role": A,
            "tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "sh", "input": "ls"}}],
        },
        called(ToolCall("c", "sh", "ls", "custom")),
    ),
    (
        "flat call",
        {"role": A, "tool_calls": [{"id": 7, "name": "f", "arguments": "{}"}]},
        called(ToolCall("7", "f", "{}")),
    ),
    (
        "call with more",
        {"role": A, "tool_calls": [{"id": "c", "function": {"name": "f", "note": "n"}, "x": "y"}]},
        called(ToolCall("c", "f", ""), parts=(other('{"note":"n"}'), other('{"x":"y"}'))),
    ),
    (
        "call of no known kind",
        {"role": A, "tool_calls": [{"mcp": "x"}]},
        called(parts=(other('{"mcp":"x"}'),)),
    ),
    ("odd calls", {"role": A, "tool_calls": ["x", None]}, called(parts=(other('"x"'),))),
    ("calls as a dict", {"role": A, "tool_calls": {"a": "b"}}, called(parts=(other('{"a":"b"}'),))),
    ("calls null", {"role": A, "tool_calls": None}, Message(A)),
    ("calls empty", {"role": A, "tool_calls": []}, Message(A)),
    (
        "legacy call",
        {"role": A, "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        called(ToolCall(None, "f", "{}")),
    ),
    (
        "legacy result",
        {"role": "function", "name": "f", "content": "out"},
        Message("tool", (text("out"),), name="f"),
    ),
    (
        "result",
        {"role": "tool", "tool_call_id": "c", "content": "out"},
        Message("tool", (text("out"),), tool_call_id="c"),
    ),
    (
        "result of nothing",
        {"role": "tool", "tool_call_id": None, "content": "o"},
        Message("tool", (text("o"),)),
    ),
    ("role missing", {"content": "a"}, Message("unknown", (text("a"),))),
    ("role null", {"role": None, "content": "a"}, Message("unknown", (text("a"),))),
    ("role is an object", {"role": {"a": "b"}}, Message("unknown", (other('{"a":"b"}'),))),
    ("a string", "hi", Message("unknown", (other('"hi"'),))),
    ("a list", ["hi"], Message("unknown", (other('["hi"]'),))),
    ("null", None, Message("unknown", (other("null"),))),
    ("unknown string", {"role": "user", "server": "x"}, Message("user", (other("x"),))),
    (
        "unknown object",
        {"role": "user", "metadata": {"a": 1}},
        Message("user", (other('{"a":1}'),)),
    ),
    ("unknown list", {"role": "user", "steps": [["a"]]}, Message("user", (other('[["a"]]'),))),
    (
        "unknown fields with nothing in them",
        {"role": "user", "a": None, "b": "", "c": [], "d": {}, "e": 5, "f": True, "g": [1, [2]]},
        Message("user"),
    ),
    ("refusal of the wrong shape", {"role": A, "refusal": ["no"]}, Message(A, (other('["no"]'),))),
    (
        "emoji and NUL",
        {"role": "user", "content": "🦊\0"},
        Message("user", (text("🦊\0"),)),
    ),
]


def read(message):
    exchange = chat.parse_request(json.dumps({"messages": [message]}).encode())
    [found] = exchange.conversation.messages
    return found


@pytest.mark.parametrize(("why", "message", "expected"), SHAPES, ids=[s[0] for s in SHAPES])
def test_every_shape_of_a_message_is_read(why, message, expected):
    """A shape that is not read is a way around the guardrails, or a request that fails."""
    assert read(message) == expected, why


def test_a_request_tells_what_was_asked_for():
    """The gate is set up by it."""
    body = {"model": "gpt", "stream": True, "n": 3, "messages": [{"role": "user", "content": "a"}]}
    exchange = chat.parse_request(json.dumps(body).encode())
    assert (exchange.endpoint, exchange.model, exchange.stream, exchange.n) == (
        "chat.completions",
        "gpt",
        True,
        3,
    )
    assert exchange.conversation.messages == (Message("user", (text("a"),)),)


@pytest.mark.parametrize("n", [None, True, 0, -1, "2", 1.5])
def test_an_odd_number_of_choices_is_one(n):
    """Upstream will refuse it; the proxy must not fail first."""
    assert chat.parse_request(json.dumps({"messages": [], "n": n, "model": 5}).encode()).n == 1


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"no", b"[]", b'"a"', b"{}", b'{"messages": {}}', b'{"messages": "hi"}'),
        *(b"\xff\xfe", b'{"messages": ' + b"[" * 100_000, b'{"messages": [' + b"9" * 5000 + b"]}"),
    ],
    ids=lambda body: repr(body[:20]),
)
def test_what_is_no_request_is_not_understood(body):
    """Nobody could judge it, so invariant_on_failure decides."""
    with pytest.raises(NotUnderstoodError):
        chat.parse_request(body)


@pytest.mark.parametrize(
    ("why", "body", "content"),
    [
        ("equal keys", b'{"messages": [{"content": "a", "content": "a"}]}', "a"),
        ("NaN", b'{"messages": [{"content": "a"}], "x": NaN}', "a"),
        ("lone surrogate", b'{"messages": [{"content": "a\\ud800"}]}', "a\ud800"),
        ("long integer", b'{"messages": [{"content": "a"}], "x": ' + b"9" * 100 + b"}", "a"),
        ("huge float", b'{"messages": [{"content": "a"}], "x": 1e999}', "a"),
        ("BOM", b'\xef\xbb\xbf{"messages": [{"content": "a"}]}', "a"),
        ("UTF-16", '{"messages": [{"content": "a"}]}'.encode("utf-16"), "a"),
        ("deep", b'{"messages": [{"content": "a"}], "x": ' + b"[" * 1100 + b"]" * 1100 + b"}", "a"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " in value else None,
)
def test_what_python_reads_is_read(why, body, content):
    """Servers behind the proxy may be lenient; the guard must be as lenient as they are."""
    assert chat.parse_request(body).conversation.messages[0].parts[0].text == content, why


def test_a_reply_has_its_choices_in_order():
    """Verdicts name a choice by its index."""
    body = {
        "choices": [
            {"index": 1, "message": {"role": A, "content": "b"}},
            {"index": 0, "message": {"content": "a", "tool_calls": []}},
        ]
    }
    assert chat.parse_reply(json.dumps(body).encode()) == Reply(
        (Message(A, (text("a"),)), Message(A, (text("b"),)))
    )


@pytest.mark.parametrize("body", [b"{}", b"[]", b'{"choices": null}', b'{"error": {}}', b"hi"])
def test_what_is_no_reply_is_not_understood(body):
    """An error body has no choices; the caller decides by the status."""
    with pytest.raises(NotUnderstoodError):
        chat.parse_reply(body)


def test_a_choice_without_a_message_is_read_whole():
    """Where the text is, nobody knows; so all of it is shown to the rules."""
    reply = chat.parse_reply(b'{"choices": [{"text": "a"}, "b"]}')
    assert [m.parts for m in reply.choices] == [(other("a"),), (other('"b"'),)]


def test_what_was_read_can_be_written_to_the_same_depth():
    """Else a message could be read, and then fail when it is shown to a rule."""
    value = "a"
    for _ in range(json_text.MAX_DEPTH - 1):
        value = [value]
    written = json_text.encode(value)
    assert json_text.decode(written) == value
    with pytest.raises(NotUnderstoodError):
        json_text.decode("[" * 10 + written + "]" * 10)


_KEYS = st.sampled_from(
    (
        *("role", "content", "name", "refusal", "tool_calls", "tool_call_id", "function_call"),
        *("audio", "reasoning", "reasoning_content", "reasoning_details", "annotations", "type"),
        *("function", "custom", "arguments", "input", "id", "text", "image_url", "url", "file"),
        *("input_audio", "transcript", "thinking", "index", "message", "summary", "filename"),
    )
)
_WORDS = st.sampled_from(("text", "image_url", "file", "refusal", "thinking", "function", "data:,"))
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _WORDS | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=5),
    max_leaves=25,
)


@given(st.lists(_JSON, max_size=4))
def test_no_message_is_refused(messages):
    """One odd message must not decide about the others."""
    body = json.dumps({"messages": messages}).encode()
    assert len(chat.parse_request(body).conversation.messages) == len(messages)
    choices = json.dumps({"choices": [{"message": m} for m in messages]}).encode()
    assert len(chat.parse_reply(choices).choices) == len(messages)


@given(_JSON | st.dictionaries(st.sampled_from(("messages", "choices", "n", "model")), _JSON))
def test_no_json_raises_anything_but_not_understood(value):
    """Nobody can crash the proxy by what they send."""
    body = json.dumps(value).encode()
    for parse in (chat.parse_request, chat.parse_reply):
        try:
            parse(body)
        except NotUnderstoodError as error:
            assert error.args  # noqa: PT017 - it may raise, and only this


@given(st.dictionaries(_KEYS, st.text(min_size=1, max_size=5).map(lambda t: f"<{t}>"), max_size=6))
def test_no_text_of_a_message_stays_unseen(message):
    """The rule for fields that do not exist yet."""
    found = read(message)
    seen = [found.role, found.name, found.tool_call_id, *(part.text for part in found.parts)]
    assert set(message.values()) <= set(seen)
