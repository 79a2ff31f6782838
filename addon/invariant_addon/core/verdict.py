"""Guardrails and what an engine found.

A verdict answers for one continuation of one conversation: an outcome for each guardrail.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Action(StrEnum):
    """What a violation of a guardrail leads to.

    block: the request or the reply is refused. log: it is noted, behind the client's back.
    shadow: as log, and noted as what would have been blocked. mask: the words that were found are
    replaced in the request before it goes upstream.
    """

    BLOCK = "block"
    LOG = "log"
    SHADOW = "shadow"
    MASK = "mask"


@dataclass(frozen=True, slots=True)
class Guardrail:
    """A policy with a name.

    id: stable for the same source and text. text: the policy, in Invariant's rule language.
    trusted: it may use all that the library offers, other imports and files included; else it is
    held to the rule language (engines/language.py). source: where it comes from, in a word.
    """

    id: str
    name: str
    text: str
    action: Action = Action.BLOCK
    trusted: bool = False
    source: str = "file"


@dataclass(frozen=True, slots=True)
class Address:
    """Where in a conversation a violation lies.

    message: index into the conversation's messages; those of the reply follow those of the
    request. path: below the message, dotted, as in the Explorer ("content",
    "tool_calls.0.function.arguments.cmd"; "" for the whole message).
    start, end: characters (code points) in the text at that path; None for all of it.
    """

    message: int
    path: str = ""
    start: int | None = None
    end: int | None = None


def most_specific(addresses: tuple[Address, ...]) -> tuple[Address, ...]:
    """Without those that only repeat less precisely what another one says.

    Engines name a message as a whole beside the words in it.
    """
    return tuple(a for a in addresses if not any(_is_inside(b, a) for b in addresses))


def _is_inside(inner: Address, outer: Address) -> bool:
    if inner.message != outer.message or outer.start is not None:
        return False
    if inner.path == outer.path:
        return inner.start is not None
    return not outer.path or inner.path.startswith(outer.path + ".")


@dataclass(frozen=True, slots=True)
class Violation:
    """A guardrail that does not hold.

    message: the rule's own words (what it raises).
    final: the rule stays violated whatever text is added; if False, the rest of a reply
    may still mend it ("must end with a disclaimer"), so a prefix is not refused for it.
    """

    guardrail: Guardrail
    message: str
    addresses: tuple[Address, ...] = ()
    final: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """One guardrail on one continuation: violations, or an error, or (both empty) clean.

    error: why this guardrail gave no verdict; never holds text of the conversation.
    notes: what kept single bindings of a rule's variables from being judged (a call without the
    key that the rule reads): no match, no failure, and no text of the conversation either.
    """

    guardrail: Guardrail
    violations: tuple[Violation, ...] = ()
    error: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcomes of all guardrails on one continuation."""

    outcomes: tuple[Outcome, ...] = ()

    @property
    def violations(self) -> tuple[Violation, ...]:
        return tuple(v for o in self.outcomes for v in o.violations)

    @property
    def blocking(self) -> tuple[Violation, ...]:
        """Violations of guardrails whose action is to block."""
        return tuple(v for v in self.violations if v.guardrail.action is Action.BLOCK)

    @property
    def masking(self) -> tuple[Violation, ...]:
        """Violations of guardrails whose action is to mask."""
        return tuple(v for v in self.violations if v.guardrail.action is Action.MASK)

    @property
    def failures(self) -> tuple[Outcome, ...]:
        """Guardrails that were to block or to mask, and gave no verdict."""
        actions = (Action.BLOCK, Action.MASK)
        return tuple(
            o for o in self.outcomes if o.error is not None and o.guardrail.action in actions
        )

    @property
    def is_clean(self) -> bool:
        return not self.blocking and not self.failures


def merge(verdicts: tuple[Verdict, ...]) -> Verdict:
    """One verdict for several continuations: a violation in any is a violation of all."""
    return Verdict(tuple(o for v in verdicts for o in v.outcomes))
