"""Calls that are over -> traces, kept in the store of this machine."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mitmproxy import http

from .call import encoding
from .call.replies import may_be_large
from .call.state import Call
from .core import mask, whole
from .core.chat.form import chat_form
from .core.conversation import Message, Reply
from .core.errors import NotUnderstoodError
from .core.json_text import decode
from .core.located import in_content
from .core.printable import printable
from .core.trace import Effect, Finding, Status, Timing, Trace
from .core.verdict import Action, Violation, most_specific
from .traces.credentials import without_credentials
from .traces.redact import redact, settled
from .traces.shipping import HOLD_SECONDS, UPDATED, Shipping
from .traces.store import Backlog, Store, StoreError
from .traces.unjudged import without_secrets

logger = logging.getLogger(__name__)

TIDY_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class _Body:
    """What the messages of a call hold besides what is judged."""

    parameters: dict[str, Any]
    messages: tuple[Any, ...]
    beside: int = 0


class Tracing:
    """key: for placeholders. keeps_secrets: also what a trace was before they were masked."""

    def __init__(
        self, store: Store, shipping: Shipping, key: bytes, *, keeps_secrets: bool = False
    ) -> None:
        self._store = store
        self._shipping = shipping
        self._keeps_secrets = keeps_secrets
        self._placeholder = mask.placeholder_for(key)
        self._is_over = threading.Event()
        store.write_behind(shipping.wake)
        shipping.start()
        # A thread of its own that nobody waits for: asyncio waits for its threads at the end.
        threading.Thread(target=self._keep_tidy, name="invariant: tidy", daemon=True).start()

    async def keep(self, flow: http.HTTPFlow, call: Call, *, more: bool = False) -> Trace | None:
        """The trace as it was made, before secrets were masked in it. Never raises.

        more: log rules are still to look at it, and `add` will be called.
        A large one does not hold up the event loop; whoever waits for its call waits for it.
        """

        status = _status(call)

        def work() -> Trace:
            trace = _trace(flow, call, status)
            sinks = self._shipping.sinks(trace, call.explorer_key)
            kept = self._kept(trace)
            hold = HOLD_SECONDS if more else 0.0
            if call.kept:  # as it was when the proxy was told to end
                self._store.revise(kept, UPDATED, sinks, hold=hold if more else None)
            else:
                self._store.add(kept, sinks, hold=hold)
            return trace

        try:
            is_slow = status != "judged" or _is_large(flow)
            trace = await asyncio.to_thread(work) if is_slow else work()
        except Exception:  # the edge: a call that cannot be kept was judged all the same
            logger.exception("a trace could not be kept")
            return None
        call.kept = True
        return trace

    async def keep_unfinished(self, flow: http.HTTPFlow, call: Call) -> None:
        """As far as it came, for the proxy is about to end. What comes later takes its place."""
        if not call.kept:
            await self.keep(flow, call, more=True)

    async def add(
        self,
        trace: Trace,
        call: Call,
        new: Sequence[Violation] = (),
        found: Sequence[Violation] = (),
    ) -> None:
        """What log rules found, after the fact: for the first time in this conversation, and in
        all (a secret of an earlier turn is in this one, too). Never raises."""
        noted = replace(trace, findings=(*trace.findings, *_noted(new, call.messages)))
        also = tuple(_noted(found, call.messages))

        def work() -> None:
            sinks = self._shipping.sinks(noted, call.explorer_key)
            self._store.revise(self._kept(noted, also), UPDATED, sinks)

        try:
            if found:
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


def trace_of(flow: http.HTTPFlow, call: Call) -> Trace:
    """A call as it would be kept, with the secrets in it: to be shown to whoever sees the flow."""
    return _trace(flow, call, _status(call))


def _is_large(flow: http.HTTPFlow) -> bool:
    messages = [message for message in (flow.request, flow.response) if message is not None]
    size = sum(len(message.raw_content or b"") for message in messages)
    return size >= encoding.LARGE or any(map(may_be_large, messages))


def _trace(flow: http.HTTPFlow, call: Call, status: Status) -> Trace:
    asked = _asked(flow.request, call)
    completion = call.completion
    choices, finishes = call.dialect.said(completion, call.reply_so_far)
    delivered, withheld, withheld_calls = _delivered(call)
    ended = time.time()
    exchange = call.exchange
    return Trace(
        id=call.request_id,
        started=flow.request.timestamp_start,
        status=status,
        endpoint=call.dialect.name,
        model=exchange.model if exchange else "",
        stream=exchange.stream if exchange else False,
        parameters=asked.parameters,
        messages=asked.messages,
        beside=asked.beside,
        choices=choices,
        finishes=finishes,
        findings=tuple(_findings(call)),
        timing=Timing(
            total=(ended - flow.request.timestamp_start) * 1000,
            first=_first(flow, call),
            held=call.held * 1000,
            judged=call.judging * 1000,
            checks=call.checks,
        ),
        reason="" if status == "judged" and flow.error is None else _reason(flow, call),
        http_status=flow.response.status_code if flow.response else None,
        response_id=str(completion.get("id") or ""),
        usage=completion["usage"] if isinstance(completion.get("usage"), dict) else {},
        delivered=delivered,
        withheld=withheld,
        dataset=_dataset(call),
        client=call.client,
        withheld_calls=withheld_calls,
    )


def _dataset(call: Call) -> str:
    if call.judge is None or call.settings is None:
        return ""
    named, settings = call.judge.caller.dataset or "", call.settings
    # What is the owner's own goes where he wants it.
    return settings.push_dataset if named == settings.dataset and settings.push_dataset else named


def _status(call: Call) -> Status:
    if call.refused is not None:
        return "blocked" if call.refused.violations else "error"
    if call.unjudged is not None:
        return "not scanned"
    return "judged" if call.judged and call.closed and not call.unread else "partial"


def _reason(flow: http.HTTPFlow, call: Call) -> str:
    if call.unjudged or call.refused:
        return call.unjudged or (call.refused.reason if call.refused else "")
    if flow.error is not None:
        return f"ended too soon: {printable(flow.error.msg)}"
    return f"cannot be read: {call.unread}" if call.judged and call.unread else ""


def _asked(request: http.Request, call: Call) -> _Body:
    """The request as it went upstream, or would have gone."""
    dialect = call.dialect
    if dialect.is_plain:
        messages = call.asked.messages if call.asked else ()
        requests = len(call.exchange.separate) if call.exchange else 0
        parameters = {"requests_in_files": requests} if requests else {}
        return _Body(parameters, tuple(chat_form(message) for message in messages))
    try:
        header = request.headers.get("content-encoding", "")
        body = decode(encoding.decode(request.raw_content or b"", header).decode())
    except (NotUnderstoodError, UnicodeDecodeError):
        return _Body({}, ())
    if not isinstance(body, dict):
        return _Body({}, ())
    parameters, shown = dialect.shown(body)
    asked = call.asked
    if asked is not None and asked.unsent:  # addresses count what OpenAI keeps, too
        turns = asked.messages[: len(asked.messages) - asked.beside]
        shown = tuple(chat_form(message) for message in turns)
    # What addresses count, and the messages do not hold: it is in the parameters.
    rest = max(0, len(asked.messages) - len(shown)) if asked else 0
    return _Body(parameters, shown, rest)


def _first(flow: http.HTTPFlow, call: Call) -> float | None:
    if call.guard is None or call.guard.first_at is None:
        return None
    return (call.guard.first_at - flow.request.timestamp_start) * 1000


def _delivered(call: Call) -> tuple[int, int, int]:
    """Characters of the reply that the client got, and of those that it did not get; and how many
    of its tool calls it did not get."""
    reply = call.reply_so_far
    if reply is None:
        return 0, 0, 0
    total, calls = _length(reply), _calls(reply)
    if call.refused is None:
        return total, 0, 0
    if call.guard is None:
        return 0, total, calls
    try:
        got = whole.read_stream(call.guard.delivered, call.dialect)
        sent, sent_calls = min(_length(got), total), min(_calls(got), calls)
    except NotUnderstoodError:
        sent = sent_calls = 0
    return sent, total - sent, calls - sent_calls


def _length(reply: Reply) -> int:
    return sum(len(message.text) for message in reply.turns)


def _calls(reply: Reply) -> int:
    return sum(len(message.tool_calls) for message in reply.turns)


def _findings(call: Call) -> Iterable[Finding]:
    messages = call.messages
    if call.refused is not None:
        yield from (_finding(v, "blocked", messages) for v in call.refused.violations)
    yield from (_finding(v, "masked", messages) for v in call.masked)
    for v in call.muted:  # a secret that is found by a rule on trial is a secret all the same
        is_on_trial = v.guardrail.action is Action.SHADOW
        yield _finding(v, "shadow" if is_on_trial else "muted", messages)


def _noted(found: Iterable[Violation], messages: Sequence[Message]) -> Iterable[Finding]:
    for violation in found:
        is_shadow = violation.guardrail.action is Action.SHADOW
        yield _finding(violation, "shadow" if is_shadow else "noted", messages)


def _finding(violation: Violation, effect: Effect, messages: Sequence[Message]) -> Finding:
    guardrail = violation.guardrail
    told = {
        "id": guardrail.id,
        "name": guardrail.name,
        "action": guardrail.action.value,
        "source": guardrail.source,
    }
    addresses = dict.fromkeys(
        in_content(messages[a.message], a) if 0 <= a.message < len(messages) else a
        for a in violation.addresses
    )
    return Finding(told, violation.message, effect, most_specific(tuple(addresses)))
