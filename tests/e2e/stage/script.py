"""What the fake OpenAI was asked, and what it is to answer. Knows no HTTP version and no socket."""

from __future__ import annotations

import asyncio
import gzip as gzip_module
import json
import random
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from . import streams

type Headers = Sequence[tuple[str, str]]
type Death = Literal["reset", "eof", "kill"]
"""reset: TCP RST, or RST_STREAM(INTERNAL_ERROR) on HTTP/2. eof: the connection is closed in the
middle of the message. kill: TCP RST of the whole connection, whatever the version."""

LIKE_OPENAI: Headers = (
    ("openai-version", "2020-10-01"),
    ("openai-processing-ms", "84"),
    ("x-request-id", "req_stage"),
    ("server", "cloudflare"),
    ("alt-svc", 'h3=":443"; ma=86400'),
)


def wait_until(holds: Callable[[], bool], timeout: float, what: str) -> None:
    """Poll, because one side is a thread and the other a loop. Raises AssertionError in the end."""
    end, pause = time.monotonic() + timeout, 0.005
    while not holds():
        if time.monotonic() > end:
            raise AssertionError(f"waited {timeout} s in vain for {what}")
        time.sleep(pause)
        pause = min(1.2 * pause, 0.05)


@dataclass(eq=False, slots=True)
class Call:
    """One request as it arrived at the fake, and what became of its answer.

    state: open (being answered); completed (all written); cancelled (the peer went away or
    reset the stream first, see `why`); died (the script said so).
    chunks, written: writes and body bytes that were handed to the kernel.
    Times are time.monotonic(): on Linux comparable with those of other processes.
    """

    method: str
    path: str
    version: Literal["1.1", "2"]
    host: str
    headers: Headers
    body: bytes
    connection: int
    at: float = field(default_factory=time.monotonic)
    status: int | None = None
    head_at: float | None = None
    chunks: int = 0
    written: int = 0
    state: Literal["open", "completed", "cancelled", "died"] = "open"
    why: str = ""
    ended_at: float | None = None

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name.lower()), None)

    def json(self) -> streams.Json:
        parsed = json.loads(self.body)
        assert isinstance(parsed, dict)
        return parsed

    def close(self, state: Literal["completed", "cancelled", "died"], why: str = "") -> None:
        if self.state == "open":
            self.why, self.ended_at = why, time.monotonic()
            self.state = state

    def wait_ended(self, timeout: float = 15) -> Call:
        wait_until(lambda: self.state != "open", timeout, f"the end of {self}")
        return self

    def wait_chunks(self, count: int, timeout: float = 15) -> Call:
        wait_until(lambda: self.chunks >= count, timeout, f"{count} writes of {self}")
        return self


class Wire(Protocol):
    """An HTTP connection, or one stream of it, with the answer's direction open."""

    async def head(self, status: int, headers: Headers) -> None: ...
    async def data(self, data: bytes) -> None: ...
    async def end(self) -> None: ...
    async def die(self, how: Death) -> None: ...
    async def switch(self) -> Switched:
        """Speak another protocol from here on: bytes that come (None: the end), and bytes out."""


type Switched = tuple[asyncio.Queue[bytes | None], Callable[[bytes], Awaitable[None]]]


class Responder(Protocol):
    async def play(self, wire: Wire, call: Call) -> None: ...


type Answer = Responder | Callable[[Call], Responder]


async def _passed(gate: threading.Event) -> None:
    while not gate.is_set():  # noqa: ASYNC110  # the gate belongs to the test's thread
        await asyncio.sleep(0.005)


async def _send_head(wire: Wire, call: Call, status: int, headers: Headers) -> None:
    call.status, call.head_at = status, time.monotonic()
    await wire.head(status, headers)


async def _send(wire: Wire, call: Call, data: bytes) -> None:
    await wire.data(data)
    call.chunks += 1
    call.written += len(data)


async def _send_whole(wire: Wire, call: Call, status: int, headers: Headers, body: bytes) -> None:
    await _send_head(wire, call, status, headers)
    if body:
        await _send(wire, call, body)
    await wire.end()
    call.close("completed")


