"""Text -> where it holds API keys, private keys and passwords.

A finding never depends on what follows it: each is decided by a window of fixed size after a known
beginning, or by what stands between two marks that are both there. So text added at the end adds
findings and takes none away (engines/finality.py relies on it), and time is linear.

Formats: the issuers' documentation, and detect-secrets and gitleaks for the lengths.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Collection, Iterator

type Span = tuple[int, int]

MAX_SPANS = 16
"""Places of one kind in one text that are named: the first is reason enough."""

_PEM_WINDOW = 2000
_PEM_BODY = 60
"""Base64 characters: an Ed25519 key has 64, what documentation shows before its dots has fewer."""
_MAX_JWT_HEADER = 4096

_PLACEHOLDER = re.compile(
    r"example|your|placeholder|dummy|redacted|changeme|replace|insert|sample|fake|secret|"
    r"[x*.]{5}|12345678|abcdefgh|0123456|(.)\1{6}",
    re.IGNORECASE | re.DOTALL,
)
_WEAK = re.compile(
    r"test|demo|mock|passw|p@ss|admin|default|qwerty|letmein|12345|xxx|\*\*\*|\.\.\.|foo|hunter2|"
    r"[$%#{]\{|\{\{|%\(|[<>()\[\]]|://",
    re.IGNORECASE,
)


def find(text: str, kinds: Collection[str]) -> Iterator[Span]:
    """Start and end of what was found, kind by kind. ValueError: there is no such kind."""
    for kind in kinds:
        search = SEARCHES.get(kind)
        if search is None:
            raise ValueError(f"no such kind of secret: {kind}")
        for _, span in zip(range(MAX_SPANS), search(text), strict=False):
            yield span


def is_named_secret(name: str, value: str) -> bool:
    """Whether this is the value of a password, a key or a token, going by both."""
    named = _NAME_END.search(_lower(name))
    if named is None:
        return False
    window = _WINDOW.match(value)
    return _is_password(value) or (window is not None and _is_random(window[0]))


# tokens with a beginning of their own


def _token(beginning: str, body: str) -> re.Pattern[str]:
    """Both of fixed length, so that a match is complete or not there. The beginning comes first,
    so that `re` can search for it; what must not stand before it is looked at afterwards."""
    b = re.escape(beginning)
    hexadecimal = "[0-9A-Fa-f]{2}"
    before = (
        rf"(?:(?<![A-Za-z0-9]{b})"
        # A letter may be the end of an escape: \nsk-..., \u0022sk-..., %3Dsk-...
        rf"|(?<=\\[nrt]{b})|(?<=\\u00{hexadecimal}{b})|(?<=%{hexadecimal}{b}))"
    )
    return re.compile(b + before + body)


_ANY, _ALNUM = "[A-Za-z0-9_-]", "[A-Za-z0-9]"
_TOKENS = {
    "openai": {
        "sk-proj-": _ANY + "{32}",
        "sk-svcacct-": _ANY + "{32}",
        "sk-admin-": _ANY + "{32}",
        "sk-": _ALNUM + "{32}",
    },
    "anthropic": {"sk-ant-": _ANY + "{32}"},
    "github": {
        **{f"gh{letter}_": _ALNUM + "{36}" for letter in "pousr"},
        "github_pat_": "[A-Za-z0-9_]{40}",
    },
    "gitlab": {"glpat-": _ANY + "{20}"},
    "aws": dict.fromkeys(("AKIA", "ASIA", "ABIA", "ACCA"), "[A-Z0-9]{16}"),
    "slack": {
        **{f"xox{letter}-": "[A-Za-z0-9-]{24}" for letter in "abcdeoprs"},
        "xapp-": "[0-9]-[A-Za-z0-9-]{24}",
        "hooks.slack.com/services/T": r"[A-Z0-9]{8,12}+/B[A-Z0-9]{8,12}+/[A-Za-z0-9]{20}",
    },
    "google": {"AIza": _ANY + "{35}"},
    "stripe": dict.fromkeys(("sk_live_", "rk_live_"), _ALNUM + "{24}"),
    "npm": {"npm_": _ALNUM + "{36}"},
    "huggingface": {"hf_": _ALNUM + "{34}"},
}
_DIGIT = re.compile("[0-9]")
_WITHOUT_DIGITS = {"AKIA", "hf_"}
"""Whose tokens may well have no digit. Elsewhere that is a word: ASIAPACIFIC..., sk-your-key-..."""


def _tokens(kind: str) -> Callable[[str], Iterator[Span]]:
    patterns = {start: _token(start, body) for start, body in _TOKENS[kind].items()}

    def search(text: str) -> Iterator[Span]:
        for start, pattern in patterns.items():
            if start not in text:
                continue
            for match in pattern.finditer(text):
                body = match[0].removeprefix(start)
                if _is_token(body) and (start in _WITHOUT_DIGITS or _count_digits(body)):
                    yield match.span()

    return search


def _is_token(body: str) -> bool:
    return len(set(body)) >= min(8, len(body) // 2) and not _PLACEHOLDER.search(body)


def _count_digits(text: str) -> int:
    return len(_DIGIT.findall(text))


# PEM: https://www.rfc-editor.org/rfc/rfc7468

_PEM = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}?PRIVATE KEY(?: BLOCK)?-----")
_PEM_BREAKS = re.compile(r"\\+[nrt]|[\s\\\"'+,]")
_PEM_RUN = re.compile(rf"[A-Za-z0-9/=]{{{_PEM_BODY}}}")


def _private_keys(text: str) -> Iterator[Span]:
    for match in _PEM.finditer(text):
        start = match.end()
        end = text.find("-----", start, start + _PEM_WINDOW)
        body = text[start : end if end >= 0 else start + _PEM_WINDOW]
        # Line breaks, also as JSON or source code writes them.
        runs = _PEM_RUN.findall(_PEM_BREAKS.sub("", body))
        if any(len(set(run)) >= 12 for run in runs):
            yield match.start(), start + len(body)


# JWT: https://www.rfc-editor.org/rfc/rfc7519

_JWT = _token("eyJ", rf"(?<![_-]eyJ)(?=({_ANY}{{8,}}+)\.({_ANY}{{8,}}+)\.{_ANY}{{16}})")
_JWT_SHOWN = ("eyJzdWIiOiIxMjM0NTY3ODkwI",)
"""How the payload of jwt.io's specimen begins ("sub":"1234567890")."""


