"""A reply that is there as a whole: JSON, a recorded event stream, or an error in any form."""

from __future__ import annotations

from typing import Any

from . import sse
from .aside import line_words, spoken
from .conversation import Reply
from .dialects import Dialect
from .draft import Merger
from .errors import NotUnderstoodError
from .json_text import decode


def read_reply(body: bytes, dialect: Dialect) -> Reply:
    """The reply in a body, whatever its content type says.

    Clients go by what they asked for and not by the header, so both forms are tried.
    Raises NotUnderstoodError if it is neither.
    """
    if body.lstrip().startswith(b"{"):
        return dialect.parse_reply(body)
    return read_stream(body, dialect)


def completion(body: bytes, dialect: Dialect) -> dict[str, Any]:
    """The reply in a body in OpenAI's form, merged if it is a stream; as for read_reply."""
    if not body.lstrip().startswith(b"{"):
        return _merged(body, dialect).completion()
    read = decode(body)
    if not isinstance(read, dict):
        raise NotUnderstoodError("the reply is no object")
    return read


def read_stream(body: bytes, dialect: Dialect) -> Reply:
    """What the events of a whole stream merge to. Raises NotUnderstoodError."""
    return _merged(body, dialect).snapshot()


def _merged(body: bytes, dialect: Dialect) -> Merger:
    decoder = sse.Decoder(max_event_bytes=len(body) + 1)
    merger = dialect.merger()
    labels: set[str] = set()
    read = 0
    for event in (*decoder.feed(body), *decoder.end()):
        if event.stray:
            raise NotUnderstoodError("a line of the stream is not of the event stream format")
        if event.data is not None:
            merger.add(event.data)
            read += 1
        if words := line_words(event, labels):
            merger.aside(words)
    if not read and body.strip():
        raise NotUnderstoodError("the reply is neither JSON nor an event stream")
    merger.end()
    return merger


def read_error(body: bytes, dialect: Dialect) -> Reply:
    """What upstream says instead of a reply (a status that is not 2xx). Never raises.

    Its words are nobody's turn, so rules about replies do not apply; rules about words do. What
    looks like a reply is read as one, whatever the status.
    """
    try:
        reply = read_reply(body, dialect)
        if any(message.parts or message.tool_calls for message in reply.choices):
            return reply
    except NotUnderstoodError:
        pass
    text = body.decode("utf-8", "replace")
    return Reply(spoken(text) if text.strip() else ())
