"""mitmproxy's own options, as far as a guard depends on them: set, kept, or refused.

Refused: what would lead calls around the guard. Kept: what the owner chose and does not harm
it; where it takes something away, that is said. What changes a call behind our backs
(map_remote, modify_body) is neither: it is judged again (again.py).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from mitmproxy import exceptions

logger = logging.getLogger(__name__)

_OURS: dict[str, object] = {
    "onboarding": False,  # a page that offers mitmproxy's own authority, which nobody needs
    "http3": False,
    "upstream_cert": False,
    "connection_strategy": "lazy",  # in reverse mode a connection would come before the verdict
}
_WEAKER = {
    "onboarding": (True, "mitm.it offers mitmproxy's own authority, which is not used here"),
    "connection_strategy": ("eager", "OpenAI may be called before a request was judged"),
    "upstream_cert": (True, "OpenAI may be called before a request was judged"),
    "ssl_insecure": (True, "whoever is on the way to OpenAI can read and change all calls"),
}
"""What the owner may choose, and what it leads to."""
_REFUSED: dict[str, tuple[bool, str]] = {
    "stream_large_bodies": (
        True,
        "got a size, expected none: a request that is streamed would leave before it is judged",
    ),
    "validate_inbound_headers": (
        False,
        "got false, expected true: a request could hide a second one, which would not be judged",
    ),
}
"""Name: whether a value that counts as true is the bad one, and why."""
WATCHED = (*_WEAKER, *_REFUSED, "ignore_hosts", "allow_hosts")


class Options(Protocol):
    """Those of mitmproxy's options that are looked at here, and how they are set."""

    allow_hosts: list[str]
    ignore_hosts: list[str]
    certs: list[str]

    def has_changed(self, option: str) -> bool: ...

    def update(self, **values: object) -> None: ...


def host_pattern(hosts: Iterable[str]) -> str:
    """allow_hosts is searched in "host:port", so both ends are anchored."""
    names = "|".join(re.escape(host) for host in dict.fromkeys(hosts))
    return rf"^(?:{names})\.?:\d+$"


def apply(options: Options, hosts: Iterable[str], leaf: Path) -> None:
    """Decrypt these hosts and no other, with this certificate; and what the owner wants besides."""
    hosts = tuple(dict.fromkeys(hosts))
    theirs = [pattern for pattern in options.allow_hosts if not _is_ours(pattern)]
    if theirs:
        logger.warning(
            "allow_hosts: %s is decrypted besides, with mitmproxy's own authority, and not judged",
            ", ".join(repr(pattern) for pattern in theirs),
        )
    certs = [entry for entry in options.certs if not _is_for(entry, hosts, leaf)]
    values = {name: value for name, value in _OURS.items() if not options.has_changed(name)}
    options.update(
        allow_hosts=[host_pattern(hosts), *theirs],
        certs=[*(f"{host}={leaf}" for host in hosts), *certs],
        **values,
    )


def check(options: Options, updated: Iterable[str], hosts: Iterable[str]) -> None:
    """Raises OptionsError for what would lead calls of these hosts around the guard."""
    for name, (is_bad, reason) in _REFUSED.items():
        if bool(getattr(options, name)) is is_bad:
            raise exceptions.OptionsError(f"{name}: {reason}")
    for host in hosts:
        if not any(_finds(pattern, host) for pattern in options.allow_hosts):
            raise exceptions.OptionsError(
                f"allow_hosts: got {list(options.allow_hosts)!r}, expected a pattern for {host} "
                "among them: it would not be decrypted, and not judged"
            )
        for pattern in options.ignore_hosts:
            if _finds(pattern, host):
                raise exceptions.OptionsError(
                    f"ignore_hosts: got {pattern!r}, which lets {host} by without a judgement; "
                    "only guarded hosts are decrypted, so no host has to be named there"
                )
    if options.ignore_hosts:
        # A connection that names a guarded host and one of these would be let by.
        logger.info(
            "ignore_hosts: set aside; every host but the guarded ones is let by in any case"
        )
        options.update(ignore_hosts=[])
    for name in updated:
        value, leads_to = _WEAKER.get(name, (None, ""))
        if value is not None and getattr(options, name) == value:
            logger.warning("%s: %s", name, leads_to)


def _finds(pattern: str, host: str) -> bool:
    """As mitmproxy's NextLayer compares them."""
    return any(re.search(pattern, f"{host}:{port}", re.IGNORECASE) for port in (443, 80, 8443))


def _is_for(entry: str, hosts: Iterable[str], leaf: Path) -> bool:
    """Whether an entry of `certs` is for one of these hosts, or ours of an earlier time."""
    host, equals, file = entry.partition("=")
    return bool(equals) and (host.lower() in hosts or file == str(leaf))


def _is_ours(pattern: str) -> bool:
    """One that `host_pattern` made, for the hosts as they were."""
    return pattern.startswith("^(?:") and pattern.endswith(r")\.?:\d+$")
