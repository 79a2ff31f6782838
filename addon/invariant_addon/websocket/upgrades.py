"""A request that wants a WebSocket -> one whose messages are judged, or a refusal."""

from __future__ import annotations

from weakref import WeakKeyDictionary, WeakSet

from mitmproxy import http

from ..call import reply_check
from ..call.routes import UPGRADE_REQUIRED, Route, wants_socket
from ..call.state import withheld
from ..calls import Calls
from ..core.dialects import STORED_RESPONSE
from ..core.endpoints import Endpoint, normal_path
from ..layers.websocket import PendingSocket
from ..reports import marks
from ..settings import Settings
from .desk import SocketDesk
from .realtime import RealtimeSession
from .recorded import replay
from .responses import ResponsesSession
from .session import Session

RESPONSES, REALTIME = "/v1/responses", "/v1/realtime"
_DEFLATE = "permessage-deflate"
_ASKS_NOTHING = Route(Endpoint.STORED_RESPONSE, STORED_RESPONSE)


class Upgrades:
    """Those that may become a WebSocket, and what is said on those that did."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._flows: WeakSet[http.HTTPFlow] = WeakSet()
        self._open: WeakKeyDictionary[Session, http.HTTPFlow] = WeakKeyDictionary()

    def take(self, flow: http.HTTPFlow) -> bool:
        """Whether it is one of these: prepared then, or refused if the owner wants none."""
        if not flow.live and flow.websocket is not None:
            if not _may_open(flow.request, self._calls.settings):
                return False
            self._flows.add(flow)  # its messages come last
            self._calls.leave_out(flow)
            return True
        if not flow.live or not wants_socket(flow.request):
            return False
        if _may_open(flow.request, self._calls.settings):
            _prepare(flow.request)
            self._flows.add(flow)
        elif _is_ours(flow.request):
            flow.response = _refusal()
            marks.not_open(flow)
        else:
            return False
        self._calls.leave_out(flow)
        return True

    async def take_reply(self, flow: http.HTTPFlow) -> bool:
        """Whether it is the reply to one of these: judged then, if it opens none."""
        if flow not in self._flows or not flow.live:
            return False
        assert flow.response
        if flow.response.status_code != 101:  # it says why, or something else
            refused = await self._calls.open(flow, _ASKS_NOTHING)
            await reply_check.judge(refused, flow.response)
            if refused.refused:
                flow.response = refused.response()
                marks.show(flow, refused)
            refused.closed = True
        elif flow.websocket is None:
            # What follows would be neither a request nor a reply.
            flow.response = withheld()
            marks.not_open(flow)
        return True

    async def start(self, pending: PendingSocket) -> None:
        """It is open: say who judges what is said."""
        flow = pending.flow
        if (call := self._calls.get(flow)) is not None:  # nobody can judge it
            pending.passes = call.unjudged is not None and call.refused is None
        elif flow in self._flows and flow.live:
            pending.guard = await self._session(flow)

    async def replay(self, flow: http.HTTPFlow) -> None:
        """Judge the messages of a recorded one again."""
        if flow.live or flow not in self._flows or flow.websocket is None:
            return
        marks.clear(flow)
        if (session := await self._session(flow)) is not None:
            await replay(session, flow.websocket.messages)

    async def _session(self, flow: http.HTTPFlow) -> Session | None:
        """None if there is nobody to judge it."""
        nothing = _nothing(flow)
        base = await self._calls.open(nothing, _ASKS_NOTHING, head=flow)
        if base.judge is None or base.exchange is None or base.refused is not None:
            base.closed = True
            return None
        kind = RealtimeSession if _is_realtime(flow.request) else ResponsesSession
        session = kind(SocketDesk(flow, self._calls), flow, base)
        self._open[session] = nothing  # so that the engine waits for its end
        return session


def _may_open(request: http.Request, settings: Settings | None) -> bool:
    """Whether somebody here can judge what will be said."""
    if settings is None or not settings.guards_websockets or request.method != "GET":
        return False
    return _is_ours(request) and request.headers.get("sec-websocket-version", "") == "13"


def _is_ours(request: http.Request) -> bool:
    return normal_path(request.path).lower() in (RESPONSES, REALTIME)


def _is_realtime(request: http.Request) -> bool:
    return normal_path(request.path).lower() == REALTIME


def _prepare(request: http.Request) -> None:
    """Offer no extension but the one that is undone here: another would hide the messages."""
    name = "sec-websocket-extensions"
    offers = ",".join(request.headers.get_all(name)).split(",")
    ours = [o.strip() for o in offers if o.split(";", 1)[0].strip().lower() == _DEFLATE]
    request.headers.pop(name, None)
    if ours:
        request.headers[name] = ", ".join(ours)


def _refusal() -> http.Response:
    """Programs go on by HTTP."""
    response = withheld()
    response.status_code = UPGRADE_REQUIRED
    response.reason = "Upgrade Required"
    response.headers["upgrade"] = "HTTP/1.1"
    return response


def _nothing(flow: http.HTTPFlow) -> http.HTTPFlow:
    """A call on a WebSocket that asks nothing."""
    empty = http.HTTPFlow(flow.client_conn, flow.server_conn, live=flow.live)
    empty.request = flow.request.copy()
    empty.request.raw_content = b""
    return empty
