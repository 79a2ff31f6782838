"""Requests and whole replies of the Responses API: every item is read, and nothing is dropped."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from invariant_addon.core.chat.form import chat_form
from invariant_addon.core.chat.message import read_message
from invariant_addon.core.conversation import Message, Part, ToolCall
from invariant_addon.core.errors import NotUnderstoodError
from invariant_addon.core.responses.bodies import parse_reply, parse_request, said, shown
from invariant_addon.core.responses.items import read_item
from invariant_addon.engines.normalise import normalise


def messages(input_: Any = None, **more: Any) -> tuple[Message, ...]:
    body = {"model": "m", **({} if input_ is None else {"input": input_}), **more}
    return parse_request(json.dumps(body).encode()).conversation.messages


def text(role: str, *texts: str, **more: Any) -> Message:
    return Message(role, tuple(Part("text", t) for t in texts), **more)


def call(name: str, arguments: str, call_id: str | None = "c", kind: Any = "function") -> Message:
    return Message("assistant", (), (ToolCall(call_id, name, arguments, kind),))


def test_a_string_is_what_the_user_says() -> None:
    """The shortest request there is."""
    assert messages("hi", instructions="be kind") == (text("system", "be kind"), text("user", "hi"))


ITEMS: list[tuple[dict[str, Any], list[Message]]] = [
    ({"role": "user", "content": "hi"}, [text("user", "hi")]),
    ({"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "a"}]},
     [text("developer", "a")]),
    ({"type": "message", "role": "assistant", "phase": "commentary", "id": "m", "content": [
        {"type": "output_text", "text": "a", "annotations": [], "logprobs": []},
        {"type": "refusal", "refusal": "no"}]},
     [Message("assistant", (Part("text", "a"), Part("refusal", "no")))]),
    ({"role": "user", "content": [
        {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "auto"},
        {"type": "input_image", "image_url": "https://x.test/a.png"},
        {"type": "input_file", "filename": "a.pdf", "file_data": "data:;base64,AAAA"},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "mp3"}}]},
     [Message("user", (Part("image", "data:image/png;base64"),
                       Part("image", "https://x.test/a.png"), Part("file", "a.pdf"),
                       Part("audio", ""), Part("other", "data:;base64")))]),
    ({"role": "user", "content": [{"type": "input_file", "filename": "a.txt",
                                   "file_data": "data:text/plain;base64,QkxVRUJJUkQ="}]},
     [Message("user", (Part("other", "a.txt"),
                       Part("other", "data:text/plain;base64\nBLUEBIRD")))]),
    ({"type": "function_call", "call_id": "c", "id": "fc", "name": "f", "arguments": "{}"},
     [call("f", "{}")]),
    ({"type": "function_call_output", "call_id": "c", "output": "done"},
     [text("tool", "done", tool_call_id="c")]),
    ({"type": "function_call_output", "call_id": "c",
      "output": [{"type": "input_text", "text": "a"}, {"type": "input_image", "image_url": "u"}]},
     [Message("tool", (Part("text", "a"), Part("image", "u")), tool_call_id="c")]),
    ({"type": "custom_tool_call", "call_id": "c", "name": "exec", "input": "ls"},
     [call("exec", "ls", kind="custom")]),
    ({"type": "custom_tool_call_output", "call_id": "c", "output": "a"},
     [text("tool", "a", tool_call_id="c")]),
    ({"type": "mcp_call", "id": "c", "server_label": "mail", "name": "send",
      "arguments": '{"to":"x"}', "output": "sent", "error": None},
     [call("mcp:mail.send", '{"to":"x"}'), text("tool", "sent", tool_call_id="c")]),
    ({"type": "mcp_approval_request", "id": "c", "server_label": "mail", "name": "send",
      "arguments": "{}"}, [call("mcp:mail.send", "{}")]),
    ({"type": "mcp_approval_response", "approval_request_id": "c", "approve": True, "reason": "ok"},
     [text("tool", "ok", tool_call_id="c")]),
    ({"type": "web_search_call", "id": "c", "action": {"type": "search", "query": "q"}},
     [call("web_search_call", '{"type":"search","query":"q"}')]),
    ({"type": "file_search_call", "id": "c", "queries": ["q"], "results": [{"text": "t"}]},
     [call("file_search_call", '{"queries":["q"]}'),
      text("tool", '[{"text":"t"}]', tool_call_id="c")]),
    ({"type": "code_interpreter_call", "id": "c", "code": "1+1", "container_id": "x",
      "outputs": [{"type": "logs", "logs": "2"}]},
     [call("code_interpreter_call", '{"code":"1+1"}'),
      text("tool", '[{"type":"logs","logs":"2"}]', tool_call_id="c")]),
    ({"type": "image_generation_call", "id": "c", "result": "AAAA", "revised_prompt": "a cat"},
     [call("image_generation_call", '{"revised_prompt":"a cat"}')]),
    ({"type": "computer_call", "call_id": "c", "action": {"type": "type", "text": "t"}},
     [call("computer_call", '{"type":"type","text":"t"}')]),
    ({"type": "computer_call_output", "call_id": "c",
      "output": {"type": "computer_screenshot", "image_url": "u"}},
     [Message("tool", (Part("image", "u"),), tool_call_id="c")]),
    ({"type": "local_shell_call", "call_id": "c", "action": {"type": "exec", "command": ["ls"]}},
     [call("local_shell_call", '{"type":"exec","command":["ls"]}')]),
    ({"type": "local_shell_call_output", "id": "c", "output": "o"},
     [text("tool", "o", tool_call_id="c")]),
    ({"type": "shell_call", "call_id": "c", "action": {"commands": ["ls"]}},
     [call("shell_call", '{"commands":["ls"]}')]),
    ({"type": "shell_call_output", "call_id": "c", "output": [
        {"stdout": "o", "stderr": "e", "outcome": {"type": "exit", "exit_code": 0}}]},
     [text("tool", "o", "e", tool_call_id="c")]),
    ({"type": "apply_patch_call", "call_id": "c",
      "operation": {"type": "update_file", "path": "p", "diff": "d"}},
     [call("apply_patch_call", '{"type":"update_file","path":"p","diff":"d"}')]),
    ({"type": "apply_patch_call_output", "call_id": "c", "status": "completed", "output": "ok"},
     [text("tool", "ok", tool_call_id="c")]),
    ({"type": "tool_search_call", "id": "t", "call_id": None, "arguments": {"q": "x"}},
     [call("tool_search_call", '{"q":"x"}', "t")]),
    ({"type": "tool_search_output", "call_id": "c", "tools": [{"name": "n"}]},
     [text("tool", '[{"name":"n"}]', tool_call_id="c")]),
    ({"type": "program", "id": "p", "call_id": "c", "code": "f()", "fingerprint": "AAAA"},
     [call("program", '{"code":"f()"}')]),
    ({"type": "program_output", "id": "p", "call_id": "c", "result": "r"},
     [text("tool", "r", tool_call_id="c")]),
    ({"type": "mcp_list_tools", "server_label": "s", "tools": [{"name": "n"}]},
     [text("system", '[{"name":"n"}]')]),
    ({"type": "additional_tools", "role": "developer", "tools": [{"name": "n"}]},
     [text("system", '[{"name":"n"}]')]),
    ({"type": "configuration_update", "text": {"verbosity": "low"}},
     [text("system", '{"verbosity":"low"}')]),
    ({"type": "reasoning", "id": "r", "encrypted_content": "AAAA",
      "summary": [{"type": "summary_text", "text": "s"}],
      "content": [{"type": "reasoning_text", "text": "t"}]},
     [Message("assistant", (Part("reasoning", "s"), Part("reasoning", "t")))]),
    ({"type": "compaction", "encrypted_content": "AAAA"}, [Message("assistant")]),
    ({"type": "compaction_trigger"}, [Message("assistant")]),
    ({"type": "item_reference", "id": "x"}, [Message("assistant")]),
    ({"type": "from_the_future", "words": ["x"]},
     [Message("unknown", (Part("other", '{"type":"from_the_future","words":["x"]}'),))]),
]  # fmt: skip


@pytest.mark.parametrize(("item", "expected"), ITEMS, ids=[str(i.get("type")) for i, _ in ITEMS])
def test_an_item_becomes_what_rules_read(item: dict[str, Any], expected: list[Message]) -> None:
    """One table for a request's items and a reply's."""
    assert read_item(item) == expected
    assert messages([item, {"role": "user", "content": "z"}])[:-1] == tuple(expected)


@pytest.mark.parametrize("item", [i for i, _ in ITEMS], ids=[str(i.get("type")) for i, _ in ITEMS])
def test_a_word_anywhere_in_an_item_is_read(item: dict[str, Any]) -> None:
    """A key that we do not know may be one that the model reads."""
    assert "BLUEBIRD" in everything(read_item(item | {"new": {"deep": ["a BLUEBIRD"]}}))
    reply = {"output": [item | {"new": ["a BLUEBIRD"]}]}
    (message,) = parse_reply(json.dumps(reply).encode()).choices
    assert "BLUEBIRD" in everything([message])


@pytest.mark.parametrize("key", ["encrypted_content", "fingerprint"])
def test_what_should_be_opaque_and_is_not_is_read(key: str) -> None:
    """Else it would be a place to hide words in."""
    item = {"type": "reasoning", "summary": [], key: "a BLUEBIRD flies"}
    assert "BLUEBIRD" in everything(read_item(item))


def everything(found: Any) -> str:
    return repr(normalise(found).messages)


KEYS = st.sampled_from(
    ["type", "role", "content", "summary", "text", "output", "arguments", "action", "x", "name"]
)
TYPES = st.sampled_from(
    [i["type"] for i, _ in ITEMS if "type" in i] + ["input_text", "output_text"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | TYPES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=6),
    max_leaves=20,
)


@settings(deadline=None)
@given(VALUES, VALUES, VALUES)
def test_any_json_is_read_or_refused(one: Any, two: Any, three: Any) -> None:
    """Whatever an adversary sends, the only exception is the one that means "not understood"."""
    for body in (
        {"input": one, "instructions": two, "prompt": three},
        {"input": [one, two], "prompt": {"variables": three}},
    ):
        try:
            exchange = parse_request(json.dumps(body).encode())
        except NotUnderstoodError:
            continue
        normalise(exchange.conversation.messages)
        _, kept = shown(json.loads(json.dumps(body)))
        assert len(kept) == len(exchange.conversation.messages)
    for reply in ({"output": one}, {"output": [one, two], "error": three, "status": two}):
        try:
            found = parse_reply(json.dumps(reply).encode())
        except NotUnderstoodError:
            continue
        assert len(found.turns) == 1
        said(reply, found)


@pytest.mark.parametrize("item", [i for i, _ in ITEMS], ids=[str(i.get("type")) for i, _ in ITEMS])
def test_a_trace_reads_as_the_rules_read_it(item: dict[str, Any]) -> None:
    """Addresses of findings point into the trace's messages."""
    for message in (
        *read_item(item),
        *parse_reply(json.dumps({"output": [item]}).encode()).choices,
    ):
        kept = read_message(json.loads(json.dumps(chat_form(message))))
        assert normalise([kept]) == normalise([message])


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"3", b'{"input":"a","input":"b"}', b'{"Input":"a"}',
        b'{"input":[{"role":"user","content":"a","content":"b"}]}',
        b'{"input":[{"role":"user","Content":"a"}]}',
    ],
)  # fmt: skip
def test_what_reads_otherwise_elsewhere_is_refused(body: bytes) -> None:
    """Of equal keys some take the first, some the last; some take no care of case."""
    with pytest.raises(NotUnderstoodError):
        parse_request(body)


