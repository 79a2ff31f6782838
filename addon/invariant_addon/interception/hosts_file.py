"""The system's hosts file, as far as it leads guarded hosts to the proxy on this machine.

Pure: texts in, texts out. Our lines end with a marker, and taking them out gives back the file
as it was, to the byte: also one whose last line had no end.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

MARKER = "# invariant"
MENDED = "# invariant, and the end of the line above"
ADDRESSES = ("127.0.0.1", "::1")
"""Both: with one alone, a program asks the network for the other kind, and goes past us."""


def lead_here(text: str, hosts: Iterable[str]) -> str:
    """The file with our lines at its end; the same file if they are there."""
    text = lead_away(text)
    ended = not text or text.endswith("\n")
    names = " ".join(dict.fromkeys(hosts))
    first = f"{ADDRESSES[0]} {names} {MARKER if ended else MENDED}\n"
    return text + ("" if ended else "\n") + first + f"{ADDRESSES[1]} {names} {MARKER}\n"


def lead_away(text: str) -> str:
    """The file without our lines."""
    kept: list[str] = []
    is_mended = False  # the last kept line had no end
    for line in _lines(text):
        bare = line.rstrip("\r\n")
        if bare.endswith(MENDED):
            is_mended = True
        elif not bare.endswith(MARKER):
            kept.append(line)
            is_mended = False
    if is_mended and kept:
        kept[-1] = kept[-1].removesuffix("\n")
    return "".join(kept)


def ours(text: str) -> list[str]:
    """Our lines."""
    lines = [line.rstrip("\r\n") for line in _lines(text)]
    return [line for line in lines if line.endswith((MARKER, MENDED))]


def _lines(text: str) -> list[str]:
    """With their ends. Only a newline ends one: a file may hold anything else."""
    *whole, rest = text.split("\n")
    return [f"{line}\n" for line in whole] + ([rest] if rest else [])


def led_here(text: str) -> frozenset[str]:
    """The names that this file leads to this machine, whoever wrote it."""
    found: set[str] = set()
    for line in text.splitlines():
        address, *names = line.partition("#")[0].split() or [""]
        try:
            if ipaddress.ip_address(address.partition("%")[0]).is_loopback:
                found.update(name.lower().rstrip(".") for name in names)
        except ValueError:
            continue
    return frozenset(found)
