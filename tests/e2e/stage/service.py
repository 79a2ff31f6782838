"""A fake guardrails service: HTTP/1.1 on a loopback port, in a thread with its own loop.

It judges by the real rules, with a local engine inside (the one file here that knows invariant's
code), writes down what it was asked, and fails in whatever way it is told to. Like a real one it
quotes the conversation in its error messages.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import struct
import threading
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Literal

from invariant_addon.core.conversation import Conversation, Message, Part, ToolCall
from invariant_addon.core.verdict import Address, Guardrail, Outcome
from invariant_addon.engines.base import Question
from invariant_addon.engines.local import LocalEngine

CHECK = "/api/v1/policy/check/batch"
LOAD = "/api/v1/policy/load"
KEPT = 1000
"""Requests that are remembered."""

type Json = Any
type How = Literal["", "hang", "close", "reset", "truncate", "drip", "huge"]


@dataclass(frozen=True)
class Ask:
    """A request as it came. connection: the number of the one it came on, from 1."""

    path: str
    headers: dict[str, str]
    body: bytes
    connection: int

    def json(self) -> Json:
        return json.loads(self.body)


@dataclass(frozen=True)
class Play:
    """What happens to a request. As it is here: it is judged.

    delay: seconds before anything else. status: for 200 it is judged, or answered with `body`.
    body: these bytes, or this value as JSON, in the place of a verdict. headers: more of them.
    how: "hang": no answer; "close" and "reset": the connection ends without one; "truncate":
    it ends in the middle; "drip": a byte every 50 ms; "huge": the answer never ends.
    """

    delay: float = 0
    status: int = 200
    body: Json = None
    headers: dict[str, str] = field(default_factory=dict)
    how: How = ""


class Service:
    """url: where it is, also after `down` and `up`. keys: what it accepts as Authorization; None
    for all. asks: the last requests. loads: policies that it was told about.

    connections: how many were accepted. gone: how many callers went away before their answer.
    judging: with an engine inside; else it can only answer with what it is told. tls: for https.
    """

    def __init__(
        self,
        *,
        judging: bool = True,
        keys: set[str] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.keys = keys
        self.asks: deque[Ask] = deque(maxlen=KEPT)
        self.count = 0
        self.connections = 0
        self.gone = 0
        self.errors: list[BaseException] = []
        self._judging = judging
        self._tls = tls
        self._port = 0
        self._plays: list[tuple[Play, int | None]] = []
        self._load_play = Play(body={})
        self._engine: LocalEngine | None = None
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="fake guardrails", daemon=True)

    # --- for tests

    @property
    def url(self) -> str:
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self._port}"

    @property
    def checks(self) -> list[Ask]:
        return [ask for ask in list(self.asks) if ask.path == CHECK]

    @property
    def loads(self) -> list[str]:
        return [ask.json()["policy"] for ask in list(self.asks) if ask.path == LOAD]

    def play(self, play: Play, times: int | None = None) -> None:
        """What happens to checks from now on; with times: to so many of them, then as before."""
        self._plays.append((play, times))

    def play_loads(self, play: Play) -> None:
        self._load_play = play

    def reset(self) -> None:
        """As new, and up. Connections that are open are cut."""
        self.down()
        self.keys, self.count, self.connections, self.gone = None, 0, 0, 0
        self.asks.clear()
        self._plays.clear()
        self.errors.clear()
        self._load_play = Play(body={})
        self.up()

    def start(self) -> Service:
        self._thread.start()
        if self._judging:
            self._engine = LocalEngine(workers=2, deadline_ms=10_000)
            self._do(self._engine.start())
        self.up()
        return self

    def stop(self) -> None:
        self.down()
        if self._engine is not None:
            self._do(self._engine.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def down(self) -> None:
        """Connections are refused, those that are open are cut."""
        self._do(self._down())

    def up(self) -> None:
        """On the same port as before."""
        self._do(self._up())

    # --- inside

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _do[T](self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    async def _up(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(
                self._accepted, "127.0.0.1", self._port, ssl=self._tls
            )
            self._port = self._server.sockets[0].getsockname()[1]

    async def _down(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()
        tasks = list(self._open)
        for task in tasks:
            self._open[task].transport.abort()
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._open[task] = writer
        try:
            await self._serve(reader, writer, self.connections)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the peer went away, or `down` was called
        except Exception as error:  # noqa: BLE001  # the edge of the fake: a bug here must fail the test
            self.errors.append(error)
        finally:
            del self._open[task]
            writer.close()

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int
    ) -> None:
        while True:
            ask = await _read(reader, number)
            self.asks.append(ask)
            self.count += 1
            play = self._choose(ask)
            if play.delay and await self._has_left(reader, play.delay):
                return
            match play.how:
                case "hang":
                    await self._has_left(reader, None)
                    return
                case "close":
                    return
                case "reset":
                    _reset(writer)
                    return
            body = await self._answer(ask, play)
            if not await _write(writer, play, body):
                return

    def _choose(self, ask: Ask) -> Play:
        if ask.path == LOAD:
            return self._load_play
        if ask.path != CHECK:
            return Play(status=404, body={"detail": "Not Found"})
        if self.keys is not None and ask.headers.get("authorization") not in self.keys:
            return Play(status=401, body={"detail": "Invalid API key"})
        if not self._plays:
            return Play()
        play, times = self._plays[-1]
        if times is not None:
            self._plays.pop()
            if times > 1:
                self._plays.append((play, times - 1))
        return play

    async def _has_left(self, reader: asyncio.StreamReader, seconds: float | None) -> bool:
        """Wait; whether the caller went away meanwhile."""
        try:
            async with asyncio.timeout(seconds):
                await reader.read(1)
        except TimeoutError:
            return False
        except OSError:
            pass
        self.gone += 1
        return True

    async def _answer(self, ask: Ask, play: Play) -> bytes:
        if isinstance(play.body, bytes):
            return play.body
        if play.body is not None or play.status != 200:
            return json.dumps(play.body).encode()
        return json.dumps(await self._judge(ask.json())).encode()

    async def _judge(self, asked: Json) -> Json:
        texts = asked["policies"]
        guardrails = tuple(Guardrail(str(i), str(i), t, trusted=True) for i, t in enumerate(texts))
        conversation = Conversation(tuple(_message(m) for m in asked["messages"]))
        question = Question(conversation, ((),), guardrails, parameters=asked["parameters"])
        if self._engine is None:
            raise RuntimeError("this fake does not judge: start it with judging=True")
        (verdict,) = await self._engine.check(question)
        quoted = asked["messages"][-1]["content"] if asked["messages"] else ""
        return {"result": [_result(outcome, quoted) for outcome in verdict.outcomes]}


def result(
    policy: str, *errors: Json, success: bool = True, error_message: str | None = None
) -> Json:
    """One policy's part of an answer."""
    return {
        "policy": policy,
        "errors": list(errors),
        "success": success,
        "error_message": error_message,
    }


