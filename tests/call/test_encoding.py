"""Content encodings: what is judged must be what the client reads."""

from __future__ import annotations

import gzip
import zlib

import brotli
import pytest
from hypothesis import given
from hypothesis import strategies as st

from invariant_addon.call import encoding
from invariant_addon.call.encoding import decode
from invariant_addon.core.errors import NotUnderstoodError


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


@given(st.binary(max_size=5000))
def test_what_clients_decode_is_decoded(data: bytes) -> None:
    """The usual ones, alone and stacked."""
    assert decode(data, "") == decode(data, "identity") == data
    assert decode(gzip.compress(data), "gzip") == data
    assert decode(zlib.compress(data), "deflate") == decode(raw_deflate(data), "deflate") == data
    assert decode(brotli.compress(data), "br") == data
    assert decode(gzip.compress(brotli.compress(data)), "BR, gzip") == data


def test_every_gzip_member_is_read() -> None:
    """Clients read all of them; a guard that stops after the first sees half."""
    assert decode(gzip.compress(b"one ") + gzip.compress(b"two"), "gzip") == b"one two"


@pytest.mark.parametrize(
    ("body", "header"),
    [
        (gzip.compress(b"one", mtime=0) + b"two", "gzip"),
        (gzip.compress(b"one", mtime=0)[:-4], "gzip"),
        (b"plain", "gzip"),
        (b"plain", "br"),
        (b"plain", "zstd"),
        (brotli.compress(b"one")[:-1], "br"),
        (b"cGxhaW4=", "base64"),
        (b"cynva", "rot13"),
        (b"plain", "quopri"),
        (b"plain", "gzip2"),
    ],
)
def test_the_rest_is_not_understood(body: bytes, header: str) -> None:
    """Half a body, something behind it, or a codec that only Python knows."""
    with pytest.raises(NotUnderstoodError):
        decode(body, header)


@pytest.mark.parametrize("pack", [(gzip.compress, "gzip"), (brotli.compress, "br")])
def test_a_bomb_is_given_up(pack, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small body must not become a large one in memory."""
    monkeypatch.setattr(encoding, "LIMIT", 100_000)
    compress, name = pack
    assert decode(compress(b"\0" * 100_000), name)
    with pytest.raises(NotUnderstoodError):
        decode(compress(b"\0" * 100_001), name)
