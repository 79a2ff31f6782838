"""A client without opinions: exactly the bytes that arrive, and when. HTTP/1.1 and HTTP/2.

It runs in the test's own thread and reads only while the test waits for something, so arrival
times are those of the reads: wait for what you time.
"""

from __future__ import annotations

import json
import socket
import ssl
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h11

if TYPE_CHECKING:
    from .proxy import Proxy
    from .upstream import Upstream

type Version = Literal["1.1", "2"]
type Headers = Sequence[tuple[str, str]]

HOST = "api.openai.com"
KEY = ("authorization", "Bearer sk-stage")
CHAT = "/v1/chat/completions"


class Lost(Exception):
    """The connection could not be made, or ended before what was waited for. A proxy that says no
    to CONNECT too."""


@dataclass(frozen=True, slots=True)
class Read:
    """A piece of body: one HTTP chunk (or part of one) or DATA frame, and when it was read."""

    at: float
    data: bytes


@dataclass(eq=False)
class Reply:
    """What came back for one request, growing while the test waits.

    end: "" while open, "complete", or how it broke: "eof" (connection closed in the middle),
    "reset" (TCP), "RST_STREAM <code>", "broken" (not HTTP).
    """

    client: RawClient
    sent_at: float
    stream_id: int = 0
    status: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    end: str = ""
    head_at: float | None = None
    ended_at: float | None = None
    _size: int = 0

    @property
    def body(self) -> bytes:
        return b"".join(read.data for read in self.reads)

    @property
    def size(self) -> int:
        return self._size

    @property
    def is_complete(self) -> bool:
        return self.end == "complete"

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name.lower()), None)

    def json(self) -> dict[str, object]:
        parsed = json.loads(self.body)
        assert isinstance(parsed, dict)
        return parsed

    def arrived(self, needle: bytes) -> float | None:
        """When the last byte of the first occurrence was read; None if it never came."""
        at = self.body.find(needle)
        if at < 0:
            return None
        last, seen = at + len(needle), 0
        for read in self.reads:
            seen += len(read.data)
            if seen >= last:
                return read.at
        return None

    def wait_head(self, timeout: float | None = None) -> Reply:
        self._wait(lambda: bool(self.status), timeout, "a head")
        return self

    def wait_body(
        self, needle: bytes = b"", *, size: int = 0, timeout: float | None = None
    ) -> Reply:
        """Until the body holds the needle, or so many bytes."""
        what = f"{needle!r}" if needle else f"{size} bytes"
        self._wait(lambda: self.size >= size and needle in self.body, timeout, what)
        return self

    def wait_end(self, timeout: float | None = None) -> Reply:
        """Until it is complete or broken (see `end`)."""
        self._wait(lambda: bool(self.end), timeout, "the end")
        return self

    def listen(self, seconds: float) -> Reply:
        """Read whatever comes in this time. To see that nothing does."""
        end = time.monotonic() + seconds
        while not self.end and self.client.pump(end):
            pass
        return self

    def cancel(self) -> None:
        """HTTP/2: RST_STREAM(CANCEL). HTTP/1.1 has only the connection: see RawClient.vanish."""
        self.client.cancel(self)

    def _wait(self, holds: Callable[[], bool], timeout: float | None, what: str) -> None:
        end = time.monotonic() + (self.client.timeout if timeout is None else timeout)
        while not holds():
            if self.end:
                raise Lost(f"waited for {what}, got {self.end!r}: {self._seen()}")
            if not self.client.pump(end):
                raise TimeoutError(f"waited for {what}: {self._seen()}")

    def _seen(self) -> str:
        return f"status {self.status}, {self.size} bytes, last {self.body[-200:]!r}"

    # --- for the client

    def _head(self, status: int, headers: list[tuple[str, str]]) -> None:
        self.status, self.headers, self.head_at = status, headers, time.monotonic()

    def _data(self, data: bytes, at: float) -> None:
        if data:
            self.reads.append(Read(at, data))
            self._size += len(data)

    def _end(self, how: str) -> None:
        if not self.end:
            self.end, self.ended_at = how, time.monotonic()


