"""What a Responses item holds besides calls: texts, pictures, files, and what nobody knows.

Shapes: OpenAI's API reference (ResponseInputContent, ResponseOutputMessage, ResponseReasoningItem),
and what vendors with the same endpoint send. As in chat/message.py: it refuses no shape, drops no
text, and leaves out only base64, which no rule could read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Set
from typing import Any

from ..chat.fields import said_by
from ..chat.known import sound_text
from ..chat.limits import MAX_PARTS, check_count
from ..chat.message import file_parts, image_text
from ..conversation import Part, PartKind
from ..json_text import carries_text, encode

_KINDS: dict[str, tuple[str, PartKind]] = {
    "input_text": ("text", "text"),
    "output_text": ("text", "text"),
    "text": ("text", "text"),
    "refusal": ("refusal", "refusal"),
    "summary_text": ("text", "reasoning"),
    "reasoning_text": ("text", "reasoning"),
}
"""Type of a part -> the key of its text, and what it is."""

_OPAQUE = re.compile(r"[A-Za-z0-9+/=_-]*")
_TEXT_LABELS = frozenset(("type", "annotations", "logprobs", "prompt_cache_breakpoint"))
_IMAGES = frozenset(("input_image", "computer_screenshot"))
_IMAGE_LABELS = frozenset(("type", "image_url", "file_id", "detail", "prompt_cache_breakpoint"))
_FILE_LABELS = frozenset(
    ("type", "filename", "file_id", "file_data", "detail", "prompt_cache_breakpoint")
)


def text_of(part: Any) -> tuple[PartKind, str] | None:
    """The kind and the text of a part that is one; None for anything else."""
    if not isinstance(part, dict):
        return None
    kind = part.get("type")
    key, means = _KINDS.get(kind, ("", "other")) if isinstance(kind, str) else ("", "other")
    text = part.get(key) if key else None
    return (means, text) if isinstance(text, str) else None


def around_text(part: dict[str, Any]) -> list[str]:
    """What a part with a text says beside it: sources; tokens that say something else."""
    found = []
    if carries_text(annotations := part.get("annotations")):
        found.append(annotations_text(annotations))
    kind = text_of(part)
    said = kind[1] if kind else ""
    if (logprobs := part.get("logprobs")) and (
        tokens := said_by({"content": logprobs}, {"content": said})
    ):
        found.append(tokens)
    key = _KINDS[part["type"]][0]
    if rest := rest_of(part, _TEXT_LABELS | {key}):
        found.append(rest)
    return found


def annotations_text(annotations: Any) -> str:
    """Sources as JSON, one on each line, as a stream delivers them."""
    if not isinstance(annotations, list):
        return encode(annotations)
    return "\n".join(encode(item) for item in annotations if carries_text(item))


def read_content(content: Any, text_kind: PartKind = "text") -> list[Part]:
    """The parts of a `content`, a `summary` or an `output`: a text, a list of parts, or odd."""
    if content is None or content == "":
        return []
    if isinstance(content, str):
        return [Part(text_kind, content)]
    if not isinstance(content, list):
        return read_part(content)
    check_count(len(content), MAX_PARTS, "parts of a message")
    return [part for item in content for part in read_part(item, text_kind)]


def read_part(part: Any, text_kind: PartKind = "text") -> list[Part]:
    if part is None or part == "":
        return []
    if isinstance(part, str):
        return [Part(text_kind, part)]
    if (found := text_of(part)) is not None:
        kind, text = found
        parts = [Part(kind, text)] if text else []
        return parts + [Part("other", more) for more in around_text(part)]
    if not isinstance(part, dict):
        return [Part("other", encode(part))]
    kind_name = part.get("type")
    if not isinstance(kind_name, str):
        return [Part("other", encode(part))]
    if kind_name in _IMAGES and isinstance(part.get("image_url"), str | None):
        url = part.get("image_url") or part.get("file_id")
        return _with_rest(
            "image", image_text(url) if isinstance(url, str) else "", part, _IMAGE_LABELS
        )
    if kind_name == "input_file":
        name = part.get("filename") or part.get("file_id")
        found_parts = file_parts(name if isinstance(name, str) else "", part.get("file_data"))
        rest = rest_of(part, _FILE_LABELS)
        return [*found_parts, *([Part("other", rest)] if rest else [])]
    if kind_name == "input_audio" and isinstance(part.get("input_audio"), dict):
        sound = part["input_audio"]
        found_parts = _with_rest("audio", "", part, frozenset(("type", "input_audio")))
        for text in (sound_text(sound.get("data")), rest_of(sound, {"data", "format"})):
            if text:
                found_parts.append(Part("other", text))
        return found_parts
    return [Part("other", encode(part))]


def _with_rest(kind: PartKind, text: str, part: dict[str, Any], known: Set[str]) -> list[Part]:
    rest = rest_of(part, known)
    return [Part(kind, text), *([Part("other", rest)] if rest else [])]


def ordered(parts: Iterable[Part]) -> tuple[Part, ...]:
    """What nobody knows comes last, as it does in the form that traces keep (chat_form)."""
    found = tuple(parts)
    others = tuple(part for part in found if part.kind == "other")
    return (*(part for part in found if part.kind != "other"), *others) if others else found


def opaque_text(value: Any) -> str:
    """What can be read in a field that only OpenAI should be able to read: "" if it is so."""
    if isinstance(value, str):
        return "" if _OPAQUE.fullmatch(value) else value
    return encode(value) if carries_text(value) else ""


def rest_of(fields: dict[str, Any], known: Set[str]) -> str:
    """The JSON text of the fields that are not known and carry text; "" if there are none."""
    if fields.keys() <= known:
        return ""
    rest = {key: v for key, v in fields.items() if key not in known and carries_text(v)}
    return encode(rest) if rest else ""
