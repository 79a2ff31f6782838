"""One exchange as it is kept: what was asked, what came back, what was found, what was delivered.

Everything in a trace is plain JSON values, so that a store can keep it and a sink can send it.
Addresses count as in core.verdict (code points; messages of the reply follow those of the
request); each sink writes them in its own way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from .verdict import Address

type Json = Any
"""What orjson reads and writes."""

Status = Literal["judged", "blocked", "not scanned", "partial", "error"]
"""judged: delivered as judged. blocked: refused, in whole or from some point on. not scanned: it
passed without a verdict. partial: not all of it was judged: there is something in it that no rule
can read (the reason says what), or the client left, or the proxy ended, before the end, or before
log rules had looked. error: upstream failed, or there was no verdict and the call was refused for
that."""

Effect = Literal["blocked", "masked", "noted", "shadow", "muted"]
"""What a violation led to."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A violation, and what it led to.

    guardrail: id, name, action and source, as JSON. words: the rule's own. addresses: the most
    specific ones; () if the rule gave no place.
    """

    guardrail: Mapping[str, str]
    words: str
    effect: Effect
    addresses: tuple[Address, ...] = ()


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds, None where there was none.

    total: from the request's head to the end. first: until the first byte for the client. held:
    that something which had come (the request; bytes of the reply) waited for a verdict that was
    under way, in all. judged: that engines took, in all. checks: how many.
    """

    total: float
    first: float | None = None
    held: float = 0.0
    judged: float = 0.0
    checks: int = 0


@dataclass(frozen=True, slots=True)
class Trace:
    """started: seconds since 1970. dataset: the Explorer's, or "". reason: why it was not scanned
    or failed.

    parameters: the request without its messages. messages: those of the request, in OpenAI's form,
    as they went upstream (masked where a rule masks). choices: the reply's messages in OpenAI's
    form, merged: alternatives, each continues the request. finishes: their finish_reason.
    delivered: characters of the reply's text that the client got, of all `withheld` + delivered.
    withheld_calls: how many tool calls of the reply it did not get.
    client: the program that called, if it is known ("pid 123 python agent.py").
    beside: how many of the parameters addresses count as messages, between `messages` and the
    reply (Conversation.beside). 0 in what is kept: there the reply follows at once, and the number
    behind it means any of those parameters.
    original: the same before secrets were masked in it, if the owner wants it kept. It is for him
    alone: nobody who sends or exports a trace looks at it.
    """

    id: str
    started: float
    status: Status
    endpoint: str
    model: str
    stream: bool
    parameters: Mapping[str, Json]
    messages: tuple[Json, ...]
    choices: tuple[Json, ...] = ()
    finishes: tuple[str | None, ...] = ()
    findings: tuple[Finding, ...] = ()
    timing: Timing = Timing(0.0)
    reason: str = ""
    http_status: int | None = None
    response_id: str = ""
    usage: Mapping[str, Json] = field(default_factory=dict)
    delivered: int = 0
    withheld: int = 0
    dataset: str = ""
    client: str = ""
    withheld_calls: int = 0
    beside: int = 0
    original: Trace | None = None
