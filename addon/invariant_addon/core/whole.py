"""A chat reply that is there as a whole: JSON, or a recorded event stream."""

from __future__ import annotations

from . import chat, sse
from .conversation import Reply
from .errors import NotUnderstoodError


def read_reply(body: bytes) -> Reply:
    """The reply in a body, whatever its content type says.

    Clients go by what they asked for and not by the header, so both forms are tried.
    Raises NotUnderstoodError if it is neither.
    """
    if body.lstrip().startswith(b"{"):
        return chat.parse_reply(body)
    return read_stream(body)


def read_stream(body: bytes) -> Reply:
    """What the events of a whole stream merge to. Raises NotUnderstoodError."""
    decoder = sse.Decoder(max_event_bytes=len(body) + 1)
    merger = chat.ChunkMerger()
    read = 0
    for event in (*decoder.feed(body), *decoder.end()):
        if event.data is not None:
            merger.add(event.data)
            read += 1
    if not read and body.strip():
        raise NotUnderstoodError("the reply is neither JSON nor an event stream")
    merger.end()
    return merger.snapshot()
