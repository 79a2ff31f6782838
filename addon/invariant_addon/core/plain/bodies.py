"""Bodies of endpoints without a dialect: JSON, forms, files, event streams -> the texts in them.

A body is read as what it is, whatever its content type says, but for a form, which only its content
type can tell. What is none of them is not understood.
"""

from __future__ import annotations

from typing import Any

from .. import sse
from ..conversation import Conversation, Exchange, Message, Part, PartKind, Reply
from ..errors import NotUnderstoodError
from ..json_text import check_duplicates, decode
from . import multipart
from .blobs import read_bytes
from .replies import reply_of, together
from .texts import Texts, messages_of
from .uploads import ParseRequest, Separate, read_download, read_upload

_STREAM = (b"data:", b"event:", b"id:", b"retry:", b":")
_MEDIA: dict[str, PartKind] = {"audio/": "audio", "video/": "audio", "image/": "image"}
"""Sound without a head (PCM) can only be known by what it is said to be."""
_DONE = "[DONE]"


def read_request(body: bytes, content_type: str, parse: ParseRequest, name: str) -> Exchange:
    """The exchange that a request opens. parse: for the lines of a batch's file. name: as in
    Exchange.endpoint. Raises NotUnderstoodError."""
    messages: list[Message] = []
    separate: Separate = ()
    value: Any = None
    if content_type.lstrip().lower().startswith("multipart/"):
        messages, separate = _read_form(body, content_type, parse)
    elif body:
        value = decode(body)
        check_duplicates(body, frozenset(), all_keys=True)
        messages = messages_of(value, "user")
    model = value.get("model") if isinstance(value, dict) else None
    return Exchange(
        endpoint=name,
        model=model if isinstance(model, str) else "",
        stream=isinstance(value, dict) and value.get("stream") is True,
        n=1,
        conversation=Conversation(tuple(messages)),
        separate=separate,
    )


def _read_form(
    body: bytes, content_type: str, parse: ParseRequest
) -> tuple[list[Message], Separate]:
    fields = multipart.read(body, multipart.boundary_of(content_type))
    is_batch = any(
        field.name == "purpose" and field.data.strip().lower() == b"batch" for field in fields
    )
    found: list[Message] = []
    separate: list[tuple[Message, ...]] = []
    for field in fields:
        if field.filename is not None:
            messages, lines = read_upload(field.data, field.filename, parse, is_batch=is_batch)
            found += messages
            separate += lines
            continue
        value = read_bytes(field.data)
        if value.kind is not None:
            found.append(Message("user", value.parts))
        else:
            found += messages_of({field.name.removesuffix("[]"): value.text}, "user")
    return found, tuple(separate)


def read_reply(body: bytes, content_type: str) -> Reply:
    """What a reply says. Raises NotUnderstoodError."""
    if not body:
        return Reply(())
    start = body.lstrip(b"\xef\xbb\xbf \t\r\n")
    if start[:1] in (b"{", b"["):
        try:
            value = decode(body)
        except NotUnderstoodError:
            return read_download(body)  # several lines of JSON, or a text that begins like that
        check_duplicates(body, frozenset(), all_keys=True)
        return reply_of(value)
    if "text/event-stream" in content_type.lower() or start.startswith(_STREAM):
        return _read_stream(body)
    try:
        return read_download(body)
    except NotUnderstoodError:
        media = content_type.lstrip()[:6].lower()
        if media not in _MEDIA:
            raise
        return Reply((Message("assistant", (Part(_MEDIA[media], ""),)),))


def _read_stream(body: bytes) -> Reply:
    """Deltas are put together by the event's name and the field; other events are read whole."""
    decoder = sse.Decoder(max_event_bytes=len(body) + 1)
    grown: dict[str, Texts] = {}
    found: list[Message] = []
    for event in (*decoder.feed(body), *decoder.end()):
        if event.stray:
            found.append(
                Message("assistant", (Part("text", event.raw.decode("utf-8", "replace")),))
            )
        if not event.data or event.data.strip() == _DONE:
            continue
        try:
            value = decode(event.data)
        except NotUnderstoodError:
            found.append(Message("assistant", (Part("text", event.data),)))
            continue
        check_duplicates(event.data, frozenset(), all_keys=True)
        kind = value.get("type") if isinstance(value, dict) else None
        name = kind if isinstance(kind, str) else event.name
        if "delta" in name:
            _grow(grown, name, value)
        else:
            found += reply_of(value).choices
    for texts in grown.values():
        texts.strings = ["".join(texts.strings)]
        if (message := texts.message("assistant")) is not None:
            found.append(message)
    return Reply(together(found))


def _grow(grown: dict[str, Texts], name: str, value: Any) -> None:
    open_items = [("", value)]
    while open_items:
        key, item = open_items.pop()
        if isinstance(item, str):
            grown.setdefault(f"{name} {key}", Texts()).add(key, item)
        elif isinstance(item, list):
            open_items += [(key, entry) for entry in reversed(item)]
        elif isinstance(item, dict):
            open_items += [(str(k), entry) for k, entry in reversed(item.items())]