class RawClient:
    """One connection. Over HTTP/2 several requests may be open at once, over HTTP/1.1 one."""

    def __init__(
        self,
        address: tuple[str, int],
        *,
        tunnel: bool = False,
        tls: bool = True,
        ca: Path | None = None,
        version: Version = "1.1",
        host: str = HOST,
        timeout: float = 20,
    ) -> None:
        self.version, self.host, self.timeout = version, host, timeout
        self.scheme = "https" if tls or tunnel else "http"
        self._sock: socket.socket = socket.create_connection(address, timeout=timeout)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._replies: dict[int, Reply] = {}
        self._closed = False
        try:
            if tunnel:
                self._connect(host)
            if tls:
                self._handshake(ca, host)
        except BaseException:
            self._sock.close()
            raise
        self._http1 = h11.Connection(h11.CLIENT)
        config = h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        self._http2 = h2.connection.H2Connection(config)
        if version == "2":
            self._http2.initiate_connection()
            self._flush()

    @classmethod
    def through(
        cls, proxy: Proxy, version: Version = "1.1", *, host: str = HOST, timeout: float = 20
    ) -> RawClient:
        """As a program with HTTPS_PROXY; in reverse mode, as one with another base URL (clear text
        for HTTP/1.1, TLS for HTTP/2)."""
        return cls(
            (proxy.host, proxy.port),
            tunnel=not proxy.is_reverse,
            tls=not proxy.is_reverse or version == "2",
            ca=proxy.ca,
            version=version,
            host=host,
            timeout=timeout,
        )

    @classmethod
    def direct(
        cls, upstream: Upstream, version: Version = "1.1", *, timeout: float = 20
    ) -> RawClient:
        """Past the proxy: what OpenAI itself would have delivered."""
        address = ("127.0.0.1", upstream.port)
        return cls(address, ca=upstream.ca, version=version, timeout=timeout)

    def post(self, path: str, body: object, headers: Headers = (), *, key: bool = True) -> Reply:
        """Send JSON (or bytes as they are) with an API key. Returns at once: see Reply.wait_*."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = [("content-type", "application/json"), *([KEY] if key else []), *headers]
        return self.send("POST", path, head, data)

    def send(
        self,
        method: str,
        path: str,
        headers: Headers,
        body: bytes = b"",
        *,
        says_length: bool = True,
    ) -> Reply:
        """says_length: else the body is chunked, or over HTTP/2 ends with its last frame."""
        headers = [*headers]
        if (body or method == "POST") and says_length:
            headers.append(("content-length", str(len(body))))
        elif body and self.version == "1.1":
            headers.append(("transfer-encoding", "chunked"))
        if self.version == "2":
            return self._send2(method, path, headers, body)
        if self._http1.our_state is h11.DONE:
            self._http1.start_next_cycle()
        reply = Reply(self, time.monotonic())
        self._replies = {0: reply}
        request = h11.Request(method=method, target=path, headers=[("host", self.host), *headers])
        data = self._http1.send(request) or b""
        if body:
            data += self._http1.send(h11.Data(data=body)) or b""
        self._write(data + (self._http1.send(h11.EndOfMessage()) or b""))
        return reply

    def cancel(self, reply: Reply) -> None:
        if self.version != "2":
            raise ValueError("cancel: HTTP/1.1 has no way to cancel but vanish()")
        self._http2.reset_stream(reply.stream_id, h2.errors.ErrorCodes.CANCEL)
        reply._end("RST_STREAM CANCEL (ours)")
        self._flush()

    def vanish(self, *, rst: bool = False) -> None:
        """Leave without a word: FIN, or RST."""
        if rst:
            linger = struct.pack("ii", 1, 0)
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close()

    def close(self) -> None:
        self._closed = True
        self._sock.close()

    def __enter__(self) -> RawClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def write(self, data: bytes) -> None:
        """Bytes as they are, for another protocol."""
        self._sock.settimeout(self.timeout)
        self._sock.sendall(data)

    def read(self, until: float) -> bytes | None:
        """Bytes as they come; b"" at the end, None if there were none until then."""
        left = until - time.monotonic()
        if left <= 0 or self._closed:
            return None
        self._sock.settimeout(left)
        try:
            return self._sock.recv(65536)
        except TimeoutError:
            return None
        except OSError:
            return b""

    def pump(self, until: float) -> bool:
        """Read once and hand it out. False if nothing came until then."""
        left = until - time.monotonic()
        if left <= 0 or self._closed:
            return False
        self._sock.settimeout(left)
        try:
            data = self._sock.recv(65536)
        except TimeoutError:
            return False
        except ssl.SSLEOFError:
            data = b""
        except OSError:
            self._broke("reset")
            return True
        if self.version == "2":
            self._receive2(data)
        else:
            self._receive1(data)
        return True

    # --- inside

    def _receive1(self, data: bytes) -> None:
        at, reply = time.monotonic(), self._replies.get(0)
        try:
            self._http1.receive_data(data)
            while True:
                event = self._http1.next_event()
                if event in (h11.NEED_DATA, h11.PAUSED):
                    break
                if isinstance(event, h11.ConnectionClosed):
                    self._broke("eof")
                    break
                if reply is None:
                    continue
                if isinstance(event, h11.Response):
                    headers = [(k.decode(), v.decode("latin-1")) for k, v in event.headers]
                    reply._head(event.status_code, headers)
                elif isinstance(event, h11.Data):
                    reply._data(bytes(event.data), at)
                elif isinstance(event, h11.EndOfMessage):
                    reply._end("complete")
        except h11.RemoteProtocolError:
            self._broke("broken" if data else "eof")

    def _send2(self, method: str, path: str, headers: Headers, body: bytes) -> Reply:
        stream_id = self._http2.get_next_available_stream_id()
        reply = Reply(self, time.monotonic(), stream_id)
        self._replies[stream_id] = reply
        pseudo = [
            (":method", method),
            (":scheme", self.scheme),
            (":authority", self.host),
            (":path", path),
        ]
        self._http2.send_headers(stream_id, [*pseudo, *headers], end_stream=not body)
        end = time.monotonic() + self.timeout
        while body and not reply.end:
            window = self._http2.local_flow_control_window(stream_id)
            size = min(window, self._http2.max_outbound_frame_size, len(body))
            if size <= 0:
                if not self.pump(end):
                    raise TimeoutError("the peer's flow control window stays closed")
                continue
            self._http2.send_data(stream_id, body[:size], end_stream=size == len(body))
            body = body[size:]
            self._flush()
        self._flush()
        return reply

    def _receive2(self, data: bytes) -> None:
        at = time.monotonic()
        if not data:
            self._broke("eof")
            return
        try:
            events = self._http2.receive_data(data)
        except h2.exceptions.ProtocolError:
            self._broke("broken")
            return
        for event in events:
            reply = self._replies.get(getattr(event, "stream_id", None) or 0)
            if isinstance(event, h2.events.DataReceived):
                size = event.flow_controlled_length
                self._http2.acknowledge_received_data(size, event.stream_id)
            if reply is None:
                continue
            if isinstance(event, h2.events.ResponseReceived):
                headers = [(str(k), str(v)) for k, v in event.headers or ()]
                reply._head(int(dict(headers)[":status"]), headers[1:])
            elif isinstance(event, h2.events.DataReceived):
                reply._data(bytes(event.data or b""), at)
            elif isinstance(event, h2.events.StreamEnded):
                reply._end("complete")
            elif isinstance(event, h2.events.StreamReset):
                code = h2.errors.ErrorCodes(int(event.error_code or 0)).name
                reply._end(f"RST_STREAM {code}")
        self._flush()

    def _broke(self, how: str) -> None:
        for reply in self._replies.values():
            reply._end(how)
        self.close()

    def _connect(self, host: str) -> None:
        self._sock.sendall(f"CONNECT {host}:443 HTTP/1.1\r\nhost: {host}:443\r\n\r\n".encode())
        answer = b""
        while b"\r\n\r\n" not in answer:
            data = self._sock.recv(1)  # not a byte further: what follows is TLS
            if not data:
                raise Lost(f"CONNECT: {answer!r}")
            answer += data
        if answer.split(b" ")[1] != b"200":
            raise Lost(f"CONNECT: {answer!r}")

    def _handshake(self, ca: Path | None, host: str) -> None:
        context = ssl.create_default_context(cafile=str(ca) if ca else None)
        context.set_alpn_protocols(["h2"] if self.version == "2" else ["http/1.1"])
        secure = context.wrap_socket(self._sock, server_hostname=host)
        self._sock = secure
        if self.version == "2" and secure.selected_alpn_protocol() != "h2":
            raise Lost("the peer does not speak HTTP/2")

    def _flush(self) -> None:
        if data := self._http2.data_to_send():
            self._write(data)

    def _write(self, data: bytes) -> None:
        self._sock.settimeout(self.timeout)
        try:
            self._sock.sendall(data)
        except TimeoutError:
            raise
        except OSError:
            if self.version != "2":
                self._broke("reset")
