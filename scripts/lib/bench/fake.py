"""The fake OpenAI, as fast as Python allows: TLS, HTTP/1.1 with keep-alive, rendered bytes.

A process of its own. It answers whatever is asked with what the x-bench header names; it parses
nothing else, and ends when its stdin does.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import sys
from pathlib import Path

from scenarios import LONGEST, response

_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_BENCH = re.compile(rb"(?i)\r\nx-bench: *(\d+)/([\d.]+)")


class Fake(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting = b""
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=2**24)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._timer:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        data = self._waiting + data if self._waiting else data
        end = data.find(b"\r\n\r\n") + 4
        length = _LENGTH.search(data, 0, end)
        self._waiting = data
        if end < 4 or len(data) < (end := end + int(length[1] if length else 0)):
            return
        self._waiting = data[end:]
        wanted = _BENCH.search(data, 0, end)
        chunks, gap = (int(wanted[1]), float(wanted[2]) / 1000) if wanted else (0, 0.0)
        pieces = response(min(chunks, LONGEST))
        if gap:
            self._pace(pieces, 0, self._loop.time(), gap)
        elif self._transport:
            self._transport.writelines(pieces)  # one TLS record each, like one flush each

    def _pace(self, pieces: tuple[bytes, ...], number: int, began: float, gap: float) -> None:
        """Send one piece; the next is due by the clock, however late this one was."""
        if not self._transport:
            return
        self._transport.write(pieces[number])
        number += 1
        if number < len(pieces):
            due = began + number * gap
            self._timer = self._loop.call_at(due, self._pace, pieces, number, began, gap)


async def serve(chain: Path) -> None:
    """Says its port on stdout."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(chain)
    tls.set_alpn_protocols(["http/1.1"])
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Fake, "127.0.0.1", 0, ssl=tls, backlog=256)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await loop.run_in_executor(None, sys.stdin.buffer.read)
    server.close()
