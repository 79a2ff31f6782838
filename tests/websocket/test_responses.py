"""A WebSocket session without a network: nothing goes on unjudged, in whatever order it comes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mitmproxy import http
from mitmproxy.test import tflow

from invariant_addon.call.guard import ReplyGuard
from invariant_addon.call.state import Call
from invariant_addon.core import sse
from invariant_addon.core.conversation import Conversation, Exchange
from invariant_addon.core.dialects import RESPONSES
from invariant_addon.core.errors import NotUnderstoodError
from invariant_addon.core.gate import Gate
from invariant_addon.core.responses import frames
from invariant_addon.core.responses.merge import EventMerger
from invariant_addon.core.terms import Limits, Mode
from invariant_addon.core.verdict import Guardrail, Outcome, Verdict, Violation
from invariant_addon.engines.base import Defect, Question
from invariant_addon.history.store import Store
from invariant_addon.judge import Judge
from invariant_addon.layers.websocket import Frame
from invariant_addon.websocket.responses import ResponsesSession

RULE = Guardrail("g", "no bluebirds", "")
WORD = "BLUEBIRD"


class _Engine:
    """Finds a word, after a while."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.asked: list[list[str]] = []

    async def start(self) -> None: ...

    async def load(
        self, guardrails: Sequence[Guardrail], *, everywhere: bool = True
    ) -> tuple[Defect, ...]:
        return ()

    async def check(self, question: Question) -> tuple[Verdict, ...]:
        for _ in range(self.dice.randint(0, 3)):
            await asyncio.sleep(0)
        found = []
        for continuation in question.continuations:
            messages = (*question.conversation.messages, *continuation)
            texts = [part.text for m in messages for part in m.parts]
            texts += [call.name + call.arguments for m in messages for call in m.tool_calls]
            self.asked.append(texts)
            hit = (Violation(RULE, WORD, final=True),) if WORD in "\n".join(texts) else ()
            found.append(Verdict((Outcome(RULE, hit),)))
        return tuple(found)

    async def aclose(self) -> None: ...


class _Desk:
    def __init__(self, engine: _Engine) -> None:
        self.judge = Judge(engine, (RULE,))
        self.closed: list[Call] = []
        self.left: list[http.HTTPFlow] = []

    def call(self, exchange: Exchange) -> Call:
        return Call(settings=None, judge=self.judge, exchange=exchange, dialect=RESPONSES)

    async def open(self, flow: http.HTTPFlow, memory: Store) -> Call:
        call = self.call(RESPONSES.parse_request(flow.request.raw_content or b""))
        assert call.exchange is not None
        call.settle(await self.judge.ask_request(call.exchange.conversation))
        return call

    def guard(self, call: Call) -> ReplyGuard:
        assert call.exchange is not None
        call.phase = "response"
        first = len(call.exchange.conversation.messages)
        limits = Limits(interval=0, keep_alive=1e9)
        gate = Gate(EventMerger(), Mode.VERIFIED, limits, time.monotonic(), first)
        call.guard = ReplyGuard(call, gate, withholds_head=False)
        return call.guard

    def count(self) -> None: ...

    def unheard(self) -> None: ...

    async def keep(self, call: Call) -> None: ...

    async def close(self, flow: http.HTTPFlow, call: Call) -> None:
        call.closed = True
        self.closed.append(call)

    async def leave(self, flow: http.HTTPFlow) -> None:
        self.left.append(flow)


