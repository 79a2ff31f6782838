"""A request before it goes upstream: judged, and masked where a rule says so."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

from mitmproxy import http

from . import encoding
from .core import mask
from .core.conversation import Exchange
from .core.errors import NotUnderstoodError
from .core.history import sent
from .core.terms import Refusal
from .core.verdict import Action, Outcome, Verdict, Violation
from .engines.base import MAX_ADDRESSES, MAX_HITS
from .engines.normalise import arguments
from .guard import Call
from .judge import Answer

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
    masked: list[Violation] = []
    answer = await call.timed(call.judge.ask_request(call.exchange.conversation))
    for _ in range(ROUNDS):
        found = answer.verdict.masking if answer.verdict is not None else ()
        if (
            not found or answer.verdict is None
        ):  # what blocks is looked at afterwards: masking may have mended it
            break
        if body is None:
            header = request.headers.get("content-encoding", "")
            body = encoding.decode(request.raw_content or b"", header)
        before, body = body, await _mask(call, body, found, key)
        if body is None:
            return
        if body == before:  # what was found are placeholders, and nothing else that is known of
            if not any(_may_be_more(outcome) for outcome in answer.verdict.outcomes):
                answer = _without_masks(answer)
            break
        masked += found
        answer = await call.timed(call.judge.ask_request(call.exchange.conversation))
    call.masked = tuple(masked)
    _settle(call, answer)
    if body is not None:
        _replace(request, body)


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
