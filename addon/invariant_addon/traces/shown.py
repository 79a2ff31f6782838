"""A trace -> lines for a terminal, with what was found marked where it is.

A trace is what strangers wrote. Only line ends are kept of what a terminal would obey, and every
line of a message is indented: so nothing in it can look like a line of ours.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ..core.chat.bodies import parse_request
from ..core.conversation import Message, ToolCall
from ..core.errors import NotUnderstoodError
from ..core.json_text import encode
from ..core.trace import Finding, Json, Trace
from ..core.verdict import Address, most_specific
from ..engines.normalise import arguments

INDENT = "  "
_DEEPEST = 6
_OPAQUE = 200
"""Characters that are shown of a picture's URL and the like."""
_COLOURS = {"blocked": "31", "error": "31", "not scanned": "33", "partial": "33", "judged": "32"}


@dataclass(frozen=True, slots=True)
class Paint:
    """Colours and marks; without colours, marks that can be read and searched for."""

    colours: bool = False

    def bold(self, text: str) -> str:
        return self._sgr("1", text)

    def dim(self, text: str) -> str:
        return self._sgr("2", text)

    def warn(self, text: str) -> str:
        return self._sgr("31", text)

    def status(self, status: str, width: int = 0) -> str:
        return self._sgr(_COLOURS.get(status, "1"), line(status).ljust(width))

    def mark(self, text: str, rules: Iterable[str]) -> str:
        """What was found, and beside it by which rules. Each of its lines for itself."""
        names = f"[{', '.join(rules)}]"
        if not self.colours:
            return f">>>{text}<<<{names}"
        marked = "\n".join(self._sgr("7", each) if each else "" for each in text.split("\n"))
        return marked + self.warn(names)

    def _sgr(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.colours else text


def line(text: str) -> str:
    """On one line, and without what a terminal would obey."""
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def text_of(text: str) -> str:
    """As `line`, with its line ends; tabs as spaces."""
    parts = text.replace("\r\n", "\n").replace("\t", "    ").split("\n")
    return "\n".join(line(part) for part in parts)


def when(seconds: float) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (OverflowError, ValueError, OSError):
        return "?"


def duration(ms: float) -> str:
    return f"{ms:.0f} ms" if ms < 1000 else f"{ms / 1000:.1f} s"


def lines(trace: Trace, paint: Paint) -> Iterator[str]:
    """The whole trace, to be printed line by line."""
    yield from head(trace, paint)
    yield from asked(trace, paint)
    yield from answered(trace, paint)


def asked(trace: Trace, paint: Paint) -> Iterator[str]:
    """The request's messages."""
    places = _Places(trace)
    for index, message in enumerate(trace.messages):
        title = f"{index + 1} {_role(message)}"
        yield from _turn(title, message, places.of(index), paint)


def answered(trace: Trace, paint: Paint) -> Iterator[str]:
    """The reply, and how much of it was delivered."""
    places = _Places(trace)
    count = len(trace.messages)
    for index, choice in enumerate(trace.choices):
        which = f" {index + 1} of {len(trace.choices)}" if len(trace.choices) > 1 else ""
        finish = trace.finishes[index] if index < len(trace.finishes) else None
        ended = f" ({line(finish)})" if finish else ""
        # Alternatives have one number, and nobody knows which of them a range is for.
        here = places.of(count, sure=len(trace.choices) == 1)
        yield from _turn(f"{count + 1} reply{which}{ended}", choice, here, paint)
    if trace.withheld:
        whole = trace.delivered + trace.withheld
        yield paint.warn(
            f"withheld: the client got {trace.delivered} of {whole} characters of the reply"
        )
    if trace.withheld_calls:
        calls = "tool call" if trace.withheld_calls == 1 else "tool calls"
        yield paint.warn(f"withheld: {trace.withheld_calls} {calls}")


# -- what comes first -----------------------------------------------------------------------------


def head(trace: Trace, paint: Paint) -> Iterator[str]:
    """What became of it, and what was found."""
    streamed = ", streamed" if trace.stream else ""
    status = paint.status(trace.status)
    model = f"{line(trace.model)}, " if trace.model else ""
    call = f"{model}{line(trace.endpoint)}{streamed}"
    yield f"{paint.bold(line(trace.id))}  {status}  {call}"
    timing = trace.timing
    parts = [when(trace.started), duration(timing.total)]
    if timing.first is not None:
        parts.append(f"first byte after {duration(timing.first)}")
    if timing.checks:
        checks = "check" if timing.checks == 1 else "checks"
        parts.append(f"{timing.checks} {checks} in {duration(timing.judged)}")
    if timing.held:
        parts.append(f"held for {duration(timing.held)}")
    if trace.http_status is not None:
        parts.append(f"HTTP {trace.http_status}")
    yield ", ".join(parts)
    for name, value in (
        ("reason", trace.reason),
        ("client", trace.client),
        ("dataset", trace.dataset),
        ("response", trace.response_id),
    ):
        if value:
            yield f"{name}: {line(value)}"
    for found in trace.findings:
        effect = paint.warn(line(found.effect))
        yield f"{effect} by {line(_rule(found))}: {line(found.words)}{_where(found, trace)}"


def _where(found: Finding, trace: Trace) -> str:
    count = len(trace.messages)
    places = []
    for address in most_specific(found.addresses):
        number = address.message
        if number > count:
            places.append("beside the messages")
            continue
        role = _role(trace.messages[number]) if number < count else "reply"
        place = f"message {number + 1} ({role})"
        if address.path not in ("", "content"):
            place += f", {line(address.path)}"
        if address.start is not None:
            place += f", characters {address.start + 1}-{address.end}"
        places.append(place)
    shown = "; ".join(dict.fromkeys(places[:3]))
    more = f"; and {len(places) - 3} more" if len(places) > 3 else ""
    return f" ({shown}{more})" if places else ""


def _rule(found: Finding) -> str:
    return found.guardrail.get("name", "") or "guardrail"


def _role(message: Json) -> str:
    role = message.get("role") if isinstance(message, dict) else None
    return line(role) if isinstance(role, str) else "unknown"


# -- marks ----------------------------------------------------------------------------------------


class _Places:
    """Where what was found."""

    def __init__(self, trace: Trace) -> None:
        self._of: dict[int, list[tuple[Address, Finding]]] = {}
        for found in trace.findings:
            for address in most_specific(found.addresses):
                self._of.setdefault(address.message, []).append((address, found))

    def of(self, message: int, *, sure: bool = True) -> _Marks:
        return _Marks(self._of.get(message, []), sure=sure)


class _Marks:
    """Those of one message. sure: its ranges are ranges of this message."""

    def __init__(self, found: Sequence[tuple[Address, Finding]], *, sure: bool) -> None:
        self._open = list(dict.fromkeys((a, _rule(f), f.words) for a, f in found))
        self._sure = sure

    def marked(self, path: str, text: str, paint: Paint) -> str:
        """The text at this path, ready to be printed, and marked; those marks are done with."""
        ranges = []
        for entry in list(self._open):
            address, rule, _ = entry
            start, end = address.start, address.end
            if not self._sure or address.path != path or start is None or end is None:
                continue
            if 0 <= start < end <= len(text):
                ranges.append((start, end, line(rule)))
                self._open.remove(entry)
        shown, at = [], 0
        for start, end, rules in _united(ranges):
            shown += [text_of(text[at:start]), paint.mark(text_of(text[start:end]), rules)]
            at = end
        return "".join([*shown, text_of(text[at:])])

    def rest(self) -> Iterator[str]:
        """What could not be marked in a text."""
        for address, rule, words in self._open:
            path = f" ({line(address.path)})" if address.path else ""
            yield f"{line(rule)}: {line(words)}{path}"


def _united(ranges: list[tuple[int, int, str]]) -> list[tuple[int, int, list[str]]]:
    """Ranges that overlap as one, with the names of all."""
    united: list[tuple[int, int, list[str]]] = []
    for start, end, rule in sorted(ranges):
        if united and start < united[-1][1]:
            before, until, rules = united.pop()
            united.append((before, max(until, end), [*dict.fromkeys([*rules, rule])]))
        else:
            united.append((start, end, [rule]))
    return united


# -- messages -------------------------------------------------------------------------------------


def _turn(title: str, value: Json, marks: _Marks, paint: Paint) -> Iterator[str]:
    yield ""
    message = _parsed(value)
    if message is None:
        yield paint.bold(f"── {title}")
        yield INDENT + line(_json(value))
    else:
        about = f" {line(message.name)}" if message.name else ""
        about += f" answers {line(message.tool_call_id)}" if message.tool_call_id else ""
        yield paint.bold(f"── {title}{about}")
        for block in _blocks(message, marks, paint):
            yield from (INDENT + each for each in block.split("\n"))
    for note in marks.rest():
        yield INDENT + paint.warn(f"! {note}")


def _blocks(message: Message, marks: _Marks, paint: Paint) -> Iterator[str]:
    reasoning = "\n".join(p.text for p in message.parts if p.kind == "reasoning" and p.text)
    if reasoning:
        yield paint.dim("(reasoning)")
        yield marks.marked("reasoning", reasoning, paint)
    if message.text:
        yield marks.marked("content", message.text, paint)
    for part in message.parts:
        if part.kind in ("image", "audio", "file", "other"):
            yield paint.dim(f"[{part.kind}] {_cut(line(part.text))}".rstrip())
    for index, call in enumerate(message.tool_calls):
        yield from _call(call, f"tool_calls.{index}.function.arguments", marks, paint)


def _call(call: ToolCall, path: str, marks: _Marks, paint: Paint) -> Iterator[str]:
    identity = f" {line(call.id)}" if call.id else ""
    yield f"calls {paint.bold(line(call.name))}{paint.dim(identity)}"
    yield from (INDENT + each for each in _members(arguments(call), path, marks, paint, 1))


def _members(value: Json, path: str, marks: _Marks, paint: Paint, depth: int) -> Iterator[str]:
    """What is in an object or a list, each member on a line, or more."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        here = f"{path}.{key}"
        if isinstance(item, dict | list) and item and depth < _DEEPEST:
            yield f"{line(str(key))}:"
            deeper = _members(item, here, marks, paint, depth + 1)
            yield from (INDENT + each for each in deeper)
            continue
        text = marks.marked(here, item, paint) if isinstance(item, str) else line(_json(item))
        first, *more = text.split("\n")
        yield f"{line(str(key))}: {first}"
        yield from (INDENT + each for each in more)


def _parsed(value: Json) -> Message | None:
    try:
        body = encode({"messages": [value]}).encode("utf-8", "surrogatepass")
        (message,) = parse_request(body).conversation.messages
    except (NotUnderstoodError, ValueError):
        return None
    return message


def _json(value: Json) -> str:
    try:
        return encode(value)
    except NotUnderstoodError:
        return "[nested too deeply]"


def _cut(text: str) -> str:
    return text if len(text) <= _OPAQUE else f"{text[:_OPAQUE]}… ({len(text)} characters)"
