"""The Realtime API: its events in the words of the Responses API, its requests as messages.

A reply comes as text, as a transcript beside its sound, or as calls; a transcript is what rules
read of it, and the sound itself nobody reads. Names of before (`response.text.delta`) and of now
(`response.output_text.delta`) mean the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ..chat.known import sound_text
from ..chat.limits import MAX_MESSAGES, check_count
from ..conversation import Conversation, Message, Part
from ..draft import Step
from ..errors import NotUnderstoodError
from ..json_text import carries_text, check_duplicates, decode, encode
from ..refusal import Phase, error_body
from ..terms import Refusal
from .bodies import ITEM_NAMES
from .check import check_event
from .frames import Said
from .items import read_item
from .merge import EventMerger
from .parts import read_content

_TEXT, _SOUND = "response.output_text", "response.audio"
_BASES: Mapping[str, str] = MappingProxyType(
    {
        "response.text": _TEXT,
        "response.audio_transcript": _TEXT,
        "response.output_audio_transcript": _TEXT,
        "conversation.item.input_audio_transcription": _TEXT,
        "response.output_audio": _SOUND,
    }
)
_SPOKEN = frozenset(("audio", "output_audio", "input_audio"))
_SILENT = frozenset(
    (
        *("event_id", "previous_item_id", "audio_start_ms", "audio_end_ms", "object", "voice"),
        *("modalities", "output_modalities", "output_audio_format", "conversation_id"),
    )
)
"""Keys of an event, or of its response, that say nothing."""

_QUIET = frozenset(
    (
        *("input_audio_buffer.commit", "input_audio_buffer.clear", "output_audio_buffer.clear"),
        *("response.cancel", "conversation.item.delete", "conversation.item.retrieve"),
        *("conversation.item.truncate", "input_audio_buffer.append"),
    )
)
_KNOWN = _QUIET | {
    *("session.update", "conversation.item.create", "response.create"),
    "transcription_session.update",
}
_IDS = frozenset(("type", "event_id", "item_id", "response_id", "previous_item_id"))
_NAMES = ITEM_NAMES | {"item", "response", "session", "instructions", "prompt", "audio"}


class RealtimeMerger(EventMerger):
    """Implements draft.Merger."""

    def add(self, data: str) -> Step:
        event = decode(data)
        check_event(event, data)
        return super().add(encode(as_responses(event)))


def as_responses(event: dict[str, Any]) -> dict[str, Any]:
    """An event in the words that the merger of the Responses API knows."""
    found = {key: value for key, value in event.items() if key not in _SILENT}
    kind = event.get("type")
    if isinstance(kind, str):
        base, _, end = kind.rpartition(".")
        if base in _BASES:
            found["type"] = f"{_BASES[base]}.{'done' if end == 'completed' else end}"
        if _BASES.get(base) == _TEXT and end != "delta" and "transcript" in found:
            found["text"] = found.pop("transcript")
    if isinstance(found.get("part"), dict):
        found["part"] = _part(found["part"])
    if isinstance(found.get("item"), dict):
        found["item"] = _item(found["item"])
    if isinstance(response := found.get("response"), dict):
        found["response"] = {k: v for k, v in response.items() if k not in _SILENT}
        if isinstance(output := response.get("output"), list):
            found["response"]["output"] = [_item(one) for one in output]
    return found


def _item(item: Any) -> Any:
    if not isinstance(item, dict):
        return item
    found = {key: value for key, value in item.items() if key != "object"}
    if isinstance(content := item.get("content"), list):
        found["content"] = [_part(part) for part in content]
    return found


def _part(part: Any) -> Any:
    """A spoken part is its transcript."""
    if not isinstance(part, dict) or part.get("type") not in _SPOKEN:
        return part
    rest = {k: v for k, v in part.items() if k not in ("type", "audio", "transcript", "format")}
    said = part.get("transcript")
    texts = [said if isinstance(said, str) else encode(said) if carries_text(said) else ""]
    if hidden := sound_text(part.get("audio")):
        texts.append(hidden)
    return {"type": "output_text", "text": "\n".join(texts)} | rest


def read_said(text: bytes) -> Said:
    """Which reply an event belongs to, by its lane. "": to none, and it stands for itself."""
    try:
        event = decode(text)
    except NotUnderstoodError:
        return Said("", ends=True)
    kind = event.get("type") if isinstance(event, dict) else None
    if not isinstance(kind, str):
        return Said("", ends=True)
    response = event.get("response")
    name = event.get("response_id")
    if name is None and isinstance(response, dict):
        name = response.get("id")
    if kind.startswith("response.") and isinstance(name, str):
        return Said(f"r:{name}", ends=kind == "response.done")
    item = event.get("item_id")
    if kind.startswith("conversation.item.input_audio_transcription.") and isinstance(item, str):
        index = event.get("content_index")
        return Said(f"t:{item}:{index}", ends=kind.endswith((".completed", ".failed")))
    return Said("", ends=True)


@dataclass(frozen=True, slots=True)
class Asked:
    """messages: what of it the model reads. has_sound: and what it hears. prompt: it names a text
    that only OpenAI can read."""

    messages: tuple[Message, ...]
    has_sound: bool = False
    prompt: bool = False


def read_asked(text: bytes) -> Asked:
    """Raises NotUnderstoodError."""
    message = decode(text)
    if not isinstance(message, dict):
        raise NotUnderstoodError("a message that is no JSON object")
    kind = message.get("type")
    if kind not in _KNOWN:
        raise NotUnderstoodError("a message of a type that is not known")
    if len(text) < 2**16 or kind not in _QUIET:
        check_duplicates(text, _NAMES, all_keys=True)
    found: list[Message] = []
    has_sound = kind == "input_audio_buffer.append"
    inside = message.get("session", message.get("response"))
    around = {k: v for k, v in message.items() if k not in (*_IDS, "session", "response", "item")}
    if has_sound:
        hidden = sound_text(around.pop("audio", None))
        around |= {"audio": hidden} if hidden else {}
    prompt = False
    if isinstance(inside, dict):
        found += read_content_as("system", inside.get("instructions"))
        items = inside.get("input")
        for item in items if isinstance(items, list) else ():
            found += _read(item)
        prompt = carries_text(inside.get("prompt"))
        if carries_text(items) and not isinstance(items, list):
            found.append(Message("other", (Part("other", encode(items)),)))
        if prompt:
            found.append(Message("other", (Part("other", encode(inside["prompt"])),)))
    elif carries_text(inside):
        found.append(Message("other", (Part("other", encode(inside)),)))
    if (item := message.get("item")) is not None:
        found += _read(item)
        has_sound = has_sound or '"audio"' in encode(item)
    if carries_text(rest := {k: v for k, v in around.items() if carries_text(v)}):
        found.append(Message("other", (Part("other", encode(rest)),)))
    check_count(len(found), MAX_MESSAGES, "items in a message")
    return Asked(tuple(found), has_sound, prompt)


def read_content_as(role: str, content: Any) -> list[Message]:
    return [Message(role, tuple(parts))] if (parts := read_content(content)) else []


def _read(item: Any) -> list[Message]:
    return read_item(_item(item), "user")


def refusal_event(
    refused: Refusal, phase: Phase, request_id: str, asked: Conversation | None
) -> bytes:
    error = decode(error_body(refused, phase, request_id, asked))["error"]
    event = {"type": "error", "event_id": f"event_{request_id}", "error": error}
    return encode(event).encode("utf-8", "replace")
