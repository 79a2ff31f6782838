"""Records of bytes in a file, one behind the other -> those that are whole.

A file begins with MAGIC. A record is its length and its CRC-32, 4 bytes each, the lowest first, and
then the bytes. The last one of a killed program may be torn: it was never acknowledged. No record
is empty: zeros are what a power failure can leave.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator

MAGIC = b"invariant journal 1\n"
_HEAD = struct.Struct("<II")


def framed(record: bytes) -> bytes:
    return b"".join((_HEAD.pack(len(record), zlib.crc32(record)), record))


def read(number: int, start: int, end: int) -> Iterator[tuple[bytes, int]]:
    """Each record of an open file between these places, and where it ends; up to the first that is
    none, or cannot be read. One at a time: a file may be larger than the memory."""
    while start + _HEAD.size < end:
        try:
            head = os.pread(number, _HEAD.size, start)
            length, check = _HEAD.unpack(head)
            start += _HEAD.size
            if not 0 < length <= end - start:
                return
            record = os.pread(number, length, start)
        except (OSError, struct.error):
            return
        if len(record) != length or zlib.crc32(record) != check:
            return
        start += length
        yield record, start
