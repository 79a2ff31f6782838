"""The texts of a streamed Responses reply in the orders in which somebody may put them together.

Usually they simply follow each other, item by item, and are said twice alike. Then every order
gives the same text. Where it does not, a client that prints deltas as they come may read another
text than one that takes whole items; so each is kept.
"""

from __future__ import annotations

from typing import Any

from ..conversation import Part, PartKind
from .parts import text_of

KINDS: tuple[PartKind, ...] = ("text", "refusal")


class Spoken:
    """is_odd: the orders may give different texts."""

    __slots__ = ("_orders", "_turn", "_turns", "is_odd")

    def __init__(self) -> None:
        self.is_odd = False
        self._orders: dict[str, list[str]] = {}
        self._turn: tuple[int, str] | None = None  # the text that grew last
        self._turns: set[tuple[int, str]] = set()

    def add_delta(self, item: int, channel: str, text: str) -> None:
        turn = (item, channel)
        if turn != self._turn:
            self.is_odd = self.is_odd or turn in self._turns
            self._turns.add(turn)
            self._turn = turn
        self.add("delta", text)

    def add(self, how: str, text: str) -> None:
        """how: by which kind of event it was said."""
        if text:
            self._orders.setdefault(how, []).append(text)

    def add_parts(self, how: str, *parts: Any) -> None:
        """Content parts as they are on the wire."""
        for part in parts:
            if (found := text_of(part)) is not None and found[0] in KINDS:
                self.add(how, found[1])

    def parts(self) -> list[Part]:
        """What is to be judged beside the texts themselves."""
        if not self.is_odd:
            return []
        joined = ("".join(texts) for texts in self._orders.values() if len(texts) > 1)
        return [Part("other", text) for text in dict.fromkeys(joined)]
