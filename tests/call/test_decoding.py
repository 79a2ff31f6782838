"""Encoded event streams: the same text, however the network cuts them, and no bombs."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise

import brotli
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from invariant_addon.call.decoding import StreamDecoder
from invariant_addon.call.encoding import decode
from invariant_addon.core.errors import NotUnderstoodError

TEXT = b'data: {"choices":[{"index":0,"delta":{"content":"hello"}}]}\n\n' * 20


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


PACKERS: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("gzip", gzip.compress),
    ("deflate", zlib.compress),
    ("deflate", raw_deflate),
    ("br", brotli.compress),
    ("zstd", zstd),
    ("gzip, br", lambda data: brotli.compress(gzip.compress(data))),
    ("zstd, deflate", lambda data: zlib.compress(zstd(data))),
    ("identity", bytes),
]


def unpacked(header: str, pieces: list[bytes]) -> bytes:
    decoder = StreamDecoder(header)
    found = b"".join(part for piece in pieces for part in decoder.feed(piece))
    decoder.end()
    return found


@pytest.mark.parametrize(("header", "pack"), PACKERS)
@given(data=st.binary(max_size=3000), cuts=st.lists(st.integers(0, 3000), max_size=6))
def test_where_the_network_cuts_does_not_matter(
    header: str, pack: Callable[[bytes], bytes], data: bytes, cuts: list[int]
) -> None:
    """A packet boundary is no boundary of any codec."""
    packed = pack(data)
    edges = sorted({0, len(packed), *(cut for cut in cuts if cut < len(packed))})
    pieces = [packed[a:b] for a, b in pairwise(edges)]
    assert unpacked(header, pieces) == data
    assert decode(packed, header) == data


@pytest.mark.parametrize(("header", "pack"), PACKERS[:-1])
def test_byte_by_byte_is_the_same(header: str, pack: Callable[[bytes], bytes]) -> None:
    """And nothing is kept back that could be told."""
    packed = pack(TEXT)
    assert unpacked(header, [packed[n : n + 1] for n in range(len(packed))]) == TEXT


def test_what_was_flushed_is_told_at_once() -> None:
    """A stream has to stream: an event is there when its bytes are."""
    packer = zlib.compressobj(wbits=31)
    first = packer.compress(TEXT) + packer.flush(zlib.Z_SYNC_FLUSH)
    assert b"".join(StreamDecoder("gzip").feed(first)) == TEXT


@pytest.mark.parametrize(("header", "pack"), PACKERS[:-1])
def test_members_behind_each_other_are_all_read(
    header: str, pack: Callable[[bytes], bytes]
) -> None:
    """Clients read all of them. (brotli and zlib have no members: nobody reads on.)"""
    if header in ("gzip", "zstd"):
        assert unpacked(header, [pack(b"one ") + pack(b"two")]) == b"one two"


@pytest.mark.parametrize(("header", "pack"), PACKERS[:-1])
def test_a_stream_that_is_cut_short_is_not_understood(
    header: str, pack: Callable[[bytes], bytes]
) -> None:
    """What is missing was not judged."""
    with pytest.raises(NotUnderstoodError):
        unpacked(header, [pack(TEXT)[:-1]])


@pytest.mark.parametrize("header", ["gzip", "br", "zstd", "rot13", "gzip, base64"])
def test_what_is_not_in_its_encoding_is_not_understood(header: str) -> None:
    """Nor is a codec that clients do not have."""
    with pytest.raises(NotUnderstoodError):
        unpacked(header, [b"plain text, and no " * 10])


@given(st.binary(max_size=200), st.sampled_from(["gzip", "deflate", "br", "zstd"]))
def test_rubbish_never_raises_anything_else(data: bytes, header: str) -> None:
    """It comes from outside."""
    for read in (lambda: unpacked(header, [data]), lambda: decode(data, header)):
        with suppress(NotUnderstoodError):
            read()


@pytest.mark.parametrize(
    ("header", "pack"), [p for p in PACKERS if p[0] in ("gzip", "br", "zstd", "deflate")]
)
def test_a_bomb_comes_in_pieces(header: str, pack: Callable[[bytes], bytes]) -> None:
    """Whoever has had enough can stop before the memory is full."""
    packed = pack(b"\0" * 30_000_000)
    decoder = StreamDecoder(header)
    sizes = [len(piece) for piece in decoder.feed(packed)]
    assert sum(sizes) == 30_000_000 and max(sizes) <= 2**21


def test_a_window_that_is_too_large_is_refused() -> None:
    """A few bytes must not reserve a gigabyte."""
    parameters = zstandard.ZstdCompressionParameters(window_log=27, enable_ldm=True)
    packer = zstandard.ZstdCompressor(compression_params=parameters)
    packed = packer.compressobj().compress(b"x" * 100)
    with pytest.raises(NotUnderstoodError):
        unpacked("zstd", [packed, b"\0" * 100])
