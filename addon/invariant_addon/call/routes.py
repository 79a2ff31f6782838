"""A request's head -> how the call is guarded, and who reads it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mitmproxy import http

from ..core import refusal
from ..core.dialects import DIALECTS, Dialect, plain
from ..core.endpoints import Endpoint, find, normal_path
from ..settings import Settings
from .state import Call

_OVERRIDES = (b"x-http-method-override", b"x-http-method", b"x-method-override")
_READ = frozenset((*_OVERRIDES, b"content-type"))
_CHARSETS = re.compile(
    r"(?!.*charset)(?s:.*)|"
    r"[^;]*;\s*charset\s*=\s*\"?(?:utf-?8|us-ascii|ascii|iso-8859-1|latin-?1)\"?\s*",
    re.IGNORECASE | re.DOTALL,
)
"""In others the letters of JSON could be different ones (UTF-7)."""
_ODD = re.compile(r"[^!-~]")
_SHOWN = 120
"""Characters of what the caller wrote and a log will hold."""
UPGRADE_REQUIRED = 426
"""The one refusal of a WebSocket after which Codex falls back to HTTP at once."""


@dataclass(frozen=True, slots=True)
class Route:
    """unknown: why nobody can judge it; "" if somebody can. status: of a refusal."""

    endpoint: Endpoint
    dialect: Dialect
    unknown: str = ""
    status: int = refusal.STATUS

    def call(self, settings: Settings | None) -> Call:
        return Call(settings, endpoint=self.endpoint, dialect=self.dialect, status=self.status)


def wants_socket(request: http.Request) -> bool:
    return "websocket" in request.headers.get("upgrade", "").lower()


def route(request: http.Request) -> Route:
    headers = _headers(request)
    path = _ODD.sub("?", normal_path(request.path))[:_SHOWN]
    override = next((headers[name] for name in _OVERRIDES if name in headers), "")
    endpoint = find(request.method, request.path, override=override)
    dialect = DIALECTS.get(endpoint)
    content_type = headers.get(b"content-type", "")
    if dialect is None:
        dialect = plain(path, asked_type=content_type)
    if wants_socket(request):
        why = "messages of a WebSocket are not judged yet"
        return Route(Endpoint.UNKNOWN, dialect, why, UPGRADE_REQUIRED)
    if endpoint is Endpoint.UNKNOWN or (endpoint.is_dialect and dialect.is_plain):
        method = _ODD.sub("?", request.method)[:_SHOWN]
        return Route(Endpoint.UNKNOWN, dialect, f"what {method} {path} does is not known")
    if not _CHARSETS.fullmatch(content_type):
        return Route(Endpoint.UNKNOWN, dialect, "a body in a charset that is not known")
    return Route(endpoint, dialect)


def _headers(request: http.Request) -> dict[bytes, str]:
    """Those that are read here, as mitmproxy gives them, which goes through all for each."""
    found: dict[bytes, str] = {}
    for name, raw in request.headers.fields:
        if (known := name.lower()) in _READ:
            value = raw.decode("utf-8", "surrogateescape")
            found[known] = f"{found[known]}, {value}" if known in found else value
    return found
