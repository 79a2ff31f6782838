"""A trace as the store keeps it: its JSON, and beside it what a list of traces shows."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Mapping

from ..core.trace import Json, Trace
from . import codec

EXCERPT = 200
"""Characters of what was asked and of what was said that a list shows and finds."""

NOT_YET, PACKED, AS_IT_IS = 0, 1, 2
"""In `bodies.packed`: it will be compressed; it is; it would be no smaller."""

COLUMNS = (
    "id, opening, started, status, endpoint, model, stream, messages, findings, rules, asked, said,"
    " total, http_status, client, dataset, size"
)


def unpacked(packed: int, body: bytes) -> bytes:
    """A row of `bodies`: what codec.write made. Raises CodecError."""
    try:
        return zlib.decompress(body) if packed == PACKED else body
    except zlib.error as error:
        raise codec.CodecError("not a trace (it cannot be decompressed)") from error


def row_of(body: bytes, key: bytes) -> tuple[object, ...]:
    """The values of COLUMNS, of what codec.write made of a trace. Raises CodecError."""
    trace = codec.read(body)
    rules = dict.fromkeys(finding.guardrail.get("name", "") for finding in trace.findings)
    return (
        storable(trace.id),
        opening(trace, key),
        trace.started,
        trace.status,
        storable(trace.endpoint),
        storable(trace.model),
        trace.stream,
        len(trace.messages),
        len(trace.findings),
        storable("\n".join(["", *rules, ""])) if rules else "",
        storable(_asked(trace)),
        storable(_said(trace)),
        trace.timing.total,
        trace.http_status,
        storable(trace.client),
        storable(trace.dataset),
        len(body),
    )


def opening(trace: Trace, key: bytes) -> bytes:
    """What all turns of one agent run have in common: the messages up to the user's first.

    Hashed with a key that is not in the file, so that nobody can try out what it was.
    """
    digest = hashlib.blake2b(key=key[:64], digest_size=16)
    for message in trace.messages:
        role = message.get("role") if isinstance(message, dict) else None
        digest.update(codec.write_json({"": message}) + b"\n")
        if role == "user":
            break
    return digest.digest()


def _asked(trace: Trace) -> str:
    """The beginning of the newest message of the user."""
    for message in reversed(trace.messages):
        if isinstance(message, dict) and message.get("role") == "user":
            return _beginning(message)
    return ""


def _said(trace: Trace) -> str:
    """The beginning of what the model said, and the names of what it called."""
    choice = trace.choices[0] if trace.choices else None
    return _beginning(choice) if isinstance(choice, dict) else ""


def _beginning(message: Mapping[str, Json]) -> str:
    said = " ".join((*_texts(message.get("content")), *_calls(message.get("tool_calls"))))
    return " ".join(said[: 2 * EXCERPT].split())[:EXCERPT]


def _texts(content: Json) -> Iterator[str]:
    if isinstance(content, str):
        yield content[: 2 * EXCERPT]
    elif isinstance(content, list):
        for part in content[:20]:
            if isinstance(part, dict) and isinstance(text := part.get("text"), str):
                yield text[: 2 * EXCERPT]


def _calls(calls: Json) -> Iterator[str]:
    for call in calls[:20] if isinstance(calls, list) else ():
        body = call.get("function") or call.get("custom") if isinstance(call, dict) else None
        if isinstance(body, dict) and isinstance(name := body.get("name"), str):
            yield f"{name}()"


def storable(text: str) -> str:
    """As SQLite takes it: no lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode(errors="replace").decode()
    return text
