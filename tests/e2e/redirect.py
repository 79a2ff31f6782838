"""A mitmproxy script for tests: what was meant for the internet goes to the fake OpenAI.

Host, SNI and Host header stay as they were; only the TCP connection goes elsewhere. Nothing but
loopback is ever dialled. Ports come from STAGE_TLS_PORT and STAGE_PLAIN_PORT. With STAGE_BARE,
replies are streamed as they come: a mitmdump without invariant would otherwise hold them whole.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from typing import Any

import anyio
from mitmproxy import http


class Redirect:
    def __init__(self) -> None:
        self._tls = int(os.environ["STAGE_TLS_PORT"])
        self._plain = int(os.environ["STAGE_PLAIN_PORT"])
        self._bare = bool(os.environ.get("STAGE_BARE"))
        self._open = asyncio.open_connection
        self._connect: Any = anyio.connect_tcp

    def running(self) -> None:
        threading.Thread(target=_end_with_the_test_run, daemon=True).start()
        # Not by changing the server's address in `server_connect`: while a connection is being
        # made mitmproxy looks for it by its address, and would open one for each stream.
        asyncio.open_connection = self.open_connection  # type: ignore[assignment]  # called one way
        anyio.connect_tcp = self.connect_tcp  # type: ignore[assignment]  # what httpx opens

    async def connect_tcp(self, remote_host: str, remote_port: int, **more: Any) -> Any:
        if remote_host not in ("127.0.0.1", "::1", "localhost"):
            remote_port = self._plain if remote_port == 80 else self._tls
        return await self._connect("127.0.0.1", remote_port, **more)

    async def open_connection(self, host: str, port: int, **more: Any) -> Any:
        if host not in ("127.0.0.1", "::1", "localhost"):
            host, port = "127.0.0.1", self._plain if port == 80 else self._tls
        return await self._open(host, port, **more)

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        if self._bare and flow.response:
            flow.response.stream = True


def _end_with_the_test_run() -> None:
    """stdin is a pipe from the test run: it ends when the run does, however it dies."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


addons = [Redirect()]
