"""A message in OpenAI's form -> one that an Explorer can store and show, and where its text is.

The Explorer answers 500 to much of what OpenAI takes, stores things that it can never show again,
or breaks what it stores (its app-api/routes/push.py, util/util.py; its UI's traceview.tsx). So:

- texts hold no lone surrogates, values no numbers that JSON has not, nothing is nested too deep;
- a part has a type, and an image is a data URL of base64 that it can read, else a text about it;
- text parts in a row are one, for a range counts in every text part of a message;
- a call is a function call with an object as arguments, but for arguments that are no JSON.
"""

from __future__ import annotations

import binascii
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ..core.chat.message import content_part, image_text, read_message
from ..core.conversation import ToolCall
from ..core.errors import NotUnderstoodError
from ..core.json_text import decode, encode
from ..core.trace import Json

MAX_DEPTH = 64
"""Levels of nesting that are kept; what is below becomes JSON text."""
_MAX_INTEGER = 2**63
_READ_BY_RULES = ("text", "refusal", "transcript")
_OWN = ("role", "content", "tool_calls", "function_call")
_IMAGE = re.compile(r"data:image/[^;\n]+;base64,([A-Za-z0-9+/=]+)")
_CHUNK = 2**16
_TAKEN_FOR_IMAGES = ("base64_img: ", "local_base64_img: ")
"""A text that begins like this is replaced by the path of a file that it was decoded to."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One part's text. at: where it begins in the text that rules read, in code points. place:
    where in the text that the Explorer shows, in UTF-16 units; None if it does not show it."""

    at: int
    text: str
    place: int | None


