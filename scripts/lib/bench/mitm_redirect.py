"""A mitmproxy script: what was meant for the internet goes to the fake on loopback.

Host and SNI stay as they were; only the TCP connection goes elsewhere (BENCH_PORT).
"""

from __future__ import annotations

import os
import signal
import threading
from weakref import WeakKeyDictionary

from mitmproxy.connection import Address, Server
from mitmproxy.proxy.server_hooks import ServerConnectionHookData


class Redirect:
    def __init__(self) -> None:
        self._port = int(os.environ["BENCH_PORT"])
        self._meant: WeakKeyDictionary[Server, Address] = WeakKeyDictionary()

    def running(self) -> None:
        threading.Thread(target=_end_with_the_bench, daemon=True).start()

    def server_connect(self, data: ServerConnectionHookData) -> None:
        if data.server.address is not None:
            self._meant[data.server] = data.server.address
            data.server.address = ("127.0.0.1", self._port)

    def server_connected(self, data: ServerConnectionHookData) -> None:
        # Put back what was meant, else mitmproxy finds no open connection for the next request.
        # Its own setter refuses that on an open connection.
        if meant := self._meant.get(data.server):
            object.__setattr__(data.server, "address", meant)


def _end_with_the_bench() -> None:
    """stdin is a pipe from the bench: it ends when the bench does, however it dies."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


addons = [Redirect()]
