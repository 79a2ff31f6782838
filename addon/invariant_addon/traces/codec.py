"""A trace to JSON bytes, and back.

What is as its default is left out. orjson writes what it can. Lone surrogates, integers beyond 64
bits, NaN and deep nesting are written by the standard library, which marks the text, for orjson
would read it differently: an object whose first key is `python` is read by the standard library.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

import orjson

from ..core.errors import InvariantError
from ..core.trace import Finding, Json, Timing, Trace
from ..core.verdict import Address

_PYTHON = b'{"python":1,'
_TIMING = tuple(field.name for field in fields(Timing))
_DEFAULTS = {field.name: field.default for field in fields(Trace)}


class CodecError(InvariantError):
    """A trace that JSON cannot say, or bytes that are no trace. Quotes neither."""


def write(trace: Trace) -> bytes:
    """Raises CodecError for what was never JSON: a set, a key that is no string."""
    return write_json(_outline(trace))


def complete(begun: bytes, timing: Timing, client: str) -> bytes:
    """begun: what `write` made of a trace without these. Raises CodecError."""
    rest = {"timing": _timing_outline(timing), "client": client}
    try:
        tail = json.dumps(rest).encode() if is_ascii(begun) else orjson.dumps(rest)
    except TypeError as error:  # a lone surrogate
        raise CodecError(f"not JSON ({type(error).__name__})") from None
    return b"%b,%b" % (begun[:-1], tail[1:])


def read(data: bytes) -> Trace:
    """The trace in what `write` wrote; fields that this version does not know are left out.

    Raises CodecError.
    """
    try:
        value = json.loads(data) if is_ascii(data) else orjson.loads(data)
        return _trace(value)
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise CodecError(f"not a trace ({type(error).__name__})") from None


def is_ascii(data: bytes) -> bool:
    """Whether all letters beyond ASCII are written as escapes in it."""
    return data.startswith(_PYTHON)


def write_json(value: Mapping[str, Json]) -> bytes:
    """A JSON object, marked if orjson would not read it alike. Raises CodecError."""
    try:
        data = orjson.dumps(value, default=_plain)
        # orjson writes NaN as null; so only where there is a null somebody has to look.
        if b"null" not in data or not _has_nan(value):
            return data
    except TypeError:  # a lone surrogate, an integer over 64 bits, more than 254 levels
        pass
    try:
        text = json.dumps({"python": 1, **value}, separators=(",", ":"), default=_plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise CodecError(f"not JSON ({type(error).__name__})") from None
    return text.encode("ascii")


def _outline(trace: Trace) -> dict[str, Json]:
    outline: dict[str, Json] = {}
    for name, default in _DEFAULTS.items():
        value = getattr(trace, name)
        if default is MISSING or value != default:
            outline[name] = value
    if not trace.usage:
        del outline["usage"]
    if trace.original is not None:
        outline["original"] = _outline(trace.original)
    if trace.findings:
        outline["findings"] = [_finding_outline(finding) for finding in trace.findings]
    if "timing" in outline:
        outline["timing"] = _timing_outline(trace.timing)
    return outline


def _timing_outline(timing: Timing) -> dict[str, Json]:
    # Not asdict: this is for each trace, and that copies deeply.
    return {name: getattr(timing, name) for name in _TIMING}


def _finding_outline(finding: Finding) -> dict[str, Json]:
    return {
        "guardrail": finding.guardrail,
        "words": finding.words,
        "effect": finding.effect,
        "addresses": [[a.message, a.path, a.start, a.end] for a in finding.addresses],
    }


def _trace(value: dict[str, Any]) -> Trace:
    known = {name: value[name] for name in _DEFAULTS if name in value}
    for name in ("messages", "choices", "finishes"):
        known[name] = tuple(known.get(name, ()))
    known["findings"] = tuple(_finding(item) for item in known.get("findings", ()))
    if "timing" in known:
        timing = known["timing"]
        known["timing"] = Timing(**{name: timing[name] for name in _TIMING})
    if (original := known.get("original")) is not None:
        known["original"] = _trace(original)
    return Trace(**known)


def _finding(value: dict[str, Any]) -> Finding:
    return Finding(
        value["guardrail"],
        value["words"],
        value["effect"],
        tuple(Address(*address) for address in value["addresses"]),
    )


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError


def _has_nan(value: Json) -> bool:
    """No recursion: the nesting is the sender's choice. Made for speed: this is for each trace."""
    todo = [value]
    while todo:
        item = todo.pop()
        kind = type(item)
        if kind is dict:
            todo += item.values()
        elif kind is list or kind is tuple:
            todo += item
        elif kind is float:
            if not math.isfinite(item):
                return True
        elif kind is not str and isinstance(item, Mapping):
            todo += item.values()
    return False
