"""What is done for each call on a WebSocket: the same as for one by HTTP."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mitmproxy import http

from ..call import reply_check
from ..call.guard import ReplyGuard
from ..call.routes import Route
from ..call.state import Call
from ..calls import Calls
from ..core.dialects import RESPONSES
from ..core.endpoints import Endpoint
from ..history.store import Store
from ..reports import marks

_FOR_EVER = 1e9
_STRENGTH = ("", marks.NOTED, marks.CHANGED, marks.WOULD_BLOCK, marks.NOT_SCANNED, marks.BLOCKED)


@dataclass(frozen=True, slots=True)
class SocketDesk:
    """Implements session.Desk. flow: of the upgrade; it shows how the calls on it ended."""

    flow: http.HTTPFlow
    calls: Calls

    async def open(self, flow: http.HTTPFlow, memory: Store) -> Call:
        self.calls.count()
        way = Route(Endpoint.RESPONSES, RESPONSES)
        call = await self.calls.open(flow, way, head=self.flow, memory=memory)
        await self.calls.judge_request(flow, call)
        return call

    def guard(self, call: Call) -> ReplyGuard:
        assert call.settings is not None
        call.phase = "response"
        # A comment between events keeps a stream alive; a WebSocket has pings for that.
        limits = replace(call.settings.limits, keep_alive=_FOR_EVER)
        call.settings = replace(call.settings, limits=limits)
        return reply_check.guard(call)

    def count(self) -> None:
        self.calls.count()

    def unheard(self) -> None:
        marks.not_scanned(self.flow, "sound is not judged, only what is said of it as text")

    async def keep(self, call: Call) -> None:
        await self.calls.keep(call, is_live=self.flow.live)

    async def close(self, flow: http.HTTPFlow, call: Call) -> None:
        if call.closed:
            return
        await self.calls.close(flow, call)
        show(self.flow, flow)

    async def leave(self, flow: http.HTTPFlow) -> None:
        call = self.calls.get(flow)
        if call is not None and not call.closed:
            call.judged = False
            await self.close(flow, call)


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
