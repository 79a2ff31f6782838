"""Addresses as invariant-gateway has them -> OpenAI's. Nothing else knows which way a call came.

In reverse mode, `/api/v1/gateway/openai/...` and `/api/v1/gateway/DATASET/openai/...` are what the
gateway's clients call; `/...` behind it is `/v1/...` at OpenAI. What is asked of the gateway itself
is answered here: its health, and what a browser asks before a call. Who asks us by another name
than ours, or for a web site that is not the person's own, gets neither (core/sites.py).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass

import orjson
from mitmproxy import http
from mitmproxy.proxy import mode_specs

from ..core.endpoints import HEALTH_PATH, normal_path
from ..core.printable import printable
from ..core.sites import Names, host_of
from ..layers.hooks import NAMED
from ..rules.authorization import SEPARATOR

logger = logging.getLogger(__name__)

PREFIX = "/api/v1/gateway"
MODELS = "/v1/models"
FORBIDDEN = 403
_SHOWN = 100
"""Characters of a name that the log will hold."""

_ADDRESS = re.compile(
    rf"{PREFIX}(?:/(?P<dataset>[^/?#]+))?/openai(?:/v1)?(?P<rest>/[^?#]*)(?P<query>.*)"
)
_ABOUT_THE_CLIENT = re.compile(r"x-forwarded-.*|x-real-ip|forwarded", re.IGNORECASE)
"""Headers that tell upstream who called the gateway."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """A call that came by the gateway's address.

    dataset: the one in its path, or "". answer: what it gets from us; None if it goes on.
    """

    dataset: str = ""
    answer: http.Response | None = None


def listening(listen_host: str, modes: Sequence[str]) -> tuple[str, ...]:
    """The names that the owner has this proxy listen on."""
    parsed = (mode_specs.ProxyMode.parse(mode).custom_listen_host for mode in modes)
    return tuple(name for name in (listen_host, *parsed) if name)


class Door:
    """names: ours, as of now."""

    def __init__(self, names: Names) -> None:
        self.names = names
        self._has_told = False

    def refuse(self, flow: http.HTTPFlow) -> http.Response | None:
        """What it gets if it may not ask us; None if it may, or asks OpenAI by way of us."""
        headers = flow.request.headers
        named = flow.metadata.pop(NAMED, None) or flow.request.host_header or ""
        if not _is_answered_here(flow) and (self.names.stands_for(named) or not _is_reverse(flow)):
            return None
        refused = self.names.check(named, headers.get("origin"), headers.get("sec-fetch-site"))
        if refused is None:
            return None
        if not self._has_told:
            self._has_told = True
            is_page = refused.status == FORBIDDEN
            who = (headers.get("origin") if is_page else host_of(named)) or "unknown"
            logger.warning(
                "refused a request %s %s; --set invariant_names=NAME lets it in",
                "from a page of" if is_page else "to",
                printable(who[:_SHOWN]),
            )
        return _plain_error(refused.status, refused.reason)


def _is_reverse(flow: http.HTTPFlow) -> bool:
    return isinstance(flow.client_conn.proxy_mode, mode_specs.ReverseMode)


def _is_answered_here(flow: http.HTTPFlow) -> bool:
    """Whatever name it was sent to."""
    path = normal_path(flow.request.path)
    return path == HEALTH_PATH or (_is_reverse(flow) and _is_the_gateways(path))


def _is_the_gateways(path: str) -> bool:
    return path == PREFIX or path.startswith(f"{PREFIX}/")


def arrive(flow: http.HTTPFlow, *, has_key: bool) -> Arrived | None:
    """Give the call OpenAI's address. None: it came another way.

    Its headers are still as the client sent them. has_key: the proxy has an Invariant key itself.
    """
    if not _is_reverse(flow):
        return None
    request = flow.request
    path = normal_path(request.path)
    if not _is_the_gateways(path):
        return None
    if request.method == "GET" and path == f"{PREFIX}/health":
        return Arrived(answer=_json(200, {"message": "Hello from Invariant v1/gateway"}))
    found = _ADDRESS.fullmatch(request.path)
    if found is None:
        return Arrived(answer=_error(404, f"Not Found: expected {PREFIX}/[DATASET/]openai/..."))
    dataset = found["dataset"] or ""
    request.path = f"/v1{found['rest']}{found['query']}"
    for name in [n for n in request.headers if _ABOUT_THE_CLIENT.fullmatch(n)]:
        del request.headers[name]
    request.headers.pop("accept-encoding", None)
    if request.method == "OPTIONS":
        return Arrived(dataset, _preflight(request))
    missing = _missing_key(request.headers, dataset, has_key=has_key)
    return Arrived(dataset, _error(400, missing) if missing else None)


def _preflight(request: http.Request) -> http.Response:
    methods = "GET" if normal_path(request.path) == MODELS else "POST"
    headers = {
        "access-control-allow-origin": request.headers.get("origin", "*"),
        "access-control-allow-methods": f"{methods}, OPTIONS",
        "access-control-allow-headers": "Authorization, Content-Type",
        "access-control-max-age": "86400",
    }
    return http.Response.make(204, b"", headers)


def _missing_key(headers: http.Headers, dataset: str, *, has_key: bool) -> str | None:
    """In invariant-gateway's words. What is there and cannot be read: rules/authorization.py."""
    key = headers.get("authorization")
    has_own = has_key or "invariant-authorization" in headers
    if key is None:
        return "Missing authorization header"
    if dataset and not has_own and SEPARATOR not in key:
        return "Missing invariant api key"
    return None


def _error(status: int, reason: str) -> http.Response:
    """In OpenAI's form, for SDKs; and in the gateway's own, for programs that look for it."""
    error = {
        "message": reason,
        "type": "invalid_request_error",
        "param": None,
        "code": "not_found" if status == 404 else "invalid_api_key",
    }
    return _json(status, {"error": error, "detail": reason})


def _plain_error(status: int, reason: str) -> http.Response:
    """For nobody else's page to read."""
    error = {
        "message": f"[Invariant] {reason}",
        "type": "invalid_request_error",
        "param": None,
        "code": "guardrail_invalid",
    }
    headers = {"content-type": "application/json", "x-should-retry": "false"}
    return http.Response.make(status, orjson.dumps({"error": error}), headers)


def _json(status: int, body: object) -> http.Response:
    headers = {
        "content-type": "application/json",
        "x-should-retry": "false",
        "access-control-allow-origin": "*",
    }
    return http.Response.make(status, orjson.dumps(body), headers)
