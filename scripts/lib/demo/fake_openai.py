"""A fake OpenAI on a loopback port: TLS, HTTP/1.1, chat completions as a stream of events.

It says what it was told to say, at the pace of a model, and writes down who asked and how much
of the answer it could send. It runs in a thread of its own.
"""

from __future__ import annotations

import json
import select
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from certificate import make_certificate

type Json = dict[str, object]

PACE_SECONDS = 0.05
_LOST = "I have nothing to say to that."  # nobody should have asked


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model says, and the tool it calls then: name, and arguments as JSON text."""

    text: str
    tool: tuple[str, str] | None = None

    def deltas(self) -> list[Json]:
        """The space belongs to the word behind it, as models cut their tokens."""
        deltas: list[Json] = [{"role": "assistant", "content": ""}]
        for n, word in enumerate(self.text.split(" ")):
            deltas.append({"content": f" {word}" if n else word})
        if self.tool:
            name, arguments = self.tool
            start: Json = {"name": name, "arguments": ""}
            first: Json = {"index": 0, "id": "call_demo", "type": "function", "function": start}
            deltas.append({"tool_calls": [first]})
            for at in range(0, len(arguments), 6):
                piece = {"arguments": arguments[at : at + 6]}
                deltas.append({"tool_calls": [{"index": 0, "function": piece}]})
        return deltas

    def events(self) -> list[bytes]:
        choices: list[Json] = [
            {"index": 0, "delta": delta, "finish_reason": None} for delta in self.deltas()
        ]
        finish = "tool_calls" if self.tool else "stop"
        choices.append({"index": 0, "delta": {}, "finish_reason": finish})
        return [*(_event(choice) for choice in choices), b"data: [DONE]\n\n"]


@dataclass(slots=True)
class Call:
    """A request that arrived. Times: time.monotonic(). cancelled: it went away before the end."""

    total: int
    sent: int = 0
    started: float = field(default_factory=time.monotonic)
    ended: float = 0.0
    cancelled: bool = False
    over: threading.Event = field(default_factory=threading.Event)


class FakeOpenAI:
    """ca: what a client of it must trust. calls: the requests since the last `expect`."""

    def __init__(self, folder: Path) -> None:
        self.ca = make_certificate(folder)
        self.calls: list[Call] = []
        self._replies: list[Reply] = []
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.ca, folder / "key.pem")
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.fake = self
        # The handshake comes with the first read, in the thread of that connection.
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)

    def expect(self, *replies: Reply) -> None:
        """Forget the calls so far, and answer the next ones with these."""
        self.calls, self._replies = [], list(replies)

    def take(self) -> tuple[Call, list[bytes]]:
        """A request is here: what to send."""
        events = (self._replies.pop(0) if self._replies else Reply(_LOST)).events()
        call = Call(total=len(events))
        self.calls.append(call)
        return call, events

    def wait_over(self, timeout: float = 10) -> None:
        """Until no call is being answered: the agent may know of the end before we do."""
        for call in self.calls:
            call.over.wait(timeout)

    def __enter__(self) -> FakeOpenAI:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a kept-alive connection would hold the end back
    fake: FakeOpenAI

    def handle_error(self, *_: object) -> None:
        """A peer that leaves is no news: `Call.cancelled` says so where it matters."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        call, events = self.server.fake.take()
        try:
            self.send_response(200)
            self.send_header("content-type", "text/event-stream; charset=utf-8")
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            for event in self._paced(events):
                self.wfile.write(b"%x\r\n%b\r\n" % (len(event), event))
                call.sent += 1
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            call.cancelled = True
            self.close_connection = True
        finally:
            call.ended = time.monotonic()
            call.over.set()

    def _paced(self, events: list[bytes]) -> Iterator[bytes]:
        """Raises ConnectionResetError as soon as the peer leaves: it has nothing else to say."""
        for event in events:
            readable, _, _ = select.select([self.connection], [], [], PACE_SECONDS)
            if readable:
                raise ConnectionResetError
            yield event

    def log_message(self, *_: object) -> None:
        """Nobody reads an access log here."""


def _event(choice: Json) -> bytes:
    chunk = {
        "id": "chatcmpl-demo",
        "object": "chat.completion.chunk",
        "created": 1_731_456_250,
        "model": "gpt-4o-mini-2024-07-18",
        "choices": [choice],
    }
    return b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"
