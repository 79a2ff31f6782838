"""The hooks: every call to a guarded host is judged, then passed on, blocked or marked."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path

from mitmproxy import ctx, exceptions, http
from mitmproxy.addonmanager import Loader
from mitmproxy.connection import Client
from mitmproxy.proxy.layer import NextLayer

from . import again, options, settings
from .background import in_background
from .call import gateway, reply_check
from .call.guard import ReplyGuard
from .call.state import withheld
from .calls import Calls
from .core.sites import Names
from .core.terms import Query
from .dispatch import relieve
from .garbage import look_at_new_objects_only
from .idle import give_back
from .intake import Intake
from .interception.certificates import DEFAULT_HOSTS
from .interception.proxy import no_such_option
from .judge import Judge
from .judges import Judges
from .layers.choice import close, guard_http, replace_tcp
from .layers.hooks import PendingCheck, PendingRequest
from .layers.seals import SEALED, SEALED_REPLY, ChangedMessage, seal, seal_reply
from .layers.websocket import PendingSocket, Work
from .perimeter.guarded import Guarded
from .reports.ends import Reports, peer
from .reports.replay import ReplayEnd
from .rules.files import RulesError
from .websocket.upgrades import Upgrades

logger = logging.getLogger(__name__)


class Guardrails:
    """Judges calls. What a call needs, it takes along when it begins (call.state)."""

    def __init__(self) -> None:
        self.reports = Reports()
        self._judges = Judges()
        self.calls = Calls(self._judges, self.reports)
        self._upgrades = Upgrades(self.calls)
        self._intake = Intake(self.calls, self._upgrades, self._judges, self.reports)
        self._guarded = Guarded(DEFAULT_HOSTS)  # if options are wrong, calls are refused
        self._is_running = False
        self._giving_back: asyncio.Task[None] | None = None

    @property
    def judge(self) -> Judge | None:
        """What judges now."""
        return self._judges.current

    # -- life -------------------------------------------------------------------------------

    def load(self, loader: Loader) -> None:
        options.declare(loader)
        with settings.refused(is_running=False):
            ctx.options.process_deferred()

    def configure(self, updated: set[str]) -> None:
        with settings.refused(is_running=self._is_running):
            self._configure(updated)

    def _configure(self, updated: set[str]) -> None:
        if not any(name.startswith("invariant_") for name in updated):
            return
        new = settings.read(ctx.options)
        if updated & settings.RULE_OPTIONS:
            try:
                self._judges.read_rules(new)
            except RulesError as error:
                raise exceptions.OptionsError(f"invariant_rules: {error}") from error
        self.calls.settings = new
        self._guarded = Guarded(new.hosts)
        own = gateway.listening(ctx.options.listen_host, ctx.options.mode)
        self._intake.door.names = Names(new.hosts, (*new.names, *own))

    def running(self) -> None:
        self._is_running = True
        # mitmproxy leaves this folder first on the path, where our script hides the package
        # `invariant` from whoever imports it.
        here = str(Path(__file__).resolve().parents[1])
        if here in sys.path:
            sys.path.remove(here)
            sys.path.append(here)
        for name in [n for n in ctx.options.deferred if n.startswith("invariant_")]:
            logger.error("%s", no_such_option(name, ctx.options.keys()))  # mitmproxy ends with it
        relieve(ctx.master.addons)
        end = ctx.master.addons.get("replayend")
        if isinstance(end, ReplayEnd):  # this script was loaded again
            end.replayed = self.reports.replayed
        else:
            ctx.master.addons.add(ReplayEnd(self.reports.replayed))
        if self.calls.settings is not None:
            self._judges.start(self.calls.settings)
        look_at_new_objects_only()
        work = give_back(lambda: self.reports.counters.seen, lambda: self.calls.pending)
        self._giving_back = in_background(work, "give memory back")

    def done(self) -> asyncio.Task[None] | None:
        if self._giving_back is not None:
            self._giving_back.cancel()
        self.reports.replayed.tell(is_asked_for=bool(ctx.options.rfile))
        return self._judges.close(
            # Those that this addon opened and one that was loaded later closed are not live.
            is_idle=lambda: not self.calls.unfinished,
            leave=lambda: self.reports.leave(self.calls.unfinished, self._judges),
        )

    # -- connections ------------------------------------------------------------------------

    def next_layer(self, nextlayer: NextLayer) -> None:
        """Let mitmproxy choose the layer, then put ours in the place of its HTTP layer."""
        try:
            ctx.master.addons.get("nextlayer").next_layer(nextlayer)
            if self._guarded.has_connection(nextlayer.context):
                replace_tcp(nextlayer)
            guard_http(nextlayer.layer)
        except Exception:  # the edge: mitmproxy would go on with its own layer
            logger.exception("a connection could not be guarded")
            close(nextlayer)

    def client_disconnected(self, client: Client) -> None:
        self.reports.programs.forget(peer(client))

    # -- requests ---------------------------------------------------------------------------

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        if not self._guarded.has_flow(flow):
            return
        try:
            self._intake.take_head(flow)
        except Exception:  # the edge: mitmproxy passes on what a hook raised for
            logger.exception("a request could not be received")
            if flow.live:
                flow.request.headers.clear()
                flow.response = withheld()
                self.calls.leave_out(flow)

    async def request(self, flow: http.HTTPFlow) -> None:
        if (flow.live and (flow.error or flow.response)) or not self._guarded.has_flow(flow):
            return
        try:
            await self._intake.take(flow)
        except Exception:  # the edge: as above
            logger.exception("a request could not be handled")
            if flow.live:
                flow.response = withheld()
        if flow.live and not flow.response:
            flow.metadata[SEALED] = seal(flow.request)

    async def invariant_changed(self, changed: ChangedMessage) -> None:
        """Something is about to be sent that is not what was judged: judge it again."""
        flow = changed.flow
        if not (self._guarded.has_flow(flow) or self.calls.get(flow) is not None):
            return
        try:
            changed.response = await again.judge(changed, self.calls, self._intake)
        except Exception:  # the edge: as above
            logger.exception("what was changed after its verdict could not be judged")
            changed.response = withheld()

    async def invariant_request(self, pending: PendingRequest) -> None:
        """A request that has gone upstream: say so if it is refused."""
        call = self.calls.get(pending.flow)
        if call is not None and call.checking is not None:
            await call.wait_checked()
            if call.refused and pending.flow.live:
                pending.response = call.response()

    # -- replies ----------------------------------------------------------------------------

    async def responseheaders(self, flow: http.HTTPFlow) -> None:
        assert flow.response
        if not flow.live or not self._guarded.has_flow(flow):
            return
        flow.response.headers.pop("alt-svc", None)  # HTTP/3 would go around this proxy
        if (call := await self.calls.find(flow)) is not None:
            await reply_check.begin(call, flow.response)

    async def invariant_verdict(self, check: PendingCheck) -> None:
        if isinstance(check.guard, ReplyGuard):
            guard = check.guard
            await guard.judge(check)
            if isinstance(check.query, Query) and check.query.last and guard.is_clean:
                await self.calls.keep(guard.call)  # before the client can go on from it

    async def response(self, flow: http.HTTPFlow) -> None:
        if not self._guarded.has_flow(flow):
            return
        try:
            await self._take_response(flow)
        except Exception:  # the edge: as above
            logger.exception("a reply could not be handled")
            if flow.live:
                flow.response = withheld()
        if flow.live and flow.response and not flow.response.stream:
            flow.metadata[SEALED_REPLY] = seal_reply(flow.response)

    async def _take_response(self, flow: http.HTTPFlow) -> None:
        assert flow.response
        if await self._upgrades.take_reply(flow):
            return
        self.calls.note_writing(flow)
        call = await self.calls.find(flow)
        if call is None or call.closed:
            return
        self.calls.draft(flow, call)
        await reply_check.end(call, flow)
        if call.refused and call.guard is None and flow.live:
            # Also where the call could not even be opened again, after a reload.
            flow.response = call.response()
        await self.calls.close(flow, call)

    async def error(self, flow: http.HTTPFlow) -> None:
        if self.calls.get(flow) is None and flow.response is None:
            return  # it never arrived as a whole: nobody was asked, and nobody was answered
        call = await self.calls.find(flow) if self._guarded.has_flow(flow) else None
        if call is not None and not call.closed:
            if call.checking is not None:
                call.checking.cancel()
            if call.guard is not None and flow.response is not None:
                flow.response.data.content = call.guard.raw
            if not (call.refused or (call.guard is not None and call.guard.is_through)):
                call.judged = False  # the client left, or upstream did, before the verdict
            await self.calls.close(flow, call)

    # -- WebSockets ---------------------------------------------------------------------------

    async def invariant_socket_start(self, pending: PendingSocket) -> None:
        if self._guarded.has_flow(pending.flow):
            await self._upgrades.start(pending)
        else:
            pending.passes = True

    async def invariant_socket(self, work: Work) -> None:
        await work.run()

    async def websocket_end(self, flow: http.HTTPFlow) -> None:
        """A recorded one: what would have become of its messages?"""
        try:
            await self._upgrades.replay(flow)
        except Exception:  # the edge: as above
            logger.exception("a recorded WebSocket could not be judged")
