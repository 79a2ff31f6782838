"""The hooks: every call to a guarded host is judged, then passed on, blocked or marked."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import time
from functools import partial
from pathlib import Path
from weakref import WeakKeyDictionary, WeakSet

from mitmproxy import ctx, exceptions, http
from mitmproxy.addonmanager import Loader
from mitmproxy.connection import Client
from mitmproxy.proxy.layer import NextLayer

from . import again, gateway, marks, options, replies, request_check, settings
from .brought import NOTHING, Brought, take
from .core.dialects import RESPONSES, STORED_RESPONSE
from .core.endpoints import Endpoint, normal_path
from .core.errors import NotUnderstoodError
from .core.gate import Gate
from .core.request_head import flaw
from .core.terms import Mode, Query, Refusal
from .decoding import StreamDecoder
from .dispatch import relieve
from .engines.base import EngineError
from .guard import Call, ReplyGuard, Withheld, withheld
from .history.store import Store
from .interception.certificates import DEFAULT_HOSTS
from .judge import Judge
from .judges import Judges, in_background
from .layer import (
    JUDGED_MEANWHILE,
    PATIENCE,
    SEALED,
    SEALED_REPLY,
    ChangedMessage,
    PendingCheck,
    PendingRequest,
    guard_http,
    replace_tcp,
    seal,
    seal_reply,
)
from .perimeter import Guarded
from .refused import Refused
from .replay import ReplayEnd
from .replies import is_success as _is_success
from .replies import read
from .reports import Reports, peer
from .routes import Route, route
from .rules.authorization import AuthorizationError
from .rules.files import RulesError
from .socket_layer import PendingSocket, Work
from .websocket import desk as socket_desk
from .websocket.desk import SocketDesk
from .websocket.realtime import RealtimeSession
from .websocket.sockets import Session

logger = logging.getLogger(__name__)


class Guardrails:
    """Judges calls. What a call needs, it takes along when it begins (guard.Call)."""

    def __init__(self) -> None:
        self.reports = Reports()
        self._settings: settings.Settings | None = None
        self._judges = Judges()
        self._guarded = Guarded(DEFAULT_HOSTS)  # if options are wrong, calls are refused
        self._calls: WeakKeyDictionary[http.HTTPFlow, Call] = WeakKeyDictionary()
        self._brought: WeakKeyDictionary[http.HTTPFlow, Brought] = WeakKeyDictionary()
        self._refused = Refused()
        self._answered: WeakSet[http.HTTPFlow] = WeakSet()  # by ourselves: there is no reply
        self._sockets: WeakSet[http.HTTPFlow] = WeakSet()  # upgrades that may be
        self._open_sockets: WeakKeyDictionary[Session, http.HTTPFlow] = WeakKeyDictionary()
        self._has_told_of_headers = False
        self._is_running = False

    # -- life -------------------------------------------------------------------------------

    def load(self, loader: Loader) -> None:
        options.declare(loader)
        try:
            ctx.options.process_deferred()
        except exceptions.OptionsError as error:  # else mitmproxy goes on without this addon
            logger.error("%s", error)

    def configure(self, updated: set[str]) -> None:
        try:
            self._configure(updated)
        except exceptions.OptionsError as error:
            if self._is_running:
                raise
            logger.error("%s", error)  # one line, and mitmproxy ends with it

    def _configure(self, updated: set[str]) -> None:
        if not any(name.startswith("invariant_") for name in updated):
            return
        new = settings.read(ctx.options)
        if updated & settings.RULE_OPTIONS:
            try:
                self._judges.read_rules(new)
            except RulesError as error:
                raise exceptions.OptionsError(f"invariant_rules: {error}") from error
        self._settings = new
        self._guarded = Guarded(new.hosts)

    def running(self) -> None:
        self._is_running = True
        # mitmproxy leaves this folder first on the path, where our script hides the package
        # `invariant` from whoever imports it.
        here = str(Path(__file__).resolve().parents[1])
        if here in sys.path:
            sys.path.remove(here)
            sys.path.append(here)
        for name in [n for n in ctx.options.deferred if n.startswith("invariant_")]:
            logger.error("%s: there is no such option", name)  # mitmproxy ends with it
        relieve(ctx.master.addons)
        end = ctx.master.addons.get("replayend")
        if isinstance(end, ReplayEnd):  # this script was loaded again
            end.replayed = self.reports.replayed
        else:
            ctx.master.addons.add(ReplayEnd(self.reports.replayed))
        if self._settings is not None:
            self._judges.start(self._settings)
        _look_at_new_objects_only()

    def done(self) -> asyncio.Task[None] | None:
        self.reports.replayed.tell(is_asked_for=bool(ctx.options.rfile))
        return self._judges.close(
            is_idle=lambda: all(c.closed for c in self._calls.values()), leave=self._leave
        )

    async def _leave(self) -> None:
        unfinished = [(f, c) for f, c in self._calls.items() if f.live and not c.closed]
        await self.reports.leave(unfinished, self._judges)

    # -- connections ------------------------------------------------------------------------

    def next_layer(self, nextlayer: NextLayer) -> None:
        """Let mitmproxy choose the layer, then put ours in the place of its HTTP layer."""
        ctx.master.addons.get("nextlayer").next_layer(nextlayer)
        if self._guarded.has_connection(nextlayer.context):
            replace_tcp(nextlayer)
        guard_http(nextlayer.layer)

    # -- requests ---------------------------------------------------------------------------

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        if not self._guarded.has_flow(flow):
            return
        try:
            self._arrive(flow)
        except Exception:  # the edge: mitmproxy passes on what a hook raised for
            logger.exception("a request could not be received")
            flow.request.headers.clear()
            flow.response = withheld()
            self._answered.add(flow)

    def client_disconnected(self, client: Client) -> None:
        self.reports.programs.forget(peer(client))

    def _arrive(self, flow: http.HTTPFlow) -> None:
        if flow.live and self._settings is not None and self._settings.traces:
            self.reports.programs.look_up(peer(flow.client_conn))
        head = flow.request
        if flow.live and (reason := flaw(head.method, head.path, head.headers.fields)):
            self._reject(flow, reason)
            return
        arrived = gateway.arrive(flow, has_key=self._judges.has_key) if flow.live else None
        if arrived is not None and arrived.answer is not None:
            flow.response = arrived.answer
            self._answered.add(flow)
            return  # nothing of it goes on
        # A recorded flow is judged and reported, never changed or answered.
        headers = flow.request.headers if flow.live else flow.request.headers.copy()
        try:
            brought = take(headers)
            self._brought[flow] = brought.at(arrived.dataset) if arrived else brought
        except AuthorizationError as error:
            if not flow.live:
                return
            self._reject(flow, str(error))
        if route(flow.request).endpoint.judges_reply:
            headers["accept-encoding"] = "identity"
            for name in ("range", "if-range"):  # half a word says nothing
                headers.pop(name, None)

    def _reject(self, flow: http.HTTPFlow, reason: str) -> None:
        """What cannot be read in one way alone does not go on."""
        call = self._calls[flow] = Call(settings=self._settings)
        call.refused = Refusal(reason=reason, is_invalid=True)
        self.reports.counters.seen += 1
        flow.response = flow.response or call.response()

    async def request(self, flow: http.HTTPFlow) -> None:
        if (flow.live and (flow.error or flow.response)) or not self._guarded.has_flow(flow):
            return
        try:
            await self._take_request(flow)
        except Exception:  # the edge: as above
            logger.exception("a request could not be handled")
            if flow.live:
                flow.response = withheld()
        if flow.live and not flow.response:
            flow.metadata[SEALED] = seal(flow.request)

    async def invariant_changed(self, changed: ChangedMessage) -> None:
        """Something is about to be sent that is not what was judged: judge it again."""
        flow = changed.flow
        if not (self._guarded.has_flow(flow) or flow in self._calls):
            return
        try:
            changed.response = await self._judge_again(changed)
        except Exception:  # the edge: as above
            logger.exception("what was changed after its verdict could not be judged")
            changed.response = withheld()

    async def _judge_again(self, changed: ChangedMessage) -> http.Response | None:
        """What the client gets in its place; None if it may go on."""
        flow, call = changed.flow, self._calls.get(changed.flow)
        if changed.is_reply:
            return await again.judge_reply(
                flow, call, self._judge_reply, partial(self.reports.correct, flow, self._judges)
            )
        is_judged = call is not None and call.endpoint.is_dialect
        if again.is_elsewhere_only(changed, is_judged=is_judged):
            return None
        if changed.judged is None:
            logger.warning("%s %s: %s", flow.request.method, flow.request.host, again.UNKNOWN)
            return again.unknown()
        if call is not None and call.checking is not None:
            call.checking.cancel()
        self._calls.pop(flow, None)
        self.reports.counters.seen -= 1  # it is the same call
        await self._take_request(flow)
        return flow.response

    async def _take_request(self, flow: http.HTTPFlow) -> None:
        way = route(flow.request)
        if way.endpoint is Endpoint.HEALTH:
            if flow.live:
                flow.response = await self.reports.health(
                    self._judges,
                    pending=lambda: sum(not call.closed for call in self._calls.values()),
                )
            return
        if flow.live and socket_desk.wants_socket(flow.request):
            if socket_desk.may_open(flow.request, self._settings):
                socket_desk.prepare(flow.request)
                self._sockets.add(flow)
                return
            if socket_desk.is_ours(flow.request):  # and the owner wants none
                flow.response = socket_desk.refusal()
                self._answered.add(flow)
                marks.not_open(flow)
                return
        self._note_writing(flow)
        self.reports.counters.seen += 1
        if not flow.live:
            marks.clear(flow)
        call = await self._open(flow, way)
        if not flow.live:
            await self._judge_request(flow, call)
            if call.refused or not (flow.response or flow.error):
                await self.reports.close(flow, call, self._judges)
            return
        flow.metadata[PATIENCE] = ctx.options.invariant_upstream_timeout_ms / 1000
        if call.may_go_first:
            work = self._judge_request(flow, call)
            call.checking = in_background(work, "judge a request meanwhile")
            flow.metadata[JUDGED_MEANWHILE] = True
            return
        await self._judge_request(flow, call)
        if call.refused:
            flow.response = call.response()

    def _note_writing(self, flow: http.HTTPFlow) -> None:
        """A conversation may have been written to; said before it is, and once more when it was."""
        if self._judges.recall is not None and flow.live:
            path = normal_path(flow.request.path)
            self._judges.recall.followed.note(flow.request.method, path)

    async def invariant_request(self, pending: PendingRequest) -> None:
        """A request that has gone upstream: say so if it is refused."""
        call = self._calls.get(pending.flow)
        if call is not None and call.checking is not None:
            await call.wait_checked()
            if call.refused and pending.flow.live:
                pending.response = call.response()

    async def _open(self, flow: http.HTTPFlow, way: Route, memory: Store | None = None) -> Call:
        """The call that this flow is, with its request parsed. memory: of its connection."""
        call = self._calls[flow] = way.call(self._settings)
        if way.unknown:
            call.unknown(way.unknown)
            return call
        if not flow.live and flow.request.raw_content is None:
            call.unjudged = "the request's body was not recorded"
            return call
        if not flow.request.raw_content and not call.endpoint.judges_reply:
            call.settle_empty()
            return call
        try:
            # Nobody waits for a recorded flow, so an engine may take its time to start.
            if not self._judges.ready.is_set():
                patience = call.patience if flow.live else None
                await asyncio.wait_for(self._judges.ready.wait(), patience)
            found = await self._judges.find(self._what_it_brings(flow))
            call.judge, call.explorer_key = found.judge, found.explorer_key
            call.exchange = await read(way.dialect.parse_request, flow.request)
            if self._refused.apply(call, flow.request.path):
                pass
            elif found.invalid:
                call.refused = Refusal(reason=found.invalid, is_invalid=True)
            elif found.must_block:
                call.refused = Refusal(reason=found.missing)
            elif found.missing:
                call.lack(found.missing)
            if self._judges.recall is not None:
                await self._judges.recall.complete(call, flow.request, memory)
        except TimeoutError:
            call.lack("the engine is not ready")
        except EngineError as error:
            call.lack(str(error))
        except NotUnderstoodError as error:
            call.unknown(f"the request could not be read: {error}")
        except Exception:  # the edge: mitmproxy would pass on a request whose hook raised
            logger.exception("a request could not be read")
            call.lack("the request could not be read")
        return call

    def _what_it_brings(self, flow: http.HTTPFlow) -> Brought:
        brought = self._brought.get(flow, NOTHING)
        if brought.rules and self._settings is not None and not self._settings.header_rules:
            if not self._has_told_of_headers:
                logger.warning(
                    "a request brings rules in a header, and they are not checked; "
                    "--set invariant_header_rules=true adds such rules to yours"
                )
            self._has_told_of_headers = True
        return brought

    async def _judge_request(self, flow: http.HTTPFlow, call: Call) -> None:
        if call.exchange is None or call.judge is None or call.refused is not None:
            return
        if call.says_nothing and not call.endpoint.is_dialect:
            call.judged = True
            return
        try:
            request = flow.request if flow.live else flow.request.copy()
            await request_check.check(call, request, self._judges.key)
        except Exception:  # the edge, as above
            logger.exception("a request could not be judged")
            call.fail("the request could not be judged")

    # -- to look at -------------------------------------------------------------------------

    @property
    def judge(self) -> Judge | None:
        """What judges now."""
        return self._judges.current

    def call_of(self, flow: http.HTTPFlow) -> Call | None:
        """None if it began before a reload, or was read from a file."""
        return self._calls.get(flow)

    async def judge_again(self, recorded: http.HTTPFlow, original: http.HTTPFlow) -> Call:
        """The call that this copy of a flow is, by the rules as they are now; nothing changes."""
        assert not recorded.live
        self._brought[recorded] = self._brought.get(original, NOTHING)
        call = await self._open(recorded, route(recorded.request))
        await self._judge_request(recorded, call)
        is_read = call.exchange is not None and call.endpoint.judges_reply and not call.refused
        if recorded.response is not None and is_read:
            await self._judge_reply(recorded.response, call)
        call.closed = True
        return call

    # -- replies ----------------------------------------------------------------------------

    async def responseheaders(self, flow: http.HTTPFlow) -> None:
        assert flow.response
        if not flow.live or not self._guarded.has_flow(flow):
            return
        flow.response.headers.pop("alt-svc", None)  # HTTP/3 would go around this proxy
        call = await self._call(flow)
        if call is None:
            return
        if call.checking is not None:
            await call.wait_checked()
            if call.refused:
                flow.response.stream = Withheld(call)
        if call.refused:
            return
        if call.exchange is None or not call.endpoint.judges_reply:
            # Nothing of it is kept back, so it may flow.
            call.opaque = call.endpoint is Endpoint.MEDIA and _is_success(flow.response)
            if call.opaque or replies.is_event_stream(flow.response):
                flow.response.stream = True
            return
        call.phase = "response"
        if _is_success(flow.response) and replies.may_be_stream(flow.response, call):
            await self._guard_stream(flow.response, call)

    async def _guard_stream(self, response: http.Response, call: Call) -> None:
        try:
            decoder = replies.decoder(response)
        except NotUnderstoodError as error:
            call.fail(f"the reply could not be read: {error}")
            if call.refused:
                response.stream = Withheld(call)
            return
        response.stream = self._set_up_guard(call, decoder)
        replies.lose_length(response)

    async def _call(self, flow: http.HTTPFlow) -> Call | None:
        """The call of a flow; one that began before a reload is found again, or opened anew."""
        if flow in self._answered or flow in self._sockets:
            return None
        if flow in self._calls:
            return self._calls[flow]
        if flow.response and isinstance(flow.response.stream, ReplyGuard):
            return flow.response.stream.call
        way = route(flow.request)
        if way.endpoint is Endpoint.HEALTH:
            return None
        self.reports.counters.seen += 1
        return await self._open(flow, way)

    def _set_up_guard(self, call: Call, decoder: StreamDecoder | None) -> ReplyGuard:
        assert call.settings is not None and call.judge is not None and call.exchange is not None
        mode = call.settings.mode if call.judge.blocking else Mode.OBSERVE
        first = len(call.exchange.conversation.messages)
        gate = Gate(call.dialect.merger(), mode, call.settings.limits, time.monotonic(), first)
        withholds_head = mode is Mode.BUFFER
        call.guard = ReplyGuard(call, gate, withholds_head=withholds_head, decoder=decoder)
        return call.guard

    async def invariant_verdict(self, check: PendingCheck) -> None:
        if isinstance(check.guard, ReplyGuard):
            guard = check.guard
            await guard.judge(check)
            if isinstance(check.query, Query) and check.query.last and guard.is_clean:
                await self._keep(guard.call)  # before the client can go on from it

    async def _keep(self, call: Call) -> None:
        if self._judges.recall is not None:
            await self._judges.recall.remember(call)

    # -- WebSockets ---------------------------------------------------------------------------

    async def invariant_socket_start(self, pending: PendingSocket) -> None:
        flow = pending.flow
        if not self._guarded.has_flow(flow):
            pending.passes = True
        elif (call := self._calls.get(flow)) is not None:  # nobody can judge it
            pending.passes = call.unjudged is not None and call.refused is None
        elif flow in self._sockets and flow.live:
            desk = SocketDesk(
                flow,
                self.reports.counters,
                self._open_on_socket,
                lambda call: self._set_up_guard(call, None),
                self._keep,
                self._close_on_socket,
            )
            nothing = _nothing(flow)
            self._brought[nothing] = self._brought.get(flow, NOTHING)
            base = await self._open(nothing, Route(Endpoint.STORED_RESPONSE, STORED_RESPONSE))
            if base.judge is not None and base.exchange is not None and base.refused is None:
                kind = RealtimeSession if socket_desk.is_realtime(flow.request) else Session
                pending.guard = kind(desk, flow, base)
                self._open_sockets[pending.guard] = nothing  # so that the engine waits for its end

    async def invariant_socket(self, work: Work) -> None:
        await work.run()

    async def _open_on_socket(
        self, upgrade: http.HTTPFlow, flow: http.HTTPFlow, memory: Store
    ) -> Call:
        self.reports.counters.seen += 1
        self._brought[flow] = self._brought.get(upgrade, NOTHING)
        call = await self._open(flow, Route(Endpoint.RESPONSES, RESPONSES), memory)
        await self._judge_request(flow, call)
        return call

    async def _close_on_socket(self, flow: http.HTTPFlow, call: Call) -> None:
        self._refused.note(call)
        await self._keep(call)
        await self.reports.close(flow, call, self._judges)

    # -- whole replies --------------------------------------------------------------------------

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
        if flow in self._sockets and flow.live:
            if flow.response.status_code != 101:  # it says why, or something else
                refused = await self._open(flow, Route(Endpoint.STORED_RESPONSE, STORED_RESPONSE))
                await self._judge_reply(flow.response, refused)
                if refused.refused:
                    flow.response = refused.response()
                    marks.show(flow, refused)
                refused.closed = True
            elif flow.websocket is None:
                # What follows would be neither a request nor a reply.
                flow.response = withheld()
                marks.not_open(flow)
            return
        self._note_writing(flow)
        call = await self._call(flow)
        if call is None or call.closed:
            return
        if call.guard is not None:
            if flow.response.stream:
                # So that a saved flow can be looked at, and judged again.
                flow.response.data.content = call.guard.raw
        elif flow.response.status_code == 101 and not (
            call.refused or call.endpoint is Endpoint.UNKNOWN
        ):
            # What follows would be neither a request nor a reply.
            call.refused = Refusal(reason="upstream wants to speak another protocol")
        elif not call.refused and call.exchange is not None and call.endpoint.judges_reply:
            if not flow.live and flow.response.raw_content is None:
                call.unjudged = "the reply's body was not recorded"
            else:
                await self._judge_reply(flow.response, call)
        self._refused.note(call)
        if flow.live:
            await self._keep(call)
        if call.refused and call.guard is None and flow.live:
            # Also where the call could not even be opened again, after a reload.
            flow.response = call.response()
        await self.reports.close(flow, call, self._judges)

    async def _judge_reply(self, response: http.Response, call: Call) -> None:
        call.phase = "response"
        try:
            parse = replies.parser(response, call)
            call.upstream, reply = await read(lambda body: (body, parse(body)), response)
            call.reply = reply
            call.settle(await call.ask_about(reply))
        except NotUnderstoodError as error:
            reason = f"the reply could not be read: {error}"
            if call.endpoint.is_dialect:
                call.fail(reason)
            else:
                call.unknown(reason)
        except Exception:  # the edge: mitmproxy would pass on a reply whose hook raised
            logger.exception("a reply could not be judged")
            call.fail("the reply could not be judged")

    async def error(self, flow: http.HTTPFlow) -> None:
        if flow not in self._calls and flow.response is None:
            return  # it never arrived as a whole: nobody was asked, and nobody was answered
        call = await self._call(flow) if self._guarded.has_flow(flow) else None
        if call is not None and not call.closed:
            if call.checking is not None:
                call.checking.cancel()
            if call.guard is not None and flow.response is not None:
                flow.response.data.content = call.guard.raw
            self._refused.note(call)
            if not (call.refused or (call.guard is not None and call.guard.done)):
                call.judged = False  # the client left, or upstream did, before the verdict
            await self._keep(call)
            await self.reports.close(flow, call, self._judges)


def _look_at_new_objects_only() -> None:
    """Leave what mitmproxy and we are made of out of Python's search for garbage, and let it come
    more often: a call that is over waits for it with all of its bodies, hundreds of megabytes in
    all, and each search among all objects would hold up all calls."""
    gc.unfreeze()  # this script was loaded again
    gc.collect()
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, 2)


def _nothing(flow: http.HTTPFlow) -> http.HTTPFlow:
    """A call on a WebSocket that asks nothing."""
    empty = http.HTTPFlow(flow.client_conn, flow.server_conn, live=True)
    empty.request = flow.request.copy()
    empty.request.raw_content = b""
    return empty
