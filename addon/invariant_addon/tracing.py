"""Calls that are over -> traces, kept in the store of this machine."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mitmproxy import http

from . import encoding
from .core import mask, whole
from .core.chat_form import chat_form
from .core.conversation import Conversation, Reply
from .core.dialects import Dialect
from .core.errors import NotUnderstoodError
from .core.json_text import decode
from .core.trace import Effect, Finding, Status, Timing, Trace
from .core.verdict import Action, Violation, most_specific
from .guard import Call
from .traces.redact import redact
from .traces.store import Store

logger = logging.getLogger(__name__)

TIDY_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class _Body:
    """What the messages of a call hold besides what is judged."""

    parameters: dict[str, Any]
    messages: tuple[Any, ...]


class Tracing:
    """key: for placeholders, and for the hash by which the turns of a conversation are known."""

    def __init__(self, store: Store, key: bytes) -> None:
        self._store = store
        self._placeholder = mask.placeholder_for(key)

    async def keep(self, flow: http.HTTPFlow, call: Call) -> Trace | None:
        """The trace as it was made, before secrets were masked in it. Never raises.

        A large one does not hold up the event loop; whoever waits for its call waits for it.
        """

        def work() -> Trace:
            trace = _trace(flow, call)
            self._store.add(redact(trace, self._placeholder))
            return trace

        try:
            return await asyncio.to_thread(work) if _is_large(flow) else work()
        except Exception:  # the edge: a call that cannot be kept was judged all the same
            logger.exception("a trace could not be kept")
            return None

    async def add(
        self, trace: Trace, new: Sequence[Violation] = (), found: Sequence[Violation] = ()
    ) -> None:
        """What log rules found, after the fact: for the first time in this conversation, and in
        all (a secret of an earlier turn is in this one, too). Never raises."""
        try:
            if not found:
                return
            noted = replace(trace, findings=(*trace.findings, *_noted(new)))
            also = tuple(_noted(found))

            def work() -> None:
                self._store.revise(redact(noted, self._placeholder, also=also))

            await asyncio.to_thread(work)  # nobody waits for it
        except Exception:  # the edge, as above
            logger.exception("a trace could not be completed")

    async def keep_tidy(self) -> None:
        """Prune and pack, for as long as the proxy runs."""
        while True:
            await asyncio.sleep(TIDY_SECONDS)
            while await asyncio.to_thread(self._store.tidy):
                pass

    def close(self) -> None:
        self._store.close()


def _is_large(flow: http.HTTPFlow) -> bool:
    bodies = (flow.request.raw_content, flow.response.raw_content if flow.response else None)
    return sum(len(body or b"") for body in bodies) >= encoding.LARGE


def _trace(flow: http.HTTPFlow, call: Call) -> Trace:
    asked = _asked(flow.request, call.dialect, call.asked)
    completion = call.completion
    choices, finishes = call.dialect.said(completion, call.reply_so_far)
    delivered, withheld = _delivered(call)
    ended = time.time()
    exchange = call.exchange
    return Trace(
        id=call.request_id,
        started=flow.request.timestamp_start,
        status=_status(call),
        endpoint=call.dialect.name,
        model=exchange.model if exchange else "",
        stream=exchange.stream if exchange else False,
        parameters=asked.parameters,
        messages=asked.messages,
        choices=choices,
        finishes=finishes,
        findings=tuple(_findings(call)),
        timing=Timing(
            total=(ended - flow.request.timestamp_start) * 1000,
            first=_first(flow, call),
            judged=call.judging * 1000,
            checks=call.checks,
        ),
        reason=call.unjudged or (call.refused.reason if call.refused else ""),
        http_status=flow.response.status_code if flow.response else None,
        response_id=str(completion.get("id") or ""),
        usage=completion["usage"] if isinstance(completion.get("usage"), dict) else {},
        delivered=delivered,
        withheld=withheld,
        dataset=(call.judge.caller.dataset or "") if call.judge else "",
    )


def _status(call: Call) -> Status:
    if call.refused is not None:
        return "blocked" if call.refused.violations else "error"
    if call.unjudged is not None:
        return "not scanned"
    return "judged" if call.judged else "partial"


def _asked(request: http.Request, dialect: Dialect, asked: Conversation | None) -> _Body:
    """The request as it went upstream, or would have gone."""
    try:
        header = request.headers.get("content-encoding", "")
        body = decode(encoding.decode(request.raw_content or b"", header).decode())
    except (NotUnderstoodError, UnicodeDecodeError):
        return _Body({}, ())
    if not isinstance(body, dict):
        return _Body({}, ())
    if asked is not None and asked.unsent:  # addresses count what OpenAI keeps, too
        return _Body(dialect.shown(body)[0], tuple(map(chat_form, asked.messages)))
    return _Body(*dialect.shown(body))


def _first(flow: http.HTTPFlow, call: Call) -> float | None:
    if call.guard is None or call.guard.first_at is None:
        return None
    return (call.guard.first_at - flow.request.timestamp_start) * 1000


def _delivered(call: Call) -> tuple[int, int]:
    """Characters of the reply that the client got, and of those that it did not get."""
    reply = call.reply_so_far
    if reply is None:
        return 0, 0
    total = _length(reply)
    if call.refused is None:
        return total, 0
    if call.guard is None:
        return 0, total
    try:
        sent = min(_length(whole.read_stream(call.guard.delivered, call.dialect)), total)
    except NotUnderstoodError:
        sent = 0
    return sent, total - sent


def _length(reply: Reply) -> int:
    return sum(len(message.text) for message in reply.choices)


def _findings(call: Call) -> Iterable[Finding]:
    if call.refused is not None:
        yield from (_finding(v, "blocked") for v in call.refused.violations)
    # Where they were is not where their placeholders are.
    yield from (replace(_finding(v, "masked"), addresses=()) for v in call.masked)
    yield from (_finding(v, "muted") for v in call.muted)


def _noted(found: Iterable[Violation]) -> Iterable[Finding]:
    for violation in found:
        is_shadow = violation.guardrail.action is Action.SHADOW
        yield _finding(violation, "shadow" if is_shadow else "noted")


def _finding(violation: Violation, effect: Effect) -> Finding:
    guardrail = violation.guardrail
    told = {
        "id": guardrail.id,
        "name": guardrail.name,
        "action": guardrail.action.value,
        "source": guardrail.source,
    }
    return Finding(told, violation.message, effect, most_specific(violation.addresses))
