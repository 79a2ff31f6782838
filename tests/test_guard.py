"""A guarded reply: what the stream layer talks to."""

from __future__ import annotations

import pytest

from invariant_addon.core.chat import ChunkMerger
from invariant_addon.core.conversation import Conversation, Exchange
from invariant_addon.core.draft import Step
from invariant_addon.core.gate import Gate
from invariant_addon.core.terms import Limits, Mode
from invariant_addon.guard import Call, ReplyGuard


class _Broken(ChunkMerger):
    def add(self, data: str) -> Step:
        raise RuntimeError("a bug of ours")


@pytest.mark.parametrize("fail_open", [False, True])
def test_a_bug_in_the_reader_refuses_the_stream(fail_open: bool) -> None:
    """An exception in the layer would kill the connection and leave the client waiting."""
    exchange = Exchange("chat.completions", "m", True, 1, Conversation(()))
    gate = Gate(_Broken(), Mode.VERIFIED, Limits(fail_open=fail_open), 0.0)
    guard = ReplyGuard(Call(settings=None, exchange=exchange), gate, withholds_head=False)
    guard.feed(b"data: {}\n\n", 0.0)
    assert guard.done and guard.refused
    assert b"could not be read" in guard.refusal_event()


def test_mitmproxys_own_layer_gets_nothing_but_a_refusal() -> None:
    """Client replay does not use our layer: it cannot await a verdict, so nothing is delivered."""
    gate = Gate(ChunkMerger(), Mode.VERIFIED, Limits(), 0.0)
    guard = ReplyGuard(Call(settings=None), gate, withholds_head=False)
    assert guard(b"data: x\n\n") == []
    assert b"guardrail_unavailable" in guard(b"")[0]
