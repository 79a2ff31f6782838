"""A trace without the secrets that rules found in it; other findings still point at their texts.

What a finding about a secret points at is replaced by a placeholder, `[masked:<guardrail>:<8 hex
digits>]` (core/mask.py), wherever it is in the trace and however it is escaped; a text of fewer
than mask_words.MIN_ANYWHERE characters only in its own message. Names, ids and the keys of objects
are masked like all else, for nobody sends a trace back to the model.

Where a rule does not say which characters it means, or they cannot be replaced one by one, the
whole message is. An address whose text could not be followed then names the message.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import replace
from typing import Any

from ..core.conversation import Message
from ..core.errors import NotUnderstoodError
from ..core.json_strings import Edit, Token, edited, edits_of_string, quoted, tokens, value_of
from ..core.json_text import decode
from ..core.layout import BESIDE
from ..core.located import Arguments, Piece, Text, texts_at
from ..core.mask import Placeholder
from ..core.mask_words import MIN_ANYWHERE, Place, Wanted
from ..core.trace import Finding, Json, Trace
from ..core.verdict import Address
from ..engines.normalise import arguments as read_arguments
from .counted import Counted, settled
from .rewritten import rewritten

SECRET_RULES = frozenset(("api_keys", "passwords", "addresses"))
"""The starter rules that find keys, tokens and passwords."""

type IsSecret = Callable[[Finding], bool]


def is_secret(finding: Finding) -> bool:
    """Whether a starter rule found a secret. `addresses` also finds what is none."""
    name = finding.guardrail.get("name")
    if finding.guardrail.get("source") != "starter" or finding.effect == "muted":
        return False
    return name in SECRET_RULES and (name != "addresses" or "password" in finding.words)


def redact(
    trace: Trace,
    placeholder: Placeholder,
    *,
    secret: IsSecret = is_secret,
    also: Sequence[Finding] = (),
    arguments: Arguments = read_arguments,
) -> Trace:
    """The trace to be kept. Addresses count in the messages of the given trace.

    placeholder: core.mask.placeholder_for the key of this machine. also: findings that are not
    told once more (those of old messages) and whose secrets are in the trace all the same.
    A finding of a reply says nothing about which choice it means, so it is looked for in all.
    """
    secrets = [finding for finding in (*trace.findings, *also) if secret(finding)]
    if not secrets:
        return settled(trace)
    names = {finding.guardrail.get("name", "") for finding in (*trace.findings, *also)}
    return settled(_Redaction(trace, names, placeholder, arguments).run(secrets))


class _Redaction:
    """Of one trace."""

    def __init__(
        self, trace: Trace, names: Set[str], placeholder: Placeholder, arguments: Arguments
    ) -> None:
        self._trace = trace
        self._placeholder = placeholder
        self._arguments = arguments
        self._counted = Counted(trace)
        self._count = self._counted.count
        self._wanted = Wanted(len(trace.messages), names)
        self._whole: dict[int, str] = {}  # messages to be replaced whole, with what

    def run(self, secrets: Sequence[Finding]) -> Trace:
        for finding in secrets:
            self._want(finding)
        redacted = self._written()
        if leftovers := dict(self._leftovers(redacted)):
            self._whole = leftovers | self._whole
            redacted = self._written()
        pairs = zip(self._trace.findings, redacted.findings, strict=True)
        findings = tuple(self._moved(old, new, redacted) for old, new in pairs)
        return replace(redacted, findings=findings)

    # -- what to mask -------------------------------------------------------------------------

    def _want(self, finding: Finding) -> None:
        name = finding.guardrail.get("name", "")
        ranges = [a for a in finding.addresses if a.start is not None and a.start != a.end]
        places = [a.message for a in finding.addresses] or range(self._count + 1)
        if not ranges:  # it may be anywhere there
            for number in places:
                self._whole[number] = self._mark(name, number)
        for address in dict.fromkeys(ranges):
            found = False
            for message in self._counted.messages(self._trace, address.message):
                for place in self._places(name, address, message):
                    found = True
                    if place.pieces:
                        self._add(place, self._placeholder(name, place.text))
            if not found:
                self._whole[address.message] = self._mark(name, address.message)

    def _add(self, place: Place, mark: str) -> None:
        """Wanted knows texts of enough letters without their escapes; a text that is short without
        them is looked for in each spelling."""
        self._wanted.add(place, mark)
        if len(place.pieces) == 1 and len(place.text) >= MIN_ANYWHERE:
            for spelled in _spellings(place.text):
                piece = Piece(spelled, 0, len(spelled))
                self._wanted.add(Place(place.guardrail, place.address, spelled, (piece,)), mark)

    def _places(self, name: str, address: Address, message: Message) -> Iterable[Place]:
        """Those without pieces are masked already."""
        start, end = address.start, address.end
        assert start is not None and end is not None
        for text in texts_at(message, address.path, self._arguments):
            pieces = text.pieces(start, end) if 0 <= start < end <= len(text.whole) else ()
            if not pieces:
                continue
            left = tuple(rest for piece in pieces for rest in self._wanted.unmasked(piece))
            if left == pieces:
                yield Place(name, address, text.whole[start:end], pieces)
            else:
                yield from (Place(name, address, rest.text, (rest,)) for rest in left)
                yield Place(name, address, "", ())

    def _mark(self, name: str, number: int) -> str:
        messages = self._counted.messages(self._trace, number)
        return self._placeholder(name, "\n".join(message.text for message in messages))

    # -- the new trace --------------------------------------------------------------------------

    def _written(self) -> Trace:
        trace = self._trace
        messages = [
            _replaced(message, self._whole[number])
            if number in self._whole
            else self._value(message, number)
            for number, message in enumerate(trace.messages)
        ]
        choices = [
            _replaced(choice, self._whole[self._count])
            if self._count in self._whole
            else self._value(choice, BESIDE)
            for choice in trace.choices
        ]
        parameters = {
            self._key(key): self._whole[number]
            if (number := self._counted.number(key)) in self._whole
            else self._value(value, BESIDE)
            for key, value in trace.parameters.items()
        }
        return rewritten(
            trace,
            text=self._long,
            messages=messages,
            choices=choices,
            parameters=parameters,
            usage={
                self._key(key): self._value(value, BESIDE) for key, value in trace.usage.items()
            },
        )

    def _long(self, text: str) -> str:
        return edited(text, self._wanted.long_edits(text))

    _key = _long

    def _value(self, value: Json, number: int, path: tuple[str, ...] = ()) -> Json:
        """A value of a message (BESIDE: or of something else) without what is to be masked."""
        if isinstance(value, str):
            if path[-1:] == ("arguments",):
                return edited(value, self._edits_of_arguments(value, number))
            return edited(value, self._wanted.edits(value, number))
        if isinstance(value, dict):
            return {
                self._key(key): self._value(item, number, (*path[-3:], key))
                for key, item in value.items()
            }
        if isinstance(value, list | tuple):
            return [self._value(item, number, path) for item in value]
        if isinstance(value, int | float) and not isinstance(value, bool):
            text = str(value)
            masked = self._long(text)
            return value if masked == text else masked
        return value

    def _edits_of_arguments(self, text: str, number: int) -> list[Edit]:
        try:
            decode(text)
        except NotUnderstoodError:
            return self._wanted.edits(text, number)
        return [
            edit for token in tokens(text) for edit in self._edits_of_token(text, token, number)
        ]

    def _edits_of_token(self, text: str, token: Token, number: int) -> list[Edit]:
        raw = text[token.start : token.end]
        if not token.is_string:
            edits = self._wanted.long_edits(raw)
            masked = f'"{quoted(edited(raw, edits))}"'
            return [Edit(token.start, token.end, masked)] if edits else []
        value = value_of(raw)
        edits = (
            self._wanted.long_edits(value) if token.is_key else self._wanted.edits(value, number)
        )
        return list(edits_of_string(text, token.start, token.end, edits))

    # -- what is left -----------------------------------------------------------------------------

    def _leftovers(self, redacted: Trace) -> Iterable[tuple[int, str]]:
        """Messages in which something could not be replaced, and what takes their place."""
        for (number, _), name in self._wanted.unused.items():
            beside = range(len(redacted.messages), self._count + 1)
            for one in beside if number == BESIDE else (number,):
                yield one, self._mark(name, one)
        for number in range(self._count + 1):
            messages = self._counted.messages(redacted, number)
            for needle in self._wanted.anywhere.values():
                if any(_is_in(needle.text, message) for message in messages):
                    yield number, needle.placeholder

    # -- addresses ----------------------------------------------------------------------------

    def _moved(self, old: Finding, new: Finding, redacted: Trace) -> Finding:
        pairs = zip(old.addresses, new.addresses, strict=True)
        places = (self._followed(before, after.path, redacted) for before, after in pairs)
        return replace(new, addresses=tuple(dict.fromkeys(places)))

    def _followed(self, address: Address, path: str, redacted: Trace) -> Address:
        """Where the text of an address is now. path: its own, but for keys that were masked."""
        if address.message in self._whole:
            return Address(address.message)
        if address.start is None or address.end is None:
            return replace(address, path=path)
        before = self._counted.messages(self._trace, address.message)
        after = self._counted.messages(redacted, address.message)
        found = {
            self._range(address, old, new, path) for old, new in zip(before, after, strict=True)
        } - {None}
        if len(found) != 1:
            return Address(address.message)
        ((start, end),) = found  # type: ignore[misc]  # None is not in it
        return Address(address.message, path, start, end)

    def _range(
        self, address: Address, before: Message, after: Message, path: str
    ) -> tuple[int, int] | None:
        assert address.start is not None and address.end is not None
        old = texts_at(before, address.path, self._arguments)
        new = texts_at(after, path, self._arguments)
        for text, masked in zip(old, new, strict=False):
            if address.end > len(text.whole):
                continue
            edits = self._edits_of_text(text, address.message)
            if edited(text.whole, edits) == masked.whole:
                return _shifted(address.start, edits), _shifted(address.end, edits, is_end=True)
        return None

    def _edits_of_text(self, text: Text, message: int) -> list[Edit]:
        number = self._wanted.number(message)
        return sorted(
            Edit(at + edit.start, at + edit.end, edit.text)
            for at, part in text.segments
            for edit in self._wanted.edits(part, number)
        )


def _replaced(message: Json, mark: str) -> Json:
    role: Any = message.get("role") if isinstance(message, dict) else None
    return {
        "role": role if isinstance(role, str) and len(role) < 20 else "unknown",
        "content": mark,
    }


def _shifted(place: int, edits: Sequence[Edit], *, is_end: bool = False) -> int:
    """Where a place is after the edits; from within an edit, its beginning or its end."""
    shift = 0
    for start, end, text in edits:
        if place <= start:
            break
        if place < end:
            return start + shift + (len(text) if is_end else 0)
        shift += len(text) - (end - start)
    return place + shift


def _spellings(text: str) -> Iterable[str]:
    """As it stands in JSON, and in JSON that is a string in JSON, if that is another text."""
    for ascii_only in (True, False):
        spelled = text
        for _ in range(3):
            spelled = json.dumps(spelled, ensure_ascii=ascii_only)[1:-1]
            if spelled != text:
                yield spelled


def _is_in(text: str, message: Message) -> bool:
    texts = [part.text for part in message.parts]
    texts += [call.arguments for call in message.tool_calls]
    texts += [message.text, message.joined or ""]
    return any(text in one for one in texts)
