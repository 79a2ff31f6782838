"""How an endpoint is guarded: (method, path) -> dialect."""

from __future__ import annotations

import posixpath
from enum import StrEnum
from urllib.parse import unquote


class Endpoint(StrEnum):
    CHAT = "chat.completions"
    HEALTH = "invariant.health"
    OTHER = "other"
    """Not judged yet: it passes, and is marked as not scanned."""


HEALTH_PATH = "/.invariant/health"
_JUDGED = {("POST", "/v1/chat/completions"): Endpoint.CHAT}


def normal_path(path: str) -> str:
    """The path as a lenient server may read it.

    Without query, percent-encoding, repeated or trailing slashes and dot segments: another
    spelling of a guarded path is guarded too.
    """
    plain = unquote(path.split("?", 1)[0].split("#", 1)[0]).replace("\\", "/")
    return posixpath.normpath("/" + plain.lstrip("/"))


def find(method: str, path: str) -> Endpoint:
    normal = normal_path(path)
    if method.upper() == "GET" and normal == HEALTH_PATH:
        return Endpoint.HEALTH
    return _JUDGED.get((method.upper(), normal.lower()), Endpoint.OTHER)
