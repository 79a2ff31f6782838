"""JSON that comes back from an endpoint without a dialect -> what it says."""

from __future__ import annotations

from typing import Any

from ..chat.bodies import reply_from_completion
from ..completions import as_chat
from ..conversation import Message, Reply
from .texts import messages_of


def reply_of(value: Any) -> Reply:
    """What a decoded reply says: choices if it holds completions, else one message of it all."""
    listed = value.get("data") if isinstance(value, dict) else None
    items = listed if isinstance(listed, list) else [value]
    choices: list[Message] = []
    rest: list[Any] = []
    for item in items:
        if isinstance(item, dict) and isinstance(item.get("choices"), list):
            choices += reply_from_completion(as_chat(item, "message")).choices
        else:
            rest.append(item)
    if not choices:
        return Reply(together(messages_of(value, "assistant")))
    if items is listed:
        rest.append({key: entry for key, entry in value.items() if key != "data"})
    return Reply((*choices, *together(messages_of(rest, "assistant"))))


def together(messages: list[Message]) -> tuple[Message, ...]:
    """One message of the assistant that says all that these say; () for nothing."""
    parts = tuple(part for message in messages for part in message.parts)
    calls = tuple(call for message in messages for call in message.tool_calls)
    return (Message("assistant", parts, calls),) if parts or calls else ()
