"""The names of what OpenAI keeps, as requests use them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

type Kind = Literal["response", "conversation", "item", "sealed", "asked", "refused"]


@dataclass(frozen=True, slots=True)
class Reference:
    """The name of something that OpenAI keeps.

    kind "sealed": a compaction, by a digest of its encrypted text, which only OpenAI can read or
    write. "asked": what a reply was asked for that is not there yet. "refused": a reply that was
    refused, and why.
    """

    kind: Kind
    id: str


@dataclass(frozen=True, slots=True)
class References:
    """What a request refers to.

    before: what comes in front of the input: a reply, or a conversation. within: references to
    items, each by the number of the message that stands for it. prompt: the id of a stored prompt,
    which nobody but OpenAI can read. instructions: how many of the messages, the first ones, are
    no turns: a later request does not inherit them. stored: OpenAI is to keep this turn, too.
    """

    before: Reference | None = None
    within: tuple[tuple[int, Reference], ...] = ()
    prompt: str | None = None
    instructions: int = 0
    stored: bool = True

    @property
    def all(self) -> tuple[Reference, ...]:
        first = (self.before,) if self.before else ()
        return (*first, *dict.fromkeys(reference for _, reference in self.within))
