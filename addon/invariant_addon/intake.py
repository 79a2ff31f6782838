"""A request that a client sent -> passed on, answered here, or refused."""

from __future__ import annotations

from mitmproxy import ctx, http

from .background import in_background
from .call import gateway
from .call.brought import take
from .call.routes import route
from .calls import Calls
from .core.endpoints import Endpoint
from .core.request_head import flaw
from .core.sites import Names
from .interception.certificates import DEFAULT_HOSTS
from .judges import Judges
from .layers.hooks import JUDGED_MEANWHILE, PATIENCE
from .reports import marks
from .reports.ends import Reports, peer
from .rules.authorization import AuthorizationError
from .websocket.upgrades import Upgrades


class Intake:
    """What is answered here has a response afterwards."""

    def __init__(self, calls: Calls, upgrades: Upgrades, judges: Judges, reports: Reports) -> None:
        self._calls = calls
        self._upgrades = upgrades
        self._judges = judges
        self._reports = reports
        self.door = gateway.Door(Names(DEFAULT_HOSTS))

    def take_head(self, flow: http.HTTPFlow) -> None:
        """Take out of it what is for us, and ask upstream for what can be read."""
        settings = self._calls.settings
        if flow.live and settings is not None and settings.traces:
            self._reports.programs.look_up(peer(flow.client_conn))
        head = flow.request
        if flow.live and (reason := flaw(head.method, head.path, head.headers.fields)):
            self._reject(flow, reason)
            return
        if flow.live and (refused := self.door.refuse(flow)) is not None:
            flow.response = refused
            self._calls.leave_out(flow)
            return  # nothing of it goes on
        arrived = gateway.arrive(flow, has_key=self._judges.has_key) if flow.live else None
        if arrived is not None and arrived.answer is not None:
            flow.response = arrived.answer
            self._calls.leave_out(flow)
            return  # nothing of it goes on
        # A recorded flow is judged and reported, never changed or answered.
        headers = flow.request.headers if flow.live else flow.request.headers.copy()
        try:
            brought = take(headers)
            self._calls.bring(flow, brought.at(arrived.dataset) if arrived else brought)
        except AuthorizationError as error:
            if not flow.live:
                return
            self._reject(flow, str(error))
        if route(flow.request).endpoint.judges_reply:
            headers["accept-encoding"] = "identity"
            for name in ("range", "if-range"):  # half a word says nothing
                headers.pop(name, None)

    def _reject(self, flow: http.HTTPFlow, reason: str) -> None:
        call = self._calls.reject(flow, reason)
        flow.response = flow.response or call.response()

    async def take(self, flow: http.HTTPFlow) -> None:
        """All of it is there: judge it, or have it judged while it is under way."""
        way = route(flow.request)
        if way.endpoint is Endpoint.HEALTH:
            if flow.live:
                flow.response = await self._reports.health(
                    self._judges, pending=lambda: self._calls.pending
                )
            return
        if self._upgrades.take(flow):
            return
        self._calls.note_writing(flow)
        self._calls.count()
        if not flow.live:
            marks.clear(flow)
        call = await self._calls.open(flow, way)
        if not flow.live:
            await self._calls.judge_request(flow, call)
            if call.refused or not (flow.response or flow.error):
                await self._calls.close(flow, call)
            return
        flow.metadata[PATIENCE] = ctx.options.invariant_upstream_timeout_ms / 1000
        if call.may_go_first:
            work = self._calls.judge_request(flow, call)
            call.checking = in_background(work, "judge a request meanwhile")
            flow.metadata[JUDGED_MEANWHILE] = True
            return
        await self._calls.judge_request(flow, call)
        if call.refused:
            flow.response = call.response()
