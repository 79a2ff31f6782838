"""A guarded reply: what the stream layer talks to."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Sequence
from weakref import ref

import pytest

from invariant_addon.call.guard import ReplyGuard
from invariant_addon.call.state import Call
from invariant_addon.core.chat.bodies import ChunkMerger
from invariant_addon.core.conversation import Conversation, Exchange
from invariant_addon.core.draft import Step
from invariant_addon.core.gate import Gate
from invariant_addon.core.terms import Limits, Mode
from invariant_addon.core.verdict import Action, Guardrail, Verdict
from invariant_addon.engines.base import Defect, Question
from invariant_addon.judge import Judge
from invariant_addon.layers.hooks import PendingCheck


class _Broken(ChunkMerger):
    def add(self, data: str) -> Step:
        raise RuntimeError("a bug of ours")


class _NoEngine:
    """Is never asked: there are no guardrails."""

    async def start(self) -> None: ...

    async def load(
        self, guardrails: Sequence[Guardrail], *, everywhere: bool = True
    ) -> tuple[Defect, ...]:
        return ()

    async def check(self, question: Question) -> tuple[Verdict, ...]:
        raise AssertionError("asked")

    async def aclose(self) -> None: ...


@pytest.mark.parametrize("fail_open", [False, True])
def test_a_bug_in_the_reader_refuses_the_stream(fail_open: bool) -> None:
    """An exception in the layer would kill the connection and leave the client waiting."""
    exchange = Exchange("chat.completions", "m", True, 1, Conversation(()))
    gate = Gate(_Broken(), Mode.VERIFIED, Limits(fail_open=fail_open), 0.0)
    guard = ReplyGuard(Call(settings=None, exchange=exchange), gate, withholds_head=False)
    guard.feed(b"data: {}\n\n", 0.0)
    assert guard.done and guard.refused
    assert b"could not be read" in guard.refusal_event()


def test_a_bug_while_a_verdict_is_taken_in_refuses_the_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The hook's exception is swallowed by mitmproxy: the client would wait for ever."""
    gate = Gate(ChunkMerger(), Mode.VERIFIED, Limits(), 0.0)
    call = Call(
        None, Judge(_NoEngine(), ()), Exchange("chat.completions", "m", True, 1, Conversation(()))
    )
    guard = ReplyGuard(call, gate, withholds_head=False)
    guard.feed(b'data: {"choices":[{"index":0,"delta":{"content":"a "}}]}\n\n', 0.0)
    check = PendingCheck(guard, guard.next_query(0.0))

    def broken(*_: object) -> None:
        raise RuntimeError("a bug of ours")

    monkeypatch.setattr(gate, "answer", broken)
    asyncio.run(guard.judge(check))
    assert guard.done and guard.refused


def test_mitmproxys_own_layer_gets_nothing_but_a_refusal() -> None:
    """Client replay does not use our layer: it cannot await a verdict, so nothing is delivered."""
    gate = Gate(ChunkMerger(), Mode.VERIFIED, Limits(), 0.0)
    guard = ReplyGuard(Call(settings=None), gate, withholds_head=False)
    assert guard(b"data: x\n\n") == []
    assert b"guardrail_unavailable" in guard(b"")[0]


@pytest.mark.parametrize("mode", [Mode.VERIFIED, Mode.OBSERVE])
def test_what_a_client_got_that_left_before_the_verdict_is_not_scanned(mode: Mode) -> None:
    """With invariant_stream=observe text goes first and is judged at its end: who always leaves
    before that would be judged never, and nobody would see it."""
    rule = Guardrail("1", "birds", "", Action.BLOCK)
    asked = Exchange("chat.completions", "m", True, 1, Conversation(()))
    call = Call(None, Judge(_NoEngine(), (rule,)), asked)
    guard = ReplyGuard(call, Gate(ChunkMerger(), mode, Limits(), 0.0), withholds_head=False)
    guard.feed(b'data: {"choices":[{"index":0,"delta":{"content":"a "}}]}\n\n', 0.0)
    assert bool(guard.take(0.0)) is (mode is Mode.OBSERVE)
    guard.lost("the client left")
    assert (call.unjudged is not None) is (mode is Mode.OBSERVE)


def test_a_call_that_is_over_goes_with_its_flow() -> None:
    """Guard and call know each other; what they hold would wait for Python's search for garbage."""
    gate = Gate(ChunkMerger(), Mode.VERIFIED, Limits(), 0.0)
    call = Call(None, None, Exchange("chat.completions", "m", True, 1, Conversation(())))
    guard = call.guard = ReplyGuard(call, gate, withholds_head=False)
    guard.let_go()
    assert guard.call is call  # for as long as somebody has it
    gone = ref(call)
    gc.disable()
    try:
        del call, guard
        assert gone() is None
    finally:
        gc.enable()
