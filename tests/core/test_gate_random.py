"""A gate under random streams, cuts, verdict times and orders."""

from __future__ import annotations

import contextlib
import json
import random

import pytest

from invariant_addon.core.chat.bodies import ChunkMerger
from invariant_addon.core.conversation import Reply
from invariant_addon.core.errors import NotUnderstoodError
from invariant_addon.core.gate import Gate
from invariant_addon.core.sse import Decoder
from invariant_addon.core.terms import Limits, Mode
from invariant_addon.core.verdict import Address, Guardrail, Outcome, Verdict, Violation

G = Guardrail("1", "g", "x")
WORD = "BLUEBIRD"


def verdict(reply: Reply, final: bool = True) -> Verdict:
    found = []
    for message in reply.choices:
        for part in message.parts:
            if WORD in part.text:
                at = message.text.find(WORD)
                addresses = (
                    (Address(1, "content", at, at + len(WORD)),)
                    if at >= 0
                    else (Address(1, part.kind),)
                )
                found.append(Violation(G, "no", addresses, final))
        found += [
            Violation(G, "no", (Address(1, "tool_calls.0"),), final)
            for call in message.tool_calls
            if WORD in call.name + call.arguments
        ]
    return Verdict((Outcome(G, tuple(found)),))


def event(obj: object, dice: random.Random) -> bytes:
    text = json.dumps(obj)
    style = dice.randrange(8)
    if style == 0:
        return b"data:" + text.encode() + b"\r\n\r\n"
    if style == 1:
        return b"event: x\ndata: " + text.encode() + b"\n\n"
    if style == 2:
        return b"data: " + text.encode() + b"\r\r"
    if style == 3:
        return b": c\n\ndata: " + text.encode() + b"\n\n"
    return b"data: " + text.encode() + b"\n\n"


def make(dice: random.Random, dirty: bool) -> bytes:
    n = dice.choice([1, 1, 1, 2, 3])
    channels = [
        "content",
        "refusal",
        "reasoning",
        "reasoning_content",
        "zzz",
        "audio",
        "tool",
        "call",
        "parts",
    ]
    out = []
    if dice.random() < 0.2:
        out.append(b"\xef\xbb\xbf" * 1)
    for _ in range(dice.randint(1, 25)):
        c = dice.randrange(n)
        text = "".join(
            dice.choice(
                [
                    "a",
                    " ",
                    "b.",
                    "BLUE",
                    "BIRD!" if not dirty else "BIRD",
                    "\n",
                    "\u4e2d",
                    "x y",
                    "BL",
                    "UE",
                    "B",
                ]
            )
            for _ in range(dice.randint(1, 4))
        )
        if not dirty:
            text = text.replace("B", "q")
        kind = dice.choice(channels)
        if kind == "audio":
            delta: dict[str, object] = {"audio": {"id": "x", "transcript": text}}
        elif kind == "tool":
            delta = {"tool_calls": [{"index": dice.randrange(2), "function": {"arguments": text}}]}
        elif kind == "call":
            delta = {"function_call": {"arguments": text}}
        elif kind == "parts":
            delta = {"content": [{"type": "text", "text": text}]}
        else:
            delta = {kind: text}
        choice = {"index": c, "delta": delta}
        if dice.random() < 0.08:
            choice["finish_reason"] = "stop"
        out.append(event({"choices": [choice]}, dice))
        if dice.random() < 0.05:
            out.append(dice.choice([b"\n", b": hi\n\n", b"id: 1\n\n", b"data:\n\n"]))
    if dice.random() < 0.8:
        out.append(b"data: [DONE]\n\n")
    body = b"".join(out)
    if dice.random() < 0.2:
        body = body.rstrip(b"\r\n")
    return body


def readable(body: bytes) -> Reply:
    """What a greedy client has read of these bytes."""
    merger = ChunkMerger()

    decoder = Decoder(10**9)
    for e in (*decoder.feed(body), *decoder.end()):
        if e.data:
            with contextlib.suppress(NotUnderstoodError):
                merger.add(e.data)
    merger.end()
    return merger.snapshot()


def play(seed: int, dirty: bool, mode: Mode) -> tuple[bytes, bytes, Gate]:
    dice = random.Random(seed)
    body = make(dice, dirty)
    gate = Gate(
        ChunkMerger(),
        mode,
        Limits(interval=dice.choice([0, 0.05]), keep_alive=1e9, holdback=dice.choice([0, 0, 5])),
        0.0,
        1,
    )
    now, sent, pending, at, ended = 0.0, b"", None, 0, False
    final = dice.random() < 0.7
    for _ in range(100_000):
        query = gate.next_query(now)
        if query is not None:
            pending = query
        sent += gate.take(now)
        if gate.done:
            break
        if dice.random() < 0.5 and not ended:
            if at < len(body):
                step = dice.choice([1, 3, 50, 500])
                gate.feed(body[at : at + step], now)
                at += step
            else:
                ended = True
                gate.end(now, cut=dice.random() < 0.1)
        elif pending is not None and dice.random() < 0.4:
            query, pending = pending, None
            if dice.random() < 0.1 and not query.last:
                gate.answer(query, None, "x", now)
            else:
                gate.answer(query, verdict(query.reply, final), "", now)
        now += dice.choice([0.0, 0.001, 0.06])
    assert gate.done, "wedged"
    return body, sent, gate


@pytest.mark.parametrize("mode", [Mode.VERIFIED, Mode.BUFFER])
@pytest.mark.parametrize("dirty", [False, True])
def test_random_streams(mode: Mode, dirty: bool) -> None:
    """Any channel, framing, cut, order and verdict time: nothing forbidden goes out, what is
    clean goes out unchanged, and no stream hangs. The seed of a failure is in its message."""
    for seed in range(400):
        body, sent, gate = play(seed, dirty, mode)
        assert body.startswith(sent), seed
        if verdict(readable(body)).is_clean:
            assert gate.refusal is None and sent == body, (seed, gate.refusal)
        else:
            assert verdict(readable(sent)).is_clean and gate.refusal is not None, seed
