"""A fake Explorer that traces are pushed to: plain HTTP/1.1 on a loopback port, with faults.

It does with a push what the real one does, faults included: it stores before it looks at the
annotations, answers 500 to what it does not like, and knows nothing of ids that a client brings.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import re
import threading
import time
import uuid
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

KEY = "inv-test-key"
USER = "ada"
_DATASET = re.compile(r"/api/v1/dataset/byuser/([^/]+)/([^/]+)(/traces)?")


@dataclass
class Stored:
    """A trace as it was committed."""

    index: int
    id: str
    messages: list[dict[str, Any]]
    metadata: dict[str, Any]
    annotations: list[dict[str, Any]] = field(default_factory=list)
    user: str = USER


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A peer that has gone is no fault of the fake."""


class ChaosExplorer:
    """Knobs. faults: of the pushes, this share is answered with one of `kinds`: "503" (nothing was
    stored), "500" (stored), "cut" (stored, and the connection ends without an answer). status:
    every request is answered with it, and nothing stored. delay: seconds before each answer.
    gap: indexes to leave out, as after traces that were deleted. retry_after: a header.

    users: who a key belongs to. requests: (method, path without its query) of all that came.
    """

    def __init__(self, *, seed: int = 0) -> None:
        self.faults = 0.0
        self.kinds: tuple[str, ...] = ("503", "500", "cut")
        self.status: int | None = None
        self.delay = 0.0
        self.gap = 0
        self.retry_after: str | None = None
        self.users = {KEY: USER}
        self.requests: list[tuple[str, str]] = []
        self.connections = 0
        self.bodies: list[bytes] = []
        self.datasets: dict[str, list[Stored]] = {}
        self.errors: list[BaseException] = []
        self._dice = random.Random(seed)
        self._lock = threading.Lock()
        self._indexes: dict[str, itertools.count[int]] = {}
        self._port = 0
        self._server: _Server | None = None
        self._open: set[Any] = set()
        self.up()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def stored(self) -> list[Stored]:
        return [trace for traces in self.datasets.values() for trace in traces]

    def count(self, part: str) -> int:
        return sum(part in path for _, path in self.requests)

    def up(self) -> None:
        """On the same port as before."""
        self._server = _Server(("127.0.0.1", self._port), self._handler())
        self._port = self._server.server_address[1]
        threading.Thread(
            target=self._server.serve_forever, args=(0.01,), name="chaos", daemon=True
        ).start()

    def down(self) -> None:
        """Nobody listens, and open connections break."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
        for connection in list(self._open):
            connection.shut()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        chaos = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            timeout = 30

            def setup(self) -> None:
                super().setup()
                chaos.connections += 1
                chaos._open.add(self)

            def finish(self) -> None:
                chaos._open.discard(self)
                super().finish()

            def shut(self) -> None:
                with contextlib.suppress(OSError):  # it is gone already
                    self.connection.shutdown(2)

            def log_message(self, *_: Any) -> None:
                """The terminal is for the tests."""

            def do_GET(self) -> None:
                self._answer(None)

            def do_POST(self) -> None:
                self._answer(self.rfile.read(int(self.headers["content-length"])))

            def _answer(self, body: bytes | None) -> None:
                path = urlsplit(self.path)
                try:
                    with chaos._lock:
                        chaos.requests.append((self.command, path.path))
                    time.sleep(chaos.delay)
                    with chaos._lock:
                        status, said = chaos._reply(
                            path.path, path.query, self.headers["authorization"], body
                        )
                except Exception as error:  # a bug here must fail the test
                    chaos.errors.append(error)
                    raise
                if status is None:
                    self.close_connection = True
                    self.shut()
                    return
                reply = json.dumps(said).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(reply)))
                if chaos.retry_after:
                    self.send_header("retry-after", chaos.retry_after)
                self.end_headers()
                self.wfile.write(reply)

        return Handler

    # -- what the real one does

    def _reply(
        self, path: str, query: str, authorization: str | None, body: bytes | None
    ) -> tuple[int | None, Any]:
        if self.status is not None:
            return self.status, {"detail": "told to"}
        user = self.users.get((authorization or "").removeprefix("Bearer "))
        if user is None:
            return 401, {"detail": "You must provide a valid API key."}
        if path == "/api/v1/user/identity":
            return 200, {"username": user}
        if path == "/api/v1/push/trace" and body is not None:
            return self._push(body, user)
        if found := _DATASET.fullmatch(path):
            return self._dataset(user, found[1], found[2], bool(found[3]), query)
        if path.endswith("/policy"):
            return 404, {"detail": "Dataset not found"}
        return 404, {"detail": "Not Found"}

    def _push(self, body: bytes, owner: str) -> tuple[int | None, Any]:
        fault = self._dice.choice(self.kinds) if self._dice.random() < self.faults else ""
        if fault == "503":
            return 503, {"detail": "later"}
        self.bodies.append(body)
        push = json.loads(body)
        messages, name = push["messages"], push["dataset"]
        if not messages or not re.match(r"^[a-zA-Z0-9-_]+$", name):
            return 400, {"detail": "messages must not be empty"}
        ids = []
        for number, conversation in enumerate(messages):
            for message in conversation:
                for call in message.get("tool_calls") or []:
                    if isinstance(arguments := call["function"]["arguments"], str):
                        with contextlib.suppress(ValueError):  # it stays a text
                            call["function"]["arguments"] = json.loads(arguments)
            indexes = self._indexes.setdefault(name, itertools.count())
            for _ in range(self.gap):
                next(indexes)
            trace = Stored(next(indexes), str(uuid.uuid4()), conversation, push["metadata"][number])
            trace.user = owner
            self.datasets.setdefault(name, []).append(trace)
            ids.append(trace.id)
            for annotation in (push["annotations"] or [[]] * len(messages))[number]:
                if not isinstance(annotation.get("address"), str):
                    return 500, {"detail": "'address'"}
                trace.annotations.append(annotation)
        if fault == "500":
            return 500, {"detail": "after the commit"}
        if fault == "cut":
            return None, None
        return 200, {"id": ids, "dataset": name, "username": owner}

    def _dataset(
        self, owner: str, user: str, name: str, is_rows: bool, query: str
    ) -> tuple[int, Any]:
        if user != owner or name not in self.datasets:
            return 404, {"detail": "Dataset not found"}
        traces = self.datasets[name]
        if not is_rows:
            return 200, {"name": name, "num_traces": len(traces)}
        wanted = parse_qs(query).get("indices")
        only = None if wanted is None else {int(index) for index in wanted[0].split(",")}
        return 200, [
            {"id": t.id, "index": t.index, "messages": [], "extra_metadata": t.metadata}
            for t in traces
            if only is None or t.index in only
        ]
