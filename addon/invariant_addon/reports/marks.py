"""What a flow tells the person who looks at it: mark, comment, metadata. Plain data only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, get_args

from mitmproxy import http

from ..call.state import Call
from ..core.refusal import summary
from ..core.trace import Effect, Finding
from ..core.verdict import Action, Address, Violation, most_specific

BLOCKED = ":no_entry:"
NOT_SCANNED = ":warning:"
NOTED = ":eyes:"
WOULD_BLOCK = ":construction:"
CHANGED = ":speech_balloon:"

_GUARDRAIL = ("id", "name", "action", "source")
_EFFECTS: Mapping[str, Effect] = {effect: effect for effect in get_args(Effect)}
_MOST = 50
"""Findings of a flow, and places of one, that are told."""


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
    flow.comment = _safe(f"not scanned: {reason}")
    flow.metadata["invariant"] = {
        "status": "not scanned",
        "coverage": "not scanned",
        "reason": _safe(reason),
    }


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
    flow.metadata["invariant"] = {
        **known,
        "noted": _names(noted),
        "shadow": _names(shadow),
        "findings": [*known.get("findings", ()), *_told(shadow, "shadow"), *_told(noted, "noted")],
    }


def show(flow: http.HTTPFlow, call: Call) -> None:
    """Mark the flow with how its call ended."""
    if call.refused is not None:
        flow.marked = BLOCKED
        flow.comment = _safe(f"{call.phase} blocked: {summary(call.refused)}")
        status = "blocked"
    elif call.unjudged is not None:
        not_scanned(flow, call.unjudged)
        status = "not scanned"
    else:
        judged = "nothing to judge" if call.is_harmless else "judged"
        status = judged if call.judged else "open"
        if call.judged and call.unread:
            _add(flow, f"judged in part: {call.unread} cannot be read")
        flow.marked = flow.marked or (CHANGED if call.masked or call.muted else "")
    if call.masked:
        _add(flow, f"masked: {words(call.masked)}")
    if call.muted:
        _add(flow, f"muted: {words(call.muted)}")
    flow.metadata["invariant"] = {
        "status": status,
        "request_id": call.request_id,
        "phase": call.phase,
        "coverage": coverage(call),
        "reason": _safe(call.unjudged or (summary(call.refused) if call.refused else "")),
        "guardrails": _names(call.refused.violations if call.refused else ()),
        "masked": _names(call.masked),
        "muted": _names(call.muted),
        "findings": [
            *_told(call.refused.violations if call.refused else (), "blocked"),
            *_told(call.masked, "masked"),
            *_told(call.muted, "muted"),
        ],
    }


def coverage(call: Call) -> str:
    """How much of the call rules have seen."""
    if call.unjudged is not None or (call.refused and not call.refused.violations):
        return "not scanned"
    if call.refused is None and not call.judged:
        return "not scanned"
    return "partial" if call.unread else "scanned"


def findings(flow: http.HTTPFlow) -> tuple[Finding, ...]:
    """What was told of a flow, also of one that was recorded: read as if a stranger wrote it."""
    told = flow.metadata.get("invariant")
    listed = told.get("findings") if isinstance(told, dict) else None
    found = []
    for each in listed if isinstance(listed, list) else ():
        try:
            places = tuple(_address(*place) for place in each["places"])
            guardrail = {name: str(each[name]) for name in _GUARDRAIL}
            found.append(Finding(guardrail, str(each["words"]), _EFFECTS[each["effect"]], places))
        except (KeyError, TypeError, ValueError):
            continue
    return tuple(found)


def _address(message: object, path: object, start: object, end: object) -> Address:
    if not isinstance(message, int) or not isinstance(path, str):
        raise ValueError("not an address")
    if isinstance(start, int) and isinstance(end, int):
        return Address(message, path, start, end)
    return Address(message, path)


def _told(found: Iterable[Violation], effect: Effect) -> list[dict[str, Any]]:
    """Plain data: no text of the conversation, but for the keys of a call's arguments."""
    return [
        {
            "id": v.guardrail.id,
            "name": _safe(v.guardrail.name),
            "action": v.guardrail.action.value,
            "source": v.guardrail.source,
            "words": _safe(v.message),
            "effect": effect,
            "places": _places(v),
        }
        for v in [*found][:_MOST]
    ]


def _places(violation: Violation) -> list[list[Any]]:
    places = most_specific(violation.addresses)[:_MOST]
    return [[place.message, _safe(place.path), place.start, place.end] for place in places]


def _safe(text: str) -> str:
    """Half a character would cost the flow its place in a file."""
    return text.encode("utf-8", "replace").decode()


def words(found: Iterable[Violation]) -> str:
    """The rules' own words, each once, on one line."""
    return "; ".join(dict.fromkeys(" ".join(v.message.split()) for v in found))


def _names(found: Iterable[Violation]) -> list[str]:
    return sorted({_safe(violation.guardrail.name) for violation in found})


def _add(flow: http.HTTPFlow, what: str) -> None:
    flow.comment = "; ".join(part for part in (flow.comment, _safe(what)) if part)