def _jwts(text: str) -> Iterator[Span]:
    if "eyJ" not in text:
        return
    for match in _JWT.finditer(text):
        header, payload = match[1], match[2]
        if _has_algorithm("eyJ" + header) and not payload.startswith(_JWT_SHOWN):
            yield match.start(), match.end(2) + 17


def _has_algorithm(header: str) -> bool:
    if len(header) > _MAX_JWT_HEADER:
        return False
    try:
        held = json.loads(base64.urlsafe_b64decode(header + "=" * (-len(header) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        return False
    return isinstance(held, dict) and "alg" in held


# values that are secret because of their names

_NAMES = (
    r"(?:secret|passw(?:or)?d|passphrase|pwd|authorization|"
    r"(?:api|access|secret|private|auth|account|master|signing|storage|encryption)[_ -]?key|"
    r"(?:access|auth|api|bearer|refresh|personal|private|bot|deploy|npm|github|gitlab)[_ -]?token)"
)
_NAME_END = re.compile(_NAMES + r"\Z")
_NAMED = re.compile(
    rf"(?:{_NAMES}\\{{0,4}}[\"']?\]?[ \t]{{0,8}}(?:=>|:=|[:=>])[ \t]{{0,8}}|bearer[ ])"
    r"(?P<quote>\\{0,4}[\"'`])?(?:(?:bearer|basic|token)[ ]{1,4})?"
)
_QUOTED = re.compile(r"([^\s\"'`\\]{10,200})\\{0,4}[\"'`]")
_SIZES = (20, 32, 40)
_WINDOW = re.compile(rf"[A-Za-z0-9+/=_-]{{{_SIZES[0]},{_SIZES[-1]}}}")
_ASSIGNED = re.compile(r"([^\s\"'`\\&;,$(){}<>]{10,100})[\s\"'`\\]")
_AWS_NAMED = re.compile(
    r"secret[_-]?(?:access[_-]?)?key\\{0,4}[\"']?\]?"
    r"[ \t]{0,8}(?:=>|:=|[:=>])[ \t]{0,8}\\{0,4}[\"'`]?"
)
_AWS_SECRET = re.compile(r"[A-Za-z0-9/+]{40}")
_PLAIN = re.compile(r"[A-Za-z0-9_-]+")
_SPECIAL = re.compile(r"[!@#$%^&*?~+]")
# Small and capital letters, digits; the rest of ASCII is left out.
_CLASSES = {
    c: "a" if chr(c).islower() else "A" if chr(c).isupper() else "0" if chr(c).isdigit() else ""
    for c in range(128)
}
_SAME = re.compile(r"a+|A+|0+")


def _named(text: str) -> Iterator[Span]:
    for match in _NAMED.finditer(_lower(text)):
        start = match.end()
        if match["quote"] and (value := _QUOTED.match(text, start)):
            if _is_password(value[1]):
                yield value.span(1)
                continue
        elif text[match.start() : start].isupper() and text[start - 1] == "=":  # as in .env files
            value = _ASSIGNED.match(text, start)
            if value and _is_password(value[1]):
                yield value.span(1)
                continue
        if (window := _WINDOW.match(text, start)) and _is_random(window[0]):
            yield window.span()


def _aws(text: str) -> Iterator[Span]:
    yield from _AWS_IDS(text)
    for match in _AWS_NAMED.finditer(_lower(text)):
        start = match.end()
        value = _AWS_SECRET.match(text[start : start + 60].replace("\\/", "/"))
        if value and _has_all_classes(value[0]) and _is_token(value[0]):
            yield start, start + 40


def _has_all_classes(text: str) -> bool:
    return {"a", "A", "0"} <= set(text.translate(_CLASSES))


def _is_random(value: str) -> bool:
    """Whether it begins as no word and no name in a program does: letters and digits, mixed.

    Each length is decided for itself, so that what follows changes nothing.
    """
    return any(_is_mixed(value[:size], size) for size in _SIZES)


def _is_mixed(window: str, size: int) -> bool:
    return (
        len(window) == size
        and _count_digits(window) >= 2
        and len(set(window)) >= 9
        and _changes(window) >= size * 7 // 20
        and not _PLACEHOLDER.search(window)
    )


def _is_password(value: str) -> bool:
    """Whether somebody's password looks like this, and no name, path, template or default."""
    if len(value) < 10 or len(set(value)) < 8 or _PLACEHOLDER.search(value) or _WEAK.search(value):
        return False
    if _SPECIAL.search(value):
        return _has_all_classes(value) and _changes(value) >= 3
    plain = len(value) >= 12 and _PLAIN.fullmatch(value) is not None
    return plain and _count_digits(value) >= 2 and _changes(value) >= 6


def _changes(text: str) -> int:
    """How often the next letter or digit is of another class than the last one."""
    return len(_SAME.findall(text.translate(_CLASSES))) - 1


def _lower(text: str) -> str:
    """As long as the text: these two are the only ones that would become longer, or ASCII."""
    return text.replace("\u0130", "\u0131").replace("\u212a", "\u0138").lower()


_AWS_IDS = _tokens("aws")
SEARCHES: dict[str, Callable[[str], Iterator[Span]]] = {
    **{kind: _tokens(kind) for kind in _TOKENS},
    "aws": _aws,
    "jwt": _jwts,
    "private_key": _private_keys,
    "named": _named,
}
