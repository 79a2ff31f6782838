"""The turns of a conversation -> what the page shows of them, as JSON.

A message is shown once, in the turn that brought it, with all that any turn found in it. A turn
that sent another history than the one before says so, and shows what is different.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..core.chat.bodies import parse_request
from ..core.chat.message import read_message
from ..core.conversation import Message, Part
from ..core.errors import NotUnderstoodError
from ..core.json_text import encode
from ..core.trace import Finding, Json, Trace
from ..core.verdict import Address, most_specific
from .blocks import ALL, Budget, Withheld, Writer, written
from .marking import Range, pieces

_MOST_ITEMS = 80
"""Messages of one turn that are shown; in the middle some are left out."""
_MOST_FINDINGS = 100


@dataclass(slots=True)
class _Item:
    """A message as it is shown: in which turn, what it says, and what was found in it."""

    key: str
    message: Message
    is_reply: bool = False
    choice: int = 0
    marks: list[tuple[Address, str]] = field(default_factory=list)


@dataclass(slots=True)
class _Turn:
    number: int
    trace: Trace
    items: list[_Item]
    again: int
    rewritten: bool
    findings: list[dict[str, Json]] = field(default_factory=list)


class Conversation:
    """texts: of rules, by their ids."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._texts = texts
        self._chain: list[_Item] = []
        self._turns: list[_Turn] = []
        self._before = 0
        self._said_beside: list[Message] = []

    def add(self, number: int, trace: Trace) -> None:
        """The next turn."""
        parsed = [_message(value) for value in trace.messages]
        same = 0
        for item, message in zip(self._chain, parsed, strict=False):
            if item.message != message:
                break
            same += 1
        # What the model said last need not be in the next request, all else does.
        rewritten = bool(self._turns) and same < self._before
        items = [_Item(f"{number}.{index}", parsed[index]) for index in range(same, len(parsed))]
        self._chain = [*self._chain[:same], *items]
        self._before = len(parsed)
        replies = [
            _Item(f"{number}.r{choice}", _message(value), is_reply=True, choice=choice)
            for choice, value in enumerate(trace.choices)
        ]
        beside = [
            _Item(f"{number}.b{index}", message) for index, message in enumerate(_beside(trace))
        ]
        turn = _Turn(number, trace, [*items, *replies], same, rewritten)
        self._turns.append(turn)
        self._attach(turn, beside, replies)
        said = [item.message for item in beside]
        new = [item for item in beside if item.marks or said != self._said_beside]
        turn.items[len(items) : len(items)] = new
        self._said_beside = said
        if len(replies) == 1:
            self._chain.append(replies[0])

    def shown(self) -> list[dict[str, Json]]:
        """The newest turns have the most room."""
        budget = Budget()
        return [self._turn(turn, budget) for turn in reversed(self._turns)][::-1]

    def whole(self, key: str) -> dict[str, Json] | None:
        """One message with nothing left out, and with the marks of these turns."""
        for turn in self._turns:
            for item in turn.items:
                if item.key == key:
                    return _shown(item, turn.trace, None)
        return None

    # -- findings -----------------------------------------------------------------------------

    def _attach(self, turn: _Turn, beside: Sequence[_Item], replies: Sequence[_Item]) -> None:
        """Addresses count the messages, then the reply, then all that is read beside the messages
        (traces.counted.settled)."""
        asked = self._chain
        for count, finding in enumerate(turn.trace.findings[:_MOST_FINDINGS]):
            key = f"{turn.number}:{count}"
            places: list[dict[str, Json]] = []
            for address in most_specific(finding.addresses)[:_MOST_FINDINGS]:
                item: _Item | None = None
                if 0 <= address.message < len(asked):
                    item = asked[address.message]
                elif address.message == len(asked) and len(replies) == 1:
                    item = replies[0]  # of alternatives nobody knows which one is meant
                elif address.message == len(asked) + 1 and len(beside) == 1:
                    item = beside[0]
                if item is not None:
                    item.marks.append((address, key))
                places.append(_place(address, item, len(asked)))
            turn.findings.append(self._finding(key, finding, places))

    def _finding(
        self, key: str, finding: Finding, places: Sequence[Mapping[str, Json]]
    ) -> dict[str, Json]:
        guardrail = finding.guardrail
        return {
            "key": key,
            "rule": guardrail.get("name", ""),
            "id": guardrail.get("id", ""),
            "action": guardrail.get("action", ""),
            "source": guardrail.get("source", ""),
            "words": finding.words,
            "effect": finding.effect,
            "places": list(places),
            "text": self._texts.get(guardrail.get("id", "")),
        }

    # -- turns --------------------------------------------------------------------------------

    def _turn(self, turn: _Turn, budget: Budget) -> dict[str, Json]:
        trace = turn.trace
        kept, left_out = _kept(turn.items)
        return {
            "id": trace.id,
            "number": turn.number,
            "started": trace.started,
            "status": trace.status,
            "reason": trace.reason,
            "model": trace.model,
            "endpoint": trace.endpoint,
            "stream": trace.stream,
            "http_status": trace.http_status,
            "client": trace.client,
            "dataset": trace.dataset,
            "finishes": list(trace.finishes),
            "usage": {k: v for k, v in trace.usage.items() if isinstance(v, int)},
            "timing": {
                "total": trace.timing.total,
                "first": trace.timing.first,
                "held": trace.timing.held,
                "judged": trace.timing.judged,
                "checks": trace.timing.checks,
            },
            "delivered": trace.delivered,
            "withheld": trace.withheld,
            "withheld_calls": trace.withheld_calls,
            "again": turn.again,
            "rewritten": turn.rewritten,
            "left_out": left_out,
            "items": [_shown(item, trace, budget) for item in kept],
            "findings": turn.findings,
            "parameters": pieces(written(dict(trace.parameters), indent=True)),
        }


