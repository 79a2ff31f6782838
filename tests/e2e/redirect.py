"""A mitmproxy script for tests: what was meant for the internet goes to the fake OpenAI.

Host, SNI and Host header stay as they were; only the TCP connection goes elsewhere. Nothing but
loopback is ever dialled. Ports come from STAGE_TLS_PORT and STAGE_PLAIN_PORT. With STAGE_BARE,
replies are streamed as they come: a mitmdump without invariant would otherwise hold them whole.
"""

from __future__ import annotations

import os
import signal
import threading
from weakref import WeakKeyDictionary

from mitmproxy import http
from mitmproxy.connection import Address, Server
from mitmproxy.proxy.server_hooks import ServerConnectionHookData


class Redirect:
    def __init__(self) -> None:
        self._tls = int(os.environ["STAGE_TLS_PORT"])
        self._plain = int(os.environ["STAGE_PLAIN_PORT"])
        self._bare = bool(os.environ.get("STAGE_BARE"))
        self._meant: WeakKeyDictionary[Server, Address] = WeakKeyDictionary()

    def running(self) -> None:
        threading.Thread(target=_end_with_the_test_run, daemon=True).start()

    def server_connect(self, data: ServerConnectionHookData) -> None:
        address = data.server.address
        if address is None or address[0] in ("127.0.0.1", "::1", "localhost"):
            return
        self._meant[data.server] = address
        data.server.address = ("127.0.0.1", self._plain if address[1] == 80 else self._tls)

    def server_connected(self, data: ServerConnectionHookData) -> None:
        # Put back what was meant, else mitmproxy finds no open connection for the next request
        # and allow_hosts sees the fake's port. Its own setter refuses that on an open connection.
        if meant := self._meant.get(data.server):
            object.__setattr__(data.server, "address", meant)

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        if self._bare and flow.response:
            flow.response.stream = True


def _end_with_the_test_run() -> None:
    """stdin is a pipe from the test run: it ends when the run does, however it dies."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


addons = [Redirect()]
