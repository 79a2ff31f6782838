"""A trace that no verdict covers whole -> the same without the secrets in it.

What rules found is masked by redact.py. What they never saw (the call was not judged, or refused
before its end) is searched here, with the search of the starter rules: every text of the trace, the
names of fields, and JSON in texts. Placeholders are those that the rules' findings would have had.
A finding whose text cannot be followed then names its message. For what was judged, see
unsearched.py: there, what is a secret by its form alone is searched (`certain`).

In time that is linear in the trace, but for MAX_WORDS passwords that are looked for everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

import orjson

from ..core.chat.message import read_message
from ..core.conversation import Message
from ..core.errors import NotUnderstoodError
from ..core.json_strings import Edit, edited, edits_of_string, tokens, value_of
from ..core.json_text import decode
from ..core.layout import BESIDE
from ..core.located import Arguments, Piece, texts_at
from ..core.mask import Placeholder
from ..core.mask_words import MIN_ANYWHERE, Place, Wanted
from ..core.trace import Finding, Json, Trace
from ..core.verdict import Address
from ..engines.normalise import arguments as read_arguments
from ..starter import secrets, texts
from ..starter.likely import may_hold_secret
from .rewritten import rewritten

KEYS, PASSWORDS, ADDRESSES = "api_keys", "passwords", "addresses"
"""The starter rules that find what is searched here: placeholders are named after them."""
MAX_WORDS = 200
"""Passwords, known by what stands before them, that are looked for where nothing does."""
_MASK = re.compile(r"\[masked:[A-Za-z0-9_.-]{1,40}:[0-9a-f]{8}\]")
_MAX_JSON = 4
"""Levels of JSON in texts in JSON that are read, as the rules do."""


class _Span(NamedTuple):
    start: int
    end: int
    rule: str


def without_secrets(
    trace: Trace,
    placeholder: Placeholder,
    *,
    arguments: Arguments = read_arguments,
    certain: bool = False,
) -> Trace:
    """A trace to be kept, after redact.redact: addresses count as in what is kept.

    certain: only what is a secret by its form, and not passwords by what stands before them.
    """
    return _Search(placeholder, arguments, certain=certain).run(trace)


class _Search:
    def __init__(self, placeholder: Placeholder, arguments: Arguments, *, certain: bool) -> None:
        self._placeholder = placeholder
        self._arguments = arguments
        self._certain = certain
        self._words: dict[str, str] = {}

    def run(self, trace: Trace) -> Trace:
        found = _mapped(trace, self)
        if self._words:
            wanted = Wanted(0, (PASSWORDS, ADDRESSES))
            for word, mark in self._words.items():
                wanted.add(Place("", Address(BESIDE), word, (Piece(word, 0, len(word)),)), mark)
            found = _Words(wanted).written(found)
        if found == trace:
            return trace
        pairs = zip(trace.findings, found.findings, strict=True)
        return replace(
            found, findings=tuple(self._moved(old, new, trace, found) for old, new in pairs)
        )

    # -- texts ----------------------------------------------------------------------------------

    def text(self, text: str, name: str | None = None, level: int = 0) -> str:
        """name: of the field that holds it."""
        if len(text) < MIN_ANYWHERE:
            return text
        if self._certain:
            if not _is_likely(text):
                return text
        elif name and not _MASK.fullmatch(text) and secrets.is_named_secret(name, text):
            return self._mark(PASSWORDS, text)
        text = edited(text, self._edits(text))
        if level < _MAX_JSON and text[:64].lstrip()[:1] in ("{", "["):
            text = self._json(text, level + 1)
        return text

    def _edits(self, text: str) -> list[Edit]:
        masks = [m.span() for m in _MASK.finditer(text)]
        merged: list[_Span] = []
        for span in sorted(_spans(text, certain=self._certain)):
            if any(first <= span.start and span.end <= last for first, last in masks):
                continue
            if merged and span.start < merged[-1].end:
                before = merged[-1]
                merged[-1] = before._replace(end=max(before.end, span.end))
            else:
                merged.append(span)
        return [Edit(s.start, s.end, self._mark(s.rule, text[s.start : s.end])) for s in merged]

    def _json(self, text: str, level: int) -> str:
        """What escapes hide, and values by their names. All else stays as it is spelled."""
        try:
            decode(text)
        except NotUnderstoodError:
            return text
        edits: list[Edit] = []
        for token in tokens(text):
            if not token.is_string:
                continue
            value = value_of(text[token.start : token.end])
            names = [step for step in token.path if isinstance(step, str)]
            name = None if token.is_key or not names else names[-1]
            masked = self.text(value, name, level)
            if masked != value:
                whole = [Edit(0, len(value), masked)]
                edits += edits_of_string(text, token.start, token.end, whole)
        return edited(text, edits)

    def _mark(self, rule: str, text: str) -> str:
        mark = self._placeholder(rule, text)
        if rule != KEYS and len(text) >= MIN_ANYWHERE and len(self._words) < MAX_WORDS:
            self._words.setdefault(text, mark)
        return mark

    # -- addresses ------------------------------------------------------------------------------

    def _moved(self, old: Finding, new: Finding, before: Trace, after: Trace) -> Finding:
        places = (self._followed(a, before, after) for a in old.addresses)
        return replace(new, addresses=tuple(dict.fromkeys(places)))

    def _followed(self, address: Address, before: Trace, after: Trace) -> Address:
        """Where its text is now: it, or all that is before or behind it, stayed as it was."""
        start, end = address.start, address.end
        whole = Address(address.message)
        pairs = list(
            zip(_said(before, address.message), _said(after, address.message), strict=True)
        )
        if all(old == new for old, new in pairs):
            return address
        if start is None or end is None or len(pairs) != 1:
            return whole
        ((old, new),) = pairs
        was = texts_at(_read(old), address.path, self._arguments)
        now = texts_at(_read(new), address.path, self._arguments)
        if len(was) != 1 or len(now) != 1:
            return whole
        text, masked = was[0].whole, now[0].whole
        if text[:end] == masked[:end]:
            return address
        shift = len(masked) - len(text)
        if start + shift >= 0 and text[start:] == masked[start + shift :]:
            return replace(address, start=start + shift, end=end + shift)
        return whole


class _Words:
    """Texts that were found somewhere else."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted

    def written(self, trace: Trace) -> Trace:
        return _mapped(trace, self)

    def text(self, text: str, name: str | None = None) -> str:
        return edited(text, self._wanted.long_edits(text))


