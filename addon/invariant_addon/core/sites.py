"""Which name a request was sent to, and which web site sent it -> whether it may have an answer.

A browser carries out what any web site tells it, on this machine too. A site's own name may lead
here (DNS rebinding): then the browser takes what we answer for the site's, and lets it read it.
So what is addressed to us has to name us, by an address or a name that no site can have. And a
site says who it is (`Origin`, `Sec-Fetch-Site`: a script cannot set them), so others than the
person's own get nothing, also where no answer is read (a WebSocket asks no permission).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address

_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]/@?#\s,]+)(?::[0-9]{1,5})?")
_ORIGIN = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/]+)")


@dataclass(frozen=True, slots=True)
class Refused:
    """status: of HTTP. reason: for the person, quotes nothing of the request."""

    status: int
    reason: str


FOREIGN = Refused(403, "this request comes from another site")


PLACELESS = frozenset(("null", "file://"))
"""Origins that name no host: of a frame, and of a page that an app brings along (Electron)."""


def bare(name: str) -> str:
    """A host or an origin as a browser writes it."""
    small = name.strip().lower()
    return small if small in PLACELESS else small.rstrip("/")


def host_of(authority: str) -> str:
    """The host of `host:port`, in small letters and without brackets; "" if it is none."""
    found = _AUTHORITY.fullmatch(authority.strip())
    return found[1].strip("[]").rstrip(".").lower() if found else ""


def is_loopback(host: str) -> bool:
    """A name that nobody can have lead elsewhere (RFC 6761), or a loopback address."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def is_from_another_site(site: str | None) -> bool:
    """site: what `Sec-Fetch-Site` says; None where no browser asks."""
    return site is not None and site not in ("same-origin", "none")


class Names:
    """Under which names we are called, and which sites may do so.

    guarded: the hosts that we stand for. others: what the owner names: a host, for both; a whole
    origin (`https://app.example`, `null`, `file://`), for a site alone.
    """

    def __init__(self, guarded: Iterable[str] = (), others: Iterable[str] = ()) -> None:
        named = [bare(name) for name in others]
        self._guarded = frozenset(guarded)
        self._origins = frozenset(n for n in named if "://" in n or n in PLACELESS)
        self._hosts = frozenset(named) - self._origins

    def stands_for(self, authority: str) -> bool:
        """Whether it names a guarded host, and not us."""
        return host_of(authority) in self._guarded

    def check(self, authority: str, origin: str | None, site: str | None) -> Refused | None:
        """What is wrong with a request to us; None if nothing is.

        authority: what `Host` says; "" if no host is named, as no browser does.
        """
        if authority and not self._is_ours(host_of(authority)):
            return Refused(
                421,
                "this proxy is not called by that name (invariant_names adds one)",
            )
        if origin is None:
            return FOREIGN if site == "cross-site" else None
        return None if self._may_ask(origin.lower(), authority.lower()) else FOREIGN

    def _is_ours(self, host: str) -> bool:
        if host in self._guarded or host in self._hosts or is_loopback(host):
            return True
        try:
            ip_address(host)
        except ValueError:
            return False
        return True  # it leads where it says, and nowhere else

    def _may_ask(self, origin: str, authority: str) -> bool:
        if origin in self._origins:
            return True
        found = _ORIGIN.fullmatch(origin)
        if found is None:
            return False  # "null": a page in a frame of any site can say that
        host = host_of(found[2])
        if host in self._guarded or host in self._hosts or is_loopback(host):
            return True
        return bool(authority) and found[2] == authority
