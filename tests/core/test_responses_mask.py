"""Masks in requests of the Responses API: what was found is gone, or the request is blocked."""

from __future__ import annotations

import json
from typing import Any

import pytest

from invariant_addon.core.conversation import Conversation
from invariant_addon.core.dialects import RESPONSES
from invariant_addon.core.mask import Form, UnmaskableError, mask_request, placeholder_for
from invariant_addon.core.verdict import Action, Address, Guardrail, Violation
from invariant_addon.engines import normalise

MARK = placeholder_for(b"k" * 32)
RULE = Guardrail("1", "keys", "", Action.MASK)
KEY = "sk-1234567890abcdef"
FORM = Form(RESPONSES.parse_request, RESPONSES.layout)


def readable(conversation: Conversation) -> list[tuple[Address, str]]:
    """All texts that rules read, as the engine gets them."""
    digest = normalise.normalise(conversation.messages)
    texts = []
    for index, turn in enumerate(digest.messages):
        todo: list[tuple[str, Any]] = [("content", turn["content"])]
        calls: Any = turn.get("tool_calls") or ()
        for n, call in enumerate(calls):
            todo.append((f"tool_calls.{n}.function.arguments", call["function"]["arguments"]))
        while todo:
            path, value = todo.pop()
            if isinstance(value, str):
                address = normalise.locate(f"{index}.{path}:0-1", digest.places)
                assert address is not None
                texts.append((address, value))
            elif isinstance(value, dict):
                todo += [(f"{path}.{key}", v) for key, v in value.items()]
            elif isinstance(value, list):
                todo += [(f"{path}.{i}", v) for i, v in enumerate(value)]
    return texts


def mask(request: dict[str, Any], text: str = KEY) -> dict[str, Any]:
    body = json.dumps(request).encode()
    conversation = RESPONSES.parse_request(body).conversation
    found = [
        Violation(RULE, "found", (Address(a.message, a.path, at, at + len(text)),))
        for a, whole in readable(conversation)
        if (at := whole.find(text)) >= 0
    ]
    assert found, "the rule finds nothing"
    masked = mask_request(body, conversation, found, MARK, arguments=normalise.arguments, form=FORM)
    again = RESPONSES.parse_request(masked).conversation
    assert not any(text in whole for _, whole in readable(again))
    result = json.loads(masked)
    assert isinstance(result, dict)
    return result


ITEMS: list[Any] = [
    {"role": "user", "content": f"my key is {KEY}."},
    {"role": "user", "content": [{"type": "input_text", "text": f"key {KEY}"}]},
    {"type": "function_call", "call_id": "c", "name": "f", "arguments": json.dumps({"k": KEY})},
    {"type": "function_call_output", "call_id": "c", "output": f"it is {KEY}"},
    {"type": "function_call_output", "call_id": "c",
     "output": [{"type": "input_text", "text": KEY}]},
    {"type": "custom_tool_call", "call_id": "c", "name": "f", "input": f"echo {KEY}"},
    {"type": "mcp_call", "id": "c", "server_label": "s", "name": "n", "arguments": "{}",
     "output": KEY},
    {"type": "mcp_call", "id": "c", "server_label": "s", "name": "n",
     "arguments": json.dumps({"a": [KEY]}), "output": "x"},
    {"type": "shell_call", "call_id": "c", "action": {"commands": [f"echo {KEY}"]}},
    {"type": "shell_call_output", "call_id": "c", "output": [{"stdout": KEY, "stderr": ""}]},
    {"type": "apply_patch_call", "call_id": "c",
     "operation": {"type": "create_file", "path": "p", "diff": f"+{KEY}"}},
    {"type": "code_interpreter_call", "id": "c", "code": f"k = '{KEY}'",
     "outputs": [{"type": "logs", "logs": KEY}]},
    {"type": "reasoning", "summary": [{"type": "summary_text", "text": KEY}]},
    {"type": "mcp_list_tools", "server_label": "s", "tools": [{"name": "n", "description": KEY}]},
    {"type": "from_the_future", "words": [KEY]},
]  # fmt: skip


@pytest.mark.parametrize("item", ITEMS, ids=[str(i.get("type", "message")) for i in ITEMS])
def test_an_item_goes_upstream_without_the_secret(item: dict[str, Any]) -> None:
    """Wherever it stands; and all else stays what it was."""
    other = {"role": "user", "content": "what now?"}
    masked = mask({"model": "m", "instructions": "be kind", "input": [other, item, other]})
    assert KEY not in json.dumps(masked)
    assert masked["instructions"] == "be kind"
    first, changed, last = masked["input"]
    assert first == last == other and changed.keys() == item.keys()
    for key in ("type", "call_id", "name", "id", "role"):
        assert changed.get(key) == item.get(key)


def test_a_short_text_is_masked_only_where_it_was_found() -> None:
    """A call and its result are two messages, although they stand in one item."""
    item = {"type": "mcp_call", "id": "c", "server_label": "s", "name": "n",
            "arguments": '{"a": "pin"}', "output": "my pin 12"}  # fmt: skip
    masked = mask({"input": [item]}, "pin 12")
    assert masked["input"][0]["arguments"] == '{"a": "pin"}'
    assert masked["input"][0]["output"].startswith("my [masked:keys:")


@pytest.mark.parametrize(
    "request_",
    [
        {"input": f"my key is {KEY}"},
        {"input": "hi", "instructions": f"the key is {KEY}"},
        {"prompt": {"id": "p", "variables": {"k": KEY, "o": {"type": "input_text", "text": KEY}}}},
        {"input": "hi", "system": f"the key is {KEY}"},
    ],
)
def test_texts_outside_of_items_are_masked(request_: dict[str, Any]) -> None:
    """They are read, so they can be masked."""
    masked = mask(request_)
    assert KEY not in json.dumps(masked) and "[masked:keys:" in json.dumps(masked)


@pytest.mark.parametrize(
    "item",
    [
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", "new": {KEY: 1}},
        {"type": KEY, "x": "y"},
        {"type": "apply_patch_call", "operation": {"type": KEY, "path": "p"}},
    ],
)
def test_what_cannot_be_masked_is_blocked(item: dict[str, Any]) -> None:
    """A name or a key is what it is: upstream would refuse the request, or read another one."""
    with pytest.raises(UnmaskableError):
        mask({"input": [item]})
