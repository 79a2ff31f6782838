"""One message of the chat dialect, as a request or a reply holds it, to a Message.

It refuses no shape, only more than limits.py allow. Whatever it does not know becomes a part
of kind "other", so that a rule can read it; only base64 is left out, which no rule could read.
Shapes: OpenAI's `ChatCompletionMessageParam`, and what vendors and frameworks make of it.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from ..conversation import CallKind, Message, Part, ToolCall
from ..json_text import as_text, carries_text, encode
from ..plain.blobs import unpack
from .known import sound_text
from .limits import MAX_CALLS, MAX_PARTS, check_count

_DATA_URL_HEAD = 64
REASONING_KEYS = ("reasoning_content", "reasoning")
"""Where vendors put the model's thoughts as one string (DeepSeek, vLLM; Groq, OpenRouter)."""
_AUDIO_LABELS = frozenset(("id", "data", "expires_at", "transcript"))
_DETAIL_LABELS = frozenset(("type", "data", "signature", "id", "format", "index", "provider"))
"""Keys of an entry of OpenRouter's reasoning_details that say nothing; data is encrypted."""


def read_message(value: Any, default_role: str = "unknown") -> Message:
    """The message that a decoded JSON value stands for.

    Raises NotUnderstoodError only for values whose JSON text cannot be written, and for more
    parts or calls than limits.py allow.
    """
    if not isinstance(value, dict):
        return Message(default_role, (Part("other", encode(value)),))
    parts: list[Part] = []
    calls: list[ToolCall] = []
    for key, item in value.items():
        _read_field(key, item, parts, calls)
    check_count(len(parts), MAX_PARTS, "parts of a message")
    check_count(len(calls), MAX_CALLS, "tool calls of a message")
    role = value.get("role")
    if not isinstance(role, str):
        role = default_role
    name, answers = value.get("name"), value.get("tool_call_id")
    if isinstance(name, str) and role not in ("tool", "function"):
        _add(parts, Part("other", name))  # the participant's; a function's is in its call
    return Message(
        role="tool" if role == "function" else role,
        parts=tuple(parts),
        tool_calls=tuple(calls),
        tool_call_id=answers if isinstance(answers, str) else None,
        name=name if isinstance(name, str) else None,
    )


def _read_field(key: str, item: Any, parts: list[Part], calls: list[ToolCall]) -> None:
    if key == "content":
        read_content(item, parts)
    elif key in ("role", "name", "tool_call_id") and isinstance(item, str):
        pass
    elif key == "refusal" and isinstance(item, str):
        _add(parts, Part("refusal", item))
    elif key == "tool_calls" and isinstance(item, list):
        check_count(len(item), MAX_CALLS, "tool calls of a message")
        for call in item:
            read_tool_call(call, parts, calls)
    elif key == "function_call" and isinstance(item, dict):
        if item:
            calls.append(_call(None, item, "function"))
            _read_rest(item, frozenset(("name", "arguments")), parts)
    elif key == "audio" and isinstance(item, dict):
        _read_audio(item, parts)
    elif key in REASONING_KEYS and isinstance(item, str):
        _add(parts, Part("reasoning", item))
    elif key == "reasoning_details" and isinstance(item, list):
        _read_details(item, parts)
    elif carries_text(item):
        parts.append(Part("other", as_text(item)))


def read_content(content: Any, parts: list[Part]) -> None:
    """Add the parts of a `content` field: a string, a list of parts, or something odd."""
    if isinstance(content, str):
        _add(parts, Part("text", content))
    elif isinstance(content, list):
        check_count(len(content), MAX_PARTS, "parts of a message")
        for item in content:
            parts.extend(content_part(item))
    elif isinstance(content, dict):
        parts.extend(content_part(content))
    elif content is not None:
        parts.append(Part("text", encode(content)))


def content_part(part: Any) -> list[Part]:
    """What one entry of a content list holds; more than one part if it has unknown fields."""
    if part is None or part == "":
        return []
    if isinstance(part, str):
        return [Part("text", part)]
    if not isinstance(part, dict):
        return [Part("other", encode(part))]
    kind = part.get("type")
    if not isinstance(kind, str):
        kind = "text" if "text" in part else ""
    payload: Any = part.get("text" if kind in ("input_text", "output_text") else kind)
    found: list[Part] = []
    match kind, payload:
        case (("text" | "input_text" | "output_text"), str()):
            _add(found, Part("text", payload))
            kind = "text"
        case "refusal", str():
            _add(found, Part("refusal", payload))
        case "thinking" | "reasoning", str() | list():
            _read_thinking(payload, found)
        case "image_url", str():
            found.append(Part("image", image_text(payload)))
        case "image_url", {"url": str(url)}:
            found.append(Part("image", image_text(url)))
            _read_rest(payload, frozenset(("url", "detail")), found)
        case "input_audio", dict():
            found.append(Part("audio", ""))
            _add(found, Part("other", sound_text(payload.get("data"))))
            _read_rest(payload, frozenset(("data", "format")), found)
        case "file", dict():
            name = payload.get("filename") or payload.get("file_id")
            found += file_parts(name if isinstance(name, str) else "", payload.get("file_data"))
            _read_rest(payload, frozenset(("filename", "file_id", "file_data", "format")), found)
        case _:
            return [Part("other", encode(part))]
    _read_rest(part, frozenset(("type", kind)), found)
    return found


