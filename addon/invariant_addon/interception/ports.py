"""What a port of this machine is, seen from outside: who listens, on which addresses, and which
certificate a client is shown there."""

from __future__ import annotations

import socket
import ssl
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from . import certificates, processes, proxy, stores

OTHER = "other.invalid"


def listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection((proxy.ADDRESS, port), timeout=2):
        return True
    return False


def wide(port: int, proc: Path) -> list[str]:
    """Addresses but loopback on which this port is open. Linux alone."""
    if not sys.platform.startswith("linux"):
        return []
    found = set()
    for table in ("tcp", "tcp6"):
        try:
            text = (proc / "net" / table).read_text(errors="replace")
        except OSError:  # no IPv6
            continue
        for one in processes.sockets(text):
            if one.local[1] == port and one.remote[1] == 0:
                found.add(one.local[0])
    return sorted(a for a in found if not a.startswith("127.") and a != "::1")


def leaf(folder: Path) -> str:
    with suppress(OSError, ValueError, IndexError):
        text = (folder / "leaf.pem").read_text()
        begin = "-----BEGIN CERTIFICATE-----"
        return stores.fingerprint(begin + text.split(begin)[1])
    return ""


def shows(port: int) -> str:
    """The fingerprint of what the proxy shows for the API."""
    return certificate_through(port, f"{proxy.HOST}:443", proxy.HOST)


def certificate_through(port: int, target: str, name: str) -> str:
    """The fingerprint of the certificate that a client of the proxy sees; "" if there is none."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # it is only looked at
    with suppress(OSError, ValueError):
        with socket.create_connection((proxy.ADDRESS, port), timeout=3) as plain:
            plain.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
            if b" 200" not in plain.recv(4096).split(b"\r\n")[0]:
                return ""
            with context.wrap_socket(plain, server_hostname=name) as secure:
                der = secure.getpeercert(binary_form=True) or b""
        return stores.fingerprint(ssl.DER_cert_to_PEM_cert(der))
    return ""


@contextmanager
def other_host() -> Iterator[tuple[int, str]]:
    """A host of our own that is none of the API's: (port, fingerprint). It serves one handshake."""
    with tempfile.TemporaryDirectory(prefix="invariant-") as scratch:
        made = certificates.ensure(Path(scratch, "c"), [OTHER])
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(made.leaf)
        listener = socket.create_server((proxy.ADDRESS, 0))
        listener.settimeout(5)

        def serve() -> None:
            with suppress(OSError):
                plain, _ = listener.accept()
                plain.settimeout(5)
                with plain, suppress(OSError), context.wrap_socket(plain, server_side=True) as tls:
                    tls.recv(1)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield int(listener.getsockname()[1]), leaf(made.folder)
        finally:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            thread.join(6)
