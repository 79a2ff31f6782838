"""Content encodings, undone as clients undo them, and no further than a limit.

mitmproxy's own decoding knows every codec that Python has, reads only the first part of a gzip
body and has no limit: each of these would judge something else than the client reads.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import brotli

from ..core.errors import NotUnderstoodError
from .decoding import StreamDecoder

LIMIT = 64 * 2**20
"""Bytes of a decoded body; OpenAI itself takes no larger request."""

LARGE = 2**17
"""Bytes of a body that is worked on in a thread, so that the event loop turns meanwhile."""

_PIECE = 2**16
_ANY_ZLIB = zlib.MAX_WBITS | 32  # a gzip or a zlib header
_RAW_DEFLATE = -zlib.MAX_WBITS


def decode(body: bytes, header: str) -> bytes:
    """The body without its content encodings. Raises NotUnderstoodError."""
    names = [name.strip().lower() for name in header.split(",") if name.strip()]
    for name in reversed(names):
        if name == "identity":
            continue
        if name not in _DECODERS:
            raise NotUnderstoodError("a content-encoding that is not known")
        try:
            body = _DECODERS[name](body)
        except (zlib.error, brotli.error) as error:
            raise NotUnderstoodError(f"a body that is not {name}") from error
    if len(body) > LIMIT:
        raise NotUnderstoodError(f"a body of more than {LIMIT} bytes")
    return body


def _gunzip(body: bytes) -> bytes:
    return _inflate(body, _ANY_ZLIB)


def _deflate(body: bytes) -> bytes:
    """zlib as the standard says, or raw as some servers send it."""
    try:
        return _inflate(body, _ANY_ZLIB)
    except zlib.error:
        return _inflate(body, _RAW_DEFLATE)


def _inflate(body: bytes, wbits: int) -> bytes:
    """All members, one behind the other; nothing else may follow."""
    found = bytearray()
    while True:
        inflater = zlib.decompressobj(wbits)
        found += inflater.decompress(body, LIMIT + 1 - len(found))
        if len(found) > LIMIT:
            raise NotUnderstoodError(f"a body of more than {LIMIT} bytes when decoded")
        if not inflater.eof:
            raise zlib.error("incomplete")
        if not inflater.unused_data:
            return bytes(found)
        body = inflater.unused_data


def _unzstd(body: bytes) -> bytes:
    """All frames, one behind the other."""
    found = bytearray()
    decoder = StreamDecoder("zstd")
    for piece in decoder.feed(body):
        found += piece
        if len(found) > LIMIT:
            raise NotUnderstoodError(f"a body of more than {LIMIT} bytes when decoded")
    decoder.end()
    return bytes(found)


def _unbrotli(body: bytes) -> bytes:
    found = bytearray()
    decompressor = brotli.Decompressor()
    for start in range(0, len(body), _PIECE):
        piece = body[start : start + _PIECE]
        found += decompressor.process(piece, output_buffer_limit=LIMIT)
        while not decompressor.can_accept_more_data() and len(found) <= LIMIT:
            found += decompressor.process(b"", output_buffer_limit=LIMIT)
        if len(found) > LIMIT:
            raise NotUnderstoodError(f"a body of more than {LIMIT} bytes when decoded")
    if not decompressor.is_finished():
        raise zlib.error("incomplete")
    return bytes(found)


_DECODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": _gunzip,
    "x-gzip": _gunzip,
    "deflate": _deflate,
    "br": _unbrotli,
    "zstd": _unzstd,
}
