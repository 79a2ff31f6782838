"""A reply before it goes to the client: judged as it comes, or as a whole."""

from __future__ import annotations

import logging
import time

from mitmproxy import http

from ..core.endpoints import Endpoint
from ..core.errors import NotUnderstoodError
from ..core.gate import Gate
from ..core.terms import Mode, Refusal
from . import replies
from .decoding import StreamDecoder
from .guard import ReplyGuard, Withheld
from .state import Call

logger = logging.getLogger(__name__)


async def begin(call: Call, response: http.Response) -> None:
    """Its head is there: say in `response.stream` what becomes of the rest."""
    if call.checking is not None:
        await call.wait_checked()
        if call.refused:
            response.stream = Withheld(call)
    if call.refused:
        return
    if call.exchange is None or not call.endpoint.judges_reply:
        # Nothing of it is kept back, so it may flow.
        call.opaque = call.endpoint is Endpoint.MEDIA and replies.is_success(response)
        if call.opaque or replies.is_event_stream(response):
            response.stream = True
        return
    call.phase = "response"
    if replies.is_success(response) and replies.may_be_stream(response, call):
        _guard_stream(call, response)


def _guard_stream(call: Call, response: http.Response) -> None:
    try:
        decoder = replies.decoder(response)
    except NotUnderstoodError as error:
        call.fail(f"the reply could not be read: {error}")
        if call.refused:
            response.stream = Withheld(call)
        return
    response.stream = guard(call, decoder)
    replies.lose_length(response)


def guard(call: Call, decoder: StreamDecoder | None = None) -> ReplyGuard:
    """Judges the call's reply as it comes."""
    assert call.settings is not None and call.judge is not None and call.exchange is not None
    mode = call.settings.mode if call.judge.blocking else Mode.OBSERVE
    first = len(call.exchange.conversation.messages)
    gate = Gate(call.dialect.merger(), mode, call.settings.limits, time.monotonic(), first)
    found = ReplyGuard(call, gate, withholds_head=mode is Mode.BUFFER, decoder=decoder)
    call.guard = found
    return found


async def end(call: Call, flow: http.HTTPFlow) -> None:
    """All of it is there: settle the call, if its guard has not."""
    assert flow.response
    if call.guard is not None:
        if flow.response.stream:
            # So that a saved flow can be looked at, and judged again.
            flow.response.data.content = call.guard.raw
    elif flow.response.status_code == 101 and not (
        call.refused or call.endpoint is Endpoint.UNKNOWN
    ):
        # What follows would be neither a request nor a reply.
        call.refused = Refusal(reason="upstream wants to speak another protocol")
    elif not call.refused and call.exchange is not None and call.endpoint.judges_reply:
        if not flow.live and flow.response.raw_content is None:
            call.unjudged = "the reply's body was not recorded"
        else:
            await judge(call, flow.response)


async def judge(call: Call, response: http.Response) -> None:
    """Settle the call by what the whole reply says."""
    call.phase = "response"
    try:
        parse = replies.parser(response, call)
        call.upstream, reply = await replies.read(lambda body: (body, parse(body)), response)
        call.reply = reply
        call.settle(await call.ask_about(reply))
    except NotUnderstoodError as error:
        reason = f"the reply could not be read: {error}"
        if call.endpoint.is_dialect:
            call.fail(reason)
        else:
            call.unknown(reason)
    except Exception:  # the edge: mitmproxy would pass on a reply whose hook raised
        logger.exception("a reply could not be judged")
        call.fail("the reply could not be judged")
