"""WebSockets: the fake OpenAI's side of them, and a client that sees every frame.

Both are wsproto over bytes. The server answers each message of its client that it has an answer
for; the client reads only while the test waits for something.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any

import wsproto
from wsproto.connection import ConnectionState, ConnectionType
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Message,
    Ping,
    Pong,
    RejectConnection,
    Request,
    TextMessage,
)
from wsproto.extensions import PerMessageDeflate

from .raw import HOST, KEY, Lost, RawClient
from .responses import PATH
from .script import Call, Wire
from .streams import Json

if TYPE_CHECKING:
    from .proxy import Proxy

type Frame = Json | str | bytes
"""A message: JSON, text, or binary."""
type Answer = Sequence[Frame] | Callable[[Any], Sequence[Frame]]


def _text(frame: Json | str) -> str:
    return frame if isinstance(frame, str) else json.dumps(frame, separators=(",", ":"))


@dataclass(eq=False)
class Socket:
    """A responder (script.Responder) that speaks WebSocket.

    answers: one for each message, in order; the last one stays. pace: seconds between two frames.
    cut: characters of a frame: a longer message comes in several. deflate: agree to it.
    close, reason: with this code and these words behind the last answer. said: what the client
    sent; as text, or bytes.
    pings, pongs: what came in them. left, farewell: how the client left, and its words.
    """

    answers: Sequence[Answer]
    pace: float = 0
    cut: int = 0
    deflate: bool = True
    close: int | None = None
    reason: str | None = None
    ping: bytes = b""
    said: list[str | bytes] = field(default_factory=list)
    pings: list[bytes] = field(default_factory=list)
    pongs: list[bytes] = field(default_factory=list)
    left: int | None = None
    farewell: str | None = None

    def json(self) -> list[Any]:
        return [json.loads(one) for one in self.said]

    async def play(self, wire: Wire, call: Call) -> None:
        if "websocket" not in (call.header("upgrade") or ""):
            await wire.head(400, [("content-length", "0")])
            await wire.end()
            call.close("completed")
            return
        connection = wsproto.WSConnection(ConnectionType.SERVER)
        connection.initiate_upgrade_connection(
            [(k.encode(), v.encode()) for k, v in call.headers], call.path
        )
        received, send = await wire.switch()
        extensions = [PerMessageDeflate()] if self.deflate else []
        (event,) = connection.events()
        assert isinstance(event, Request)
        await send(connection.send(AcceptConnection(extensions=list(extensions))))
        call.status = 101
        parts: list[str | bytes] = []
        turn = 0
        while True:
            for event in connection.events():
                if isinstance(event, Message):
                    parts.append(event.data)
                    if event.message_finished:
                        self._note(parts)
                        parts = []
                        answer = self.answers[min(turn, len(self.answers) - 1)]
                        turn += 1
                        await self._answer(connection, send, answer)
                        if self.close is not None and turn == len(self.answers):
                            await send(connection.send(CloseConnection(self.close, self.reason)))
                elif isinstance(event, Ping):
                    self.pings.append(bytes(event.payload))
                    await send(connection.send(event.response()))
                elif isinstance(event, Pong):
                    self.pongs.append(bytes(event.payload))
                elif isinstance(event, CloseConnection):
                    self.left, self.farewell = int(event.code), event.reason
                    if connection.state is ConnectionState.REMOTE_CLOSING:
                        await send(connection.send(event.response()))
                    call.close("completed")
                    return
            data = await received.get()
            if data is None:
                self.left = self.left or 1006
                call.close("cancelled", "the peer left")
                return
            connection.receive_data(data)

    def _note(self, parts: list[str | bytes]) -> None:
        if all(isinstance(part, str) for part in parts):
            self.said.append("".join(str(part) for part in parts))
        else:
            self.said.append(b"".join(p for p in parts if isinstance(p, bytes)))

    async def _answer(
        self, connection: wsproto.WSConnection, send: Callable[[bytes], Any], answer: Answer
    ) -> None:
        frames = answer(json.loads(self.said[-1])) if callable(answer) else answer
        for frame in frames:
            if isinstance(frame, bytes):
                await send(connection.send(BytesMessage(frame)))
            else:
                for event in _cut(_text(frame), self.cut):
                    await send(connection.send(event))
            if self.pace:
                await asyncio.sleep(self.pace)
        if self.ping:  # last: who sees it knows that the proxy has read all that came before
            await send(connection.send(Ping(self.ping)))


def _cut(text: str, size: int) -> list[TextMessage]:
    pieces = [text[at : at + size] for at in range(0, len(text), size)] if size else [text]
    return [
        TextMessage(piece, message_finished=n == len(pieces)) for n, piece in enumerate(pieces, 1)
    ]


@dataclass(eq=False)
class SocketClient:
    """messages: whole ones as they came, each as its frames. status: of the upgrade."""

    connection: wsproto.WSConnection
    raw: RawClient
    status: int = 0
    messages: list[list[str | bytes]] = field(default_factory=list)
    pings: list[bytes] = field(default_factory=list)
    pongs: list[bytes] = field(default_factory=list)
    closed: int | None = None
    reason: str | None = None
    _parts: list[str | bytes] = field(default_factory=list)

    @classmethod
    def through(
        cls,
        proxy: Proxy,
        path: str = PATH,
        *,
        deflate: bool = True,
        key: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> SocketClient:
        """Upgrade and wait for the answer."""
        auth = ("authorization", f"Bearer {key}") if key else KEY
        more = [(k.encode(), v.encode()) for k, v in [auth, *(headers or {}).items()]]
        found = cls(wsproto.WSConnection(ConnectionType.CLIENT), RawClient.through(proxy))
        extensions = [PerMessageDeflate()] if deflate else []
        request = Request(HOST, path, extensions=list(extensions), extra_headers=more)
        found.raw.write(found.connection.send(request))
        found._wait(lambda: bool(found.status), "an answer to the upgrade")
        return found

    def send(self, frame: Frame, *, cut: int = 0) -> None:
        if isinstance(frame, bytes):
            self.raw.write(self.connection.send(BytesMessage(frame)))
            return
        for event in _cut(_text(frame), cut):
            self.raw.write(self.connection.send(event))

    def ping(self, payload: bytes) -> None:
        self.raw.write(self.connection.send(Ping(payload)))

    def close(self, code: int = 1000, reason: str | None = None) -> None:
        self.raw.write(self.connection.send(CloseConnection(code, reason)))

    def texts(self) -> list[str]:
        return ["".join(str(part) for part in message) for message in self.messages]

    def json(self) -> list[Any]:
        return [json.loads(text) for text in self.texts()]

    def wait_type(self, *names: str, count: int = 1) -> list[Any]:
        """Until so many messages of one of these types came; all that came."""
        self._wait(
            lambda: sum(one.get("type") in names for one in self.json()) >= count, f"{names}"
        )
        return self.json()

    def wait_ping(self) -> None:
        self._wait(lambda: bool(self.pings), "a ping")

    def wait_pong(self) -> None:
        self._wait(lambda: bool(self.pongs), "a pong")

    def wait_closed(self) -> int:
        self._wait(lambda: self.closed is not None, "the end")
        assert self.closed is not None
        return self.closed

    def listen(self, seconds: float) -> None:
        """To see that nothing comes."""
        end = time.monotonic() + seconds
        while self.closed is None and (data := self.raw.read(end)) is not None:
            self._take(data)

    def _wait(self, holds: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + self.raw.timeout
        while not holds():
            if self.closed is not None:
                raise Lost(f"waited for {what}, closed with {self.closed}: {self.texts()[-3:]}")
            data = self.raw.read(end)
            if data is None:
                raise TimeoutError(f"waited for {what}: {self.status} {self.texts()[-3:]}")
            self._take(data)

    def _take(self, data: bytes) -> None:
        self.connection.receive_data(data or None)
        for event in self.connection.events():
            if isinstance(event, AcceptConnection):
                self.status = 101
            elif isinstance(event, RejectConnection):
                self.status = event.status_code
            elif isinstance(event, Message):
                if event.frame_finished or event.message_finished or event.data:
                    self._parts.append(event.data)
                if event.message_finished:
                    self.messages.append(self._parts)
                    self._parts = []
            elif isinstance(event, Pong):
                self.pongs.append(bytes(event.payload))
            elif isinstance(event, Ping) and self.connection.state is ConnectionState.OPEN:
                self.pings.append(bytes(event.payload))
                self.raw.write(self.connection.send(event.response()))
            elif isinstance(event, CloseConnection):
                self.closed, self.reason = int(event.code), event.reason
        if not data and self.closed is None:
            self.closed = 1006

    def __enter__(self) -> SocketClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.raw.close()
