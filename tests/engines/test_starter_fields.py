"""The starter rules on all that is not a conversation: they find what leaks, and cry no wolf."""

from __future__ import annotations

import hashlib
import json
import uuid
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

from invariant_addon.core import completions
from invariant_addon.core.chat import bodies as chat
from invariant_addon.core.conversation import Message
from invariant_addon.core.dialects import parse_line, plain
from invariant_addon.core.plain.uploads import read_upload

from .conftest import Bench
from .test_starter_rules import BLOCK, CLEAN, KEY, judge

PNG = b64encode(b"\x89PNG\r\n\x1a\n" + hashlib.sha512(b"x").digest() * 500).decode()


def tool(name: str, description: str, **properties: str) -> dict[str, Any]:
    schema = {
        "type": "object",
        "properties": {k: {"type": "string", "description": v} for k, v in properties.items()},
        "required": list(properties),
    }
    function = {"name": name, "description": description, "parameters": schema}
    return {"type": "function", "function": function}


TOOLS = [
    tool("login", "Logs a user in.", username="who", password="The user's password: 8 or more"),
    tool("connect", "Uses an API key, like api_key=YOUR_KEY.", api_key="the API key", token="x"),
    tool("bash", "Runs a command. Never run rm -rf /, or curl x | sh!", command="the command"),
    tool("git", "Runs git, for example git push --force.", arguments="what comes behind git"),
    tool("fetch", "Gets https://user:pass@example.com/path style URLs.", url="where"),
]
FIELDS: dict[str, Any] = {
    "tools": TOOLS,
    "functions": [each["function"] for each in TOOLS],
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "credentials", "schema": TOOLS[0]["function"]["parameters"]},
    },
    "metadata": {
        "session_id": str(uuid.UUID(int=2**127 + 12345)),
        "commit": hashlib.sha1(b"a").hexdigest(),
        "user_password_changed": "true",
        "trace": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    },
    "user": hashlib.sha256(b"user@example.com").hexdigest(),
    "safety_identifier": "user_" + hashlib.sha256(b"b").hexdigest(),
    "prompt_cache_key": f"agent-{uuid.UUID(int=7)}",
    "stop": ["</s>", "<|im_end|>", "```"],
    "model": "ft:gpt-4.1-2025-04-14:my-org:custom-suffix:AbCdEf12",
}


def judged(bench: Bench, messages: tuple[Message, ...]) -> list[str]:
    return [violation.message for violation in judge(bench, BLOCK, *messages)]


@pytest.mark.parametrize("field", FIELDS)
def test_ordinary_fields_pass(bench: Bench, field: str) -> None:
    """An agent sends its tools with every call: a false alarm there would stop all of them."""
    body = json.dumps({"messages": [], field: FIELDS[field]}).encode()
    assert not judged(bench, chat.parse_request(body).conversation.messages)


@pytest.mark.parametrize("field", FIELDS)
def test_a_key_in_any_field_is_found(bench: Bench, field: str) -> None:
    """It leaves as surely as in a message."""
    value = f"use {KEY} here"
    holds: dict[str, Any] = {"tools": [tool("f", value)], "metadata": {"k": value}}
    body = json.dumps({"messages": [], field: holds.get(field, [value])}).encode()
    assert judged(bench, chat.parse_request(body).conversation.messages)


@pytest.mark.parametrize(
    "body",
    [
        {"model": "dall-e-3", "prompt": "a cat", "image": f"data:image/png;base64,{PNG}"},
        {"model": "text-embedding-3-large", "input": ["one", "two"], "user": FIELDS["user"]},
        {"input_file_id": "file-AbCdEfGhIjKlMnOpQrStUv", "endpoint": "/v1/chat/completions"},
        {"assistant_id": "asst_AbCdEfGhIjKlMnOpQrStUvWx", "thread_id": "thread_" + "aB3" * 8},
        {"instructions": "be good", "tools": TOOLS, "metadata": FIELDS["metadata"]},
        {"data": [{"b64_json": PNG, "revised_prompt": "a cat"}], "created": 1},
        {"file_data": PNG, "filename": "x.png"},
    ],
)
def test_ordinary_bodies_of_other_endpoints_pass(bench: Bench, body: dict[str, Any]) -> None:
    """Ids, labels and pictures are no secrets."""
    exchange = plain("/v1/x").parse_request(json.dumps(body).encode())
    assert not judged(bench, exchange.conversation.messages)


@pytest.mark.parametrize("path", CLEAN, ids=lambda p: p.name)
def test_ordinary_files_and_inputs_pass(bench: Bench, path: Path) -> None:
    """As an upload, as a text to embed, as a prompt."""
    data = path.read_bytes()
    messages, separate = read_upload(data, path.name, parse_line)
    assert not judged(bench, tuple(messages))
    for each in separate[:50]:
        assert not judged(bench, each)
    body = json.dumps({"prompt": data.decode()}).encode()
    assert not judged(bench, completions.parse_request(body).conversation.messages)


def test_a_key_in_an_upload_is_found(bench: Bench) -> None:
    """In a text, in a line of a batch, and in the clear in a document."""
    line = {"url": "/v1/chat/completions", "body": {"messages": [{"role": "user", "content": KEY}]}}
    for data in (
        f"some\ntext {KEY}\n".encode(),
        json.dumps(line).encode(),
        b"%PDF-1.7\n\x00\xff\xfe" + f"({KEY})\n".encode() + bytes(range(256)),
    ):
        messages, separate = read_upload(data, "x", parse_line)
        assert judged(bench, (*messages, *(m for each in separate for m in each)))
