"""One item of the Responses API, of a request's `input` or a reply's `output`, to messages.

A request's item becomes one message, or two if it holds a call that OpenAI made itself together
with its result. In a reply all items are one message: the assistant's turn. What no type here
knows is kept as JSON text of kind "other".

The names of calls: a function's or custom tool's own; `mcp:<server>.<tool>`; the item's type for
all that OpenAI has built in (`shell_call`, `web_search_call`, ...).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..chat.known import KNOWN_ROLES, sound_text
from ..chat.limits import MAX_CALLS, check_count
from ..chat.message import call_id_text
from ..conversation import CallKind, Message, Part, ToolCall
from ..json_text import carries_text, encode
from .parts import opaque_text, ordered, read_content, rest_of

_CHECKS = ("pending_safety_checks", "acknowledged_safety_checks")
_LABELS = frozenset(
    (
        *("id", "type", "status", "role", "phase", "call_id", "caller", "created_by", "namespace"),
        *("approval_request_id", "container_id", "execution", "max_output_length", "async"),
        *("server_label", "name", *_CHECKS),
        *("output_format", "quality", "size", "background", "svg_usage", "usage"),
    )
)
"""Keys of an item that say nothing to a reader, or that are read below."""

_OPAQUE = ("encrypted_content", "fingerprint")
"""Should hold what only OpenAI can read; whatever else is in them is text."""


@dataclass(frozen=True, slots=True)
class _Call:
    """arguments: the keys that say what is called with. results: what came of it."""

    arguments: tuple[str, ...]
    results: tuple[str, ...] = ()
    kind: CallKind = "function"


_CALLS = {
    "function_call": _Call(("arguments",)),
    "custom_tool_call": _Call(("input",), kind="custom"),
    "mcp_call": _Call(("arguments",), ("output", "error")),
    "mcp_approval_request": _Call(("arguments",)),
    "web_search_call": _Call(("action",), ("results",)),
    "file_search_call": _Call(("queries",), ("results",)),
    "code_interpreter_call": _Call(("code",), ("outputs",)),
    "image_generation_call": _Call(("revised_prompt", "action"), ("result", "error")),
    "tool_search_call": _Call(("arguments",)),
    "computer_call": _Call(("action", "actions")),
    "local_shell_call": _Call(("action",)),
    "shell_call": _Call(("action",)),
    "apply_patch_call": _Call(("operation",)),
    "program": _Call(("code",)),
}
_OUTPUTS = {
    "function_call_output": "output",
    "custom_tool_call_output": "output",
    "computer_call_output": "output",
    "local_shell_call_output": "output",
    "shell_call_output": "output",
    "apply_patch_call_output": "output",
    "program_output": "result",
    "tool_search_output": "tools",
    "mcp_approval_response": "reason",
}
"""Items that answer a call -> the key of what they answer."""

_SYSTEM_TEXTS = {
    "mcp_list_tools": ("tools", "error"),
    "additional_tools": ("tools",),
    "configuration_update": ("reasoning", "text"),
}
"""Items that the model reads as it reads a system prompt."""

_SILENT = {
    "compaction": ("encrypted_content",),
    "compaction_trigger": (),
    "item_reference": (),
}
"""Items in which nobody here can read anything."""

ITEM_TYPES = frozenset(
    ("message", "reasoning", *_CALLS, *_OUTPUTS, *_SYSTEM_TEXTS, *_SILENT),
)
_ROLES = KNOWN_ROLES | {"unknown"}
TEXT_TYPES = frozenset(("message", "reasoning"))
"""Items whose text flows; every other one is held until it is whole."""


def read_item(item: Any, default_role: str = "unknown") -> list[Message]:
    """The message, or the call and its result. Raises NotUnderstoodError as read_message does."""
    if not isinstance(item, dict):
        return [Message(default_role, (Part("other", encode(item)),))]
    kind = item.get("type")
    if kind is None and "role" in item:
        kind = "message"
    if not isinstance(kind, str):
        return [_unknown(item, default_role)]
    if kind == "message":
        return [_message(item, default_role)]
    if kind == "reasoning":
        parts = read_content(item.get("summary"), "reasoning")
        parts += read_content(item.get("content"), "reasoning")
        parts += _rest(item, ("summary", "content"))
        return [Message("assistant", ordered(parts))]
    if (call := _CALLS.get(kind)) is not None:
        return _called(kind, call, item)
    if (key := _OUTPUTS.get(kind)) is not None:
        return [_answer(key, item)]
    if (keys := _SYSTEM_TEXTS.get(kind)) is not None:
        texts = [Part("text", _as_json(item[k])) for k in keys if carries_text(item.get(k))]
        return [Message("system", (*texts, *_rest(item, keys)))]
    if (keys := _SILENT.get(kind)) is not None:
        return [Message("assistant", _rest(item, keys))]
    return [_unknown(item, default_role)]


def readable(item: dict[str, Any]) -> list[Any]:
    """The values in an item that say something, its name included."""
    plain = [v for key, v in item.items() if key not in _LABELS.union(_OPAQUE) or key == "name"]
    return plain + [opaque_text(item[key]) for key in _OPAQUE if key in item]


def result_keys(item: Any) -> tuple[str, ...]:
    """The keys of an item that its second message is read from."""
    kind = item.get("type") if isinstance(item, dict) else None
    call = _CALLS.get(kind) if isinstance(kind, str) else None
    return call.results if call else ()


def folded(items: Iterable[Any]) -> Message:
    """The items of a reply as the one turn that they are.

    What built-in tools answered is "other": it is no word of the assistant's.
    """
    parts: list[Part] = []
    calls: list[ToolCall] = []
    for item in items:
        for message in read_item(item, "assistant"):
            parts += spoken(message, item)
            calls += message.tool_calls
    check_count(len(calls), MAX_CALLS, "tool calls of a reply")
    return Message("assistant", ordered(parts), tuple(calls))


def spoken(message: Message, item: Any) -> Iterable[Part]:
    """The parts of one of an item's messages as parts of the reply."""
    kind = item.get("type", "message") if isinstance(item, dict) else ""
    own = isinstance(kind, str) and kind in TEXT_TYPES
    if message.role not in _ROLES:  # it is told as the assistant's, so its role is a text
        yield Part("other", message.role)
    for part in message.parts:
        yield part if own or part.kind not in ("text", "refusal") else Part("other", part.text)


