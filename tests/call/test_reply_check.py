"""A reply: what is decided by its head, and what at its end."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from mitmproxy import http
from mitmproxy.test import taddons, tflow

from invariant_addon import settings
from invariant_addon.addon import Guardrails
from invariant_addon.call import reply_check
from invariant_addon.call.guard import ReplyGuard, Withheld
from invariant_addon.call.state import Call
from invariant_addon.core.conversation import Conversation, Exchange
from invariant_addon.core.endpoints import Endpoint
from invariant_addon.core.terms import Mode, Refusal
from invariant_addon.core.verdict import Action, Guardrail
from invariant_addon.judge import Judge
from invariant_addon.settings import Settings

from ..test_judge import Engine, clean

RULE = Guardrail("g", "birds", "", Action.BLOCK)
STREAM = {"content-type": "text/event-stream"}


def chosen(**set_to: object) -> Settings:
    with taddons.context(Guardrails()) as context:
        context.options.update(**set_to)
        return settings.read(context.options)


def call(**values: object) -> Call:
    asked = Exchange("chat.completions", "m", True, 1, Conversation(()))
    judge = Judge(Engine(clean), (RULE,))
    return replace(Call(chosen(), judge, asked), **values)  # type: ignore[arg-type]  # any field


def begun(one: Call, response: http.Response) -> object:
    asyncio.run(reply_check.begin(one, response))
    return response.stream


def test_a_stream_gets_a_guard_and_promises_no_length() -> None:
    """A refusal midway changes the length, and a client would wait for the rest."""
    response = http.Response.make(200, b"data: x\n\n", STREAM)
    one = call()
    guard = begun(one, response)
    assert isinstance(guard, ReplyGuard) and one.guard is guard
    assert "content-length" not in response.headers


@pytest.mark.parametrize(("mode", "withholds"), [(Mode.BUFFER, True), (Mode.VERIFIED, False)])
def test_the_head_is_withheld_as_the_owner_wants(mode: Mode, withholds: bool) -> None:
    """With it a refusal is a clean 400."""
    guard = reply_check.guard(call(settings=chosen(invariant_stream=mode.value)))
    assert guard.withholds_head is withholds


def test_what_no_rule_can_block_is_not_held() -> None:
    """Log rules look at it afterwards."""
    one = call(settings=chosen(invariant_stream="buffer"), judge=Judge(Engine(clean), ()))
    assert not reply_check.guard(one).withholds_head


def test_a_stream_in_an_unknown_encoding_is_withheld() -> None:
    """Nobody can read it, so nothing of it goes on."""
    response = http.Response.make(200, b"x", STREAM)
    response.headers["content-encoding"] = "rot13"
    one = call()
    assert isinstance(begun(one, response), Withheld)
    assert one.refused is not None


def test_the_reply_to_a_request_that_was_refused_meanwhile_is_withheld() -> None:
    """It went upstream before its verdict."""

    async def scene() -> object:
        one = call()

        async def judged() -> None:
            one.refused = Refusal(reason="a bird")

        one.checking = asyncio.create_task(judged())
        response = http.Response.make(200, b"x", STREAM)
        await reply_check.begin(one, response)
        return response.stream

    assert isinstance(asyncio.run(scene()), Withheld)


@pytest.mark.parametrize(("status", "flows"), [(200, True), (404, False)])
def test_sound_that_comes_back_flows(status: int, flows: bool) -> None:
    """Nothing of it is text; an error is, and says why."""
    one = call(endpoint=Endpoint.MEDIA)
    assert bool(begun(one, http.Response.make(status, b"x"))) is flows
    assert one.opaque is flows


def test_another_protocol_is_refused() -> None:
    """What follows would be neither a request nor a reply."""
    flow = tflow.tflow(resp=http.Response.make(101))
    one = call()
    asyncio.run(reply_check.end(one, flow))
    assert one.refused is not None and "another protocol" in one.refused.reason


@pytest.mark.parametrize(("is_dialect", "why"), [(True, ""), (False, "invariant_unknown")])
def test_a_reply_that_cannot_be_read_is_refused(is_dialect: bool, why: str) -> None:
    """Not understood is not clean."""
    one = call(endpoint=Endpoint.CHAT if is_dialect else Endpoint.TEXT)
    asyncio.run(reply_check.judge(one, http.Response.make(200, b"{", {"content-type": "x"})))
    assert one.phase == "response" and one.refused is not None
    assert "could not be read" in one.refused.reason and why in one.refused.reason
