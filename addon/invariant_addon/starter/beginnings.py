"""A place in a text -> the secret that begins there, if one does.

This knows what ends a value, and nothing of what stands before it (secrets.py); values.py judges.
What has no end yet is found only if its beginning is enough.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from .known_keys import Span, is_stand_in
from .values import (
    PUBLIC,
    SIZES,
    WINDOW,
    begins_like_chance,
    begins_like_password,
    decoded,
    is_given_password,
    is_password,
)

type Judge = Callable[[str], bool]

_BARE = re.compile(r"[^\s\"'`\\&;,(){}<>|\[\]]{8,64}+")
_SLUG = re.compile(r"(?:[a-z]{2,16}[-_/]){1,6}")
_BASE64 = re.compile(r"([A-Za-z0-9+/]{12,400}+={0,2}+)[^A-Za-z0-9+/=]")


def bare(text: str, start: int, judge: Judge) -> Span | None:
    """A password without quotation marks. Without an end, its beginning must be enough."""
    value = _BARE.match(text, start)
    if value is None or value[0].startswith("$"):
        return None
    following = text[value.end() : value.end() + 1]
    if (following and following not in "([{" and judge(value[0])) or begins_like_password(value[0]):
        return value.span()
    return None


def chance(text: str, start: int, sizes: tuple[int, ...]) -> Span | None:
    """Something random, also behind a word or two: acme_live_..., not prod-db-7f9c4d8b6-x2k4q."""
    if PUBLIC.match(text, start):
        return None
    first = start
    if slug := _SLUG.match(text, start):
        start = slug.end()
    window = WINDOW.match(text, start)
    if window is None:
        return None
    if decoded(window[0][:20]) is None:
        return (first, window.end()) if begins_like_chance(window[0], sizes) else None
    # Data of a Kubernetes secret: what it says is judged.
    whole = _BASE64.match(text, start)
    said = decoded(whole[1]) if whole else None
    if said and (is_password(said.strip()) or begins_like_chance(said[: SIZES[-1]], sizes)):
        return first, window.end()
    return None


def given_password(text: str, start: int) -> Span | None:
    return bare(text, start, is_given_password) or chance(text, start, SIZES)


def login_in_base64(text: str, start: int) -> Span | None:
    value = _BASE64.match(text, start)
    login = decoded(value[1]) if value else None
    if value is None or login is None or ":" not in login:
        return None
    word = login.split(":", 1)[1]
    given = is_given_password(word) or begins_like_chance(word)
    return value.span(1) if given and not is_stand_in(login) else None


LOGIN = re.compile(
    r"://(?P<user>[^\s/?#:@\"'<>\\${}*]{0,64}):(?P<word>[^\s/?#:@\"'<>\\${}*]{3,128})@"
)
_DEFAULTS = re.compile(
    r"pass|passwo?r?d|secret|pwd|xxx|token|guest|postgres|root|admin|changeme|test|[\[%{].*"
)


def is_login(match: re.Match[str]) -> bool:
    """Whether the password in an address is one, and no stand-in or default."""
    return is_named_login(match["user"], match["word"])


def is_named_login(user: str, word: str) -> bool:
    word = word.lower()
    shown = _DEFAULTS.fullmatch(word) is not None or is_stand_in(word)
    return not shown and word != user.lower()
