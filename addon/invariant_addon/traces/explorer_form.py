"""A trace -> what is pushed to an Explorer for it.

`POST /api/v1/push/trace` takes lists of traces; a push has one. The Explorer commits a trace before
it looks at the annotations, and what it does not like about those is a 500 with the trace stored.
So everything is checked here. Findings that a person muted are not annotated.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import orjson

from ..core.errors import InvariantError
from ..core.trace import Finding, Json, Trace
from .explorer_addresses import addresses_of
from .explorer_messages import message_form, sound, sound_text

CLIENT_ID = "client_trace_id"
"""The key of the metadata by which a trace is found again."""
_DATASET = re.compile(r"[A-Za-z0-9_-]{1,256}")
_ADDRESS = re.compile(r"messages\.\d+(\.[A-Za-z0-9_.-]+)?(:\d+-\d+)?|<root>")
_CRASHES = re.compile(r"messages\.\d+\.content")
_NAME_CHARACTERS = 60
_MEANS_SOMETHING = frozenset(("name", "hierarchy_path", "uploader", "messages"))
"""Keys of the metadata that are the Explorer's or ours; a request may not set them."""


class FormError(InvariantError):
    """This trace can never be pushed as it is. The text says why and quotes nothing."""


@dataclass(frozen=True, slots=True)
class Annotation:
    content: str
    address: str
    extra_metadata: Mapping[str, Json] = field(default_factory=dict)

    def value(self) -> dict[str, Json]:
        return {
            "content": self.content,
            "address": self.address,
            "extra_metadata": self.extra_metadata,
        }


def is_dataset(name: str) -> bool:
    return _DATASET.fullmatch(name) is not None


def body(trace: Trace, dataset: str) -> bytes:
    """The JSON text of `payload`."""
    return orjson.dumps(payload(trace, dataset))


def payload(trace: Trace, dataset: str) -> dict[str, Json]:
    """The push of this trace into this dataset. Raises FormError."""
    if not is_dataset(dataset):
        raise FormError(
            "the name of the dataset may have letters, digits, '_' and '-', 256 at most"
            if dataset
            else "there is no dataset for it"
        )
    found = annotations_of(trace)
    _check(found)
    return {
        "messages": [_messages(trace)],
        "annotations": [[annotation.value() for annotation in found]] if found else None,
        "dataset": dataset,
        "metadata": [metadata_of(trace)],
    }


def annotations_of(trace: Trace) -> tuple[Annotation, ...]:
    """One for each place of each finding."""
    messages = [*trace.messages, *trace.choices[:1]]
    # Alternatives have one index, and nobody knows which of them a range is for.
    is_sure = len(trace.messages) if len(trace.choices) > 1 else len(messages)
    found: dict[tuple[str, str, str], Annotation] = {}
    for finding in trace.findings:
        if finding.effect == "muted":
            continue
        content, extra = _content(finding), _extra(finding)
        for address in addresses_of(finding, messages, is_sure=is_sure):
            key = (content, address, finding.guardrail.get("id", ""))
            found.setdefault(key, Annotation(content, address, extra))
    return tuple(found.values())


def metadata_of(trace: Trace) -> dict[str, Json]:
    """What is shown beside the trace. Null values are left out."""
    parameters = {
        key: sound(value)
        for key, value in trace.parameters.items()
        if value is not None and key not in _MEANS_SOMETHING
    }
    ours: dict[str, Json] = {
        "via_gateway": True,
        "model": trace.model,
        "usage": dict(trace.usage),
        "status": trace.status,
        "reason": trace.reason,
        "finish_reason": trace.finishes[0] if trace.finishes else None,
        "response_id": trace.response_id,
        "alternatives": [message_form(choice, "assistant") for choice in trace.choices[1:]],
    }
    return {
        **parameters,
        **{key: sound(value) for key, value in ours.items() if value not in (None, "", {}, [])},
        "name": _name(trace),
        CLIENT_ID: trace.id,
    }


def _messages(trace: Trace) -> list[Json]:
    """The first choice is the turn that follows; the others are no turns."""
    return [
        *(message_form(message) for message in trace.messages),
        *(message_form(choice, "assistant") for choice in trace.choices[:1]),
    ]


def _name(trace: Trace) -> str:
    """How the newest words of the user begin: by that a person finds a trace in a list."""
    for message in reversed(trace.messages):
        if isinstance(message, dict) and message.get("role") == "user":
            text = _first_text(message_form(message).get("content"))
            words = " ".join(text[: 4 * _NAME_CHARACTERS].split())
            if words:
                return words[:_NAME_CHARACTERS]
    return sound_text(trace.model) or "trace"


def _first_text(content: Json) -> str:
    if isinstance(content, list):
        content = next((part["text"] for part in content if part["type"] == "text"), "")
    return content if isinstance(content, str) else ""


def _content(finding: Finding) -> str:
    return sound_text(finding.words) or sound_text(finding.guardrail.get("name", "")) or "guardrail"


def _extra(finding: Finding) -> dict[str, Json]:
    keys = ("id", "name", "content", "action")
    guardrail = {key: finding.guardrail[key] for key in keys if key in finding.guardrail}
    return {"source": "guardrails-error", "guardrail": sound(guardrail)}


def _check(found: tuple[Annotation, ...]) -> None:
    for annotation in found:
        if not isinstance(annotation.content, str) or not annotation.content:
            raise FormError("an annotation has no content")
        address = annotation.address
        if not _ADDRESS.fullmatch(address) or _CRASHES.fullmatch(address):
            raise FormError("an annotation has an address that the Explorer cannot show")
