"""How calls ended: counted, marked, logged, noted; told to whoever asks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict

import orjson
from mitmproxy import ctx, hooks, http
from mitmproxy.connection import Client

from .. import __version__
from ..background import in_background
from ..call.state import Call
from ..core.printable import printable
from ..core.refusal import ID_SHOWN
from ..core.trace import Trace
from ..core.verdict import Violation
from ..engines.base import EngineClosedError
from ..judge import Looked
from ..judges import Judges
from ..rules.mutes import Mutes
from ..tracing import Tracing
from . import marks
from .counters import Counters
from .noted import Noted
from .programs import Peer, Programs
from .replay import Replayed

logger = logging.getLogger(__name__)

LAST_LOOK_SECONDS = 0.5
"""At the end, log rules that are looking have so long."""
NAME_SECONDS = 0.25
"""A refusal waits so long to know which program it is for: it is often ready before that is."""


class Reports:
    """One for each addon. counters: since the start. replayed: what was said of recorded flows."""

    def __init__(self) -> None:
        self.counters = Counters()
        self.replayed = Replayed()
        self.programs = Programs()
        self._noted = Noted()
        self._looking: set[asyncio.Task[None]] = set()

    async def find_caller(self, flow: http.HTTPFlow, call: Call) -> None:
        """Whose call is refused; it is not over before that is known."""
        if call.refused is not None:
            call.client = await self.programs.found(peer(flow.client_conn), NAME_SECONDS)

    async def close(self, flow: http.HTTPFlow, call: Call, judges: Judges) -> None:
        """The call is over: say how it ended, and let the log rules look at it."""
        call.closed = True
        call.client = call.client or self.programs.name(peer(flow.client_conn))
        marks.show(flow, call)
        self._count(call)
        is_over = call.refused is not None or not call.judged
        if not flow.live:  # nobody waits, and the proxy ends after the last one
            new: tuple[Violation, ...] = ()
            if not is_over:
                with contextlib.suppress(EngineClosedError):
                    _, new = await self._look(flow, call)
            self.replayed.add(flow, call, new)
            return
        if call.is_harmless:
            return
        await self._keep(flow, call, judges)
        if call.refused is not None:
            logger.warning(
                "%s %s: %s (%s)",
                *(flow.request.method, _path(flow), printable(flow.comment)),
                call.request_id[:ID_SHOWN],
            )
            _record(call, judges.mutes)
        elif call.masked or call.muted:
            logger.info("%s %s: %s", flow.request.method, _path(flow), printable(flow.comment))

    async def correct(self, flow: http.HTTPFlow, judges: Judges, was: Call, call: Call) -> None:
        """A reply that was changed after its verdict: the client gets another one than was told of,
        and the call may end otherwise."""
        was.superseded = True
        if was.closed:
            self._count(was, -1)
        self._count(call)
        is_clean = call.refused is None and call.unjudged is None
        if not is_clean:
            marks.show(flow, call)
        if not call.is_harmless:
            await self._keep(flow, call, judges, is_again=True)
        if is_clean:
            return
        logger.warning(
            "%s %s: a reply that was changed: %s",
            *(flow.request.method, _path(flow), printable(flow.comment)),
        )

    async def _keep(
        self, flow: http.HTTPFlow, call: Call, judges: Judges, *, is_again: bool = False
    ) -> None:
        """Its trace, and what log rules find for it. is_again: they may have noted it before, in a
        trace whose place this one takes."""
        is_over = call.refused is not None or not call.judged
        more = not is_over and call.judge is not None and bool(call.judge.noting)
        trace = await judges.tracing.keep(flow, call, more=more) if judges.tracing else None
        if more:
            work = self._look_later(flow, call, trace, judges.tracing, is_again=is_again)
            task = in_background(work, "log rules")
            self._looking.add(task)
            task.add_done_callback(self._looking.discard)

    async def leave(self, unfinished: Sequence[tuple[http.HTTPFlow, Call]], judges: Judges) -> None:
        """The proxy ends, whatever is under way: keep that as far as it came."""
        for flow, call in unfinished:
            call.client = self.programs.name(peer(flow.client_conn))
        if judges.tracing is not None:
            await asyncio.gather(*(judges.tracing.keep_unfinished(*each) for each in unfinished))
        if self._looking:  # or what they find would be in no trace
            await asyncio.wait(self._looking, timeout=LAST_LOOK_SECONDS)

    def _count(self, call: Call, by: int = 1) -> None:
        self.counters.masked += by * bool(call.masked)
        self.counters.muted += by * bool(call.muted)
        if call.refused is not None:
            if call.refused.violations:
                self.counters.blocked += by
            else:
                self.counters.failed += by
        elif call.unjudged is not None:
            self.counters.not_scanned += by
        elif call.is_harmless:
            self.counters.harmless += by
        elif call.judged and call.unread:
            self.counters.partial += by
        elif call.judged:
            self.counters.judged += by
        else:
            self.counters.unfinished += by

    async def _look_later(
        self,
        flow: http.HTTPFlow,
        call: Call,
        trace: Trace | None,
        tracing: Tracing | None,
        *,
        is_again: bool,
    ) -> None:
        try:
            looked, new = await self._look(flow, call)
        except EngineClosedError:
            return  # whoever takes over what this proxy leaves says so in the trace
        if call.superseded:  # nobody got that reply, and it must not take the other one's place
            return
        if trace is not None and tracing is not None:
            await tracing.add(trace, call, looked.found if is_again else new, looked)
        if new:
            logger.info(
                "noted %s %s: %s", flow.request.method, _path(flow), printable(flow.comment)
            )

    async def _look(self, flow: http.HTTPFlow, call: Call) -> tuple[Looked, tuple[Violation, ...]]:
        """Log rules: what they find, and what of that for the first time. Nobody waits.

        Raises EngineClosedError."""
        if call.judge is None or call.exchange is None:
            return Looked(), ()
        reply = call.reply_so_far
        choices = reply.choices if reply else ()
        conversation = call.exchange.conversation
        separate = call.exchange.separate
        continuations = (*separate, *((message,) for message in choices))
        looked = await call.judge.look(conversation, continuations)
        if call.superseded:
            return Looked(), ()
        if new := self._noted.new(looked.found, conversation, choices):
            marks.show_noted(flow, new)
            await ctx.master.addons.trigger_event(hooks.UpdateHook([flow]))
        return looked, new

    async def health(self, judges: Judges, *, pending: Callable[[], int]) -> http.Response:
        """pending: calls that are not counted yet. The client may have all of its reply: the hook
        that ends a call comes after the last byte."""
        tracing = judges.tracing
        backlog = await asyncio.to_thread(tracing.backlog) if tracing else None
        judge = judges.current  # now: with one of before, a proxy may be ready and have no rules
        body = {
            "invariant": __version__,
            "pid": os.getpid(),
            "ready": judges.ready.is_set(),
            "rules": len(judge.guardrails) if judge else 0,
            "calls": self.counters.as_dict(),
            "pending": pending(),
            "traces": asdict(backlog) if backlog else None,
        }
        return http.Response.make(200, orjson.dumps(body), {"content-type": "application/json"})


def _record(call: Call, mutes: Mutes | None) -> None:
    """So that the person who sees the refusal can mute it by its request id."""
    if mutes is None or call.refused is None or call.exchange is None:
        return
    if call.refused.violations:
        mutes.record(
            call.request_id,
            call.phase,
            call.exchange.conversation,
            call.messages,
            call.refused.violations,
        )


def peer(client: Client) -> Peer:
    """The client's end of its connection."""
    name = client.peername or ("", 0)
    return name[0], name[1]


def _path(flow: http.HTTPFlow) -> str:
    """Without the query: some clients put keys there."""
    return printable(flow.request.path.split("?", 1)[0])
