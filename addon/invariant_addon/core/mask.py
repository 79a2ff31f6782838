"""A request in which what a rule found is replaced by placeholders, before it goes upstream.

A placeholder is `[masked:<guardrail>:<8 hex digits>]`; the digits depend on the text and on a key
that stays on this machine. So the same text gets the same placeholder in every turn, prompts stay
cacheable, and the model can refer to what it does not see.

- Only the strings that change are written anew; all else stays byte for byte (`json_strings`).
- A text of mask_words.MIN_ANYWHERE characters or more is replaced wherever it is in the
  conversation, in whatever JSON spelling; a shorter one only in the messages where it was found.
- Arguments that are JSON stay JSON. Names, ids, roles and types stay as they are, and so do keys,
  but for those in a call's arguments, which are the model's text like any other.
- What cannot be replaced is an UnmaskableError: it is never passed on as if it had been.

A rule names a few places at a time. So the masked request has to be judged again, until nothing is
found in it.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .chat.bodies import parse_request
from .conversation import Conversation, Exchange
from .errors import InvariantError, NotUnderstoodError
from .json_strings import (
    Edit,
    Token,
    edited,
    edits_of_string,
    quoted,
    read,
    tokens,
    value_of,
)
from .json_text import decode
from .layout import Layout, chat_layout
from .located import Arguments, plain_arguments, texts_at
from .mask_words import Place, Wanted, label
from .verdict import Violation

type Placeholder = Callable[[str, str], str]
"""The name of a guardrail and the text that it found -> what takes the text's place."""


@dataclass(frozen=True, slots=True)
class Form:
    """How a dialect's requests are read: what dialects.Dialect has of it."""

    parse: Callable[[bytes], Exchange]
    layout: Callable[[Any], Layout]


CHAT_FORM = Form(parse_request, chat_layout)


class UnmaskableError(InvariantError):
    """Something that is to be masked cannot be: which rule found it, and why not.

    The request is not masked then, not even in part, and must not pass. Quotes no text.
    """

    def __init__(self, guardrail: str, reason: str) -> None:
        super().__init__(f"what {guardrail} found cannot be masked: {reason}")
        self.guardrail = guardrail
        self.reason = reason


def placeholder_for(key: bytes) -> Placeholder:
    """Placeholders that nobody without the key can tie to a text."""

    def placeholder(name: str, text: str) -> str:
        digest = hmac.new(key, text.encode("utf-8", "surrogatepass"), hashlib.sha256)
        return f"[masked:{label(name)}:{digest.hexdigest()[:8]}]"

    return placeholder


def mask_request(
    body: bytes,
    conversation: Conversation,
    violations: Sequence[Violation],
    placeholder: Placeholder,
    *,
    arguments: Arguments = plain_arguments,
    masking: Collection[str] = (),
    form: Form = CHAT_FORM,
) -> bytes:
    """The body without what these violations found in it. Raises UnmaskableError.

    body: identity-encoded; conversation: what form.parse made of it. placeholder: as from
    placeholder_for. arguments: how the engine reads a call's arguments. masking: names of all
    guardrails that mask, for their placeholders may be in the request already, and stay.
    """
    names = {v.guardrail.name for v in violations}.union(masking)
    layout = form.layout(decode(body))
    wanted = Wanted(layout.on_wire, names)
    found = [
        place
        for violation in violations
        for place in _places(violation, conversation, arguments, wanted)
    ]
    for place in found:
        wanted.add(place, placeholder(place.guardrail, place.text))
    if not found:
        return body
    text, write = read(body)
    masked = write(edited(text, _edits_of_request(text, layout, wanted)))
    _check(form, masked, conversation, found, arguments, wanted)
    return masked


def _places(
    violation: Violation, conversation: Conversation, arguments: Arguments, wanted: Wanted
) -> Iterator[Place]:
    """Where a violation found what. Nothing for a place that is masked already."""
    name = violation.guardrail.name
    ranges = [a for a in violation.addresses if a.start is not None and a.end != a.start]
    if not ranges:
        raise UnmaskableError(name, "the rule does not say which characters it means")
    for address in dict.fromkeys(ranges):
        start, end = address.start, address.end
        assert start is not None and end is not None
        if not 0 <= address.message < len(conversation.messages):
            raise UnmaskableError(name, "it is not in the request")
        texts = texts_at(conversation.messages[address.message], address.path, arguments)
        texts = tuple(text for text in texts if 0 <= start < end <= len(text.whole))
        if not texts:
            raise UnmaskableError(name, "it is in no text of a message")
        for text in texts:
            pieces = text.pieces(start, end)
            if not pieces:
                raise UnmaskableError(name, "it lies between two parts")
            left = tuple(rest for piece in pieces for rest in wanted.unmasked(piece))
            if left == pieces:
                yield Place(name, address, text.whole[start:end], pieces)
            else:
                for rest in left:
                    yield Place(name, address, rest.text, (rest,))


def _edits_of_request(text: str, layout: Layout, wanted: Wanted) -> Iterator[Edit]:
    for token in tokens(text):
        spot = layout.spot(token.path)
        if spot is None:
            continue
        message, within = spot.message, spot.arguments
        is_free = within is not None and len(token.path) > within
        if token.is_string and not token.is_key and within == len(token.path):
            value = value_of(text[token.start : token.end])
            edits = _edits_of_arguments(value, message, wanted)
            yield from edits_of_string(text, token.start, token.end, edits)
        elif is_free or not (token.is_key or spot.is_label):
            yield from _edits_of_token(text, token, message, wanted)


def _edits_of_token(text: str, token: Token, message: int, wanted: Wanted) -> Iterator[Edit]:
    raw = text[token.start : token.end]
    if token.is_string:
        value = value_of(raw)
        edits = wanted.long_edits(value) if token.is_key else wanted.edits(value, message)
        yield from edits_of_string(text, token.start, token.end, edits)
    elif edits := wanted.long_edits(raw):  # a number becomes a string
        yield Edit(token.start, token.end, f'"{quoted(edited(raw, edits))}"')


def _edits_of_arguments(value: str, message: int, wanted: Wanted) -> Iterator[Edit]:
    try:
        decode(value)
    except NotUnderstoodError:  # not JSON before, and so not afterwards
        yield from wanted.edits(value, message)
        return
    for token in tokens(value):
        yield from _edits_of_token(value, token, message, wanted)


def _check(
    form: Form,
    masked: bytes,
    before: Conversation,
    found: list[Place],
    arguments: Arguments,
    wanted: Wanted,
) -> None:
    """Raise UnmaskableError if the request is another one now, or something is still in it."""
    for guardrail in wanted.unused.values():
        raise UnmaskableError(guardrail, "it spans parts that are no text in the request")
    try:
        after = form.parse(masked).conversation
    except NotUnderstoodError as error:  # pragma: no cover - masks are plain text
        raise UnmaskableError(found[0].guardrail, str(error)) from error
    same = len(after.messages) == len(before.messages) and all(
        (old.role, len(old.tool_calls)) == (new.role, len(new.tool_calls))
        for old, new in zip(before.messages, after.messages, strict=True)
    )
    if not same:
        raise UnmaskableError(found[0].guardrail, "the request would become another one")
    for place in found:
        message = after.messages[place.address.message]
        # A path can lead nowhere afterwards: its keys were masked.
        texts = texts_at(message, place.address.path, arguments) or texts_at(
            message, ".".join(place.address.path.split(".")[:4]), arguments
        )
        if not texts or any(wanted.has(text.whole, place) for text in texts):
            raise UnmaskableError(place.guardrail, "it is part of a name, a key or an id")
