"""A question -> the JSON that a guardrails service is asked with, and its answer -> verdicts.

It knows no network. The shapes are those of `POST /api/v1/policy/check/batch`:
    {"messages": [...], "policies": [text], "parameters": {...}, "dataset_name": text or null}
    {"result": [{"policy", "errors": [{"args", "kwargs", "ranges": ["messages.1.content:4-10"]}],
                 "success", "error_message"}]}
with one result for each policy, in order. What a service says in its own words (error messages,
computed arguments) may quote the conversation, so nothing of it is passed on.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import orjson

from ..core.conversation import Conversation, Message
from ..core.verdict import Address, Guardrail, Outcome, Verdict, Violation
from .base import MAX_ADDRESSES, MAX_HITS, RESERVED_PARAMETER, EngineError
from .normalise import Digest, Place, locate, normalise

MAX_ERRORS = 1024
"""Of one policy that are read at all."""
MAX_WORDS = 1000
MAX_ADDRESS = 4000
"""Characters of one. Fewer than the digits that Python would refuse to read (4300)."""
MAX_OFFSET = 2**31

BREACH = "the rule does not hold"
NOT_JUDGED = "the guardrails service could not judge it"
UNREADABLE = "the guardrails service answered something else than a result"

type IsFinal = Callable[[Guardrail], bool]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A conversation as the service reads it, and that as JSON."""

    digest: Digest
    body: bytes


@dataclass(frozen=True, slots=True)
class Asked:
    """The body of one request, and what is needed to read the addresses in its answer."""

    body: bytes
    places: tuple[Place, ...]


def prepare(conversation: Conversation) -> Prepared:
    digest = normalise(conversation.messages)
    return Prepared(digest, dumps(digest.messages))


def ask(base: Prepared, continuation: Sequence[Message], rest: bytes) -> Asked:
    """The request about one continuation. rest: see there."""
    digest = normalise(continuation, base.digest)
    messages = base.body
    if digest.messages:
        comma = b"," if base.digest.messages else b""
        messages = b"%b%b%b" % (base.body[:-1], comma, dumps(digest.messages)[1:])
    return Asked(b'{"messages":%b,%b' % (messages, rest), digest.places)


def rest(
    guardrails: Sequence[Guardrail], parameters: Mapping[str, object], dataset: str | None
) -> bytes:
    """What all requests of one question end with."""
    said = {
        "policies": [guardrail.text for guardrail in guardrails],
        "parameters": {k: v for k, v in parameters.items() if k != RESERVED_PARAMETER},
        "dataset_name": dataset,
    }
    try:
        return dumps(said)[1:]
    except (TypeError, ValueError, RecursionError) as e:
        raise EngineError(f"the parameters are no plain JSON: {type(e).__name__}") from None


def read(
    answer: bytes,
    guardrails: Sequence[Guardrail],
    places: Sequence[Place],
    is_final: IsFinal | None = None,
) -> Verdict:
    """The verdict in this answer. EngineError if there is none; nothing else, whatever it is."""
    results = _results(answer)
    if len(results) != len(guardrails):
        raise EngineError(
            f"the guardrails service answered for {len(results)} of {len(guardrails)} policies"
        )
    texts = {guardrail.text for guardrail in guardrails}
    for result, guardrail in zip(results, guardrails, strict=True):
        said = result.get("policy") if isinstance(result, dict) else None
        if isinstance(said, str) and said != guardrail.text and said in texts:
            raise EngineError("the guardrails service answered in another order than asked")
    return Verdict(
        tuple(
            _outcome(result, guardrail, places, is_final)
            for result, guardrail in zip(results, guardrails, strict=True)
        )
    )


def dumps(value: object) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:  # integers beyond 64 bits and lone surrogates
        return json.dumps(value).encode()


def _results(answer: bytes) -> list[object]:
    try:
        value = _loads(answer)
    except (ValueError, RecursionError):
        raise EngineError(
            "the guardrails service answered something else than JSON: is its URL right?"
        ) from None
    results = value.get("result") if isinstance(value, dict) else None
    if not isinstance(results, list):
        raise EngineError(
            "the guardrails service answered JSON without a list of results: is its URL right?"
        )
    return results


def _loads(answer: bytes) -> object:
    try:
        return orjson.loads(answer)
    except ValueError:  # NaN and lone surrogates, which Python's own json writes
        return json.loads(answer)


def _outcome(
    result: object, guardrail: Guardrail, places: Sequence[Place], is_final: IsFinal | None
) -> Outcome:
    if not isinstance(result, dict):
        return Outcome(guardrail, error=UNREADABLE)
    errors = result.get("errors")
    found = tuple(_violations(errors, guardrail, places)) if isinstance(errors, list) else ()
    if found and is_final is not None and is_final(guardrail):
        found = tuple(Violation(guardrail, v.message, v.addresses, True) for v in found)
    if result.get("success", True) is not True or result.get("error_message"):
        return Outcome(guardrail, found, NOT_JUDGED)
    return Outcome(guardrail, found, None if isinstance(errors, list) else UNREADABLE)


def _violations(
    errors: list[object], guardrail: Guardrail, places: Sequence[Place]
) -> Iterator[Violation]:
    """One for each error, even one that makes no sense: a hit stays a hit."""
    hits: Counter[str] = Counter()
    for error in errors[:MAX_ERRORS]:
        fields = error if isinstance(error, dict) else {}
        words = _words(fields.get("args"), guardrail.text)
        hits[words] += 1
        if hits[words] <= MAX_HITS:
            yield Violation(guardrail, words, _addresses(fields.get("ranges"), places))


def _words(args: object, text: str) -> str:
    """What the rule raises, if that stands in it: what was put together could quote the very text
    that is blocked."""
    said = args[0] if isinstance(args, list) and args else None
    if isinstance(said, str) and said and said in text:
        return said[:MAX_WORDS]
    return BREACH


def _addresses(ranges: object, places: Sequence[Place]) -> tuple[Address, ...]:
    if not isinstance(ranges, list):
        return ()
    located = (_locate(found, places) for found in ranges[:MAX_ERRORS])
    known = dict.fromkeys(address for address in located if address is not None)
    return tuple(known)[:MAX_ADDRESSES]


def _locate(found: object, places: Sequence[Place]) -> Address | None:
    """None for whatever is no address: it is another program that wrote it."""
    if not isinstance(found, str) or len(found) > MAX_ADDRESS or _has_surrogates(found):
        return None
    address = locate(found, places)
    if address is None or address.start is None or address.end is None:
        return address
    return address if address.start <= address.end <= MAX_OFFSET else None


def _has_surrogates(text: str) -> bool:
    """They cannot be written as UTF-8, and no place in a conversation is called so."""
    return any("\ud800" <= c <= "\udfff" for c in text) if not text.isascii() else False


def size(messages: Iterable[Message]) -> int:
    """Characters that rules can read of them."""
    return sum(
        sum(len(part.text) for part in message.parts)
        + sum(len(call.arguments) for call in message.tool_calls)
        for message in messages
    )
