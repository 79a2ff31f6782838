"""nftables: calls to the API's addresses are redirected to the proxy, except the proxy's own.

The alternative to the hosts file: it also reaches programs that ask for names by themselves (DNS
over HTTPS). The proxy has to run as a user of its own, and the addresses are those of the start.
Pure but for asking; the rules were tried, the traps are remarks.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Sequence

TABLE = "invariant"
PORT = 8081


def table(addresses: Iterable[str], uid: int) -> str:
    """The table, for `nft -f`. Raises ValueError if there is no address in it."""
    parsed = sorted({ipaddress.ip_address(a) for a in addresses}, key=lambda a: (a.version, int(a)))
    kinds = [
        (version, [str(a) for a in parsed if a.version == version and not a.is_loopback])
        for version in (4, 6)
    ]
    if not any(found for _, found in kinds):
        raise ValueError("no address of the API was found")
    lines = [f"table inet {TABLE} {{"]
    for version, found in kinds:
        elements = f" elements = {{ {', '.join(found)} }};" if found else ""
        lines.append(f"  set api{version} {{ type ipv{version}_addr;{elements} }}")
    # `priority dstnat` is not allowed in an output chain.
    lines += [
        "  chain out {",
        "    type nat hook output priority -100; policy accept;",
        f"    meta skuid {uid} return",
        f"    ip daddr @api4 tcp dport 443 redirect to :{PORT}",
        f"    ip6 daddr @api6 tcp dport 443 redirect to :{PORT}",
        "  }",
        # HTTP/3 would go past: it is refused at once, and clients fall back.
        "  chain quic {",
        "    type filter hook output priority filter; policy accept;",
        f"    meta skuid {uid} return",
        "    ip daddr @api4 udp dport 443 reject",
        "    ip6 daddr @api6 udp dport 443 reject",
        "  }",
        "}",
    ]
    return "\n".join(lines) + "\n"


def addresses(hosts: Sequence[str]) -> list[str]:
    """The addresses of these hosts, as far as the system knows them."""
    found: set[str] = set()
    for host in hosts:
        try:
            entries = socket.getaddrinfo(host, 443, type=socket.SOCK_STREAM)
        except OSError:
            continue  # a regional name that is not there
        found.update(str(entry[4][0]) for entry in entries)
    return sorted(found)
