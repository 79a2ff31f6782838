"""What people see of calls in mitmweb, mitmproxy and mitmdump: a view of the merged conversation
with the findings marked in place, and commands."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from mitmproxy import command, contentviews, ctx, exceptions, hooks, http
from mitmproxy.addonmanager import Loader
from mitmproxy.flow import Flow
from mitmproxy.log import ALERT

from .addon import Guardrails
from .background import in_background
from .call import encoding
from .call.as_trace import status_of, trace_of
from .call.state import Call
from .core import whole
from .core.conversation import Message
from .core.dialects import CHAT, DIALECTS, Dialect, Said
from .core.endpoints import find
from .core.errors import NotUnderstoodError
from .core.json_text import decode
from .core.located import in_content
from .core.refusal import summary, whereabouts
from .core.trace import Finding, Trace
from .core.verdict import most_specific
from .reports import marks
from .traces import shown
from .traces.counted import settled

logger = logging.getLogger(__name__)

MOST_BYTES = 4 * 2**20
"""Of a body: mitmproxy draws on its event loop."""
PRIORITY = 2.0
"""mitmproxy's own views have 1 at most."""

type FindCall = Callable[[http.HTTPFlow], Call | None]


class _Paint(shown.Paint):
    def mark(self, text: str, rules: Iterable[str]) -> str:
        return f"⟦{text}⟧ [{', '.join(rules)}]"


class InvariantContentview(contentviews.Contentview):
    """Of guarded flows alone. call_of: the call that a flow is, if it is known."""

    def __init__(self, call_of: FindCall) -> None:
        self._call_of = call_of

    @property
    def name(self) -> str:
        return "Invariant"

    @property
    def syntax_highlight(self) -> contentviews.SyntaxHighlight:
        return "none"

    def render_priority(self, data: bytes, metadata: contentviews.Metadata) -> float:
        flow = metadata.flow
        if not isinstance(flow, http.HTTPFlow) or len(data) > MOST_BYTES:
            return -1
        return PRIORITY if _is_told(flow) or self._call_of(flow) is not None else -1

    def prettify(self, data: bytes, metadata: contentviews.Metadata) -> str:
        flow = metadata.flow
        if not isinstance(flow, http.HTTPFlow):
            raise ValueError("not a call")
        call = self._call_of(flow)
        trace = _known(flow, call) if call is not None else _recorded(flow)
        found = marks.findings(flow)
        if call is not None:
            found = tuple(_in_content(each, call.messages) for each in found)
        trace = settled(replace(trace, findings=found))
        is_request = metadata.http_message is flow.request
        return "\n".join(_request(trace) if is_request else _response(trace, flow, data))


def _in_content(finding: Finding, messages: Sequence[Message]) -> Finding:
    """What was found in a message's parts put together, as a place in what is shown of it."""
    places = dict.fromkeys(
        in_content(messages[a.message], a) if 0 <= a.message < len(messages) else a
        for a in finding.addresses
    )
    return replace(finding, addresses=most_specific(tuple(places)))


def _request(trace: Trace) -> Iterator[str]:
    yield from shown.head(trace, _Paint())
    yield from shown.asked(trace, _Paint())


def _response(trace: Trace, flow: http.HTTPFlow, data: bytes) -> Iterator[str]:
    yield from shown.head(trace, _Paint())
    yield from shown.answered(trace, _Paint())
    if flow.response is not None and "x-invariant-request-id" in flow.response.headers:
        yield ""
        yield "── what the client got instead"
        yield from (shown.INDENT + line for line in shown.text_of(_words(data)).split("\n"))


