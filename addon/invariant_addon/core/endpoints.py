"""How an endpoint is guarded: (method, path) -> dialect."""

from __future__ import annotations

import posixpath
import re
from enum import StrEnum
from urllib.parse import unquote


class Endpoint(StrEnum):
    CHAT = "chat.completions"
    RESPONSES = "responses"
    STORED_RESPONSE = "responses.stored"
    """One that was made before: asked for by its id, or cancelled."""
    HEALTH = "invariant.health"
    OTHER = "other"
    """Not judged yet: it passes, and is marked as not scanned."""


HEALTH_PATH = "/.invariant/health"
_JUDGED = {
    ("POST", "/v1/chat/completions"): Endpoint.CHAT,
    ("POST", "/v1/responses"): Endpoint.RESPONSES,
    ("POST", "/v1/responses/compact"): Endpoint.RESPONSES,
}
_STORED = re.compile(r"/v1/responses/([^/]+)(/cancel)?", re.IGNORECASE)


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
    stored = _STORED.fullmatch(normal)
    if stored and method.upper() == ("POST" if stored[2] else "GET"):
        return Endpoint.STORED_RESPONSE
    return _JUDGED.get((method.upper(), normal.lower()), Endpoint.OTHER)


def stored_id(path: str) -> str | None:
    """The id of the response that a path of STORED_RESPONSE names."""
    stored = _STORED.fullmatch(normal_path(path))
    return stored[1] if stored else None