def _is_likely(text: str) -> bool:
    try:
        return may_hold_secret(orjson.dumps(text))
    except orjson.JSONEncodeError:  # a lone surrogate
        return True


def _spans(text: str, *, certain: bool) -> Iterator[_Span]:
    for kind, search in secrets.SEARCHES.items():
        if certain and kind == "named":
            continue
        rule = PASSWORDS if kind == "named" else KEYS
        yield from (_Span(start, end, rule) for start, end in search(text))
    yield from (_Span(start, end, ADDRESSES) for start, end in texts.logins(text))


# the trace, text by text


def _mapped(trace: Trace, to: _Search | _Words) -> Trace:
    def value(item: Json, name: str | None = None) -> Json:
        if isinstance(item, str):
            return to.text(item, name)
        if isinstance(item, list | tuple):
            return [value(entry, name) for entry in item]
        if isinstance(item, dict):
            return {to.text(key): value(entry, key) for key, entry in item.items()}
        return item

    def fields(items: Mapping[str, Json]) -> Mapping[str, Json]:
        return {to.text(key): value(entry, key) for key, entry in items.items()}

    return rewritten(
        trace,
        text=to.text,
        messages=[value(message) for message in trace.messages],
        choices=[value(choice) for choice in trace.choices],
        parameters=fields(trace.parameters),
        usage=fields(trace.usage),
    )


def _said(trace: Trace, number: int) -> Iterable[Json]:
    """What addresses with this number mean, in what is kept (counted.settled)."""
    if number < len(trace.messages):
        return (trace.messages[number],)
    return trace.choices if number == len(trace.messages) else ()


def _read(value: Json) -> Message:
    try:
        return read_message(value, "unknown")
    except NotUnderstoodError:
        return Message("unknown")
