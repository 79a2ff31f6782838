"""A gate under random Responses streams: odd orders, repeats that differ, missing announcements.

The oracle is not our merger: it reads what was sent as greedily as any client could.
"""

from __future__ import annotations

import contextlib
import json
import random
from collections import defaultdict
from typing import Any

import pytest

from invariant_addon.core.conversation import Reply
from invariant_addon.core.errors import NotUnderstoodError
from invariant_addon.core.gate import Gate
from invariant_addon.core.responses.merge import EventMerger
from invariant_addon.core.sse import Decoder
from invariant_addon.core.terms import Limits, Mode
from invariant_addon.core.verdict import Address, Guardrail, Outcome, Verdict, Violation

G = Guardrail("1", "g", "x")
WORD = "BLUEBIRD"
PIECES = ["a", " ", "b.", "BLUE", "BIRD!", "\n", "\u4e2d", "x y", "BL", "UE", "B", "IRD"]
CALLS = {
    "function_call": ("response.function_call_arguments", "arguments"),
    "custom_tool_call": ("response.custom_tool_call_input", "input"),
    "mcp_call": ("response.mcp_call_arguments", "arguments"),
    "code_interpreter_call": ("response.code_interpreter_call_code", "code"),
    "from_the_future": ("response.from_the_future", "words"),
}


def verdict(reply: Reply, final: bool = True) -> Verdict:
    found = []
    for message in reply.choices:
        at = message.text.find(WORD)
        if at >= 0:
            found.append(Violation(G, "no", (Address(1, "content", at, at + len(WORD)),), final))
        texts = [part.text for part in message.parts if part.kind in ("reasoning", "other")]
        if any(WORD in text for text in texts) or WORD in (message.joined or ""):
            found.append(Violation(G, "no", (Address(1, "other"),), final))
        found += [
            Violation(G, "no", (Address(1, "tool_calls.0"),), final)
            for call in message.tool_calls
            if WORD in call.name + call.arguments
        ]
    return Verdict((Outcome(G, tuple(found)),))


class Writer:
    """Makes a stream. Mostly as OpenAI does, sometimes as an adversary would."""

    def __init__(self, dice: random.Random, dirty: bool) -> None:
        self.dice = dice
        self.dirty = dirty
        self.events: list[dict[str, Any]] = []
        self.output: list[dict[str, Any]] = []

    def odd(self, chance: float = 0.08) -> bool:
        return self.dice.random() < chance

    def text(self, most: int = 6) -> str:
        text = "".join(self.dice.choice(PIECES) for _ in range(self.dice.randint(0, most)))
        if self.dirty and self.odd(0.04):
            text += self.dice.choice(["BLUEBIRD", "BLUE", "BIRD", "BLUEBIRDs"])
        return text if self.dirty else text.replace("B", "q")

    def pieces(self, text: str) -> list[str]:
        found = []
        while text:
            size = self.dice.randint(1, 5)
            found.append(text[:size])
            text = text[size:]
        return found

    def say(self, kind: str, **more: Any) -> None:
        if not self.odd(0.03):
            self.events.append({"type": kind, **more})

    def twist(self, text: str) -> str:
        return self.text() if self.odd(0.06) else text

    def item(self, index: int) -> None:
        if self.odd(0.03):
            index = max(0, index - 1)
        if self.dice.random() < 0.6:
            self.message(index)
        else:
            self.call(index)

    def message(self, index: int) -> None:
        dice = self.dice
        is_thought = dice.random() < 0.25
        at: dict[str, Any] = {"output_index": index}
        kind = "reasoning" if is_thought else "message"
        key = "summary_index" if is_thought else "content_index"
        delta = "reasoning_summary_text" if is_thought else "output_text"
        part_kind = "summary_text" if is_thought else "output_text"
        parts = []
        if not self.odd():
            self.say("response.output_item.added", **at, item={"type": kind, "id": f"i{index}"})
        for n in range(dice.choice([1, 1, 1, 2])):
            here = at | {key: n, "item_id": f"i{index}"}
            text = self.text()
            if not self.odd():
                name = "reasoning_summary_part" if is_thought else "content_part"
                self.say(f"response.{name}.added", **here, part={"type": part_kind, "text": ""})
            for piece in self.pieces(text):
                self.say(f"response.{delta}.delta", **here, delta=piece)
            self.say(f"response.{delta}.done", **here, text=self.twist(text))
            parts.append({"type": part_kind, "text": self.twist(text)})
        group = "summary" if is_thought else "content"
        done: dict[str, Any] = {"type": kind, "id": f"i{index}", group: parts}
        if not is_thought and self.odd(0.1):
            done[group][0]["annotations"] = [{"type": "url_citation", "title": self.text(3)}]
        if not self.odd():
            self.say("response.output_item.done", **at, item=done)
        self.output.append(done)

    def call(self, index: int) -> None:
        kind = self.dice.choice(list(CALLS))
        event, key = CALLS[kind]
        text = self.text(4)
        at: dict[str, Any] = {"output_index": index}
        done = {"type": kind, "id": f"i{index}", "call_id": "c", "name": "f", key: text}
        if not self.odd():
            self.say("response.output_item.added", **at, item=done | {key: ""})
        for piece in self.pieces(text):
            self.say(f"{event}.delta", **at, item_id=f"i{index}", delta=piece)
        self.say(f"{event}.done", **at, **{key: self.twist(text)})
        done[key] = self.twist(text)
        if not self.odd():
            self.say("response.output_item.done", **at, item=done)
        self.output.append(done)

    def stream(self) -> list[dict[str, Any]]:
        if not self.odd():
            self.say("response.created", response={"id": "r", "output": []})
        for index in range(self.dice.randint(1, 4)):
            self.item(index)
            if self.odd(0.1):
                self.events.append({"type": "keepalive"})
            if self.odd(0.05):
                self.say("response.new_thing.delta", delta=self.text(2), more={"x": self.text(1)})
        if self.odd(0.1):
            at = self.dice.randrange(len(self.events) + 1)
            moved = self.events[at:]
            self.dice.shuffle(moved)
            self.events[at:] = moved
        if self.odd(0.1):
            self.events = self.events[self.dice.randrange(len(self.events) + 1) :]
        if not self.odd(0.15):
            if self.odd():
                self.dice.shuffle(self.output)
            response = {"id": "r", "status": "completed", "output": self.output}
            self.events.append({"type": "response.completed", "response": response})
        if self.odd(0.05):
            self.message(9)
        return self.events