def units(text: str) -> int:
    """The length as JavaScript counts it, in UTF-16 code units."""
    if text.isascii():
        return len(text)
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def sound_text(text: str) -> str:
    """Without lone surrogates; it has as many UTF-16 units as before."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def sound(value: Json, depth: int = MAX_DEPTH) -> Json:
    """The same value, as far as the Explorer and its database can hold it."""
    if isinstance(value, str):
        return sound_text(value)
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return value if -_MAX_INTEGER <= value < _MAX_INTEGER else _as_text(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if depth <= 0:
        return _as_text(value)
    if isinstance(value, Mapping):
        return {sound_text(str(key)): sound(item, depth - 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [sound(item, depth - 1) for item in value]
    return sound_text(str(value))


def message_form(message: Json, default_role: str = "unknown") -> dict[str, Json]:
    """The message as it is sent. Fields that are null are left out."""
    if not isinstance(message, dict):
        return {"role": default_role, "content": _as_text(message)}
    role = message.get("role")
    form: dict[str, Json] = {"role": sound_text(role) if isinstance(role, str) else default_role}
    content, _ = _content(message.get("content"))
    if content is not None:
        form["content"] = content
    if calls := calls_of(message):
        form["tool_calls"] = [_call_form(index, call) for index, call in enumerate(calls)]
    elif message.get("tool_calls"):
        form["tool_calls_as_sent"] = _as_text(message["tool_calls"])
    for key, value in message.items():
        if key not in _OWN and value is not None:
            form[sound_text(key)] = sound(value)
    return form


def segments(message: Json) -> tuple[Segment, ...]:
    """Where the text that rules read of this message (`Message.text`) is in its form."""
    if not isinstance(message, dict):
        return ()
    found: list[Segment] = []
    at = 0
    for text, place in _texts(message):
        found.append(Segment(at, text, place))
        at += len(text) + 1
    return tuple(found)


def calls_of(message: Json) -> tuple[ToolCall, ...]:
    """The calls of a message, in the order in which rules count them."""
    try:
        return read_message(message).tool_calls
    except NotUnderstoodError:  # more of them than any rule was shown
        return ()


def arguments_of(call: ToolCall) -> dict[str, Json] | str:
    """An object, with the keys that rules read; the text itself if it is no JSON."""
    if call.kind == "custom":
        return {"input": call.arguments}
    if not call.arguments or call.arguments.isspace():
        return {}
    try:
        value = decode(call.arguments)
    except NotUnderstoodError:
        return call.arguments
    return value if isinstance(value, dict) else {"__value__": value}


def _call_form(index: int, call: ToolCall) -> dict[str, Json]:
    return {
        "id": sound_text(call.id or f"call_{index}"),
        "type": "function",
        "function": {"name": sound_text(call.name), "arguments": sound(arguments_of(call))},
    }


def _texts(message: dict[str, Json]) -> Iterator[tuple[str, int | None]]:
    """What rules read as content, in their order: that of the fields."""
    for key, value in message.items():
        if key == "content":
            _, texts = _content(value)
            yield from texts
        elif value is not None and key not in _OWN:
            for part in read_message({key: value}).parts:
                if part.kind in _READ_BY_RULES:
                    yield part.text, None


def _content(content: Json) -> tuple[Json, list[tuple[str, int | None]]]:
    """The content as it is sent, and the texts in it that rules read, each with its place."""
    if content is None:
        return None, []
    if isinstance(content, str):
        return _as_content(sound_text(content)), [(content, 0)] if content else []
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list):
        text = _as_text(content)
        return _as_content(text), [(text, 0)]
    parts: list[dict[str, Json]] = []
    texts: list[tuple[str, int | None]] = []
    is_merged = False
    for entry in content:
        read = next((p.text for p in _parts_of(entry) if p.kind in _READ_BY_RULES), None)
        part = _part_form(entry, read)
        if part is None:
            continue
        place = 0
        if part["type"] == "text" and parts and parts[-1]["type"] == "text":
            is_merged, place = True, units(parts[-1]["text"]) + 1
            parts[-1] = {"type": "text", "text": f"{parts[-1]['text']}\n{part['text']}"}
        else:
            parts.append(part)
        if read is not None:
            texts.append((read, place))
    if sum(part["type"] == "text" for part in parts) > 1:
        texts = [(text, None) for text, _ in texts]
    if is_merged and len(parts) == 1:
        return _as_content(parts[0]["text"]), texts
    return parts, texts


def _parts_of(entry: Json) -> list[Json]:
    try:
        return list(content_part(entry))
    except NotUnderstoodError:
        return []


def _part_form(entry: Json, read: str | None) -> dict[str, Json] | None:
    """read: what rules read of it as content."""
    if entry is None or entry == "":
        return None
    kind = entry.get("type") if isinstance(entry, dict) else None
    if read is not None:
        rest = sound(entry) if kind == "text" else {}
        return {**rest, "type": "text", "text": sound_text(read)}
    if kind == "image_url":
        return _image_form(entry)
    if isinstance(kind, str) and kind and kind != "text":
        form: dict[str, Json] = sound(entry)
        return form
    if kind == "text" and not entry.get("text"):
        return {"type": "text", "text": ""}
    return {"type": "text", "text": _as_text(entry)}


def _image_form(entry: dict[str, Json]) -> dict[str, Json]:
    image = entry.get("image_url")
    url = image.get("url") if isinstance(image, dict) else image
    if not isinstance(url, str):
        return {"type": "text", "text": _as_text(entry)}
    if (match := _IMAGE.fullmatch(url)) and _is_base64(match[1]):
        return {"type": "image_url", "image_url": {"url": url}}
    return {"type": "text", "text": f"[image: {sound_text(image_text(url))}]"}


def _is_base64(text: str) -> bool:
    try:
        for start in range(0, len(text), _CHUNK):  # not in one go, so that other threads run
            binascii.a2b_base64(text[start : start + _CHUNK], strict_mode=True)
    except ValueError:
        return False
    return True


def _as_content(text: str) -> Json:
    return [{"type": "text", "text": text}] if text.startswith(_TAKEN_FOR_IMAGES) else text


def _as_text(value: Json) -> str:
    if isinstance(value, str):
        return sound_text(value)
    try:
        return sound_text(encode(value))
    except NotUnderstoodError:
        return "[what cannot be written as JSON]"
