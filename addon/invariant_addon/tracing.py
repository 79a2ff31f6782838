"""Calls that are over -> traces, kept in the store of this machine."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence
from dataclasses import replace
from weakref import WeakKeyDictionary

from mitmproxy import http

from .call import encoding
from .call.as_trace import noted, status_of, trace_of
from .call.replies import may_be_large
from .call.state import Call
from .core import mask
from .core.trace import Finding, Trace
from .core.verdict import Violation
from .drafts import Drafts
from .judge import Looked
from .traces.counted import settled
from .traces.credentials import without_credentials
from .traces.redact import redact
from .traces.shipping import HOLD_SECONDS, UPDATED, Shipping
from .traces.store import Backlog, Store, StoreError
from .traces.unjudged import without_secrets

logger = logging.getLogger(__name__)

TIDY_SECONDS = 10.0


class Tracing:
    """key: for placeholders. keeps_secrets: also what a trace was before they were masked."""

    def __init__(
        self, store: Store, shipping: Shipping, key: bytes, *, keeps_secrets: bool = False
    ) -> None:
        self._store = store
        self._shipping = shipping
        self._keeps_secrets = keeps_secrets
        self._placeholder = mask.placeholder_for(key)
        self._drafts = Drafts(self._kept)
        self._unfinished: WeakKeyDictionary[Call, asyncio.Event] = WeakKeyDictionary()
        self._is_over = threading.Event()
        store.write_behind(shipping.wake)
        shipping.start()
        # A thread of its own that nobody waits for: asyncio waits for its threads at the end.
        threading.Thread(target=self._keep_tidy, name="invariant: tidy", daemon=True).start()

    def draft(self, flow: http.HTTPFlow, call: Call) -> None:
        """Its reply is being judged: make its trace meanwhile. Never raises."""
        if not call.kept and not _is_large(flow):
            self._drafts.begin(flow, call)

    async def keep(self, flow: http.HTTPFlow, call: Call, *, more: bool = False) -> Trace | None:
        """Never raises.

        more: log rules are still to look at it, and `add` will be called with what this returns:
        the trace as it was made, before secrets were masked in it; None if it could not be kept.
        A large one does not hold up the event loop; whoever waits for its call waits for it.
        """
        if (unfinished := self._unfinished.get(call)) is not None:
            await unfinished.wait()  # or that would be the last word on it
        return await self._keep(flow, call, more=more)

    async def keep_unfinished(self, flow: http.HTTPFlow, call: Call) -> None:
        """As far as it came, for the proxy is about to end. What comes later takes its place."""
        if call.kept:
            return
        done = self._unfinished[call] = asyncio.Event()
        try:
            await self._keep(flow, call, more=True)
        finally:
            done.set()

    async def _keep(self, flow: http.HTTPFlow, call: Call, *, more: bool) -> Trace | None:
        hold = HOLD_SECONDS if more else 0.0
        status = status_of(call)

        def work() -> Trace:
            trace = trace_of(flow, call, status)
            sinks = self._shipping.sinks(trace, call.explorer_key)
            kept = self._kept(trace)
            if call.kept:  # as it was when the proxy was told to end
                self._store.revise(kept, UPDATED, sinks, hold=hold if more else None)
            else:
                self._store.add(kept, sinks, hold=hold)
            return trace

        try:
            if not call.kept and (done := self._drafts.finish(flow, call)) is not None:
                sinks = self._shipping.sinks(done.draft, call.explorer_key)
                self._store.add_written(done.draft.id, done.body, sinks, hold=hold)
                trace = done.trace if more else done.draft
            else:
                is_slow = status != "judged" or _is_large(flow)
                trace = await asyncio.to_thread(work) if is_slow else work()
        except Exception:  # the edge: a call that cannot be kept was judged all the same
            logger.exception("a trace could not be kept")
            return None
        call.kept = True
        return trace

    async def add(
        self,
        trace: Trace,
        call: Call,
        new: Sequence[Violation],
        looked: Looked,
    ) -> None:
        """What log rules found, after the fact: for the first time in this conversation, and in
        all (a secret of an earlier turn is in this one, too). Never raises."""
        completed = replace(trace, findings=(*trace.findings, *noted(new, call.messages)))
        if looked.failure and trace.status == "judged":
            reason = f"log rules gave no verdict: {looked.failure}"
            completed = replace(completed, status="partial", reason=reason)
        also = tuple(noted(looked.found, call.messages))

        def work() -> None:
            sinks = self._shipping.sinks(completed, call.explorer_key)
            kept = self._kept(completed, also)
            if not call.superseded:  # by now
                self._store.revise(kept, UPDATED, sinks)

        try:
            if looked.found or looked.failure:
                await asyncio.to_thread(work)  # nobody waits for it
            else:
                self._store.release(trace.id)  # a thread would cost more than this does
        except Exception:  # the edge, as above
            logger.exception("a trace could not be completed")

    def _kept(self, trace: Trace, also: Sequence[Finding] = ()) -> Trace:
        """Without the secrets in it: what rules found, and where they did not see all, the rest."""
        bare = without_credentials(trace, self._placeholder)
        masked = redact(bare, self._placeholder, also=also)
        if trace.status != "judged":
            masked = without_secrets(masked, self._placeholder)
        if self._keeps_secrets and masked != (original := settled(bare)):
            return replace(masked, original=original)
        return masked

    def backlog(self) -> Backlog | None:
        """What is still to be sent, and how the store fares; None if it cannot be read."""
        try:
            return self._store.backlog()
        except StoreError:
            return None

    def close(self, grace: float) -> None:
        """What can be sent within so many seconds is sent; the rest is when the proxy starts again.
        A late hook may still keep its trace."""
        self._is_over.set()
        self._store.settle()
        self._shipping.stop(grace)
        self._store.close()

    def _keep_tidy(self) -> None:
        """Prune and pack, for as long as the proxy runs."""
        while not self._is_over.wait(TIDY_SECONDS):
            try:
                while self._store.tidy() and not self._is_over.is_set():
                    pass
            except Exception:  # the edge: the next time may fare better
                logger.exception("the traces could not be tidied up")


def _is_large(flow: http.HTTPFlow) -> bool:
    messages = [message for message in (flow.request, flow.response) if message is not None]
    size = sum(len(message.raw_content or b"") for message in messages)
    return size >= encoding.LARGE or any(map(may_be_large, messages))