class _Driver:
    """In place of the layer."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.engine = _Engine(self.dice)
        desk = _Desk(self.engine)
        nothing = Exchange("responses", "", False, 1, Conversation(()))
        self.session = ResponsesSession(desk, tflow.tflow(), desk.call(nothing))
        self.work: list[asyncio.Task[None]] = []
        self.to_client: list[str] = []
        self.to_server: list[str] = []

    def advance(self) -> None:
        now = time.monotonic()
        for work in self.session.next_work(now):
            self.work.append(asyncio.ensure_future(work.run()))
        for frame in self.session.take(now):
            (self.to_client if frame.to_client else self.to_server).append(frame.content.decode())

    def receive(self, message: Any, *, to_client: bool) -> None:
        text = message if isinstance(message, str) else json.dumps(message)
        self.session.receive(Frame(to_client, True, text.encode()), time.monotonic())
        self.advance()

    async def turn(self, times: int) -> None:
        for _ in range(times):
            await asyncio.sleep(0)
            if any(task.done() for task in self.work):
                self.work = [task for task in self.work if not task.done()]
                self.advance()

    async def settle(self) -> None:
        for _ in range(400):
            await self.turn(1)
            self.advance()

    def heard(self) -> list[Any]:
        return [json.loads(text) for text in self.to_client]


def create(text: str, **more: Any) -> Any:
    return {"type": "response.create", "model": "m", "input": text, **more}


def reply(pieces: Sequence[str], name: str, **more: Any) -> list[Any]:
    text = "".join(pieces)
    item = {"type": "message", "id": "m", "role": "assistant"}
    part = {"type": "output_text", "text": text, "annotations": []}
    done = {**item, "content": [part]}
    where = {"item_id": "m", "output_index": 0, "content_index": 0}
    told = {"id": name, "status": "completed", "output": [done]}
    begun = {**told, "status": "in_progress", "output": []}
    events: list[Any] = [
        {"type": "response.created", "response": begun},
        {"type": "response.output_item.added", "output_index": 0, "item": {**item, "content": []}},
        *({"type": "response.output_text.delta", **where, "delta": piece} for piece in pieces),
        {"type": "response.output_text.done", **where, "text": text},
        {"type": "response.output_item.done", "output_index": 0, "item": done},
        {"type": "response.completed", "response": told},
    ]
    return [event | more for event in events]


def cut(text: str, dice: random.Random) -> list[str]:
    pieces, at = [], 0
    while at < len(text):
        size = dice.randint(1, 9)
        pieces.append(text[at : at + size])
        at += size
    return pieces


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sets(st.integers(0, 3)))
def test_no_order_of_events_lets_a_word_slip_out(seed: int, dirty: set[int]) -> None:
    """Four streams at once, cut and mixed at random, with verdicts that come when they come."""

    async def go() -> None:
        driver = _Driver(seed)
        dice = driver.dice
        streams: dict[int, list[Any]] = {}
        for n in range(4):
            driver.receive(create(f"hi {n}", stream_id=str(n)), to_client=False)
            text = "some clean text before " + (WORD if n in dirty else "nothing") + " and after"
            streams[n] = reply(cut(text, dice), f"r{n}", stream_id=str(n))
        await driver.settle()
        assert len(driver.to_server) == 4
        left = {n: list(events) for n, events in streams.items()}
        while any(left.values()):
            n = dice.choice([n for n, events in left.items() if events])
            driver.receive(left[n].pop(0), to_client=True)
            await driver.turn(dice.randint(0, 4))
        await driver.settle()
        for n, events in streams.items():
            came = [e for e in driver.heard() if e.get("stream_id") == str(n)]
            if n not in dirty and driver.session.farewell is None:
                assert came == events
            said = "".join(e.get("delta", "") for e in came)
            assert WORD not in said and WORD not in json.dumps(
                [e for e in came if e["type"] != "error"]
            )
            assert (n in dirty) <= (
                came[-1]["type"] == "error" or driver.session.farewell is not None
            )

    asyncio.run(go())


def test_requests_of_one_lane_wait_for_the_reply_before() -> None:
    """Else nobody could tell which of two a reply belongs to, and what it is to be judged with."""

    async def go() -> None:
        driver = _Driver(1)
        driver.receive(create("one"), to_client=False)
        driver.receive(create("two"), to_client=False)
        driver.receive(create("other", stream_id="s"), to_client=False)
        await driver.settle()
        assert [json.loads(t)["input"] for t in driver.to_server] == ["one", "other"]
        for event in reply(["fine"], "r1"):
            driver.receive(event, to_client=True)
        await driver.settle()
        assert [json.loads(t)["input"] for t in driver.to_server] == ["one", "other", "two"]

    asyncio.run(go())


@pytest.mark.parametrize("lane", [{}, {"stream_id": "a"}])
@pytest.mark.parametrize("between", ["keepalive", "codex.rate_limits"])
def test_what_is_said_between_two_replies_holds_nothing_up(
    lane: dict[str, str], between: str
) -> None:
    """Nothing says where it ends. The next request waited for that, for ever; and the reply to it
    would have been taken for more of the same."""

    async def go() -> None:
        driver = _Driver(4)
        driver.receive({"type": between}, to_client=True)
        for n in ("one", "two", "three"):
            driver.receive(create(n, **lane), to_client=False)
            await driver.settle()
            assert json.loads(driver.to_server[-1])["input"] == n
            for event in [*reply(["fine"], n), {"type": between, "limits": {"left": 5}}]:
                driver.receive(event, to_client=True)
                await driver.settle()
            assert driver.heard()[-1]["type"] == between
            assert [n, "fine"] in [asked[:2] for asked in driver.engine.asked]
        driver.receive({"type": between, "note": WORD}, to_client=True)
        await driver.settle()
        assert "note" not in driver.heard()[-1] and driver.heard()[-1]["type"] == "error"

    asyncio.run(go())


def test_an_unasked_reply_is_waited_for() -> None:
    """Its end is told, and what comes until then is its own."""

    async def go() -> None:
        driver = _Driver(5)
        events = reply(["fine"], "r1")
        for event in events[:-1]:
            driver.receive(event, to_client=True)
        driver.receive(create("one"), to_client=False)
        await driver.settle()
        assert not driver.to_server
        driver.receive(events[-1], to_client=True)
        await driver.settle()
        assert [json.loads(t)["input"] for t in driver.to_server] == ["one"]

    asyncio.run(go())


@pytest.mark.parametrize("name", [None, "else"])
def test_a_reply_under_another_name_is_judged_with_its_request(name: str | None) -> None:
    """A server that does not know streams says none; a client may hope for that."""

    async def go() -> None:
        driver = _Driver(2)
        driver.receive(create("what was asked", stream_id="a"), to_client=False)
        await driver.settle()
        more = {"stream_id": name} if name else {}
        for event in reply(["fine"], "r1", **more):
            driver.receive(event, to_client=True)
        await driver.settle()
        assert driver.heard()[-1]["type"] == "response.completed"
        assert driver.engine.asked[-1][:2] == ["what was asked", "fine"]

    asyncio.run(go())


def test_two_replies_at_once_on_one_stream_are_refused() -> None:
    """Which of them an event belongs to is nowhere said."""

    async def go() -> None:
        driver = _Driver(3)
        driver.receive(create("hi"), to_client=False)
        await driver.settle()
        driver.receive(reply(["a"], "r1")[0], to_client=True)
        driver.receive(reply(["b"], "r2")[0], to_client=True)
        await driver.settle()
        assert driver.session.farewell is not None
        assert driver.heard()[-1]["type"] == "error"

    asyncio.run(go())


def test_a_bug_lets_nothing_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """mitmproxy passes over what a hook raised for."""

    def broken(*_: object) -> None:
        raise RuntimeError("a bug of ours")

    async def go(name: str) -> None:
        driver = _Driver(4)
        driver.receive(create("hi"), to_client=False)
        await driver.settle()
        with monkeypatch.context() as patch:
            patch.setattr(
                *{"read": (frames, "read_said", broken), "judge": (Gate, "answer", broken)}[name]
            )
            for event in reply([f"a {WORD}"], "r1"):
                driver.receive(event, to_client=True)
            await driver.settle()
        assert WORD not in "".join(driver.to_client)
        assert driver.heard()[-1]["type"] == "error"

    for name in ("read", "judge"):
        asyncio.run(go(name))


@given(st.text(st.sampled_from("a\n\r\t :\u2028\ufeffdata\x00\u0085é"), max_size=30))
def test_a_message_in_the_form_of_a_stream_says_the_same(text: str) -> None:
    """White space in JSON may hold any line end; and where it ends is told by nothing else."""
    event = frames.as_event(text)
    assert event.count(frames.END) == 1 and event.endswith(frames.END)
    decoder = sse.Decoder(2**20)
    (found,) = decoder.feed(event)
    assert found.raw == event
    assert found.data is not None
    assert found.data == text.replace("\r\n", "\n").replace("\r", "\n")


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_bytes_of_a_client_are_read_or_not_understood(data: bytes) -> None:
    """They come from outside."""
    with contextlib.suppress(NotUnderstoodError):
        frames.read_asked(data)
    frames.read_said(data)


@pytest.mark.parametrize(
    "text",
    [
        '{"type":"response.cancel","type":"response.create"}',
        '{"type":"response.create","stream_id":"a","stream_id":"b"}',
        '{"type":"response.create","Stream_ID":"a"}',
        '{"type":"response.create","stream_id":5}',
        '{"type":"response.steer","input":"x","say":"y"}',
        '{"type":"response.cancel","response_id":"say this instead"}',
    ],
)
def test_what_may_read_otherwise_elsewhere_is_not_understood(text: str) -> None:
    """Twice the same key, other letters, words where an id should be."""
    with pytest.raises(NotUnderstoodError):
        frames.read_asked(text.encode())


def test_a_client_that_leaves_while_it_is_judged_is_reported() -> None:
    """Else its call was begun, and never ended: the numbers of the report did not add up."""

    async def scene() -> None:
        driver = _Driver(1)
        opening = asyncio.Event()
        opened: list[http.HTTPFlow] = []

        async def for_ever(flow: http.HTTPFlow, memory: Store) -> Call:
            opened.append(flow)
            opening.set()
            await asyncio.Event().wait()
            raise AssertionError

        desk: Any = driver.session._desk
        desk.open = for_ever
        driver.receive(create("hi"), to_client=False)
        await opening.wait()
        driver.session.lost()
        await driver.turn(5)
        await driver.session.closings()
        assert desk.left == opened and len(opened) == 1

    asyncio.run(scene())
