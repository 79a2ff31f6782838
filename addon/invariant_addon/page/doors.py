"""Who gets an answer: the browser of the person who started the page, and nobody else.

- The page listens on loopback, but so may every program of every user of this machine, and every
  web site that a browser shows: so each question for data has to bring the key that was printed.
- The key is in the address behind `#`, which browsers do not send, and then in the page's memory.
  A cookie would not do: browsers send those to every port of a host.
- A request has to name this very address as its host (no other name that leads here: DNS
  rebinding), and must not come from another origin.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping

from ..core.sites import FOREIGN, Refused, is_from_another_site

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
    "Server": "invariant",
}


class Doors:
    """port: where the page is. key: made anew at each start."""

    def __init__(self, port: int, key: str | None = None) -> None:
        self.key = key or secrets.token_urlsafe(32)
        self._hosts = frozenset(f"{name}:{port}" for name in ("127.0.0.1", "localhost"))
        self._origins = frozenset(f"http://{host}" for host in self._hosts)

    def check(self, method: str, headers: Mapping[str, str], *, is_data: bool) -> Refused | None:
        """Why this request gets no answer; None if it gets one. is_data: not just the shell."""
        host = headers.get("Host", "").lower()
        if host not in self._hosts:
            return Refused(421, "this page answers to the address that it printed, and no other")
        origin = headers.get("Origin")
        if origin is not None and origin != f"http://{host}":
            return FOREIGN
        # A link or a file may lead to the shell, in which there is nothing of anybody's.
        if is_from_another_site(headers.get("Sec-Fetch-Site")) and (
            is_data or headers.get("Sec-Fetch-Mode") != "navigate"
        ):
            return FOREIGN
        if not is_data:
            return None
        scheme, _, key = headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer" or not hmac.compare_digest(key.encode(), self.key.encode()):
            return Refused(401, "open the address that scripts/traces serve printed")
        if method != "GET":
            if origin is None:
                return Refused(403, "this request does not say where it comes from")
            if headers.get("Content-Type", "").split(";")[0].strip() != "application/json":
                return Refused(415, "expected application/json")
        return None
