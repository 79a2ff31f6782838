"""JSON of an endpoint without a dialect: every text in it, as messages.

Nothing here knows which field means what; it judges too much rather than too little. An item of the
Responses API, and what looks like a turn (a role and content), a call (a name and arguments) or a
call's output, is read as one, so that rules about those hold here as well; all other strings below
a field of the body make up one message. Left out are labels (a model's name, an id: one word under
a key for such), and pictures, sound and documents in base64, which no rule could read: they become
parts that say so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from ..chat.limits import MAX_MESSAGES, check_count
from ..chat.message import read_message
from ..conversation import Message, Part, ToolCall
from ..errors import NotUnderstoodError
from ..json_text import encode
from ..responses.items import ITEM_TYPES, read_item
from .blobs import unpack

LABELS = frozenset(
    (
        *("id", "object", "type", "model", "role", "status", "format", "encoding_format"),
        *("created", "created_at", "updated_at", "expires_at", "completed_at", "cancelled_at"),
        *("index", "finish_reason", "stop_reason", "service_tier", "system_fingerprint", "detail"),
        *("response_format", "quality", "size", "style", "background", "moderation", "purpose"),
        *("voice", "language", "order", "after", "before", "first_id", "last_id", "reasoning"),
        *("completion_window", "endpoint", "tool_choice", "truncation", "effort", "verbosity"),
        *("obfuscation", "phase", "previous_response_id", "conversation", "call_id"),
        *("timestamp_granularities", "chunking_strategy", "output_format", "input_fidelity"),
        *("reasoning_effort", "modalities", "prompt_cache_retention", "include", "mime_type"),
    )
)
"""Keys under which one word is no text. `*_id` and `*_ids` are as well."""
BLOBS = frozenset(
    (
        *("b64_json", "partial_image_b64", "data", "file_data", "image", "mask", "image_url"),
        *("url", "audio", "embedding", "encrypted_content", "result", "audio_sample"),
    )
)
"""Keys under which base64 is what it decodes to."""
SCHEMA_WORDS = frozenset(
    (
        *("type", "function", "name", "description", "parameters", "strict", "properties"),
        *("required", "items", "enum", "additionalProperties", "anyOf", "oneOf", "allOf", "not"),
        *("$ref", "$defs", "$schema", "definitions", "default", "const", "title", "format"),
        *("minimum", "maximum", "minItems", "maxItems", "minLength", "maxLength", "pattern"),
        *("exclusiveMinimum", "exclusiveMaximum", "examples", "nullable", "json_schema", "schema"),
    )
)
"""Keys of a tool's definition that every tool has."""
_LONG = 2**16
"""Characters of what is taken for base64, although nobody knows of what."""
_TOKENS = frozenset(("input", "prompt"))
_LABEL = re.compile(r"[A-Za-z0-9_.:/@+-]{0,100}")
_PLAIN_KEY = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)*")


@dataclass(slots=True)
class Texts:
    """All that was found below one field. keys: names that the sender chose for fields."""

    strings: list[str] = field(default_factory=list)
    keys: dict[str, None] = field(default_factory=dict)
    unread: list[Part] = field(default_factory=list)

    def add(self, key: str, text: str) -> None:
        if not text or is_label(key, text):
            return
        packed = unpack(text) if key in BLOBS or text[:5].lower() == "data:" else None
        if packed is None:
            self.strings.append(text)
            return
        # The model may read it either way.
        if packed.kind is None or key not in BLOBS or (not packed.is_sure and len(text) < _LONG):
            self.strings.append(text)
        if packed.kind is None:
            self.strings.append(packed.text)
        else:
            self.unread.append(Part(packed.kind, packed.text))

    def message(self, role: str) -> Message | None:
        parts = [Part("text", "\n".join(self.strings))] if self.strings else []
        if self.keys:
            parts.append(Part("other", "\n".join(self.keys)))
        parts += dict.fromkeys(self.unread)
        return Message(role, tuple(parts)) if parts else None