def file_parts(name: str, data: Any) -> list[Part]:
    """A file that is text is judged as such; of another one the name, and what is in the clear."""
    if not isinstance(data, str) or not data:
        return [Part("file", name), *([Part("other", encode(data))] if carries_text(data) else [])]
    packed = unpack(data, least=1)
    if packed is not None and packed.kind is not None:
        return [Part("file", name), *(p for p in packed.parts if p.text)]
    texts = (name, data if packed is None else packed.text)
    return [Part("other", text) for text in texts if text]


def image_text(url: str) -> str:
    """What a rule can read of an image's URL: all of it, but of base64 only the head."""
    head, comma, _ = url.partition(",")
    if comma and url[:5].lower() == "data:" and head.lower().endswith(";base64"):
        return head[:_DATA_URL_HEAD]
    return url


def read_tool_call(call: Any, parts: list[Part], calls: list[ToolCall]) -> None:
    """Add what an entry of `tool_calls` asks for. What it has beside that becomes a part."""
    if not isinstance(call, dict):
        if call is not None:
            parts.append(Part("other", encode(call)))
        return
    call_id = call_id_text(call.get("id"))
    function, custom = call.get("function"), call.get("custom")
    known = {"id", "type", "index"}
    before = len(calls)
    if isinstance(function, dict):
        known.add("function")
        calls.append(_call(call_id, function, "function"))
        _read_rest(function, frozenset(("name", "arguments")), parts)
    if isinstance(custom, dict):
        known.add("custom")
        calls.append(_call(call_id, custom, "custom"))
        _read_rest(custom, frozenset(("name", "input")), parts)
    if len(calls) == before and isinstance(call.get("name"), str):  # flat, as Responses has it
        known |= {"name", "arguments"}
        calls.append(_call(call_id, call, "function"))
    _read_rest(call, frozenset(known), parts)


def call_id_text(call_id: Any) -> str | None:
    """A call's id as text; some vendors count instead of naming."""
    return call_id if call_id is None or isinstance(call_id, str) else encode(call_id)


def detail_text(entry: Any) -> str:
    """What an entry of `reasoning_details` says; "" for an encrypted one."""
    if isinstance(entry, str):
        return entry
    if not isinstance(entry, dict):
        return ""
    return "".join(t for t in (entry.get("text"), entry.get("summary")) if isinstance(t, str))


def detail_rest(entry: Any) -> str:
    """The JSON text of what `detail_text` leaves unread; "" if there is nothing to read."""
    if isinstance(entry, dict):
        rest: Any = {
            key: value
            for key, value in entry.items()
            if key not in _DETAIL_LABELS
            and not (key in ("text", "summary") and isinstance(value, str))
            and carries_text(value)
        }
    else:
        rest = None if isinstance(entry, str) else entry
    return encode(rest) if carries_text(rest) else ""


def _call(call_id: str | None, body: dict[str, Any], kind: CallKind) -> ToolCall:
    name, arguments = body.get("name"), body.get("input" if kind == "custom" else "arguments")
    return ToolCall(call_id, _text(name), _text(arguments), kind)


def _text(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else encode(value)


def _read_audio(audio: dict[str, Any], parts: list[Part]) -> None:
    if not audio:
        return
    transcript = audio.get("transcript")
    parts.append(Part("audio", ""))
    _add(parts, Part("other", sound_text(audio.get("data"))))
    if isinstance(transcript, str):
        _add(parts, Part("transcript", transcript))
    elif carries_text(transcript):
        parts.append(Part("other", encode({"transcript": transcript})))
    _read_rest(audio, _AUDIO_LABELS, parts)


def _read_details(entries: list[Any], parts: list[Part]) -> None:
    """A detail that repeats what `reasoning` says (OpenRouter sends both) adds nothing.

    It repeats it in order, so each is looked for only where the last one ended.
    """
    said = "".join(part.text for part in parts if part.kind == "reasoning")
    place = 0
    more: list[str] = []
    for entry in entries:
        text = detail_text(entry)
        if words := text.strip():
            while place < len(said) and said[place].isspace():
                place += 1
            if said.startswith(words, place):
                place += len(words)
            else:
                more.append(text)
        _add(parts, Part("other", detail_rest(entry)))
    if len(more) > MAX_PARTS:  # a client that kept each streamed piece as an entry
        more = ["".join(more)]
    parts.extend(Part("reasoning", text) for text in more)


def _read_thinking(payload: str | list[Any], found: list[Part]) -> None:
    """Mistral nests the text parts of a thought, others write it as a string.

    A thought in a thought is read as JSON: the nesting is the sender's choice, and not ours.
    """
    inner: list[Part] = []
    if isinstance(payload, str):
        read_content(payload, inner)
    else:
        check_count(len(payload), MAX_PARTS, "parts of a message")
        for item in payload:
            nested = isinstance(item, dict) and item.get("type") in ("thinking", "reasoning")
            inner += [Part("other", encode(item))] if nested else content_part(item)
    found.extend(Part("reasoning", p.text) if p.kind == "text" else p for p in inner)


def _read_rest(body: dict[str, Any], known: Set[str], parts: list[Part]) -> None:
    """Make one part of all unknown fields that carry text."""
    if body.keys() <= known:
        return
    rest = {k: v for k, v in body.items() if k not in known and carries_text(v)}
    if rest:
        parts.append(Part("other", encode(rest)))


def _add(parts: list[Part], part: Part) -> None:
    if part.text:
        parts.append(part)
