"""To OpenAI, around the hosts file: where it leads guarded hosts to this proxy (scripts/system),
the proxy itself must ask the network for their addresses, or it would call itself.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import mitmproxy_rs
from mitmproxy.connection import Server
from mitmproxy.proxy.server_hooks import ServerConnectionHookData

from ..interception import hosts_file
from .guarded import Guarded

logger = logging.getLogger(__name__)

HOSTS_FILE = (
    Path(os.environ.get("SYSTEMROOT", r"C:\Windows"), "System32", "drivers", "etc", "hosts")
    if sys.platform == "win32"
    else Path("/etc/hosts")
)

type Resolve = Callable[[str], Awaitable[Sequence[str]]]


class Around:
    """The hooks. guarded: the hosts that it is done for, as of now."""

    def __init__(
        self,
        guarded: Callable[[], Guarded],
        resolve: Resolve | None = None,
        file: Path = HOSTS_FILE,
    ) -> None:
        self._guarded = guarded
        self._resolve = resolve or ask_the_network
        self._file = file
        self._seen: tuple[object, frozenset[str]] = (None, frozenset())
        self._names: dict[str, tuple[str, int]] = {}

    async def server_connect(self, data: ServerConnectionHookData) -> None:
        address = data.server.address
        if address is None or not self._guarded().has(address[0]) or not self._is_led_here(address):
            return
        host = address[0].rstrip(".")
        try:
            found = [a for a in await self._resolve(host) if not _is_loopback(a)]
        except Exception as error:  # noqa: BLE001 - the edge: it would go on, and call itself
            logger.warning("%s: no address could be found around the hosts file: %s", host, error)
            found = []
        if not found:
            data.server.error = f"{host}: no address but the one in the hosts file"
            return
        data.server.sni = data.server.sni or host
        data.server.address = (found[0], address[1])
        self._names[data.server.id] = (address[0], address[1])

    def server_connected(self, data: ServerConnectionHookData) -> None:
        """mitmproxy finds a connection again by its name, for the next request."""
        self._restore(data.server)

    def server_connect_error(self, data: ServerConnectionHookData) -> None:
        self._restore(data.server)

    def _restore(self, server: Server) -> None:
        if (name := self._names.pop(server.id, None)) is not None:
            server.address = name

    def _is_led_here(self, address: tuple[str, ...] | tuple[str, int]) -> bool:
        try:
            status = self._file.stat()
            key = (status.st_mtime_ns, status.st_size)
            if key != self._seen[0]:
                text = self._file.read_text(errors="replace")
                self._seen = (key, hosts_file.led_here(text))
        except OSError:
            self._seen = (None, frozenset())
        return str(address[0]).lower().rstrip(".") in self._seen[1]


async def ask_the_network(host: str) -> Sequence[str]:
    resolver = mitmproxy_rs.dns.DnsResolver(use_hosts_file=False)
    return list(await resolver.lookup_ip(host))


def _is_loopback(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return True
    return (getattr(parsed, "ipv4_mapped", None) or parsed).is_loopback
