"""A request's head -> what no honest client sends in it, and a server may take for something else.

mitmproxy writes such a head on as it came. A method or a path with a space in it (HTTP/2 has no
line to break) is two words of an HTTP/1.1 request line, and a folded header (RFC 9112, 5.2) is
read by some as one line and by others as two.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_METHOD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NOT_IN_A_PATH = re.compile(r"[\x00-\x20\x7f-\xa0]")
_NOT_IN_A_VALUE = re.compile(rb"[\x00\r\n]")


def flaw(method: str, path: str, fields: Iterable[tuple[bytes, bytes]]) -> str:
    """What is wrong with it, or ""."""
    if not _METHOD.fullmatch(method):
        return "the request's method is not one word"
    if _NOT_IN_A_PATH.search(path):
        return "the request's address has a space or a control character in it"
    if any(_NOT_IN_A_VALUE.search(value) for _, value in fields):
        return "a header of the request is folded over several lines"
    return ""
