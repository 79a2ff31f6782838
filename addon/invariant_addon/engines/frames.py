"""Frames between the proxy and a worker: four bytes of length, big-endian, then JSON.

Shared by both sides, so it knows the standard library only.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

type Json = bool | int | float | str | list[Json] | dict[str, Json] | None

HEADER = struct.Struct(">I")
MAX_QUESTION = 64 * 1024 * 1024
"""Bytes that may go to a worker in one frame."""
MAX_ANSWER = 16 * 1024 * 1024
"""Bytes that a worker may answer in one frame."""


def frame(body: bytes) -> bytes:
    return HEADER.pack(len(body)) + body


def read(pipe: BinaryIO) -> bytes | None:
    """The next frame's body from a blocking, buffered pipe. None at its end."""
    head = pipe.read(HEADER.size)
    if len(head) < HEADER.size:
        return None
    size: int = HEADER.unpack(head)[0]
    body = pipe.read(size)
    return body if len(body) == size else None
