"""A trace that was made while its reply was judged is the one that is made afterwards."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mitmproxy import http
from mitmproxy.test import tflow, tutils

from invariant_addon.call.routes import route
from invariant_addon.call.state import Call
from invariant_addon.core import whole
from invariant_addon.core.terms import Refusal
from invariant_addon.core.trace import Timing, Trace
from invariant_addon.core.verdict import Action, Guardrail, Violation
from invariant_addon.drafts import Drafts
from invariant_addon.traces.shipping import Destinations, Shipping
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


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "traces.db", key=b"k" * 32)
    yield store
    store.close()


@pytest.fixture
def tracing(store: Store) -> Iterator[Tracing]:
    tracing = Tracing(store, Shipping(store, Destinations(), b"k" * 32), b"k" * 32)
    yield tracing
    tracing.close(0)


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
