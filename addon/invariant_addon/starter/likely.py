"""Bytes of JSON -> whether a key, a private key or a login in an address may be in a text of it.

A look at all of it at once, that takes a few microseconds and answers yes too often: who wants to
know reads the texts then, with the searches of known_keys.py, secrets.py and texts.py. No means no
(tests/starter/test_likely.py): what those would find is of a form that JSON writes as it is, or
there are escapes which could hide it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from . import known_keys
from .beginnings import is_named_login

_SHORTEST = 20
"""Characters of the shortest token: AKIA and 16 more."""
_IN_TOKENS = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_~.:/=+-")
_TO_CLASSES = bytes(0x61 if c in _IN_TOKENS else 0x20 for c in range(256))
_LONG = b"a" * _SHORTEST
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="
_PICTURE = 4_096
"""Characters of one word from which on it is looked at whether it is base64, of a picture or so."""
_ESCAPED = b"\\\\u00"
"""JSON in a text that writes a letter as its number."""
_ESCAPED_SLASH = b"\\\\/"
_OF_A_NAME = re.compile(rb"secret[_-]?(?:access[_-]?)?key")
_LOGIN = re.compile(
    rb"://(?P<user>[^\s/?#:@\"'<>\\${}*]{0,400}):(?P<word>[^\s/?#:@\"'<>\\${}*]{3,600})@"
)


def may_hold_secret(data: bytes) -> bool:
    """data: JSON, in which letters beyond ASCII are not written as escapes."""
    if _ESCAPED in data or b"PRIVATE KEY" in data or b"Private-Lines" in data:
        return True
    while _ESCAPED_SLASH in data:
        data = data.replace(_ESCAPED_SLASH, b"/")
    if b"@" in data and _has_login(data):
        return True
    if _has_token(data):
        return True
    lower = data.lower()
    return b"secret" in lower and _OF_A_NAME.search(lower) is not None


def _has_token(data: bytes) -> bool:
    words = list(_long_words(data))
    pictures = [w for w in words if len(w) >= _PICTURE and not w.translate(None, _BASE64)]
    if pictures:
        words = [word for word in words if word not in pictures]
    return any(
        known_keys.may_hold_token(b" ".join(of).decode("ascii"), is_base64=of is pictures)
        for of in (words, pictures)
        if of
    )


def _long_words(data: bytes) -> Iterator[bytes]:
    """What may be tokens, by its length and its letters."""
    classes = data.translate(_TO_CLASSES)
    start = classes.find(_LONG)
    while start >= 0:
        end = classes.find(b" ", start + _SHORTEST)
        end = len(data) if end < 0 else end
        yield data[start:end]
        start = classes.find(_LONG, end)


def _has_login(data: bytes) -> bool:
    return any(
        is_named_login(
            match["user"].decode(errors="replace"), match["word"].decode(errors="replace")
        )
        for match in _LOGIN.finditer(data)
    )
