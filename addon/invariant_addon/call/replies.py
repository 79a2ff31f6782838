"""What came back, before anybody has read it: is it a stream, how is it encoded, who reads it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from mitmproxy import http

from ..core import whole
from ..core.aside import spoken
from ..core.conversation import Reply
from ..core.dialects import plain
from . import encoding
from .decoding import StreamDecoder
from .state import Call

_IDENTITY = ("", "identity")


async def read[T](parse: Callable[[bytes], T], message: http.Message) -> T:
    """What a body says. Raises NotUnderstoodError. A large one does not hold up the others."""

    def work() -> T:
        header = message.headers.get("content-encoding", "")
        return parse(encoding.decode(message.raw_content or b"", header))

    return await asyncio.to_thread(work) if may_be_large(message) else work()


def may_be_large(message: http.Message) -> bool:
    """Whether work on the body could hold up the event loop. What is encoded is of any size: some
    kilobytes of gzip make megabytes."""
    body, header = message.raw_content or b"", message.headers.get("content-encoding", "")
    return len(body) >= encoding.LARGE or (bool(body) and header.strip().lower() not in _IDENTITY)


def is_success(response: http.Response) -> bool:
    return 200 <= response.status_code < 300


def is_event_stream(response: http.Response) -> bool:
    """Not a 204, whatever it says: not even an empty body may be sent with it (RFC 9112)."""
    return response.status_code != 204 and _media_type(response) == "text/event-stream"


def may_be_stream(response: http.Response, call: Call) -> bool:
    """Whether a client of a dialect reads it as an event stream.

    Clients go by what they asked for, and some servers name no content type. What says that it is
    JSON is read as a whole.
    """
    if not call.endpoint.is_dialect:
        return False
    if is_event_stream(response):
        return True
    asked = call.exchange is not None and call.exchange.stream
    return response.status_code != 204 and asked and "json" not in _media_type(response)


def decoder(response: http.Response) -> StreamDecoder | None:
    """For a stream that comes encoded; it goes on without its encoding, and its head says so.

    Raises NotUnderstoodError.
    """
    header = response.headers.get("content-encoding", "")
    if header.strip().lower() in _IDENTITY:
        return None
    found = StreamDecoder(header)
    del response.headers["content-encoding"]
    return found


def lose_length(response: http.Response) -> None:
    """A refusal or a comment changes the length of a stream, so none may be promised."""
    if response.headers.pop("content-length", None) is not None and not response.is_http2:
        response.headers["transfer-encoding"] = "chunked"


def parser(response: http.Response, call: Call) -> Callable[[bytes], Reply]:
    """Who reads a reply that is there as a whole; raises NotUnderstoodError."""
    dialect = call.dialect
    if not dialect.is_plain:
        read_as = whole.read_reply if is_success(response) else whole.read_error
        return lambda body: read_as(body, dialect)
    if not is_success(response):
        return _read_error
    return plain(dialect.name, said_type=response.headers.get("content-type", "")).parse_reply


def _read_error(body: bytes) -> Reply:
    """Its words are nobody's turn: see whole.read_error."""
    text = body.decode("utf-8", "replace")
    return Reply(spoken(text) if text.strip() else ())


def _media_type(response: http.Response) -> str:
    content_type: str = response.headers.get("content-type", "")
    return content_type.split(";", 1)[0].strip().lower()
