"""A reply that is there as a whole: JSON, a recorded event stream, or an error in any form."""

from __future__ import annotations

from typing import Any

from . import chat, sse
from .conversation import Message, Part, Reply
from .errors import NotUnderstoodError
from .json_text import decode


def read_reply(body: bytes) -> Reply:
    """The reply in a body, whatever its content type says.

    Clients go by what they asked for and not by the header, so both forms are tried.
    Raises NotUnderstoodError if it is neither.
    """
    if body.lstrip().startswith(b"{"):
        return chat.parse_reply(body)
    return read_stream(body)


def completion(body: bytes) -> dict[str, Any]:
    """The reply in a body in OpenAI's form, merged if it is a stream; as for read_reply."""
    if not body.lstrip().startswith(b"{"):
        return _merged(body).completion()
    read = decode(body)
    if not isinstance(read, dict):
        raise NotUnderstoodError("the reply is no object")
    return read


def read_stream(body: bytes) -> Reply:
    """What the events of a whole stream merge to. Raises NotUnderstoodError."""
    return _merged(body).snapshot()


def _merged(body: bytes) -> chat.ChunkMerger:
    decoder = sse.Decoder(max_event_bytes=len(body) + 1)
    merger = chat.ChunkMerger()
    read = 0
    for event in (*decoder.feed(body), *decoder.end()):
        if event.stray:
            raise NotUnderstoodError("a line of the stream is not of the event stream format")
        if event.data is not None:
            merger.add(event.data)
            read += 1
    if not read and body.strip():
        raise NotUnderstoodError("the reply is neither JSON nor an event stream")
    merger.end()
    return merger


def read_error(body: bytes) -> Reply:
    """What upstream says instead of a reply (a status that is not 2xx). Never raises.

    Its words are nobody's turn, so rules about replies do not apply; rules about words do. What
    looks like a reply is read as one, whatever the status.
    """
    try:
        reply = read_reply(body)
        if any(message.parts or message.tool_calls for message in reply.choices):
            return reply
    except NotUnderstoodError:
        pass
    text = body.decode("utf-8", "replace")
    return Reply((Message("error", (Part("text", text),)),) if text.strip() else ())