@dataclass(frozen=True, slots=True)
class Stream:
    """An event stream, event by event. All positions count events (items of `chunks`), so they
    mean the same whatever `cuts` are.

    pace: seconds between two writes. cuts: where a write ends: "events" (one write each),
    "bytes" (each byte alone), "random:SEED", "size:N" or "whole" (all that is not held, at once).
    A write is an HTTP chunk or a DATA frame, so the cuts outlive the kernel's coalescing.
    wait: hold after `wait_after` events until it is set; gates: the same, for several positions.
    wait_head: hold before the head. stall_after: pause there for stall_seconds.
    die_after: die there in the way of die_with, with die_inside bytes of the next event sent.
    done: add or take away the final [DONE]; None leaves the chunks as they are.
    """

    chunks: Sequence[bytes]
    pace: float = 0
    cuts: str = "events"
    wait: threading.Event | None = None
    wait_after: int = 0
    gates: Mapping[int, threading.Event] = field(default_factory=dict)
    wait_head: threading.Event | None = None
    stall_after: int | None = None
    stall_seconds: float = 1
    die_after: int | None = None
    die_with: Death = "reset"
    die_inside: int = 0
    done: bool | None = None
    status: int = 200
    headers: Headers = ()
    content_type: str = "text/event-stream; charset=utf-8"
    content_length: bool = False

    def events(self) -> list[bytes]:
        events = list(self.chunks)
        ends_with_done = bool(events) and events[-1] == streams.DONE
        if self.done is True and not ends_with_done:
            events.append(streams.DONE)
        elif self.done is False and ends_with_done:
            events.pop()
        return events

    def body(self) -> bytes:
        """All bytes of a stream that is not cut short."""
        return b"".join(self.events())

    async def play(self, wire: Wire, call: Call) -> None:
        if self.wait_head:
            await _passed(self.wait_head)
        events = self.events()
        headers = [("content-type", self.content_type), *LIKE_OPENAI, *self.headers]
        if self.content_length:
            headers.append(("content-length", str(len(self.body()))))
        await _send_head(wire, call, self.status, headers)
        marks = {0, len(events), *self.gates}
        marks |= {self.wait_after} if self.wait else set()
        marks |= {m for m in (self.stall_after, self.die_after) if m is not None}
        at, first = 0, True
        for mark in sorted(m for m in marks if 0 <= m <= len(events)):
            for write in _cut(b"".join(events[at:mark]), events[at:mark], self.cuts, salt=at):
                if self.pace and not first:
                    await asyncio.sleep(self.pace)
                await _send(wire, call, write)
                first = False
            at = mark
            if self.wait and mark == self.wait_after:
                await _passed(self.wait)
            if gate := self.gates.get(mark):
                await _passed(gate)
            if mark == self.stall_after:
                await asyncio.sleep(self.stall_seconds)
            if mark == self.die_after:
                if self.die_inside and mark < len(events):
                    await _send(wire, call, events[mark][: self.die_inside])
                call.close("died", self.die_with)
                await wire.die(self.die_with)
                return
        await wire.end()
        call.close("completed")


@dataclass(frozen=True, slots=True)
class Json:
    """A JSON reply. wait: hold before the head."""

    obj: object
    status: int = 200
    headers: Headers = ()
    gzip: bool = False
    wait: threading.Event | None = None

    def body(self) -> bytes:
        """As OpenAI prints it: indented. (Not compressed.)"""
        return json.dumps(self.obj, indent=2).encode() + b"\n"

    async def play(self, wire: Wire, call: Call) -> None:
        if self.wait:
            await _passed(self.wait)
        body = self.body()
        headers = [("content-type", "application/json"), *LIKE_OPENAI, *self.headers]
        if self.gzip:
            body = gzip_module.compress(body)
            headers.append(("content-encoding", "gzip"))
        headers.append(("content-length", str(len(body))))
        await _send_whole(wire, call, self.status, headers, body)


@dataclass(frozen=True, slots=True)
class Raw:
    """Any body under any head: nothing is added except the framing (chunked, if no length)."""

    body: bytes = b""
    status: int = 200
    headers: Headers = ()

    async def play(self, wire: Wire, call: Call) -> None:
        await _send_whole(wire, call, self.status, self.headers, self.body)


@dataclass(frozen=True, slots=True)
class Die:
    """No answer at all: the connection breaks after the request was read."""

    how: Death = "reset"

    async def play(self, wire: Wire, call: Call) -> None:
        call.close("died", self.how)
        await wire.die(self.how)


def _cut(whole: bytes, events: Sequence[bytes], cuts: str, salt: int) -> Iterator[bytes]:
    kind, _, argument = cuts.partition(":")
    if kind == "events":
        yield from events
    elif kind == "bytes":
        yield from (whole[at : at + 1] for at in range(len(whole)))
    elif kind == "size":
        size = int(argument)
        yield from (whole[at : at + size] for at in range(0, len(whole), size))
    elif kind == "random":
        dice, at = random.Random(f"{argument}/{salt}"), 0
        while at < len(whole):
            size = dice.choice((1, 2, 3, dice.randint(1, 40), dice.randint(1, 700)))
            yield whole[at : at + size]
            at += size
    elif kind == "whole":
        if whole:
            yield whole
    else:
        raise ValueError(f"cuts: got {cuts!r}, expected events, bytes, size:N, random:SEED, whole")
