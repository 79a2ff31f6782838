"""Whether a WebSocket may be opened, and what is done for each call on it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from mitmproxy import http

from ..call.guard import ReplyGuard
from ..call.state import Call, withheld
from ..core.endpoints import normal_path
from ..history.store import Store
from ..judge import Counters
from ..reports import marks
from ..settings import Settings

RESPONSES, REALTIME = "/v1/responses", "/v1/realtime"
UPGRADE_REQUIRED = 426
"""The one refusal of a WebSocket after which Codex falls back to HTTP at once."""
_DEFLATE = "permessage-deflate"
_FOR_EVER = 1e9
_STRENGTH = ("", marks.NOTED, marks.CHANGED, marks.WOULD_BLOCK, marks.NOT_SCANNED, marks.BLOCKED)


def wants_socket(request: http.Request) -> bool:
    return "websocket" in request.headers.get("upgrade", "").lower()


def may_open(request: http.Request, settings: Settings | None) -> bool:
    """Whether somebody here can judge what will be said."""
    if settings is None or not settings.guards_websockets or request.method != "GET":
        return False
    return is_ours(request) and request.headers.get("sec-websocket-version", "") == "13"


def is_ours(request: http.Request) -> bool:
    return normal_path(request.path).lower() in (RESPONSES, REALTIME)


def is_realtime(request: http.Request) -> bool:
    return normal_path(request.path).lower() == REALTIME


def prepare(request: http.Request) -> None:
    """Offer no extension but the one that is undone here: another would hide the messages."""
    name = "sec-websocket-extensions"
    offers = ",".join(request.headers.get_all(name)).split(",")
    ours = [o.strip() for o in offers if o.split(";", 1)[0].strip().lower() == _DEFLATE]
    request.headers.pop(name, None)
    if ours:
        request.headers[name] = ", ".join(ours)


def refusal() -> http.Response:
    """Programs go on by HTTP."""
    response = withheld()
    response.status_code = UPGRADE_REQUIRED
    response.reason = "Upgrade Required"
    response.headers["upgrade"] = "HTTP/1.1"
    return response


@dataclass(frozen=True, slots=True)
class SocketDesk:
    """Implements sockets.Desk, with what the addon does for calls by HTTP.

    flow: of the upgrade; it shows how the calls on it ended.
    """

    flow: http.HTTPFlow
    counters: Counters
    open_call: Callable[[http.HTTPFlow, http.HTTPFlow, Store], Awaitable[Call]]
    set_up_guard: Callable[[Call], ReplyGuard]
    keep_turn: Callable[[Call], Awaitable[None]]
    close_call: Callable[[http.HTTPFlow, Call], Awaitable[None]]

    async def open(self, flow: http.HTTPFlow, memory: Store) -> Call:
        return await self.open_call(self.flow, flow, memory)

    def guard(self, call: Call) -> ReplyGuard:
        assert call.settings is not None
        call.phase = "response"
        # A comment between events keeps a stream alive; a WebSocket has pings for that.
        limits = replace(call.settings.limits, keep_alive=_FOR_EVER)
        call.settings = replace(call.settings, limits=limits)
        return self.set_up_guard(call)

    def count(self) -> None:
        self.counters.seen += 1

    def unheard(self) -> None:
        marks.not_scanned(self.flow, "sound is not judged, only what is said of it as text")

    async def keep(self, call: Call) -> None:
        await self.keep_turn(call)

    async def close(self, flow: http.HTTPFlow, call: Call) -> None:
        if call.closed:
            return
        await self.close_call(flow, call)
        show(self.flow, flow)


def show(whole: http.HTTPFlow, part: http.HTTPFlow) -> None:
    """The strongest mark of all calls, with its comment; and how many ended how."""
    known = whole.metadata.get("invariant", {})
    ends = dict(known.get("calls", {}))
    told = part.metadata.get("invariant", {})
    status = told.get("status", "open")
    ends[status] = ends.get(status, 0) + 1
    if _strength(part.marked) > _strength(whole.marked):
        whole.marked, whole.comment = part.marked, part.comment
        known = told
    whole.metadata["invariant"] = {**known, "calls": ends}


def _strength(mark: str) -> int:
    return _STRENGTH.index(mark) if mark in _STRENGTH else 0