def framed(event: dict[str, Any], dice: random.Random) -> bytes:
    text = json.dumps(event, ensure_ascii=dice.random() < 0.5).encode()
    name = str(event["type"]).encode() if dice.random() < 0.9 else b"response.other"
    style = dice.randrange(6)
    if style == 0:
        return b"data:" + text + b"\r\n\r\n"
    if style == 1:
        return b"data: " + text + b"\n\n"
    return b"event: " + name + b"\ndata: " + text + b"\n\n"


def make(dice: random.Random, dirty: bool) -> bytes:
    body = b"".join(framed(event, dice) for event in Writer(dice, dirty).stream())
    if dice.random() < 0.1:
        body += b"data: [DONE]\n\n"
    return body.rstrip(b"\r\n") if dice.random() < 0.2 else body


def events_of(body: bytes) -> list[dict[str, Any]]:
    decoder = Decoder(10**9)
    events = (*decoder.feed(body), *decoder.end())
    return [json.loads(e.data) for e in events if e.data and e.data != "[DONE]"]


def readings(body: bytes) -> list[str]:
    """Every text that some client could have put together of these bytes."""
    grown: dict[Any, str] = defaultdict(str)
    found: list[str] = []
    for event in events_of(body):
        strings(event, found)
        delta = event.get("delta")
        if isinstance(delta, str):
            key = [event.get(k) for k in ("type", "output_index", "content_index", "summary_index")]
            grown[tuple(key)] += delta
            if event["type"] == "response.output_text.delta":
                grown["in order"] += delta
        if isinstance(event.get("response"), dict):
            texts = [
                part["text"]
                for item in event["response"].get("output") or ()
                for part in item.get("content") or ()
            ]
            found.append("".join(texts))
    return found + list(grown.values())


def strings(value: Any, found: list[str]) -> None:
    if isinstance(value, str):
        found.append(value)
    elif isinstance(value, dict):
        for one in value.values():
            strings(one, found)
    elif isinstance(value, list):
        for one in value:
            strings(one, found)


def merged(body: bytes) -> Reply:
    merger = EventMerger()
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
    limits = Limits(
        interval=dice.choice([0, 0.05]), keep_alive=1e9, holdback=dice.choice([0, 0, 5])
    )
    gate = Gate(EventMerger(), mode, limits, 0.0, 1)
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
                step = dice.choice([1, 30, 200, 5000])
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
    """Nothing forbidden goes out in any reading, what is clean goes out unchanged, and no stream
    hangs. The seed of a failure is in its message."""
    refused = 0
    for seed in range(250):
        body, sent, gate = play(seed, dirty, mode)
        assert body.startswith(sent), seed
        if verdict(merged(body)).is_clean:
            assert not any(WORD in text for text in readings(body)), ("not seen", seed)
            assert gate.refusal is None and sent == body, (seed, gate.refusal)
        else:
            refused += 1
            assert gate.refusal is not None, seed
            assert not any(WORD in text for text in readings(sent)), ("leaked", seed)
    assert (refused > 20) == dirty