def is_label(key: str, text: str) -> bool:
    """Whether this is one word under a key that holds no text for a reader."""
    if key in LABELS or key.endswith(("_id", "_ids")):
        return _LABEL.fullmatch(text) is not None
    return False


def messages_of(value: Any, role: str) -> list[Message]:
    """The messages that a decoded body stands for. role: of texts that are no turn.

    Raises NotUnderstoodError for texts given as numbers of tokens, and for too much.
    """
    found: list[Message] = []
    for key, item in value.items() if isinstance(value, dict) else (("", value),):
        texts = Texts()
        _walk(key, item, texts, found)
        if (message := texts.message(role)) is not None:
            found.append(message)
    check_count(len(found), MAX_MESSAGES, "messages")
    return found


def field_message(key: str, value: Any, role: str) -> Message | None:
    """One message of all texts in a field, turns and calls included."""
    texts = Texts()
    _walk(key, value, texts, None)
    return texts.message(role)


def _walk(key: str, value: Any, texts: Texts, turns: list[Message] | None) -> None:
    """In the order of the document. No recursion: the nesting is the sender's choice.

    turns: where turns, calls and outputs go; None: they are texts like all else.
    """
    open_items = [(key, value)]
    while open_items:
        key, item = open_items.pop()
        if isinstance(item, str):
            texts.add(key, item)
        elif isinstance(item, list):
            if key in _TOKENS and any(type(entry) is int for entry in item):
                raise NotUnderstoodError("a text is given as tokens, which no rule can read")
            open_items += [(key, entry) for entry in reversed(item)]
        elif isinstance(item, dict):
            rest = item if turns is None else _read_turn(item, turns)
            for name in rest:
                if name not in SCHEMA_WORDS and (turns is None or not _PLAIN_KEY.fullmatch(name)):
                    texts.keys[name] = None
            # In metadata the names are the sender's own, and say nothing of what is below.
            is_free = key == "metadata"
            open_items += [("" if is_free else k, entry) for k, entry in reversed(rest.items())]


def _read_turn(item: dict[str, Any], turns: list[Message]) -> dict[str, Any]:
    """Add the turn that an object is, if it is one; what of it is left to be read."""
    label = item.get("type")
    kind = label if isinstance(label, str) else ""
    if kind in ITEM_TYPES:
        turns += read_item(item)
        return {}
    if isinstance(item.get("role"), str) and "content" in item:
        turns.append(read_message({**item, "content": _flat(item["content"])}))
        return {}
    name = item.get("name")
    for key in ("arguments", "input"):
        if isinstance(name, str) and key in item and (key == "arguments" or "call" in kind):
            call_id = item.get("call_id") or item.get("id")
            asked = item[key] if isinstance(item[key], str) else encode(item[key])
            call = ToolCall(
                call_id if isinstance(call_id, str) else None,
                name,
                asked,
                "function" if key == "arguments" else "custom",
            )
            turns.append(Message("assistant", tool_calls=(call,)))
            return {k: v for k, v in item.items() if k not in ("name", key)}
    output = item.get("output")
    if isinstance(output, str) and (kind.endswith("_output") or "tool_call_id" in item):
        call_id = item.get("call_id") or item.get("tool_call_id")
        parts = (Part("text", output),) if output else ()
        turns.append(
            Message("tool", parts, tool_call_id=call_id if isinstance(call_id, str) else None)
        )
        return {k: v for k, v in item.items() if k != "output"}
    return item


def _flat(content: Any) -> Any:
    """Assistants write `"text": {"value": ...}` where chat writes `"text": ...`."""
    if not isinstance(content, list):
        return content
    return [
        {**part, "text": part["text"]["value"], "annotations": part["text"].get("annotations")}
        if isinstance(part, dict)
        and isinstance(part.get("text"), dict)
        and isinstance(part["text"].get("value"), str)
        else part
        for part in content
    ]
