"""What a flow tells the person who looks at it: mark, comment, metadata. Plain data only."""

from __future__ import annotations

from mitmproxy import http

from .core.refusal import summary
from .core.verdict import Violation
from .guard import Call

BLOCKED = ":no_entry:"
NOT_SCANNED = ":warning:"
NOTED = ":eyes:"


def not_scanned(flow: http.HTTPFlow, reason: str) -> None:
    flow.marked = NOT_SCANNED
    flow.comment = f"not scanned: {reason}"
    flow.metadata["invariant"] = {"status": "not scanned", "reason": reason}


def show_noted(flow: http.HTTPFlow, found: tuple[Violation, ...]) -> None:
    """Mark what a log rule found; a stronger mark stays."""
    said = "; ".join(dict.fromkeys(" ".join(v.message.split()) for v in found))
    flow.marked = flow.marked or NOTED
    flow.comment = "; ".join(part for part in (flow.comment, f"noted: {said}") if part)
    names = sorted({violation.guardrail.name for violation in found})
    flow.metadata["invariant"] = {**flow.metadata.get("invariant", {}), "noted": names}


def show(flow: http.HTTPFlow, call: Call) -> None:
    """Mark the flow with how its call ended."""
    if call.refused is not None:
        flow.marked = BLOCKED
        flow.comment = f"{call.phase} blocked: {summary(call.refused)}"
        status = "blocked"
    elif call.unjudged is not None:
        not_scanned(flow, call.unjudged)
        status = "not scanned"
    else:
        status = "judged" if call.judged else "open"
    flow.metadata["invariant"] = {
        "status": status,
        "request_id": call.request_id,
        "phase": call.phase,
        "reason": call.unjudged or (summary(call.refused) if call.refused else ""),
        "guardrails": sorted({v.guardrail.name for v in call.refused.violations})
        if call.refused
        else [],
    }
