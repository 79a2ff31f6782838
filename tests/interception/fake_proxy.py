"""A stand-in for the running proxy, in a thread: CONNECT, TLS with the leaf, the health answer.

What can be wrong with a proxy can be wrong with this one.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import threading
from contextlib import suppress
from pathlib import Path


class FakeProxy:
    """certs: whose leaf it shows. decrypts_all: every host's. address: where it listens."""

    def __init__(
        self,
        certs: Path,
        *,
        decrypts_all: bool = False,
        address: str = "127.0.0.1",
        rules: int = 1,
        ready: bool = True,
    ) -> None:
        self._all = decrypts_all
        self._health = {
            "invariant": "0",
            "pid": os.getpid(),
            "ready": ready,
            "rules": rules,
            "calls": dict.fromkeys(("seen", "judged", "blocked", "not_scanned", "failed"), 0),
        }
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(certs / "leaf.pem")
        self._listener = socket.create_server((address, 0), backlog=32)
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def __enter__(self) -> FakeProxy:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                plain, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(plain,), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        with suppress(OSError, IndexError), plain:
            plain.settimeout(10)
            target = plain.recv(4096).split()[1].decode()
            plain.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            if not self._all and not target.startswith("api.openai.com:"):
                self._tunnel(plain, target)
                return
            with self._tls.wrap_socket(plain, server_side=True) as tls:
                tls.recv(4096)
                body = json.dumps(self._health).encode()
                head = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
                tls.sendall(head % len(body) + body)

    def _tunnel(self, plain: socket.socket, target: str) -> None:
        host, _, port = target.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=10) as other:
            other.settimeout(10)

            def pump(source: socket.socket, sink: socket.socket) -> None:
                with suppress(OSError):
                    while data := source.recv(65536):
                        sink.sendall(data)
                    sink.shutdown(socket.SHUT_WR)

            back = threading.Thread(target=pump, args=(other, plain), daemon=True)
            back.start()
            pump(plain, other)
            back.join(10)
