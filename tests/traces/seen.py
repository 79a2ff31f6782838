"""What an Explorer's UI marks for an address: the facts about it, as code to test against."""

from __future__ import annotations

import contextlib
import json
import re
from typing import Any

RANGED = re.compile(r"messages\.(\d+)\.(.+):(\d+)-(\d+)")
WHOLE = re.compile(r"messages\.(\d+)(?:\.tool_calls\.(\d+)(?:\.function\.arguments\.([^.:]+))?)?")


def stored(message: dict[str, Any]) -> dict[str, Any]:
    """What the server makes of a message: it raises where the real one answers 500."""
    content = message.get("content")
    if isinstance(content, str):
        assert not content.startswith(("base64_img: ", "local_base64_img: "))
    if isinstance(content, list):
        for part in content:
            if part.get("type") == "image_url":
                assert re.match(r"^data:image/[^;]+;base64,(.+)$", part["image_url"]["url"])
    for call in message.get("tool_calls", []):
        arguments = call["function"]["arguments"]
        if isinstance(arguments, str):
            with contextlib.suppress(ValueError):
                call["function"]["arguments"] = json.loads(arguments)
    return message


def marked(messages: list[dict[str, Any]], address: str) -> list[str]:
    """The texts that an address with a range marks; [] if it marks a thing as a whole.

    Raises AssertionError for an address that shows nothing, or breaks the page.
    """
    if address == "<root>":
        return []
    if found := RANGED.fullmatch(address):
        start, end = int(found[3]), int(found[4])
        assert start < end
        return [_cut(text, start, end) for text in _texts(messages[int(found[1])], found[2])]
    found = WHOLE.fullmatch(address)
    assert found, address
    message = messages[int(found[1])]
    if found[2]:
        function = message["tool_calls"][int(found[2])]["function"]
        assert found[3] is None or found[3] in function["arguments"]
    return []


def _texts(message: dict[str, Any], path: str) -> list[str]:
    if path == "content":
        content = message["content"]
        if isinstance(content, str):
            return [content]
        return [part["text"] for part in content if part["type"] == "text"]
    keys = path.split(".")
    assert keys[0] == "tool_calls" and keys[2] == "function" and len(keys) <= 5, path
    value = message["tool_calls"][int(keys[1])]["function"]
    for key in keys[3:]:
        value = value[key]
    assert isinstance(value, str)
    return [value]


def _cut(text: str, start: int, end: int) -> str:
    """As JavaScript's substring, of a text as the UI shortens it."""
    code = text.encode("utf-16-le")
    if len(code) // 2 > 10_000:
        middle = f"<...truncated {len(code) // 2 - 10_000} characters...>".encode("utf-16-le")
        code = code[:10_000] + middle + code[-10_000:]
    assert end <= len(code) // 2, "a range past the end shows nothing"
    return code[2 * start : 2 * end].decode("utf-16-le", "surrogatepass")
