"""The hooks, where end-to-end tests cannot easily reach."""

from __future__ import annotations

import asyncio

import pytest
from mitmproxy.addons.next_layer import NextLayer
from mitmproxy.proxy import context as proxy_context
from mitmproxy.proxy import events, layer, mode_specs
from mitmproxy.proxy.layers import modes
from mitmproxy.test import taddons, tflow, tutils

from invariant_addon.addon import Guardrails
from invariant_addon.layers.choice import ClosedLayer
from invariant_addon.layers.http import GuardedHttpLayer


def test_a_reply_whose_call_cannot_be_opened_is_withheld() -> None:
    """After a reload the new addon does not know the call, and its engine may not be ready: the
    reply that comes then was judged by nobody."""
    request = tutils.treq(method=b"POST", host="api.openai.com", path=b"/v1/chat/completions")
    flow = tflow.tflow(req=request, resp=tutils.tresp(content=b"nobody judged this"))
    flow.live = True

    async def reply() -> None:
        addon = Guardrails()
        await addon.response(flow)

    asyncio.run(reply())
    assert flow.response and flow.response.status_code == 400
    assert b"nobody judged this" not in (flow.response.content or b"")
    assert flow.marked == ":no_entry:"


def test_without_settings_nothing_passes() -> None:
    """An option was wrong, and mitmproxy runs on: a script that is loaded late ends nothing."""
    request = tutils.treq(method=b"POST", host="api.openai.com", path=b"/v1/chat/completions")
    flow = tflow.tflow(req=request)
    flow.live = True
    with taddons.context(Guardrails()):  # for mitmproxy's options; this other one has read none
        asyncio.run(Guardrails().request(flow))
    assert flow.response and flow.response.status_code == 400
    assert b"the engine is not ready" in (flow.response.content or b"")


def test_what_the_gateway_answers_is_not_counted() -> None:
    """It is no call, whatever else is wrong with it."""
    request = tutils.treq(
        method=b"GET",
        host="api.openai.com",
        path=b"/api/v1/gateway/health",
        headers=((b"authorization", b"Bearer x;invariant-auth="),),
    )
    flow = tflow.tflow(req=request)
    flow.live = True
    flow.client_conn.proxy_mode = mode_specs.ProxyMode.parse("reverse:https://api.openai.com")
    with taddons.context(addon := Guardrails()):
        addon.requestheaders(flow)
    assert flow.response and flow.response.status_code == 200
    assert addon.reports.counters.seen == 0


@pytest.mark.parametrize("is_live", [True, False])
def test_a_request_that_cannot_be_received_goes_nowhere(
    monkeypatch: pytest.MonkeyPatch, is_live: bool
) -> None:
    """And a recorded one stays as it was: it may be saved again."""

    def bug(*_: object) -> None:
        raise RuntimeError("a bug of ours")

    monkeypatch.setattr("invariant_addon.intake.Intake.take_head", bug)
    flow = tflow.tflow(req=tutils.treq(host="api.openai.com"), resp=tutils.tresp(content=b"said"))
    flow.live = is_live
    headers = flow.request.headers.copy()
    with taddons.context(addon := Guardrails()):
        addon.requestheaders(flow)
    assert flow.response and (flow.response.content == b"said") is not is_live
    assert (flow.request.headers == headers) is not is_live


@pytest.mark.parametrize(
    "broken",
    [
        "mitmproxy.addons.next_layer.NextLayer._next_layer",
        "invariant_addon.perimeter.guarded.Guarded.has_connection",
        "invariant_addon.addon.replace_tcp",
        "invariant_addon.addon.guard_http",
    ],
)
def test_a_connection_whose_layer_cannot_be_chosen_is_closed(
    monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """mitmproxy goes on with what it would have chosen without us when a hook raises: raw TCP, or
    HTTP without our stream layer."""

    def bug(*_: object) -> None:
        raise RuntimeError("a bug of ours")

    addon, mitmproxys = Guardrails(), NextLayer()
    with taddons.context(addon, mitmproxys) as context:
        context.configure(addon, invariant_hosts=["api.openai.com"])
        client = tflow.tclient_conn()
        chosen = layer.NextLayer(proxy_context.Context(client, context.options))
        chosen.context.server.address = ("api.openai.com", 443)
        chosen.context.layers = [modes.TransparentProxy(chosen.context)]
        chosen.events.append(events.DataReceived(client, b"\x00\x01"))
        addon.next_layer(chosen)
        assert isinstance(chosen.layer, GuardedHttpLayer)  # were nothing broken

        chosen.layer = None
        monkeypatch.setattr(broken, bug)
        addon.next_layer(chosen)
        mitmproxys.next_layer(chosen)  # it is asked after us
    assert isinstance(chosen.layer, ClosedLayer)
