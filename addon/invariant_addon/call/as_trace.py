"""One call, as far as it came -> a trace, with the secrets in it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mitmproxy import http

from ..core import whole
from ..core.chat.form import chat_form
from ..core.conversation import Message, Reply
from ..core.errors import NotUnderstoodError
from ..core.json_text import decode
from ..core.located import in_content
from ..core.printable import printable
from ..core.trace import Effect, Finding, Status, Timing, Trace
from ..core.verdict import Action, Violation, most_specific
from . import encoding
from .state import Call


@dataclass(frozen=True, slots=True)
class _Body:
    """What the messages of a call hold besides what is judged."""

    parameters: dict[str, Any]
    messages: tuple[Any, ...]
    beside: int = 0


def trace_of(flow: http.HTTPFlow, call: Call, status: Status) -> Trace:
    """status: status_of this call."""
    asked = _asked(flow.request, call)
    completion = call.completion
    choices, finishes = call.dialect.said(completion, call.reply_so_far)
    delivered, withheld, withheld_calls = _delivered(call)
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
        timing=timing_of(flow, call),
        reason="" if status == "judged" else _reason(flow, call),
        http_status=flow.response.status_code if flow.response else None,
        response_id=str(completion.get("id") or ""),
        usage=completion["usage"] if isinstance(completion.get("usage"), dict) else {},
        delivered=delivered,
        withheld=withheld,
        dataset=_dataset(call),
        client=call.client,
        withheld_calls=withheld_calls,
    )


def timing_of(flow: http.HTTPFlow, call: Call) -> Timing:
    """As it is now."""
    return Timing(
        total=(time.time() - flow.request.timestamp_start) * 1000,
        first=_first(flow, call),
        held=call.held * 1000,
        judged=call.judging * 1000,
        checks=call.checks,
    )


def _dataset(call: Call) -> str:
    if call.judge is None or call.settings is None:
        return ""
    named, settings = call.judge.caller.dataset or "", call.settings
    # What is the owner's own goes where he wants it.
    return settings.push_dataset if named == settings.dataset and settings.push_dataset else named


def status_of(call: Call) -> Status:
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


def noted(found: Iterable[Violation], messages: Sequence[Message]) -> Iterable[Finding]:
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