def _words(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _known(flow: http.HTTPFlow, call: Call) -> Trace:
    trace = trace_of(flow, call, status_of(call))
    if not call.closed:
        return replace(trace, status="partial", reason="it is not over yet")
    return replace(trace, timing=replace(trace.timing, total=_took(flow)))


def _took(flow: http.HTTPFlow) -> float:
    end = flow.response.timestamp_end if flow.response else None
    return 1000 * ((end or flow.request.timestamp_start) - flow.request.timestamp_start)


def _recorded(flow: http.HTTPFlow) -> Trace:
    """The trace of a flow that was read from a file, as far as the flow tells."""
    told = flow.metadata.get("invariant")
    told = told if isinstance(told, dict) else {}
    asked = _body(flow.request)
    dialect = DIALECTS.get(find(flow.request.method, flow.request.path), CHAT)
    _, messages = dialect.shown(dict(asked))
    choices, finishes = _said(flow, dialect)
    return Trace(
        id=str(told.get("request_id", "")),
        started=flow.request.timestamp_start,
        status=told.get("status", "partial"),
        endpoint=dialect.name,
        model=str(asked.get("model", "")),
        stream=asked.get("stream") is True,
        parameters={},
        messages=messages,
        beside=_beside(flow.request, dialect, len(messages)),
        choices=choices,
        finishes=finishes,
        reason=str(told.get("reason", "")),
        http_status=flow.response.status_code if flow.response else None,
    )


def _beside(request: http.Request, dialect: Dialect, shown_messages: int) -> int:
    """How many messages addresses count between those that are shown and the reply."""
    try:
        header = request.headers.get("content-encoding", "")
        asked = dialect.parse_request(encoding.decode(request.raw_content or b"", header))
    except NotUnderstoodError:
        return 0
    return max(0, len(asked.conversation.messages) - shown_messages)


def _body(message: http.Message) -> dict[str, Any]:
    try:
        header = message.headers.get("content-encoding", "")
        body = decode(encoding.decode(message.raw_content or b"", header))
    except NotUnderstoodError:
        return {}
    return body if isinstance(body, dict) else {}


def _said(flow: http.HTTPFlow, dialect: Dialect) -> Said:
    response = flow.response
    if response is None or response.raw_content is None:
        return (), ()
    try:
        body = encoding.decode(response.raw_content, response.headers.get("content-encoding", ""))
        return dialect.said(whole.completion(body, dialect), whole.read_reply(body, dialect))
    except NotUnderstoodError:
        return (), ()


class Views:
    """The addon: the view, and commands for mitmproxy's and mitmweb's prompt."""

    def load(self, loader: Loader) -> None:
        contentviews.add(InvariantContentview(_call_of))

    @command.command("invariant.status")  # type: ignore[untyped-decorator]  # mitmproxy's
    def status(self) -> Sequence[str]:
        """Say what was judged so far, and by which rules."""
        guardrails = _guardrails()
        counts = guardrails.reports.counters.as_dict()
        judge = guardrails.judge
        rules = judge.guardrails if judge else ()
        counted = (f"{count} {name.replace('_', ' ')}" for name, count in counts.items())
        lines = [f"calls: {', '.join(counted)}"]
        lines += [f"{rule.action.value}: {rule.name} ({rule.source})" for rule in rules]
        if judge is None:
            lines.append("the engine is not ready")
        return lines

    @command.command("invariant.findings")  # type: ignore[untyped-decorator]  # mitmproxy's
    def findings(self, flows: Sequence[Flow]) -> Sequence[str]:
        """Say what rules found in these flows, and where."""
        lines: list[str] = []
        for flow in flows:
            if not isinstance(flow, http.HTTPFlow):
                continue
            trace = replace(_recorded(flow), findings=marks.findings(flow))
            path = flow.request.path.split("?", 1)[0]
            about = flow.comment or "nothing was found"
            lines.append(f"{flow.request.method} {path}: {shown.line(about)}")
            found = [*shown.head(trace, _Paint())]
            lines += found[len(found) - len(trace.findings) :] if trace.findings else []
        return lines

    @command.command("invariant.recheck")  # type: ignore[untyped-decorator]  # mitmproxy's
    def recheck(self, flows: Sequence[Flow]) -> None:
        """Judge these flows by the rules as they are now. What was answered stays as it was."""
        guardrails = _guardrails()
        calls = [f for f in flows if isinstance(f, http.HTTPFlow) and _is_guarded(f)]
        if not calls:
            raise exceptions.CommandError("none of these is a call that is judged")
        in_background(_recheck(guardrails, calls), "recheck")


def _guardrails() -> Guardrails:
    found = ctx.master.addons.get("guardrails")
    if not isinstance(found, Guardrails):
        raise exceptions.CommandError("invariant is not loaded")
    return found


def _call_of(flow: http.HTTPFlow) -> Call | None:
    found = ctx.master.addons.get("guardrails")
    return found.calls.get(flow) if isinstance(found, Guardrails) else None


def _is_guarded(flow: http.HTTPFlow) -> bool:
    return find(flow.request.method, flow.request.path) in DIALECTS and _is_told(flow)


def _is_told(flow: http.HTTPFlow) -> bool:
    told = flow.metadata.get("invariant")
    return isinstance(told, dict) and "request_id" in told


async def _recheck(guardrails: Guardrails, flows: Sequence[http.HTTPFlow]) -> None:
    for number, flow in enumerate(flows, 1):
        recorded = _as_recorded(flow, guardrails.calls.get(flow))
        call = await guardrails.calls.judge_recorded(recorded, flow)
        outcome = _outcome(call)
        stamp = time.strftime("%H:%M:%S")
        kept = [part for part in flow.comment.split("; ") if not part.startswith("rechecked ")]
        flow.comment = "; ".join([*filter(None, kept), f"rechecked {stamp}: {outcome}"])
        of = f" ({number} of {len(flows)})" if len(flows) > 1 else ""
        logger.log(ALERT, "rechecked %s%s: %s", flow.request.path.split("?", 1)[0], of, outcome)
        await ctx.master.addons.trigger_event(hooks.UpdateHook([flow]))


def _outcome(call: Call) -> str:
    if call.refused is not None:
        where = whereabouts(call.refused.violations, call.messages)
        return f"the {call.phase} would be blocked: {summary(call.refused)}{where}"
    if call.unjudged is not None:
        return f"not scanned: {call.unjudged}"
    masked = f"; would be masked: {marks.words(call.masked)}" if call.masked else ""
    return f"would pass{masked}"


def _as_recorded(flow: http.HTTPFlow, call: Call | None) -> http.HTTPFlow:
    """A copy with upstream's own reply, where ours took its place."""
    copy: http.HTTPFlow = flow.copy()
    if copy.response is not None and "x-invariant-request-id" in copy.response.headers:
        body = _upstream(call) if call is not None else None
        copy.response = None if body is None else http.Response.make(200, body)
    return copy


def _upstream(call: Call) -> bytes | None:
    return call.upstream if call.guard is None else call.guard.raw
