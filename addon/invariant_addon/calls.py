"""The calls under way: a flow -> the call that it is, opened, judged, remembered and closed.

However it came: by HTTP, on a WebSocket, or from a file. What a call needs, it takes along when it
is opened (call.state), so nothing here changes it later.
"""

from __future__ import annotations

import asyncio
import logging
from weakref import WeakKeyDictionary, WeakSet

from mitmproxy import http

from .call import reply_check, request_check
from .call.brought import NOTHING, Brought
from .call.guard import ReplyGuard
from .call.refused import Refused
from .call.replies import read
from .call.routes import Route, route
from .call.state import Call
from .core.endpoints import Endpoint, normal_path
from .core.errors import NotUnderstoodError
from .core.terms import Refusal
from .engines.base import EngineError
from .history.store import Store
from .judges import Judges
from .reports.ends import Reports
from .settings import Settings

logger = logging.getLogger(__name__)


class Calls:
    """settings: as they are now; None if an option is wrong, and then calls are refused."""

    def __init__(self, judges: Judges, reports: Reports) -> None:
        self.settings: Settings | None = None
        self._judges = judges
        self._reports = reports
        self._calls: WeakKeyDictionary[http.HTTPFlow, Call] = WeakKeyDictionary()
        self._brought: WeakKeyDictionary[http.HTTPFlow, Brought] = WeakKeyDictionary()
        self._left_out: WeakSet[http.HTTPFlow] = WeakSet()
        self._refused = Refused()
        self._has_told_of_headers = False

    # -- which they are ---------------------------------------------------------------------

    def get(self, flow: http.HTTPFlow) -> Call | None:
        """None if it began before a reload, or was read from a file."""
        return self._calls.get(flow)

    async def find(self, flow: http.HTTPFlow) -> Call | None:
        """The call of a flow with a reply; one that began before a reload is found again, or opened
        anew. None if it is no call."""
        if flow in self._left_out:
            return None
        if flow in self._calls:
            return self._calls[flow]
        if flow.response and isinstance(flow.response.stream, ReplyGuard):
            return flow.response.stream.call
        way = route(flow.request)
        if way.endpoint is Endpoint.HEALTH:
            return None
        self.count()
        return await self.open(flow, way)

    def leave_out(self, flow: http.HTTPFlow) -> None:
        """It is no call: it was answered here, or becomes a WebSocket."""
        self._left_out.add(flow)

    @property
    def pending(self) -> int:
        """How many are not over."""
        return sum(not call.closed for call in self._calls.values())

    @property
    def unfinished(self) -> list[tuple[http.HTTPFlow, Call]]:
        return [(flow, c) for flow, c in self._calls.items() if flow.live and not c.closed]

    def count(self, by: int = 1) -> None:
        """A call has begun."""
        self._reports.counters.seen += by

    # -- opened -----------------------------------------------------------------------------

    def bring(self, flow: http.HTTPFlow, brought: Brought) -> None:
        """What was taken from its head, for when it is opened."""
        self._brought[flow] = brought

    def reject(self, flow: http.HTTPFlow, reason: str) -> Call:
        """What cannot be read in one way alone does not go on."""
        call = self._calls[flow] = Call(settings=self.settings)
        call.refused = Refusal(reason=reason, is_invalid=True)
        self.count()
        return call

    async def open(
        self,
        flow: http.HTTPFlow,
        way: Route,
        *,
        head: http.HTTPFlow | None = None,
        memory: Store | None = None,
    ) -> Call:
        """The call that this flow is, with its request parsed.

        head: the flow that its headers came with, if that is another; memory: of its connection.
        """
        call = self._calls[flow] = way.call(self.settings)
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
            found = await self._judges.find(self._what_it_brings(head or flow))
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
        if brought.rules and self.settings is not None and not self.settings.header_rules:
            if not self._has_told_of_headers:
                logger.warning(
                    "a request brings rules in a header, and they are not checked; "
                    "--set invariant_header_rules=true adds such rules to yours"
                )
            self._has_told_of_headers = True
        return brought

    def forget(self, flow: http.HTTPFlow) -> None:
        """It is to be opened anew: its request was changed."""
        call = self._calls.pop(flow, None)
        if call is not None and call.checking is not None:
            call.checking.cancel()
        self.count(-1)  # it is the same call

    # -- judged -----------------------------------------------------------------------------

    async def judge_request(self, flow: http.HTTPFlow, call: Call) -> None:
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

    async def judge_recorded(self, recorded: http.HTTPFlow, original: http.HTTPFlow) -> Call:
        """The call that this copy of a flow is, by the rules as they are now; nothing changes."""
        assert not recorded.live
        call = await self.open(recorded, route(recorded.request), head=original)
        await self.judge_request(recorded, call)
        is_read = call.exchange is not None and call.endpoint.judges_reply and not call.refused
        if recorded.response is not None and is_read:
            await reply_check.judge(call, recorded.response)
        call.closed = True
        return call

    # -- over -------------------------------------------------------------------------------

    async def keep(self, call: Call, *, is_live: bool = True) -> None:
        """Remember its turn, before the client can go on from it. is_live: or for its own
        connection alone."""
        if self._judges.recall is not None:
            await self._judges.recall.remember(call, is_live=is_live)

    def note_writing(self, flow: http.HTTPFlow) -> None:
        """A conversation may have been written to; said before it is, and once more when it was."""
        if self._judges.recall is not None and flow.live:
            path = normal_path(flow.request.path)
            self._judges.recall.followed.note(flow.request.method, path)

    def draft(self, flow: http.HTTPFlow, call: Call) -> None:
        """Its whole reply is about to be judged: when that is under way, make its trace."""
        tracing = self._judges.tracing
        if tracing is not None and flow.live and call.guard is None:
            asyncio.get_running_loop().call_soon(tracing.draft, flow, call)

    async def close(self, flow: http.HTTPFlow, call: Call) -> None:
        """It is over: remember it, and report it."""
        self._refused.note(call)
        if flow.live:
            await self.keep(call)
            await self._reports.find_caller(flow, call)
        if call.closed:  # meanwhile: the client left just when its reply was over
            return
        await self._reports.close(flow, call, self._judges)
        if call.guard is not None:
            call.guard.let_go()

    async def correct(self, flow: http.HTTPFlow, was: Call, call: Call) -> None:
        """Its reply was changed after it was reported: this is what the client gets."""
        await self._reports.correct(flow, self._judges, was, call)
