"""Our addresses -> those that an Explorer shows in the right place.

Its server takes any text; what counts is what its UI makes of it (tried, and read in its source,
app-ui/src/lib: annotations_parser.ts, traceview/highlights.ts and traceview.tsx):

- `messages.1.content:11-20`, in UTF-16 units. `messages.1.content` without a range breaks the
  whole page: it has to be `messages.1`. A range of a part list counts in each of its text parts.
- `messages.2.tool_calls.0.function.arguments.to:0-10` only for a string right below the
  arguments; `…arguments:8-14` only if they are a text; `…function.name:0-4`.
- `messages.3`, `messages.2.tool_calls.0`, `…arguments.to` mark the thing as a whole.
- `<root>` is a box above the trace.
- Of a text above 10,000 units the middle is not shown, and ranges behind that are off.

Where no range can be right the thing as a whole is marked.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..core.trace import Finding, Json
from ..core.verdict import Address, most_specific
from .explorer_messages import Segment, arguments_of, calls_of, segments, units

ROOT = "<root>"
_SHOWN_WHOLE = 10_000
_SHOWN_HEAD = _SHOWN_WHOLE // 2
_KEY = re.compile(r"[A-Za-z0-9_-]+")
# fmt: off
_NO_KEYS = frozenset({
    "__proto__", "__defineGetter__", "__defineSetter__", "__lookupGetter__", "__lookupSetter__",
    "constructor", "hasOwnProperty", "isPrototypeOf", "propertyIsEnumerable", "toLocaleString",
    "toString", "valueOf",
})
# fmt: on
"""Its UI looks keys up in plain objects, where these are there already."""


def addresses_of(finding: Finding, messages: Sequence[Json], *, is_sure: int) -> tuple[str, ...]:
    """Where the Explorer shows this finding: at least one place, none of them twice.

    messages: as they were before they were written for the Explorer. is_sure: in how many of them,
    from the first, a range means what it says; later ones are marked as a whole.
    """
    found: list[str] = []
    for address in most_specific(finding.addresses):
        if not 0 <= address.message < len(messages):
            found.append(ROOT)
        elif address.message >= is_sure:
            found.append(f"messages.{address.message}")
        else:
            found += _addresses(address, messages[address.message])
    kept = dict.fromkeys(found)
    return tuple(a for a in kept if not any(_is_below(b, a) for b in kept)) or (ROOT,)


def _addresses(address: Address, message: Json) -> list[str]:
    base = f"messages.{address.message}"
    head, _, rest = address.path.partition(".")
    if head == "content" and not rest:
        return _in_content(address, message) or [base]
    if head == "tool_calls":
        return [_in_call(address, base, rest.split("."), message)]
    return [base]


def _in_content(address: Address, message: Json) -> list[str]:
    start, end = address.start, address.end
    if start is None or end is None or not 0 <= start < end:
        return []
    parts = segments(message)
    if not parts or end > parts[-1].at + len(parts[-1].text):
        return []
    touched = [part for part in parts if part.at < end and start < part.at + len(part.text)]
    if any(part.place is None for part in touched):
        return []
    places = [place for part in touched if (place := _place(part, start, end))]
    ends = (part.place + units(part.text) for part in parts if part.place is not None)
    shown = max(ends, default=0)
    path = f"messages.{address.message}.content"
    return [_ranged(path, a, b) for a, b in _joined(places) if _is_shown(b, shown)]


def _place(part: Segment, start: int, end: int) -> tuple[int, int] | None:
    """What of this range is in the part."""
    if part.place is None:
        return None
    first, last = max(start - part.at, 0), min(end - part.at, len(part.text))
    if first >= last:
        return None
    begin = part.place + units(part.text[:first])
    return begin, begin + units(part.text[first:last])


def _joined(places: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges with only the line end of a part between them are one."""
    found: list[tuple[int, int]] = []
    for begin, end in places:
        if found and found[-1][1] + 1 == begin:
            found[-1] = (found[-1][0], end)
        else:
            found.append((begin, end))
    return found


def _in_call(address: Address, base: str, steps: list[str], message: Json) -> str:
    """steps: of the path, below the tool calls."""
    calls = calls_of(message)
    if not re.fullmatch("[0-9]{1,6}", steps[0]) or int(steps[0]) >= len(calls):
        return base
    call = calls[int(steps[0])]
    whole = f"{base}.tool_calls.{int(steps[0])}"
    if steps[1:] == ["function", "name"]:
        return _in_text(address, f"{whole}.function.name", call.name) or whole
    if steps[1:3] != ["function", "arguments"]:
        return whole
    arguments, path, keys = arguments_of(call), f"{whole}.function.arguments", steps[3:]
    if isinstance(arguments, str):
        return ("" if keys else _in_text(address, path, arguments)) or whole
    if not keys or keys[0] not in arguments or not _is_key(keys[0]):
        return whole
    path, value = f"{path}.{keys[0]}", arguments[keys[0]]
    if len(keys) == 1 and isinstance(value, str):
        return _in_text(address, path, value) or path
    return path


def _in_text(address: Address, path: str, text: str) -> str:
    """ "" if the range is not in the text, or is not shown."""
    start, end = address.start, address.end
    if start is None or end is None or not 0 <= start < end <= len(text):
        return ""
    begin = units(text[:start])
    last = begin + units(text[start:end])
    return _ranged(path, begin, last) if _is_shown(last, units(text)) else ""


def _ranged(path: str, begin: int, end: int) -> str:
    return f"{path}:{begin}-{end}"


def _is_shown(end: int, size: int) -> bool:
    return size <= _SHOWN_WHOLE or end <= _SHOWN_HEAD


def _is_key(key: str) -> bool:
    return _KEY.fullmatch(key) is not None and key not in _NO_KEYS


def _is_below(inner: str, outer: str) -> bool:
    return outer not in (inner, ROOT) and inner.startswith((f"{outer}.", f"{outer}:"))
