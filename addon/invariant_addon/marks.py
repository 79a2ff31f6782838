"""What a flow tells the person who looks at it: mark, comment, metadata. Plain data only."""

from __future__ import annotations

from collections.abc import Iterable

from mitmproxy import http

from .core.refusal import summary
from .core.verdict import Action, Violation
from .guard import Call

BLOCKED = ":no_entry:"
NOT_SCANNED = ":warning:"
NOTED = ":eyes:"
WOULD_BLOCK = ":construction:"
CHANGED = ":speech_balloon:"


def clear(flow: http.HTTPFlow) -> None:
    """Take away what was said here about a recorded flow; what somebody else said stays."""
    if flow.metadata.pop("invariant", None) is not None:
        flow.marked = flow.comment = ""


def not_open(flow: http.HTTPFlow) -> None:
    flow.marked = BLOCKED
    flow.comment = "blocked: another protocol than HTTP"
    flow.metadata["invariant"] = {"status": "blocked", "reason": flow.comment}


def not_scanned(flow: http.HTTPFlow, reason: str) -> None:
    flow.marked = NOT_SCANNED
    flow.comment = f"not scanned: {reason}"
    flow.metadata["invariant"] = {"status": "not scanned", "reason": reason}


def show_noted(flow: http.HTTPFlow, found: tuple[Violation, ...]) -> None:
    """Mark what a log or a shadow rule found; a stronger mark stays."""
    shadow = [v for v in found if v.guardrail.action is Action.SHADOW]
    noted = [v for v in found if v.guardrail.action is not Action.SHADOW]
    flow.marked = flow.marked or (WOULD_BLOCK if shadow else NOTED)
    if shadow:
        _add(flow, f"would have been blocked: {words(shadow)}")
    if noted:
        _add(flow, f"noted: {words(noted)}")
    known = flow.metadata.get("invariant", {})
    flow.metadata["invariant"] = {**known, "noted": _names(noted), "shadow": _names(shadow)}


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
        flow.marked = flow.marked or (CHANGED if call.masked or call.muted else "")
    if call.masked:
        _add(flow, f"masked: {words(call.masked)}")
    if call.muted:
        _add(flow, f"muted: {words(call.muted)}")
    flow.metadata["invariant"] = {
        "status": status,
        "request_id": call.request_id,
        "phase": call.phase,
        "reason": call.unjudged or (summary(call.refused) if call.refused else ""),
        "guardrails": _names(call.refused.violations if call.refused else ()),
        "masked": _names(call.masked),
        "muted": _names(call.muted),
    }


def words(found: Iterable[Violation]) -> str:
    """The rules' own words, each once, on one line."""
    return "; ".join(dict.fromkeys(" ".join(v.message.split()) for v in found))


def _names(found: Iterable[Violation]) -> list[str]:
    return sorted({violation.guardrail.name for violation in found})


def _add(flow: http.HTTPFlow, what: str) -> None:
    flow.comment = "; ".join(part for part in (flow.comment, what) if part)
