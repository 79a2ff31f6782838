"""What came back, before anybody has read it."""

from __future__ import annotations

import asyncio
import gzip
import threading

import pytest
from mitmproxy.test import tutils

from invariant_addon.call import encoding
from invariant_addon.call.replies import read

LARGE = b"a" * encoding.LARGE


@pytest.mark.parametrize(
    ("body", "coding", "is_beside"),
    [
        (b"small", b"", False),
        (b"small", b"identity", False),
        (LARGE, b"", True),
        (gzip.compress(LARGE * 8), b"gzip", True),
    ],
)
def test_a_large_body_is_read_beside_the_event_loop(
    body: bytes, coding: bytes, is_beside: bool
) -> None:
    """All other calls would wait. A body that is small on the wire may be large when decoded."""
    message = tutils.tresp(content=body, headers=((b"content-encoding", coding),))
    threads: list[int] = []

    def parse(decoded: bytes) -> int:
        threads.append(threading.get_ident())
        return len(decoded)

    size = asyncio.run(read(parse, message))
    assert size >= len(body) or size > encoding.LARGE
    assert (threads != [threading.get_ident()]) is is_beside
