"""A trace that was made while its reply was judged is the one that is made afterwards."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from mitmproxy import http
from mitmproxy.test import tflow, tutils

from invariant_addon.addon import Guardrails
from invariant_addon.call.routes import route
from invariant_addon.call.state import Call
from invariant_addon.core import whole
from invariant_addon.core.terms import Refusal
from invariant_addon.core.trace import Timing, Trace
from invariant_addon.core.verdict import Action, Guardrail, Verdict, Violation
from invariant_addon.drafts import Drafts
from invariant_addon.judge import Answer
from invariant_addon.traces.store import Store
from invariant_addon.tracing import Tracing

ASKED = {"model": "gpt-4o", "messages": [{"role": "user", "content": "caf\u00e9 \U0001f600?"}]}
FOUND = Violation(Guardrail("1", "a rule", 'raise "x" if: True', Action.SHADOW), "x", ())


def reply(text: str = "Yes.") -> bytes:
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return json.dumps({"id": "c1", "choices": [choice], "usage": {"total_tokens": 3}}).encode()


def a_call(asked: dict[str, Any] = ASKED) -> tuple[http.HTTPFlow, Call]:
    """Its reply has come, and nobody has looked at it yet."""
    body = json.dumps(asked).encode()
    path = b"/v1/chat/completions"
    request = tutils.treq(method=b"POST", host="api.openai.com", path=path, content=body)
    flow = tflow.tflow(req=request, resp=tutils.tresp(content=reply()))
    call = route(flow.request).call(None)
    call.exchange = call.dialect.parse_request(body)
    call.upstream, call.reply = reply(), whole.read_reply(reply(), call.dialect)
    return flow, call


def kept(store: Store, call: Call) -> Trace:
    trace = store.get(call.request_id)
    assert trace is not None
    return trace


@pytest.mark.parametrize("more", [True, False])
@pytest.mark.parametrize("client", ["", "pid 1 caf\u00e9", "pid 1 \ud800"])
@pytest.mark.parametrize("asked", [ASKED, {**ASKED, "user": "\ud800"}])
def test_it_is_the_same_trace(
    store: Store, tracing: Tracing, asked: dict[str, Any], client: str, *, more: bool
) -> None:
    """Also where JSON cannot be written quickly."""
    flow, call = a_call(asked)
    tracing.draft(flow, call)
    call.judged = call.closed = True
    call.client, call.checks, call.judging, call.held = client, 2, 0.5, 0.25
    trace = asyncio.run(tracing.keep(flow, call, more=more))
    call.kept = False
    plain = replace(call, request_id="inv_1")
    asyncio.run(tracing.keep(flow, plain))
    written, expected = kept(store, call), kept(store, plain)
    assert written.timing.total > 0
    assert (written.timing.checks, written.timing.judged, written.timing.held) == (2, 500, 250)
    assert written.client == client and written.choices and written.usage == {"total_tokens": 3}
    same = replace(written, id="inv_1", timing=expected.timing)
    assert same == expected
    assert trace is not None
    assert not more or (trace.timing, trace.client) == (written.timing, client)


def blocked(call: Call) -> None:
    call.refused = Refusal(violations=(FOUND,))


def failed(call: Call) -> None:
    call.unjudged = "no verdict"


def found(call: Call) -> None:
    call.muted = (FOUND,)


def replied(call: Call) -> None:
    call.upstream, call.reply = reply("No."), whole.read_reply(reply("No."), call.dialect)


def unjudged(call: Call) -> None:
    call.judged = False


@pytest.mark.parametrize("ends", [blocked, failed, found, replied, unjudged])
def test_a_call_that_ends_otherwise_is_told_of_as_it_ended(
    store: Store, tracing: Tracing, ends: Callable[[Call], None]
) -> None:
    """What was made in advance is only worth something for a call in which nothing was found."""
    flow, call = a_call()
    tracing.draft(flow, call)
    call.judged = call.closed = True
    ends(call)
    asyncio.run(tracing.keep(flow, call))
    plain = replace(call, request_id="inv_1", kept=False)
    asyncio.run(tracing.keep(flow, plain))
    written, expected = kept(store, call), kept(store, plain)
    assert replace(written, id="inv_1", timing=expected.timing) == expected


def test_it_is_made_once_and_only_where_it_is_of_use() -> None:
    """A call that is over has its trace; one whose reply cannot be read has none yet."""
    drafts = Drafts(lambda trace: trace)
    flow, call = a_call()
    call.closed = True
    drafts.begin(flow, call)
    assert drafts.finish(flow, call) is None
    call.closed, call.judged = False, True
    drafts.begin(flow, call)
    call.closed = True
    done = drafts.finish(flow, call)
    assert done is not None and done.draft.timing == Timing(0.0)
    assert drafts.finish(flow, call) is None
    call.closed, call.reply = False, None
    drafts.begin(flow, call)
    assert drafts.finish(flow, call) is None


def test_it_is_made_while_the_verdict_on_the_reply_is_awaited(
    store: Store, tracing: Tracing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made before, it would keep the question waiting; made afterwards, the client."""
    guardrails = Guardrails()
    guardrails._judges.tracing = tracing
    flow, call = a_call()
    flow.live, call.judged = True, True
    guardrails.calls._calls[flow] = call
    told: list[str] = []
    begin = tracing._drafts.begin

    class Engine:
        noting = ()

        async def ask(self, *_: object, **__: object) -> Answer:
            told.append("asked")
            await asyncio.sleep(0.01)
            told.append("answered")
            return Answer(Verdict())

    def draft(flow: http.HTTPFlow, call: Call) -> None:
        told.append("drafted")
        begin(flow, call)

    call.judge = Engine()  # type: ignore[assignment]  # as much of a judge as is asked
    monkeypatch.setattr(tracing._drafts, "begin", draft)
    monkeypatch.setattr("invariant_addon.call.as_trace._dataset", lambda _: "")
    asyncio.run(guardrails._take_response(flow))
    assert told == ["asked", "drafted", "answered"]
    assert kept(store, call).status == "judged" and not tracing._drafts._drafts