def error(message: str, *ranges: str) -> Json:
    """A hit, as a real service writes it."""
    return {"key": "(0, (0,))", "args": [message], "kwargs": {}, "ranges": list(ranges)}


def _result(outcome: Outcome, quoted: str) -> Json:
    errors = [error(v.message, *map(_range, v.addresses)) for v in outcome.violations]
    if outcome.error is None:
        return result(outcome.guardrail.text, *errors)
    message = f"{outcome.error} near {quoted!r}"
    return result(outcome.guardrail.text, *errors, success=False, error_message=message)


def _range(address: Address) -> str:
    path = f".{address.path}" if address.path else ""
    part = "" if address.start is None else f":{address.start}-{address.end}"
    return f"messages.{address.message}{path}{part}"


def _message(turn: Json) -> Message:
    calls = tuple(
        ToolCall(c["id"], c["function"]["name"], json.dumps(c["function"]["arguments"]))
        for c in turn.get("tool_calls", ())
    )
    parts = (Part("text", turn["content"]),) if turn["content"] else ()
    return Message(turn["role"], parts, calls, turn.get("tool_call_id"))


async def _read(reader: asyncio.StreamReader, number: int) -> Ask:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    pairs = (line.split(":", 1) for line in lines[1:] if line)
    headers = {name.strip().lower(): value.strip() for name, value in pairs}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Ask(lines[0].split(" ")[1], headers, body, number)


async def _write(writer: asyncio.StreamWriter, play: Play, body: bytes) -> bool:
    """Whether the connection can be used on."""
    length = 10**12 if play.how == "huge" else len(body)
    headers = {"content-type": "application/json", "content-length": str(length), **play.headers}
    head = f"HTTP/1.1 {play.status} {HTTPStatus(play.status).phrase}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    writer.write(head.encode("latin-1") + b"\r\n")
    if play.how == "huge":
        while True:
            writer.write(b" " * 2**16)
            await writer.drain()
    if play.how == "drip":
        for i in range(len(body)):
            writer.write(body[i : i + 1])
            await writer.drain()
            await asyncio.sleep(0.05)
        return True
    writer.write(body[: len(body) // 2] if play.how == "truncate" else body)
    await writer.drain()
    return play.how != "truncate"


def _reset(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):  # already gone
        writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
    writer.transport.abort()
