"""An encoded event stream, decoded as it comes.

Any cut by the network is allowed, and no single step makes much of a little: whoever reads the
pieces stops when it has had enough.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Protocol

import brotli
import zstandard

from ..core.errors import NotUnderstoodError

PIECE = 2**16
"""Bytes of output that a step aims at."""
MAX_WINDOW = 2**23
"""Of zstd, as RFC 8878 recommends for HTTP."""
_SLICE = 64
"""Bytes of input to zstd at once, which cannot be told to stop: they make 2 MiB at most."""
_ZLIB_METHOD = 8


class Codec(Protocol):
    """feed: what these bytes decode to, in pieces. is_complete: the encoded text may end here."""

    def feed(self, data: bytes) -> Iterator[bytes]: ...

    @property
    def is_complete(self) -> bool: ...


class StreamDecoder:
    """All codings of a content-encoding header undone, the last one first.

    Raises NotUnderstoodError: for a coding that is not known, for bytes that are not of it, and in
    the end if they were cut short.
    """

    def __init__(self, header: str) -> None:
        names = [name.strip().lower() for name in header.split(",") if name.strip()]
        self._codecs = [_codec(name) for name in reversed(names) if name != "identity"]

    def feed(self, data: bytes) -> Iterator[bytes]:
        return self._decoded(data, 0) if data else iter(())

    def _decoded(self, data: bytes, number: int) -> Iterator[bytes]:
        if number == len(self._codecs):
            yield data
            return
        try:
            for piece in self._codecs[number].feed(data):
                yield from self._decoded(piece, number + 1)
        except (zlib.error, brotli.error, zstandard.ZstdError):
            raise NotUnderstoodError("a stream that is not in the encoding it says") from None

    def end(self) -> None:
        if not all(codec.is_complete for codec in self._codecs):
            raise NotUnderstoodError("an encoded stream that is cut short")


class _Zlib:
    def __init__(self, wbits: int | None) -> None:
        """wbits: None for deflate, which is zlib as the standard says or raw as some send it."""
        self._wbits = wbits
        self._inflater = None if wbits is None else zlib.decompressobj(wbits)
        self._start = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        if self._inflater is None:
            self._start += data
            if len(self._start) < 2:
                return
            data, self._start = self._start, b""
            is_zlib = data[0] & 15 == _ZLIB_METHOD and int.from_bytes(data[:2]) % 31 == 0
            self._wbits = zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS
            self._inflater = zlib.decompressobj(self._wbits)
        while data:
            if self._inflater.eof:  # another member
                assert self._wbits is not None
                self._inflater = zlib.decompressobj(self._wbits)
            yield self._inflater.decompress(data, PIECE)
            data = self._inflater.unused_data or self._inflater.unconsumed_tail
        while not self._inflater.eof and (more := self._inflater.decompress(b"", PIECE)):
            yield more

    @property
    def is_complete(self) -> bool:
        return not self._start and (self._inflater is None or self._inflater.eof)


class _Brotli:
    def __init__(self) -> None:
        self._decompressor = brotli.Decompressor()
        self._fed = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        self._fed = True
        yield self._decompressor.process(data, output_buffer_limit=PIECE)
        # It may say that it can take more while there is more to come out of what it has.
        while not self._decompressor.is_finished():
            more = self._decompressor.process(b"", output_buffer_limit=PIECE)
            if not more and self._decompressor.can_accept_more_data():
                break
            yield more

    @property
    def is_complete(self) -> bool:
        return not self._fed or self._decompressor.is_finished()


class _Zstd:
    def __init__(self) -> None:
        self._frame = _frame()
        self._fed = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        for start in range(0, len(data), _SLICE):
            rest = data[start : start + _SLICE]
            while rest:
                if self._frame.eof:  # another frame
                    self._frame, self._fed = _frame(), False
                self._fed = True
                yield self._frame.decompress(rest)
                rest = self._frame.unused_data if self._frame.eof else b""

    @property
    def is_complete(self) -> bool:
        return not self._fed or self._frame.eof


def _frame() -> zstandard.ZstdDecompressionObj:
    return zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).decompressobj()


def _codec(name: str) -> Codec:
    if name not in CODECS:
        raise NotUnderstoodError("a content-encoding that is not known")
    return CODECS[name]()


CODECS: dict[str, Callable[[], Codec]] = {
    "gzip": lambda: _Zlib(zlib.MAX_WBITS | 16),
    "x-gzip": lambda: _Zlib(zlib.MAX_WBITS | 16),
    "deflate": lambda: _Zlib(None),
    "br": _Brotli,
    "zstd": _Zstd,
}