def _shown(item: _Item, trace: Trace, budget: Budget | None) -> dict[str, Json]:
    """A message, block by block; about: the findings that are about it. budget: None: no limit."""
    masked = frozenset(f.guardrail.get("name", "") for f in trace.findings)
    ranges: dict[str, list[Range]] = {}
    for address, finding in item.marks:
        start, end = address.start, address.end
        if start is not None and end is not None:
            ranges.setdefault(address.path, []).append(Range(start, end, finding))
        elif address.path.startswith("tool_calls."):  # all of it; all of a message is no mark
            ranges.setdefault(address.path, []).append(Range(0, ALL, finding))
    writer = Writer(ranges, masked, budget)
    blocks = list(writer.blocks(item.message, _withheld(item, trace)))
    finish = None
    if item.is_reply and item.choice < len(trace.finishes):
        finish = trace.finishes[item.choice]
    return {
        "key": item.key,
        "choice": item.choice,
        "reply": item.is_reply,
        "alternatives": len(trace.choices) if item.is_reply else 0,
        "role": item.message.role,
        "name": item.message.name,
        "answers": item.message.tool_call_id,
        "finish": finish,
        "blocks": blocks,
        "about": list(dict.fromkeys(finding for _, finding in item.marks)),
    }


def _withheld(item: _Item, trace: Trace) -> Withheld:
    if not item.is_reply or not (trace.withheld or trace.withheld_calls):
        return Withheld()
    if len(trace.choices) > 1:  # how much of which alternative is not known
        return Withheld(0 if not trace.delivered else None, bool(trace.withheld_calls))
    return Withheld(
        trace.delivered if trace.withheld else None,
        bool(trace.withheld_calls),
    )


def _kept(items: Sequence[_Item]) -> tuple[Sequence[_Item], int]:
    """Those that are shown: the first, the last, and all with a mark."""
    if len(items) <= _MOST_ITEMS:
        return items, 0
    last = len(items) - _MOST_ITEMS + 10
    kept = [item for n, item in enumerate(items) if n < 10 or n >= last or item.marks]
    return kept, len(items) - len(kept)


def _place(address: Address, item: _Item | None, messages: int) -> dict[str, Json]:
    """Where a finding is, for people, who count from 1."""
    role = item.message.role if item else ("assistant" if address.message == messages else "")
    return {
        "message": address.message + 1,
        "role": role,
        "path": "" if address.path == "content" else address.path,
        "start": None if address.start is None else address.start + 1,
        "end": address.end,
        "item": item.key if item else None,
    }


def _beside(trace: Trace) -> Sequence[Message]:
    """What a chat request says beside its messages, and is read as if it were some."""
    keys = [key for key in ("prediction", "system") if trace.parameters.get(key)]
    if not keys:
        return ()
    try:
        asked = encode({"messages": [], **{key: trace.parameters[key] for key in keys}})
        found = parse_request(asked.encode("utf-8", "surrogatepass")).conversation.messages
    except (NotUnderstoodError, RecursionError):
        found = ()
    return found or tuple(_message({"content": trace.parameters[key]}) for key in keys)


def _message(value: Json) -> Message:
    try:
        return read_message(value)
    except (NotUnderstoodError, RecursionError):
        return Message("unknown", (Part("other", written(value)),))
