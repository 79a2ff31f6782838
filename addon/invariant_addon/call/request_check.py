"""A request before it goes upstream: judged, and masked where a rule says so."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace

from mitmproxy import http

from ..core import mask
from ..core.conversation import Conversation, Exchange
from ..core.errors import NotUnderstoodError
from ..core.located import matched, texts_at
from ..core.responses.history import sent
from ..core.terms import Refusal
from ..core.verdict import Action, Address, Outcome, Verdict, Violation
from ..engines.base import MAX_ADDRESSES, MAX_HITS
from ..engines.normalise import arguments
from ..judge import Answer
from .replies import read
from .state import Call

logger = logging.getLogger(__name__)

ROUNDS = 32
"""An engine names some 16 findings at a time, so masking may take several rounds."""


async def check(call: Call, request: http.Request, key: bytes) -> None:
    """Settle the call. A body that was masked takes the place of the request's own, also if it is
    refused for something else: the flow is kept.

    key: what the placeholders are made with.
    """
    assert call.judge is not None and call.exchange is not None
    body: bytes | None = None
    masked: list[_Masked] = []
    answer = await _ask(call)
    for _ in range(ROUNDS):
        found = answer.verdict.masking if answer.verdict is not None else ()
        if (
            not found or answer.verdict is None
        ):  # what blocks is looked at afterwards: masking may have mended it
            break
        if body is None:
            body = await read(bytes, request)
        new = [_Masked.of(v, call.exchange.conversation, key) for v in found]
        before, body = body, await _mask(call, body, found, key)
        if body is None:
            return
        if body == before:  # what was found are placeholders, and nothing else that is known of
            if not any(_may_be_more(outcome) for outcome in answer.verdict.outcomes):
                answer = _without_masks(answer)
            break
        masked += new
        answer = await _ask(call)
    call.masked = tuple(one.as_it_is_now(call.exchange.conversation) for one in masked)
    _settle(call, answer)
    if body is not None:
        _replace(request, body)


async def _ask(call: Call) -> Answer:
    assert call.judge is not None and call.exchange is not None
    exchange = call.exchange
    # Requests that stand for themselves are each judged so.
    asking = call.judge.ask_request(exchange.conversation, exchange.separate or ((),))
    # One that has gone upstream meanwhile does not wait.
    return await call.timed(asking, lambda: None if call.checking is not None else 0.0)


@dataclass(frozen=True, slots=True)
class _Masked:
    """What was masked, and the placeholders that were put in the place of each address."""

    violation: Violation
    placeholders: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, violation: Violation, before: Conversation, key: bytes) -> _Masked:
        placeholder = mask.placeholder_for(key)

        def placeholders(address: Address) -> tuple[str, ...]:
            if not 0 <= address.message < len(before.messages):
                return ()
            texts = matched(before.messages[address.message], address, arguments)
            return tuple(placeholder(violation.guardrail.name, text) for text in texts)

        return cls(violation, tuple(placeholders(a) for a in violation.addresses))

    def as_it_is_now(self, after: Conversation) -> Violation:
        """With addresses of the placeholders; of the message, where they are not found."""
        found: list[Address] = []
        for address, placeholders in zip(self.violation.addresses, self.placeholders, strict=True):
            if not 0 <= address.message < len(after.messages):
                continue
            texts = texts_at(after.messages[address.message], address.path, arguments)
            places = [
                replace(address, start=at, end=at + len(placeholder))
                for placeholder in placeholders
                for text in texts
                for at in _each(placeholder, text.whole)
            ]
            found += places or [Address(address.message)]
        return replace(self.violation, addresses=tuple(dict.fromkeys(found)))


def _each(part: str, text: str) -> Iterator[int]:
    at = text.find(part)
    while at >= 0:
        yield at
        at = text.find(part, at + len(part))


def _may_be_more(outcome: Outcome) -> bool:
    """Whether there may be findings that were not named, behind those that were."""
    found = outcome.violations
    return len(found) >= MAX_HITS or any(len(v.addresses) >= MAX_ADDRESSES for v in found)


def _without_masks(answer: Answer) -> Answer:
    assert answer.verdict is not None
    outcomes = (
        replace(o, violations=()) if o.guardrail.action is Action.MASK else o
        for o in answer.verdict.outcomes
    )
    return replace(answer, verdict=Verdict(tuple(outcomes)))


async def _mask(call: Call, body: bytes, found: tuple[Violation, ...], key: bytes) -> bytes | None:
    """The masked body, and the call's exchange read from it; None: the call is refused."""
    assert call.exchange is not None
    own, here = sent(call.exchange.conversation, found)
    assert call.judge is not None
    dialect = call.dialect
    names = [guardrail.name for guardrail in call.judge.masking]

    def work() -> tuple[bytes, Exchange]:
        placeholder = mask.placeholder_for(key)
        new = mask.mask_request(
            body,
            own,
            here,
            placeholder,
            arguments=arguments,
            masking=names,
            form=mask.Form(dialect.parse_request, dialect.layout),
        )
        exchange = dialect.parse_request(new)
        return new, call.lean.complete(exchange) if call.lean else exchange

    try:
        new, call.exchange = await asyncio.to_thread(work)
    except mask.UnmaskableError as error:
        logger.info("could not mask: %s", error)
        call.refused = Refusal(violations=found)
        return None
    except NotUnderstoodError:
        logger.warning("a masked request could not be read any more")
        call.refused = Refusal(violations=found)
        return None
    return new


def _settle(call: Call, answer: Answer) -> None:
    left = answer.verdict.masking if answer.verdict is not None else ()
    if left:
        call.overlook(answer)
        call.refused = Refusal(violations=left)  # it could not be masked, so it does not leave
    else:
        call.settle(answer)


def _replace(request: http.Request, body: bytes) -> None:
    request.headers.pop("content-encoding", None)
    request.raw_content = body
    if "content-length" in request.headers:
        request.headers["content-length"] = str(len(body))
