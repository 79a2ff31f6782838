"""What is to be masked: which texts, where, and what takes their place in a given text.

It knows nothing of JSON requests: mask.py finds the texts and writes the edits.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from .json_strings import Edit, Unescaped, leniently_unescaped
from .layout import BESIDE
from .located import Piece
from .verdict import Address

MIN_ANYWHERE = 8
"""Characters of a text that is replaced in other messages, too."""


class Place(NamedTuple):
    """A text that was found. pieces: it without the placeholders in it, part by part."""

    guardrail: str
    address: Address
    text: str
    pieces: tuple[Piece, ...]


@dataclass(slots=True)
class _Needle:
    """A text to be replaced, as it is and without escapes ("" if too little is left of it)."""

    text: str
    unescaped: str
    placeholder: str


class _Span(NamedTuple):
    start: int
    end: int
    placeholder: str


@dataclass(slots=True)
class Wanted:
    """All that is to be replaced, and where.

    on_wire: how many messages there are in `messages`. parts: stretches of single parts, by the
    message and the part's text. unused: those of them that were not met yet.
    """

    on_wire: int
    names: Collection[str]
    anywhere: dict[str, _Needle] = field(default_factory=dict)
    inside: dict[int, dict[str, _Needle]] = field(default_factory=dict)
    parts: dict[tuple[int, str], list[_Span]] = field(default_factory=dict)
    unused: dict[tuple[int, str], str] = field(default_factory=dict)
    _masks: re.Pattern[str] = field(init=False)

    def __post_init__(self) -> None:
        labels = "|".join(sorted({re.escape(label(name)) for name in self.names})) or "(?!)"
        self._masks = re.compile(rf"\[masked:(?:{labels}):[0-9a-f]{{8}}\]")

    def number(self, message: int) -> int:
        return message if message < self.on_wire else BESIDE

    def add(self, place: Place, placeholder: str) -> None:
        message = self.number(place.address.message)
        if len(place.pieces) == 1:
            self._add_text(place.pieces[0].text, placeholder, message)
            return
        self._add_text(place.text, placeholder, message)
        for piece in place.pieces:
            key = (message, piece.whole)
            self.parts.setdefault(key, []).append(_Span(piece.start, piece.end, placeholder))
            self.unused[key] = place.guardrail

    def _add_text(self, text: str, placeholder: str, message: int) -> None:
        unescaped = leniently_unescaped(text).text
        is_long = len(text) >= MIN_ANYWHERE
        if len(unescaped) < MIN_ANYWHERE if is_long else not any(map(str.isalnum, unescaped)):
            unescaped = ""
        needles = self.anywhere if is_long else self.inside.setdefault(message, {})
        needles.setdefault(text, _Needle(text, unescaped, placeholder))

    def edits(self, text: str, message: int) -> list[Edit]:
        """What to replace in this text, which is in this message."""
        spans = [*self._named(text, message), *self._spans(text, self.anywhere)]
        if message in self.inside:
            spans += self._spans(text, self.inside[message])
        return self._merged(text, spans)

    def long_edits(self, text: str) -> list[Edit]:
        """What to replace in this key or number: a short text means something else there."""
        return self._merged(text, [*self._spans(text, self.anywhere)])

    def has(self, text: str, place: Place) -> bool:
        """Whether any of what was found there is in this text."""
        found = place.pieces[0].text if len(place.pieces) == 1 else place.text
        spans = [_Span(start, start + len(found), "") for start in _occurrences(text, found)]
        return bool(self._merged(text, spans))

    def unmasked(self, piece: Piece) -> Iterator[Piece]:
        """What of it is outside of placeholders, and more than punctuation."""
        masks = [m.span() for m in self._masks.finditer(piece.whole)]
        masks = [m for m in masks if m[0] < piece.end and piece.start < m[1]]
        if not masks:
            yield piece
            return
        start = piece.start
        for mask_start, mask_end in (*masks, (piece.end, piece.end)):
            rest = Piece(piece.whole, start, min(mask_start, piece.end))
            if any(map(str.isalnum, rest.text)):
                yield rest
            start = max(start, mask_end)

    def _named(self, text: str, message: int) -> list[_Span]:
        self.unused.pop((message, text), None)
        return self.parts.get((message, text), [])

    def _spans(self, text: str, needles: dict[str, _Needle]) -> Iterator[_Span]:
        unescaped: Unescaped | None = None
        has_escapes = "\\" in text
        for needle in needles.values():
            for start in _occurrences(text, needle.text):
                yield _Span(start, start + len(needle.text), needle.placeholder)
            if not needle.unescaped or not (has_escapes or needle.unescaped != needle.text):
                continue
            if unescaped is None:
                unescaped = leniently_unescaped(text)
            for start in _occurrences(unescaped.text, needle.unescaped):
                end = start + len(needle.unescaped)
                yield _Span(unescaped.place(start), unescaped.place(end), needle.placeholder)

    def _merged(self, text: str, spans: list[_Span]) -> list[Edit]:
        """In order. What overlaps becomes one, named as the longest; placeholders stay."""
        if not spans:
            return []
        masks = [m.span() for m in self._masks.finditer(text)] if "[masked:" in text else []
        merged: list[Edit] = []
        longest = 0
        for start, end, placeholder in sorted(spans, key=lambda span: (span[0], -span[1])):
            if any(first < end and start < last for first, last in masks):
                continue
            if merged and start < merged[-1].end:
                before = merged[-1]
                named = placeholder if end - start > longest else before.text
                merged[-1] = Edit(before.start, max(before.end, end), named)
            else:
                longest = 0
                merged.append(Edit(start, end, placeholder))
            longest = max(longest, end - start)
        return merged


def _occurrences(text: str, needle: str) -> Iterator[int]:
    start = text.find(needle)
    while start >= 0:
        yield start
        start = text.find(needle, start + len(needle))


def label(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:40] or "rule"
