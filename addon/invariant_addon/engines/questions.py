"""A question -> what a worker is asked (see worker.py), and its answer -> verdicts.

It knows no processes.
"""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from ..core.conversation import Conversation
from ..core.verdict import Guardrail, Outcome, Verdict, Violation
from .base import EngineError, Priority, Question
from .normalise import Digest, Place, locate, normalise
from .shelf import Key
from .waiting import Home

LARGE_MESSAGES = 200
LARGE_TEXT = 2**18
"""A conversation beyond these (messages, characters) takes milliseconds to prepare."""
MAX_WRITTEN = 16
MAX_HOMES = 1024
MAX_OPENING = 8


@dataclass(frozen=True, slots=True)
class Foreseen:
    """A question of which the worker gives the answer before it is asked: see Question.then."""

    about: tuple[object, ...]
    digests: Sequence[Digest]
    said: asyncio.Future[tuple[bytes | EngineError, float]]


@dataclass(slots=True)
class Prepared:
    """A conversation as the engine reads it, and as JSON. seconds: its last check took. home: which
    worker knows it."""

    digest: Digest
    body: bytes
    home: Home = field(default_factory=Home)
    seconds: float = 0.0
    foreseen: Foreseen | None = None


def prepare(conversation: Conversation) -> Prepared:
    digest = normalise(conversation.messages)
    return Prepared(digest, _dumps(digest.messages))


def is_large(conversation: Conversation) -> bool:
    if len(conversation.messages) > LARGE_MESSAGES:
        return True
    size = 0
    for message in conversation.messages:
        size += sum(len(part.text) for part in message.parts)
        size += sum(len(call.arguments) for call in message.tool_calls)
    return size > LARGE_TEXT


def key_of(guardrail: Guardrail) -> Key:
    return guardrail.text, guardrail.trusted


def parameters_of(question: Question) -> bytes:
    try:
        return _dumps(dict(question.parameters))
    except (TypeError, ValueError, RecursionError) as e:
        raise EngineError(f"the parameters are no plain JSON: {type(e).__name__}") from None


def body_of(
    messages: bytes, digests: Sequence[Digest], keys: bytes, then: bytes, parameters: bytes
) -> bytes:
    continuations = b",".join(_dumps(digest.messages) for digest in digests)
    head = b'{"op":"check","continuations":[%b],"parameters":%b}' % (continuations, parameters)
    return b"\n".join((head, keys, then, messages))


class Homes:
    """Of the conversations that were judged last, by how they open: the next turn of one has the
    same beginning, and a worker that has read that needs only read the rest."""

    def __init__(self) -> None:
        self._known: OrderedDict[int, Home] = OrderedDict()

    def of(self, digest: Digest) -> Home:
        key = hash(tuple(_opening(digest)))
        home = self._known.get(key)
        if home is None:
            home = self._known[key] = Home()
            if len(self._known) > MAX_HOMES:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(key)
        return home


def _opening(digest: Digest) -> Iterator[object]:
    """All up to the first message of the user."""
    for message in digest.messages[:MAX_OPENING]:
        yield message["role"], message["content"]
        if message["role"] == "user":
            return


class Written:
    """Guardrails as JSON: most questions are about the same few sets of them."""

    def __init__(self) -> None:
        self._known: dict[tuple[Key, ...], bytes] = {}

    def of(self, keys: tuple[Key, ...]) -> bytes:
        written = self._known.get(keys)
        if written is None:
            written = _dumps(keys)
            if len(self._known) >= MAX_WRITTEN:
                self._known.clear()
            self._known[keys] = written
        return written


def about(
    question: Question, guardrails: Sequence[Guardrail], parameters: bytes
) -> tuple[object, ...]:
    return (question.continuations, tuple(guardrails), parameters)


def family_of(question: Question, parameters: bytes) -> tuple[object, ...] | None:
    """Equal for questions of which the newest answers all: pieces of one reply.

    What holds for the longer piece holds for the shorter one: it has every final violation.
    """
    if question.priority is not Priority.PREFIX:
        return None
    choices = len(question.continuations)
    return (question.conversation, question.guardrails, parameters, choices)


def _dumps(value: object) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:  # integers beyond 64 bits and lone surrogates
        return json.dumps(value).encode()


def verdicts(
    body: bytes, guardrails: Sequence[Guardrail], digests: Sequence[Digest]
) -> tuple[Verdict, ...] | None:
    """One for each continuation; None: the worker did not look."""
    answer = orjson.loads(body)
    if "outcomes" not in answer:
        raise EngineError(str(answer.get("error")))
    if answer["outcomes"] is None:
        return None
    return tuple(
        _verdict(outcomes, guardrails, digest.places)
        for outcomes, digest in zip(answer["outcomes"], digests, strict=True)
    )


def _verdict(
    answers: list[dict[str, Any]], guardrails: Sequence[Guardrail], places: Sequence[Place]
) -> Verdict:
    return Verdict(
        tuple(
            Outcome(
                guardrail,
                tuple(_violation(v, guardrail, places) for v in answer["violations"]),
                answer["error"],
                tuple(answer["notes"]),
            )
            for guardrail, answer in zip(guardrails, answers, strict=True)
        )
    )


def _violation(found: dict[str, Any], guardrail: Guardrail, places: Sequence[Place]) -> Violation:
    located = (locate(address, places) for address in found["ranges"])
    addresses = tuple(dict.fromkeys(address for address in located if address))
    return Violation(guardrail, found["message"], addresses, found["final"])
