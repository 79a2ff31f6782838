"""Who may connect: the programs on this machine, and the networks that the owner names."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path

ANY_ADDRESS = Path("/proc/sys/net/ipv4/ip_nonlocal_bind")
"""With a 1 in it, Linux lets programs bind to addresses that are not the machine's."""


class Peers:
    """networks: as in invariant_peers. Raises ValueError for one that is none."""

    def __init__(self, networks: Sequence[str] = ()) -> None:
        self._networks = tuple(ip_network(name) for name in networks)

    @property
    def summary(self) -> str:
        if not self._networks:
            return "only programs on this machine may connect (invariant_peers names others)"
        named = ", ".join(str(network) for network in self._networks)
        return f"programs on this machine and in {named} may connect"

    def may_connect(self, peer: str) -> bool:
        try:
            address = ip_address(peer.partition("%")[0])
        except ValueError:
            return False
        address = getattr(address, "ipv4_mapped", None) or address
        if address.is_loopback or any(address in network for network in self._networks):
            return True
        # What a firewall of this machine redirects here comes from the machine's own address.
        return is_own(address)


def is_own(address: IPv4Address | IPv6Address) -> bool:
    """Whether this machine has the address: only then can a socket be bound to it."""
    if address.is_unspecified or address.is_multicast or address.is_link_local:
        return False
    try:
        if ANY_ADDRESS.read_text().strip() == "1":
            return False
    except OSError:
        pass  # no Linux
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError as error:
        return error.errno == errno.EADDRINUSE
    return True
