"""A Message in the form of chat completions, as traces keep it.

`message.read_message` makes the same message of it, so that an address means the same place
in both: what has no place in that form stands under a key of its own, `other`.
"""

from __future__ import annotations

from typing import Any

from ..conversation import Message, Part, ToolCall


def chat_form(message: Message) -> dict[str, Any]:
    found: dict[str, Any] = {"role": message.role, "content": _content(message.parts)}
    for key, kind in (("reasoning_content", "reasoning"), ("other", "other")):
        texts = [part.text for part in message.parts if part.kind == kind and part.text]
        if key == "other" and texts and texts[-1] == message.name and message.role != "tool":
            texts.pop()  # it is read from the name again
        if texts:
            found[key] = "\n".join(texts)
    if message.tool_calls:
        found["tool_calls"] = [_call(call) for call in message.tool_calls]
    if message.tool_call_id is not None:
        found["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        found["name"] = message.name
    return found


def _content(parts: tuple[Part, ...]) -> Any:
    shown = [item for part in parts if (item := _item(part)) is not None]
    if not shown:
        return None
    if len(shown) == 1 and shown[0]["type"] == "text":
        return shown[0]["text"]
    return shown


def _item(part: Part) -> dict[str, Any] | None:
    match part.kind:
        case "text" | "transcript":
            return {"type": "text", "text": part.text}
        case "refusal":
            return {"type": "refusal", "refusal": part.text}
        case "image":
            return {"type": "image_url", "image_url": {"url": part.text}}
        case "file":
            return {"type": "file", "file": {"filename": part.text}}
        case "audio":
            return {"type": "input_audio", "input_audio": {}}
    return None


def _call(call: ToolCall) -> dict[str, Any]:
    if call.kind == "custom":
        body = {"name": call.name, "input": call.arguments}
        return {"id": call.id, "type": "custom", "custom": body}
    body = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": body}
