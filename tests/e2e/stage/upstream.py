"""A fake OpenAI: HTTP/1.1 and HTTP/2 over TLS on a loopback port, in a thread with its own loop.

It does what its script says, writes down what it was asked, and notices at once when the one who
asked goes away. Like OpenAI it wants an Authorization header and knows only its own paths.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from . import responses, streams
from .authority import Authority, make_authority
from .script import Answer, Call, Json, Responder, Stream, Wire, wait_until
from .wires import Http1Connection, Http2Connection

KNOWN = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/embeddings",
    "/v1/moderations",
    "/v1/models",
    "/v1/files",
    "/v1/images/generations",
    "/v1/audio/transcriptions",
)


class Upstream:
    """port: TLS; plain_port: the same without TLS. ca: what a client of it must trust.

    calls: every request since the last reset, in order of arrival. connections: how many
    connections were accepted. errors: exceptions in the fake itself: a test that finds one failed.
    """

    def __init__(self, folder: Path) -> None:
        self.authority: Authority = make_authority(folder)
        self.ca: Path = self.authority.ca
        self.port = 0
        self.plain_port = 0
        self.calls: list[Call] = []
        self.connections = 0
        self.errors: list[BaseException] = []
        self._scripts: list[tuple[str | None, str | None, list[Answer]]] = []
        self._plays: set[asyncio.Task[None]] = set()
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(self.authority.chain)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="fake OpenAI", daemon=True)
        self._up = threading.Event()
        self._down: asyncio.Event | None = None

    # --- for tests

    def script(self, *answers: Answer, path: str | None = None, method: str | None = None) -> None:
        """Answer requests with these, one after the other; the last one stays.

        An answer is a responder, or a function that makes one from the call. With a path or a
        method: only such requests (and the path becomes known). Later scripts go first.
        """
        if not answers:
            raise ValueError("script: nothing to answer with")
        self._scripts.insert(0, (path, method, list(answers)))

    def speak(self, *protocols: str) -> None:
        """What ALPN offers to new connections: "h2", "http/1.1"; both unless told otherwise."""
        self._tls.set_alpn_protocols(list(protocols))

    def wait_calls(self, count: int, timeout: float = 15) -> list[Call]:
        """Wait for so many requests; returns them all."""
        wait_until(lambda: len(self.calls) >= count, timeout, f"{count} requests at the fake")
        return list(self.calls)

    def last(self, timeout: float = 15) -> Call:
        """The newest request; waits for the first one."""
        return self.wait_calls(1, timeout)[-1]

    def reset(self) -> None:
        """As new: scripts and records are dropped, answers that are still open are cut."""
        asyncio.run_coroutine_threadsafe(self._reset(), self._loop).result(10)

    def start(self) -> Upstream:
        self._thread.start()
        if not self._up.wait(10):
            raise RuntimeError("the fake OpenAI did not start")
        return self

    def stop(self) -> None:
        if down := self._down:
            self._loop.call_soon_threadsafe(down.set)
        self._thread.join(10)

    # --- for connections

    async def answer(self, call: Call, wire: Wire) -> None:
        self.calls.append(call)
        await self._choose(call).play(wire, call)

    def play(self, call: Call, wire: Wire) -> asyncio.Task[None]:
        task = self._loop.create_task(self.answer(call, wire))
        self._plays.add(task)
        task.add_done_callback(self._plays.discard)
        return task

    def failed(self, error: BaseException) -> None:
        self.errors.append(error)

    # --- inside

    def _choose(self, call: Call) -> Responder:
        path = call.path.partition("?")[0]
        scripted = self._scripted(path, call.method)
        if scripted is None and not any(path == k or path.startswith(k + "/") for k in KNOWN):
            text = f"Invalid URL ({call.method} {path})"
            return Json(streams.error(text), status=404)
        if not call.header("authorization"):
            text = "You didn't provide an API key. You need to provide your API key in an Authori"
            return Json(streams.error(text + "zation header using Bearer auth."), status=401)
        if scripted is None:
            return _usual(call, path)
        return scripted(call) if callable(scripted) else scripted

    def _scripted(self, path: str, method: str) -> Answer | None:
        for want_path, want_method, answers in self._scripts:
            if want_path is None and path not in KNOWN:
                continue  # a script for "anything" does not invent endpoints
            if want_path in (None, path) and want_method in (None, method):
                return answers.pop(0) if len(answers) > 1 else answers[0]
        return None

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._down = asyncio.Event()
        self.speak("h2", "http/1.1")
        tls = await asyncio.start_server(self._accepted, "127.0.0.1", 0, ssl=self._tls)
        plain = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        self.port = tls.sockets[0].getsockname()[1]
        self.plain_port = plain.sockets[0].getsockname()[1]
        self._up.set()
        await self._down.wait()
        tls.close()
        plain.close()
        rest = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
        for task in rest:
            task.cancel()
        await asyncio.wait([asyncio.ensure_future(_quiet(rest))], timeout=5)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        tls = writer.get_extra_info("ssl_object")
        kind = Http2Connection if tls and tls.selected_alpn_protocol() == "h2" else Http1Connection
        run: Callable[[], Awaitable[None]] = kind(self, reader, writer, self.connections).run
        try:
            await run()
        except OSError:
            pass  # the peer broke the connection: its calls were closed as cancelled
        except Exception as error:  # noqa: BLE001  # the edge of the fake: a bug here must fail the test
            self.failed(error)
        finally:
            writer.close()

    async def _reset(self) -> None:
        plays = list(self._plays)
        for task in plays:
            task.cancel()
        await _quiet(plays)
        self.calls, self.connections, self.errors, self._scripts = [], 0, [], []
        self.speak("h2", "http/1.1")


async def _quiet(tasks: Sequence[asyncio.Task[None]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)


def _usual(call: Call, path: str) -> Responder:
    """What is answered where nothing was scripted."""
    if path == "/v1/chat/completions":
        if call.json().get("stream"):
            return Stream(streams.text_stream(["This", " is", " a", " test", "."]))
        return Json(streams.completion())
    if path == responses.PATH:
        words = [responses.message("This is a test.")]
        if call.json().get("stream"):
            return Stream(responses.stream(words))
        return Json(responses.response(words))
    if path == "/v1/models":
        models = [{"id": streams.MODEL, "object": "model", "created": 1, "owned_by": "system"}]
        return Json({"object": "list", "data": models})
    return Json({"object": "list", "data": []})
