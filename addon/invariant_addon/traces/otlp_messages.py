"""OpenAI's messages -> those of OpenTelemetry's conventions: `{role, parts: [{type, ...}]}`.

Shape: gen-ai-input-messages.json and gen-ai-output-messages.json in
https://github.com/open-telemetry/semantic-conventions-genai. What has no place there stays a part
with its own type, as JSON text. Pictures, sound and files are named, not sent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..core.errors import NotUnderstoodError
from ..core.json_text import decode, encode
from ..core.trace import Json, Trace

_TEXTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
"""Kinds of parts that are text, and the key that has it."""
_NAMED = {
    "image_url": "image",
    "input_image": "image",
    "input_audio": "audio",
    "file": "file",
    "input_file": "file",
}
_FINISHES = {"tool_calls": "tool_call", "function_call": "tool_call"}
_NEVER_FINISHED = "error"


def input_messages(trace: Trace) -> list[Json]:
    """Those of the request, system messages among them: they are part of the history there."""
    return [_message(message) for message in trace.messages]


def output_messages(trace: Trace) -> list[Json]:
    """The alternatives, each with its finish_reason."""
    found = []
    for index, choice in enumerate(trace.choices):
        finish = trace.finishes[index] if index < len(trace.finishes) else None
        reason = _FINISHES.get(finish, finish) if finish else _NEVER_FINISHED
        found.append({**_message(choice), "finish_reason": reason})
    return found


def instructions(trace: Trace) -> list[Json]:
    """What was said to the model apart from the history (`instructions` of a response)."""
    return list(_content(trace.parameters.get("instructions")))


def _message(message: Json) -> dict[str, Json]:
    if not isinstance(message, Mapping):
        return {"role": "unknown", "parts": [_text(_json(message))]}
    role = message.get("role")
    role = role if isinstance(role, str) else "unknown"
    form: dict[str, Json] = {"role": "tool" if role == "function" else role}
    if isinstance(name := message.get("name"), str) and role != "function":
        form["name"] = name
    if form["role"] == "tool":
        form["parts"] = [_result(message)]
    else:
        form["parts"] = [*_reasoning(message), *_content(message.get("content")), *_calls(message)]
        if isinstance(refusal := message.get("refusal"), str):
            form["parts"].append(_text(refusal))
    return form


def _content(content: Json) -> Iterator[Json]:
    if isinstance(content, list):
        for part in content:
            yield _part(part)
    elif content is not None:
        yield _text(content if isinstance(content, str) else _json(content))


def _part(part: Json) -> Json:
    if isinstance(part, str):
        return _text(part)
    kind = part.get("type") if isinstance(part, Mapping) else None
    if not isinstance(part, Mapping) or not isinstance(kind, str):
        return {"type": "other", "content": _json(part)}
    if kind in _TEXTS and isinstance(text := part.get(_TEXTS[kind]), str):
        return _text(text)
    if kind in _NAMED:
        url = _url(part)
        if url is not None and not url.startswith("data:"):
            return {"type": "uri", "modality": "image", "uri": url}
        return _text(f"[{_NAMED[kind]}]")
    return {"type": kind, "content": _json(part)}


def _url(part: Mapping[str, Json]) -> str | None:
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, Mapping) else image
    return url if isinstance(url, str) else None


def _reasoning(message: Mapping[str, Json]) -> Iterator[Json]:
    for key in ("reasoning_content", "reasoning"):
        if isinstance(text := message.get(key), str):
            yield {"type": "reasoning", "content": text}


def _calls(message: Mapping[str, Json]) -> Iterator[Json]:
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        if not isinstance(call, Mapping):
            yield {"type": "other", "content": _json(call)}
        elif isinstance(custom := call.get("custom"), Mapping):
            yield _call(call.get("id"), custom.get("name"), custom.get("input"))
        elif isinstance(function := call.get("function"), Mapping):
            yield _call(call.get("id"), function.get("name"), _read(function.get("arguments")))
        else:
            yield {"type": "other", "content": _json(call)}
    if isinstance(legacy := message.get("function_call"), Mapping):
        yield _call(None, legacy.get("name"), _read(legacy.get("arguments")))


def _call(identity: Json, name: Json, arguments: Json) -> Json:
    return {"type": "tool_call", "id": identity, "name": name, "arguments": arguments}


def _result(message: Mapping[str, Json]) -> Json:
    content = message.get("content")
    if isinstance(content, list):
        content = [*_content(content)]
    identity = message.get("tool_call_id")
    return {"type": "tool_call_response", "id": identity, "response": content}


def _read(arguments: Json) -> Json:
    """As an object; as it is, if it is no JSON."""
    if not isinstance(arguments, str):
        return arguments
    try:
        return decode(arguments)
    except NotUnderstoodError:
        return arguments


def _text(text: str) -> Json:
    return {"type": "text", "content": text}


def _json(value: Json) -> str:
    try:
        return encode(value)
    except NotUnderstoodError:
        return "[nested too deeply]"
