"""The fake OpenAI's connections: h11 or h2 on one side, a script's answer on the other.

Rule kept here: reading never stops while an answer is being written, so that a peer who goes away
is noticed at once and not at the next write.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from typing import Protocol

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h11

from .script import Call, Death, Headers, Switched, Wire


class Answers(Protocol):
    def play(self, call: Call, wire: Wire) -> asyncio.Task[None]: ...
    def failed(self, error: BaseException) -> None: ...


def _break(writer: asyncio.StreamWriter, *, reset: bool) -> None:
    sock = writer.get_extra_info("socket")
    if reset and sock is not None:
        with contextlib.suppress(OSError):  # already gone
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _settle(play: asyncio.Task[None], call: Call, why: str, answers: Answers) -> None:
    """Write down how an answer ended, once its task is done."""
    if play.cancelled():
        call.close("cancelled", why or "cut by the test")
    elif (error := play.exception()) is not None:
        call.close("cancelled", why or repr(error))
        lost = OSError | h2.exceptions.ProtocolError | h11.LocalProtocolError
        if not (isinstance(error, lost) and why) and not isinstance(error, OSError):
            answers.failed(error)


class Http1Connection:
    def __init__(
        self,
        answers: Answers,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        number: int,
    ) -> None:
        self._answers, self._reader, self._writer = answers, reader, writer
        self._number = number
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
        self._fresh = asyncio.Event()
        self._gone = ""
        self._switched: asyncio.Queue[bytes | None] | None = None
        self._play: asyncio.Task[None] | None = None

    async def run(self) -> None:
        pump = asyncio.create_task(self._pump())
        try:
            while (call := await self._next_call()) is not None:
                self._play = self._answers.play(call, self)
                await asyncio.wait({self._play})
                _settle(self._play, call, self._gone, self._answers)
                self._play = None
                if call.state != "completed" or self._switched is not None:
                    _break(self._writer, reset=False)
                    return
                if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                    return
                self._http.start_next_cycle()
        except h11.RemoteProtocolError:
            return
        finally:
            pump.cancel()

    async def head(self, status: int, headers: Headers) -> None:
        kind = h11.InformationalResponse if status == 101 else h11.Response
        await self._write(kind(status_code=status, headers=list(headers)))

    async def data(self, data: bytes) -> None:
        await self._write(h11.Data(data=data))

    async def end(self) -> None:
        if self._http.our_state is not h11.SWITCHED_PROTOCOL:
            await self._write(h11.EndOfMessage())

    async def die(self, how: Death) -> None:
        _break(self._writer, reset=how != "eof")

    async def switch(self) -> Switched:
        self._switched = asyncio.Queue()
        rest, _ = self._http.trailing_data
        if rest:
            self._switched.put_nowait(bytes(rest))

        async def send(data: bytes) -> None:
            self._writer.write(data)
            await self._writer.drain()

        return self._switched, send

    async def _write(
        self, event: h11.Response | h11.InformationalResponse | h11.Data | h11.EndOfMessage
    ) -> None:
        self._writer.write(self._http.send(event) or b"")
        await self._writer.drain()

    async def _pump(self) -> None:
        try:
            while data := await self._reader.read(65536):
                if self._switched is not None:
                    self._switched.put_nowait(data)
                    continue
                self._http.receive_data(data)
                self._fresh.set()
            self._gone = "the peer closed the connection"
        except OSError as error:
            self._gone = f"the peer broke the connection: {error!r}"
        self._fresh.set()
        if self._switched is not None:
            self._switched.put_nowait(None)
        elif self._play:
            self._play.cancel()

    async def _next_call(self) -> Call | None:
        request: h11.Request | None = None
        at = time.monotonic()
        body = bytearray()
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                if self._gone:
                    return None
                if self._http.they_are_waiting_for_100_continue:
                    await self._write(h11.InformationalResponse(status_code=100, headers=[]))
                self._fresh.clear()
                await self._fresh.wait()
            elif isinstance(event, h11.Request):
                request, at = event, time.monotonic()
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage) and request is not None:
                headers = [(k.decode(), v.decode("latin-1")) for k, v in request.headers]
                host = next((v for k, v in headers if k == "host"), "")
                return Call(
                    request.method.decode(),
                    request.target.decode(),
                    "1.1",
                    host,
                    headers,
                    bytes(body),
                    self._number,
                    at,
                )
            else:
                return None


class Http2Connection:
    def __init__(
        self,
        answers: Answers,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        number: int,
    ) -> None:
        self.answers, self._reader, self.writer = answers, reader, writer
        self.number = number
        config = h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        self.http = h2.connection.H2Connection(config)
        self._streams: dict[int, _Http2Stream] = {}

    async def run(self) -> None:
        self.http.initiate_connection()
        why = "the peer closed the connection"
        try:
            await self.flush()
            while data := await self._reader.read(65536):
                for event in self.http.receive_data(data):
                    self._handle(event)
                await self.flush()
        except OSError as error:
            why = f"the peer broke the connection: {error!r}"
        except h2.exceptions.ProtocolError as error:
            why = f"the peer broke HTTP/2: {error!r}"
            self.answers.failed(error)
        finally:
            for stream in self._streams.values():
                stream.cancel(why)

    async def flush(self) -> None:
        if data := self.http.data_to_send():
            self.writer.write(data)
        await self.writer.drain()

    def _handle(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived):
            self._streams[event.stream_id] = _Http2Stream(self, event)
        elif isinstance(event, h2.events.DataReceived):
            self._streams[event.stream_id].body += event.data
            self.http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            self._streams[event.stream_id].start()
        elif isinstance(event, h2.events.StreamReset):
            if stream := self._streams.get(event.stream_id):
                code = int(event.error_code or 0)
                stream.cancel(f"RST_STREAM {h2.errors.ErrorCodes(code).name}")
        elif isinstance(event, h2.events.WindowUpdated | h2.events.RemoteSettingsChanged):
            for stream in self._streams.values():
                stream.window.set()


class _Http2Stream:
    def __init__(self, connection: Http2Connection, event: h2.events.RequestReceived) -> None:
        self._connection, self._id = connection, event.stream_id
        self._at = time.monotonic()
        self._headers = [(str(k), str(v)) for k, v in event.headers or ()]
        self.body = bytearray()
        self.window = asyncio.Event()
        self._play: asyncio.Task[None] | None = None
        self._why = ""

    def start(self) -> None:
        pseudo = {k: v for k, v in self._headers if k.startswith(":")}
        call = Call(
            pseudo[":method"],
            pseudo[":path"],
            "2",
            pseudo.get(":authority", ""),
            [(k, v) for k, v in self._headers if not k.startswith(":")],
            bytes(self.body),
            self._connection.number,
            self._at,
        )
        self._play = self._connection.answers.play(call, self)
        self._play.add_done_callback(lambda play: self._ended(play, call))

    def cancel(self, why: str) -> None:
        self._why = self._why or why
        if self._play:
            self._play.cancel()

    async def head(self, status: int, headers: Headers) -> None:
        self._connection.http.send_headers(self._id, [(":status", str(status)), *headers])
        await self._connection.flush()

    async def data(self, data: bytes) -> None:
        http = self._connection.http
        while data:
            size = min(http.local_flow_control_window(self._id), http.max_outbound_frame_size)
            if size <= 0:
                self.window.clear()
                await self.window.wait()
                continue
            http.send_data(self._id, data[:size])
            data = data[size:]
            await self._connection.flush()

    async def end(self) -> None:
        self._connection.http.end_stream(self._id)
        await self._connection.flush()

    async def switch(self) -> Switched:
        raise NotImplementedError("WebSockets over HTTP/2")

    async def die(self, how: Death) -> None:
        if how != "reset":
            _break(self._connection.writer, reset=how == "kill")
            return
        self._connection.http.reset_stream(self._id, h2.errors.ErrorCodes.INTERNAL_ERROR)
        await self._connection.flush()

    def _ended(self, play: asyncio.Task[None], call: Call) -> None:
        _settle(play, call, self._why, self._connection.answers)
        if call.why == "cut by the test":
            _break(self._connection.writer, reset=False)
