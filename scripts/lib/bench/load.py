"""The load client: asks over TLS as fast as it can, and writes down when which bytes came.

A process of its own, told what to do by lines of JSON on stdin: {"do": "prepare", ...} connects,
{"do": "go"} runs and answers with figures. While it runs it only keeps bytes and times; they are
read, and compared with what the upstream sent, when the clock has stopped.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import figures
from scenarios import HOST, Scenario, body, request
from wire import Reply, WrongBytesError, measure_head, read_reply

LIMIT_SECONDS = 90.0
"""For one run; more is a hang, and fails."""


@dataclass(frozen=True, slots=True)
class Route:
    """port: of the fake, or of the proxy in front of it. ca: what to trust."""

    port: int
    ca: str
    proxied: bool


@dataclass(slots=True)
class _Answered:
    began: float
    reads: list[tuple[float, bytes]] = field(default_factory=list)


class Connection(asyncio.Protocol):
    """One keep-alive connection, one call at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._answered = _Answered(0.0)
        self._done: asyncio.Future[_Answered] | None = None
        self._head = 0
        self._length: int | None = None
        self._read = 0
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self._done and not self._done.done():
            self._done.set_exception(WrongBytesError(f"the connection was closed: {exc}"))

    def ask(self, request: bytes) -> asyncio.Future[_Answered]:
        assert self.transport
        self._done = asyncio.get_running_loop().create_future()
        self._head, self._length, self._read, self._tail = 0, None, 0, b""
        self._answered = _Answered(time.monotonic())
        self.transport.write(request)
        return self._done

    def data_received(self, data: bytes) -> None:
        reads = self._answered.reads
        reads.append((time.monotonic(), data))
        self._read += len(data)
        if not self._head:
            self._head, self._length = measure_head(b"".join(piece for _, piece in reads))
            if not self._head:
                return
        if self._length is not None:
            whole = self._read >= self._length
        else:  # the head may end like the last chunk
            self._tail = data[-5:] if len(data) >= 5 else (self._tail + data)[-5:]
            whole = self._read > self._head and self._tail == b"0\r\n\r\n"
        if whole and self._done and not self._done.done():
            self._done.set_result(self._answered)


async def connect(route: Route) -> Connection:
    loop = asyncio.get_running_loop()
    sock = socket.socket()
    sock.setblocking(False)
    try:
        await loop.sock_connect(sock, ("127.0.0.1", route.port))
        if route.proxied:
            await loop.sock_sendall(sock, f"CONNECT {HOST}:443 HTTP/1.1\r\n\r\n".encode())
            said = b""
            while b"\r\n\r\n" not in said:
                more = await loop.sock_recv(sock, 4096)
                if not more:
                    raise WrongBytesError(f"the proxy closed on CONNECT: {said!r}")
                said += more
        tls = ssl.create_default_context(cafile=route.ca)
        tls.set_alpn_protocols(["http/1.1"])
        _, connection = await loop.create_connection(
            Connection, sock=sock, ssl=tls, server_hostname=HOST
        )
    except BaseException:
        sock.close()
        raise
    return connection


class Load:
    """One run of a scenario over one route."""

    def __init__(self, scenario: Scenario, route: Route, prompt: str | None = None) -> None:
        self._scenario = scenario
        self._route = route
        given = () if prompt is None else (prompt,)
        self._request = request(scenario.chunks, scenario.gap, scenario.messages, *given)
        self._connections: list[Connection] = []
        self._answers: list[_Answered] = []

    async def prepare(self, *, warm: bool = True) -> None:
        """Connect, and have one short call on each connection behind us."""
        for _ in range(self._scenario.at_once):
            self._connections.append(await connect(self._route))
        if warm:
            for connection in self._connections:
                answered = await connection.ask(request(3, 0, 1))
                read_reply(answered.began, answered.reads, body(3))

    async def run(self) -> None:
        """Ask and keep the answers, until the scenario's time or number of calls is over."""
        end = time.monotonic() + self._scenario.seconds
        async with asyncio.TaskGroup() as group:
            for number, connection in enumerate(self._connections):
                group.create_task(self._one(number, connection, end))

    def close(self) -> None:
        for connection in self._connections:
            if connection.transport:
                connection.transport.abort()

    def replies(self) -> list[Reply]:
        """All that came, verified. Raises WrongBytesError."""
        expected = body(self._scenario.chunks)
        return [read_reply(a.began, a.reads, expected) for a in self._answers]

    async def _one(self, number: int, connection: Connection, end: float) -> None:
        # Not all on the same beat: streams of real clients are not in step.
        await asyncio.sleep(number * self._scenario.gap / self._scenario.at_once)
        for _ in range(self._scenario.calls):
            if self._scenario.pause:
                await asyncio.sleep(self._scenario.pause)
            self._answers.append(await connection.ask(self._request))
            if time.monotonic() >= end:
                return


async def measure(load: Load, scenario: Scenario) -> dict[str, Any]:
    """Run it, and what came of it as figures (figures.summary)."""
    began, used = time.monotonic(), time.process_time()
    await load.run()
    wall, used = time.monotonic() - began, time.process_time() - used
    load.close()
    return figures.summary(load.replies(), scenario, wall) | {"wall": wall, "client_cpu": used}


async def serve() -> None:
    """Read orders, answer each with a line; ends with stdin."""
    loop = asyncio.get_running_loop()
    load: Load | None = None
    scenario: Scenario | None = None
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        order = json.loads(line)
        try:
            async with asyncio.timeout(LIMIT_SECONDS):
                if order["do"] == "prepare":
                    scenario = Scenario(**order["scenario"])
                    load = Load(scenario, Route(**order["route"]), order.get("prompt"))
                    await load.prepare(warm=order.get("warm", True))
                    answer: dict[str, Any] = {"ready": True}
                else:
                    assert load and scenario
                    answer = await measure(load, scenario)
        except* (OSError, TimeoutError, WrongBytesError, AssertionError) as errors:
            if load:
                load.close()
            first = errors.exceptions[0]
            while isinstance(first, BaseExceptionGroup):
                first = first.exceptions[0]
            answer = {"failed": f"{type(first).__name__}: {first}"}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
