"""Text -> where it gives orders or hides something, and addresses that give something away.

Each pattern ends with a sign of its own and never looks at what follows: text added at the end
takes no finding away (engines/finality.py relies on it).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from .beginnings import LOGIN, is_login
from .known_keys import Span

_HIDDEN = re.compile(
    "[\U000e0000-\U000e007f\u202a-\u202e\u2066-\u2069]|[\u200b\u2060-\u2064\ufeff]{8}"
)
_ORDERS = re.compile(
    r"(?:ignore|disregard|forget|override)[ ]{1,3}(?:all[ ]{1,3}|any[ ]{1,3})?(?:of[ ]{1,3})?"
    r"(?:the[ ]{1,3}|your[ ]{1,3}|my[ ]{1,3})?"
    r"(?:previous|prior|above|earlier|preceding|system)[ ]{1,3}"
    r"(?:instruction|direction|prompt|rule|message|order|command)",
)
_PRIVATE = re.compile(
    r"://(?:[^\s/?#@]{1,64}@)?"
    r"(?:10\.\d|127\.\d|169\.254\.|192\.168\.|172\.(?:1[6-9]|2\d|3[01])\.|localhost[:/]|\[::1\])",
    re.ASCII,
)


def hidden(text: str) -> Iterator[Span]:
    """Characters that a reader does not see, but a model reads: tags, changes of direction, or
    many of no width in a row (a few join emoji and break lines in honest text)."""
    if not text.isascii():
        yield from (match.span() for match in _HIDDEN.finditer(text))


def orders(text: str) -> Iterator[Span]:
    """ "Ignore all previous instructions", or nearly so."""
    # Only ASCII may be folded, so that places stay what they are.
    folded = text.replace("\u0130", "\u0131").replace("\u212a", "\u0138").lower()
    yield from (match.span() for match in _ORDERS.finditer(folded))


def logins(text: str) -> Iterator[Span]:
    """Addresses with a password, however plain: https://name:word@host."""
    yield from (match.span() for match in LOGIN.finditer(text) if is_login(match))


def private_addresses(text: str) -> Iterator[Span]:
    """Addresses in a private network, or of this machine."""
    yield from (match.span() for match in _PRIVATE.finditer(text))