def test_the_reply_that_a_request_goes_on_from_is_known() -> None:
    """It may have been refused."""
    exchange = parse_request(b'{"input":"a","previous_response_id":"resp_1","stream":true}')
    assert exchange.continues == "resp_1" and exchange.stream and exchange.endpoint == "responses"
    assert parse_request(b'{"input":"a","previous_response_id":null}').continues is None


def test_a_whole_reply_is_one_turn() -> None:
    """What built-in tools answered is no word of the assistant's, and is read all the same."""
    items = [i for i, _ in ITEMS if i.get("type") in ("mcp_call", "function_call", "reasoning")]
    items.append({"type": "message", "content": [{"type": "output_text", "text": "so"}]})
    reply = {"output": items, "output_text": "so", "new": "a BLUEBIRD"}
    (message,) = parse_reply(json.dumps(reply).encode()).choices
    assert message.role == "assistant" and message.text == "so"
    assert [c.name for c in message.tool_calls] == ["f", "mcp:mail.send"]
    others = [part.text for part in message.parts if part.kind == "other"]
    assert others == ["sent", "a BLUEBIRD"]


@pytest.mark.parametrize("body", [b"{}", b"[]", b'{"output":{}}', b'{"choices":[]}', b"x"])
def test_what_is_no_reply_is_not_understood(body: bytes) -> None:
    """What was not read was not judged."""
    with pytest.raises(NotUnderstoodError):
        parse_reply(body)


def test_a_trace_says_why_a_reply_ended() -> None:
    """In the words that every viewer of traces knows."""

    def finish(**more: Any) -> Any:
        body = {"output": [{"type": "message", "content": "x"}], **more}
        return said(body, parse_reply(json.dumps(body).encode()))[1]

    assert finish(status="completed") == ("stop",)
    details = {"reason": "max_output_tokens"}
    assert finish(status="incomplete", incomplete_details=details) == ("length",)
    assert finish(status="failed") == ("failed",)


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m","input":"a","input":"b"}',
        b'{"model":"m","input":[{"type":"message","role":"user","content":"a","content":"b"}]}',
        b'{"model":"m","input":"a","metadata":{"k":"one","k":"two"}}',
    ],
)
def test_a_key_that_comes_twice_is_refused(body: bytes) -> None:
    """Which of the two the server reads is its own business: a rule would have seen the other."""
    with pytest.raises(NotUnderstoodError):
        parse_request(body)