def _message(item: dict[str, Any], default_role: str) -> Message:
    role = item.get("role")
    known = ["content"]
    parts = read_content(item.get("content"))
    if not isinstance(role, str):
        role = default_role
        if carries_text(item.get("role")):
            parts.append(Part("other", encode(item["role"])))
    # Names of participants are no text, in chat completions neither.
    return Message(role, ordered((*parts, *_rest(item, known))))


def _called(kind: str, shape: _Call, item: dict[str, Any]) -> list[Message]:
    call_id = call_id_text(item.get("call_id") or item.get("id"))
    call = ToolCall(call_id, _name(kind, item), _arguments(shape, item), shape.kind)
    rest = _rest(item, (*shape.arguments, *shape.results))
    found = [Message("assistant", rest, (call,))]
    results = [part for key in shape.results for part in _result(key, item.get(key))]
    if results:
        found.append(Message("tool", tuple(results), tool_call_id=call_id))
    return found


def _name(kind: str, item: dict[str, Any]) -> str:
    name = item.get("name")
    if name is not None and not isinstance(name, str):
        name = encode(name)
    if kind in ("mcp_call", "mcp_approval_request"):
        server = item.get("server_label")
        return f"mcp:{server if isinstance(server, str) else ''}.{name or ''}"
    if kind in ("function_call", "custom_tool_call"):
        return name or ""
    return kind


def _arguments(shape: _Call, item: dict[str, Any]) -> str:
    """As JSON text; what stands on the wire as a text is one already (or free text)."""
    given = {key: item[key] for key in shape.arguments if item.get(key) is not None}
    if len(given) == 1:
        ((key, value),) = given.items()
        if isinstance(value, dict):
            return encode(value)
        if isinstance(value, str) and key in ("arguments", "input"):
            return value
        if key in ("arguments", "input"):
            return encode(value)
    return encode(given) if given else ""


def _result(key: str, value: Any) -> list[Part]:
    if key == "result":  # a picture
        text = sound_text(value)
        return [Part("other", text)] if text else []
    if not carries_text(value):
        return []
    return [Part("text", value if isinstance(value, str) else _as_json(value))]


def _answer(key: str, item: dict[str, Any]) -> Message:
    answers = item.get("call_id") or item.get("approval_request_id") or item.get("id")
    value, kind = item.get(key), item.get("type")
    if kind in ("function_call_output", "custom_tool_call_output", "computer_call_output"):
        parts = read_content(value)
    elif kind == "shell_call_output" and isinstance(value, list):
        parts = [part for entry in value for part in _shell_output(entry)]
    else:
        text = value if isinstance(value, str) else _as_json(value) if carries_text(value) else ""
        parts = [Part("text", text)] if text else []
    name = item.get("name")
    return Message(
        "tool",
        ordered((*parts, *_rest(item, (key, "approve")))),
        tool_call_id=call_id_text(answers),
        name=name if isinstance(name, str) else None,
    )


def _shell_output(entry: Any) -> list[Part]:
    if not isinstance(entry, dict):
        return read_content(entry)
    texts = [v for k in ("stdout", "stderr") if isinstance(v := entry.get(k), str) and v]
    known = {k for k in ("stdout", "stderr") if isinstance(entry.get(k), str)}
    found = [Part("text", text) for text in texts]
    rest = rest_of(entry, {*known, "outcome", "created_by", "command_index"})
    return [*found, *([Part("other", rest)] if rest else [])]


def _unknown(item: dict[str, Any], default_role: str) -> Message:
    role = item.get("role")
    return Message(role if isinstance(role, str) else default_role, (Part("other", encode(item)),))


def _rest(item: dict[str, Any], known: Iterable[str]) -> tuple[Part, ...]:
    """What no key that is known holds. A wrong type under a key that should say nothing is text."""
    texts = [opaque_text(item[key]) for key in _OPAQUE if key in item]
    texts += [encode(item[key]) for key in _CHECKS if carries_text(item.get(key))]
    texts.append(rest_of(item, _LABELS.union(known, _OPAQUE)))
    return tuple(Part("other", text) for text in texts if text)


def _as_json(value: Any) -> str:
    return value if isinstance(value, str) else encode(value)
