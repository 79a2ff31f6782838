"""Rules on trial: are they valid, and what do they find in a recorded conversation?

Everything runs in the engine's workers, as in the proxy. The results are values; cli.py prints.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..core.chat.bodies import parse_request
from ..core.conversation import Conversation
from ..core.errors import InvariantError, NotUnderstoodError
from ..core.json_text import decode, encode
from ..core.located import texts_at
from ..core.verdict import Address, Guardrail, Outcome, Violation, most_specific
from ..engines.base import Question
from ..engines.local import LocalEngine
from ..engines.normalise import arguments
from .files import RulesError, from_files

TRACE_LIMIT = 256 * 2**20
DEADLINE_MS = 60_000
AROUND = 40
"""Characters of an excerpt before and after what was found."""
LONGEST = 160
"""Characters that are shown of what was found."""

_RAISE = re.compile(r"^raise\b", re.MULTILINE)


class TraceError(InvariantError):
    """A file of traces cannot be read: where in it, and why."""


@dataclass(frozen=True, slots=True)
class Checked:
    """A file of rules. reason: why it cannot be used, "" if it can. readable: it could be read.

    lacks: what is missing here, so that it gives no verdict. notes: what else to know of it.
    """

    file: Path
    rules: int = 0
    reason: str = ""
    readable: bool = True
    lacks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """Where something was found. message: from 1. before, found, after: the text there, if the
    rule says which characters; "" otherwise."""

    message: int
    role: str
    path: str
    start: int | None
    end: int | None
    before: str = ""
    found: str = ""
    after: str = ""


@dataclass(frozen=True, slots=True)
class Hit:
    guardrail: str
    words: str
    places: tuple[Place, ...]


@dataclass(frozen=True, slots=True)
class Tried:
    """What the rules say about one trace. errors: rules that gave no verdict, and why."""

    name: str
    messages: int
    hits: tuple[Hit, ...]
    errors: tuple[str, ...]


async def check(files: Sequence[Path], *, trusted: bool = False) -> tuple[Checked, ...]:
    """Each file, in order. Raises EngineError."""
    read: dict[int, Guardrail] = {}
    results: dict[int, Checked] = {}
    for index, file in enumerate(files):
        try:
            (read[index],) = from_files([file], trusted=trusted)
        except RulesError as error:
            reason = str(error).removeprefix(f"{file}: ")
            results[index] = Checked(file, reason=reason, readable=False)
    engine = LocalEngine(workers=2, deadline_ms=DEADLINE_MS)
    try:
        defects = await engine.load(tuple(read.values())) if read else ()
        remarks = engine.remarks(tuple(read.values()))
    finally:
        await engine.aclose()
    reasons = {id(defect.guardrail): defect.reason for defect in defects}
    for index, guardrail in read.items():
        results[index] = Checked(
            files[index],
            len(_RAISE.findall(guardrail.text)),
            reasons.get(id(guardrail), ""),
            lacks=tuple(r.text for r in remarks if r.guardrail is guardrail and r.lacks),
            notes=tuple(r.text for r in remarks if r.guardrail is guardrail and not r.lacks),
        )
    return tuple(results[index] for index in range(len(files)))


async def judge(
    guardrails: Sequence[Guardrail], traces: Sequence[tuple[str, Conversation]]
) -> tuple[Tried, ...]:
    """What these rules find in each trace. Raises EngineError, RulesError for a rule that cannot
    be used."""
    engine = LocalEngine(workers=2, deadline_ms=DEADLINE_MS)
    try:
        for defect in await engine.load(tuple(guardrails)):
            raise RulesError(f"{defect.guardrail.name}: {defect.reason}")
        tried = []
        for name, conversation in traces:
            question = Question(conversation, ((),), tuple(guardrails))
            (verdict,) = await engine.check(question)
            tried.append(_tried(name, conversation, verdict.outcomes))
        return tuple(tried)
    finally:
        await engine.aclose()


def read_traces(file: Path) -> tuple[tuple[str, Conversation], ...]:
    """The conversations in a file, each with a name.

    A list of messages, an object with `messages` (a request's body, an exported trace), or one of
    these on each line. Raises TraceError.
    """
    try:
        with file.open("rb") as opened:
            data = opened.read(TRACE_LIMIT + 1)
    except OSError as error:
        raise TraceError(f"{file}: {error.strerror or error}") from error
    if len(data) > TRACE_LIMIT:
        raise TraceError(f"{file}: larger than {TRACE_LIMIT} bytes")
    if not data.strip():
        raise TraceError(f"{file}: the file is empty")
    try:
        decode(data)
    except NotUnderstoodError:
        return _read_lines(file, data)
    return (("trace 1", _conversation(data, str(file))),)


def _read_lines(file: Path, data: bytes) -> tuple[tuple[str, Conversation], ...]:
    lines = [(n, line) for n, line in enumerate(data.split(b"\n"), 1) if line.strip()]
    return tuple(
        (f"trace {count} (line {n})", _conversation(line, f"{file}: line {n}"))
        for count, (n, line) in enumerate(lines, 1)
    )


def _conversation(data: bytes, where: str) -> Conversation:
    try:
        value = decode(data)
        if isinstance(value, list):
            if not all(isinstance(message, dict) for message in value):
                raise NotUnderstoodError("a message is not an object")
            value = {"messages": value}
            data = encode(value).encode("utf-8", "surrogatepass")
        elif isinstance(value, dict) and "annotations" in value:
            # An export: what else it says about a call was never said in it.
            value = {"messages": value.get("messages")}
            data = encode(value).encode("utf-8", "surrogatepass")
        return parse_request(data).conversation
    except NotUnderstoodError as error:
        raise TraceError(
            f"{where}: {error}; expected a list of messages, or an object with messages"
        ) from error


def _tried(name: str, conversation: Conversation, outcomes: Sequence[Outcome]) -> Tried:
    return Tried(
        name,
        len(conversation.messages),
        tuple(_hit(v, conversation) for o in outcomes for v in o.violations),
        tuple(f"{o.guardrail.name}: {o.error}" for o in outcomes if o.error is not None),
    )


def _hit(violation: Violation, conversation: Conversation) -> Hit:
    places = (_place(address, conversation) for address in most_specific(violation.addresses))
    return Hit(violation.guardrail.name, violation.message, tuple(places))


def _place(address: Address, conversation: Conversation) -> Place:
    message = conversation.messages[address.message]
    start, end = address.start, address.end
    place = Place(address.message + 1, message.role, address.path, start, end)
    if start is None or end is None:
        return place
    for text in texts_at(message, address.path, arguments):
        if end <= len(text.whole):
            found, whole = text.whole[start:end], text.whole
            before = ("…" if start > AROUND else "") + whole[max(start - AROUND, 0) : start]
            after = whole[end : end + AROUND] + ("…" if end + AROUND < len(whole) else "")
            if len(found) > LONGEST:
                found = f"{found[: LONGEST // 2]} … {found[-LONGEST // 2 :]}"
            return Place(place.message, message.role, place.path, start, end, before, found, after)
    return place
