"""The page over HTTP, on loopback: files of its own, JSON for them, and a stream of changes.

Questions to the store are answered in one thread, so that a long one holds up neither the stream
nor the files. Nothing of a question is logged: people search for what must not be in a log.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import orjson
import tornado.httpserver
import tornado.iostream
import tornado.netutil
import tornado.web

from ..core.errors import InvariantError
from ..core.trace import Json
from ..rules.mutes import MuteError
from ..traces.database import StoreError
from .answers import Answers, BadQuestionError, UnknownError
from .doors import HEADERS, Doors

logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
STATIC = Path(__file__).with_name("static")
_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
LOOK_SECONDS = 0.5
"""Between two looks whether the traces have changed, while somebody watches."""
_BREATH_SECONDS = 15.0
_MOST_WATCHERS = 32
_MOST_BYTES = 64 * 1024

type Answer = Callable[[dict[str, str]], Json]


class Page:
    """The running page. Raises OSError if the port cannot be had."""

    def __init__(self, answers: Answers, port: int = 0) -> None:
        self.answers = answers
        (self._socket,) = tornado.netutil.bind_sockets(
            port, LOOPBACK, family=socket.AF_INET, reuse_port=False
        )
        self.port: int = self._socket.getsockname()[1]
        self.doors = Doors(self.port)
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="invariant: page")
        self.watchers: set[asyncio.Event] = set()
        self._server: tornado.httpserver.HTTPServer | None = None
        self._looking: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """With the key in it."""
        return f"http://{LOOPBACK}:{self.port}/#key={self.doors.key}"

    def start(self) -> None:
        """Serve, on the running loop."""
        look: list[tuple[str, Answer]] = [
            (r"/api/conversations", self.answers.conversations),
            (r"/api/conversation", self.answers.conversation),
            (r"/api/message", self.answers.message),
            (r"/api/facets", self.answers.facets),
            (r"/api/figures", self.answers.figures),
            (r"/api/mutes", self.answers.mutes),
        ]
        change: list[tuple[str, Callable[[Json], Json]]] = [
            (r"/api/mute", self.answers.mute),
            (r"/api/unmute", self.answers.unmute),
        ]
        files = {f"/{path.name}": path for path in STATIC.iterdir() if path.suffix in _TYPES}
        files["/"] = STATIC / "index.html"
        application = tornado.web.Application(
            [
                *((path, _Look, {"page": self, "answer": answer}) for path, answer in look),
                *((path, _Change, {"page": self, "answer": answer}) for path, answer in change),
                (r"/api/live", _Live, {"page": self}),
            ],
            default_handler_class=_File,
            default_handler_args={"page": self, "files": files},
            log_function=lambda _: None,
            compress_response=False,
        )
        self._server = tornado.httpserver.HTTPServer(
            application,
            max_body_size=_MOST_BYTES,
            max_buffer_size=_MOST_BYTES,
            max_header_size=_MOST_BYTES,
            idle_connection_timeout=120,
            body_timeout=10,
        )
        self._server.add_sockets([self._socket])
        self._looking = asyncio.create_task(self._look())

    async def stop(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
        if self._server is not None:
            self._server.stop()
            await self._server.close_all_connections()
        else:
            self._socket.close()
        self.thread.shutdown(wait=True)
        self.answers.reader.close()

    async def ask[T](self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.thread, work)

    async def _look(self) -> None:
        """Wake those who watch whenever the traces have changed."""
        known = (0, 0, 0)
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if not self.watchers:
                continue
            version = await self.ask(self.answers.reader.version)
            if version != known:
                known = version
                for watcher in self.watchers:
                    watcher.set()


class _Handler(tornado.web.RequestHandler):
    is_data = True

    def initialize(self, page: Page, **_: object) -> None:
        self.page = page

    def set_default_headers(self) -> None:
        for name, value in HEADERS.items():
            self.set_header(name, value)

    def compute_etag(self) -> None:
        """Nothing is kept by a browser."""

    def prepare(self) -> None:
        refused = self.page.doors.check(
            self.request.method or "", self.request.headers, is_data=self.is_data
        )
        if refused is not None:
            self.answer({"error": refused.reason}, refused.status)

    def answer(self, value: Json, status: int = 200) -> None:
        self.set_status(status)
        self.set_header("Content-Type", "application/json; charset=utf-8")
        self.finish(_json(value))

    def write_error(self, status_code: int, **_: object) -> None:
        self.answer({"error": self._reason}, status_code)

    async def answer_with(self, work: Callable[[], Json]) -> None:
        """The edge: what goes wrong is said on the page."""
        try:
            value = await self.page.ask(work)
            status = 200
        except (BadQuestionError, MuteError) as error:
            value, status = {"error": str(error)}, 400
        except UnknownError as error:
            value, status = {"error": str(error)}, 404
        except StoreError as error:
            value, status = {"error": str(error)}, 503
        except InvariantError as error:
            value, status = {"error": str(error)}, 500
        except Exception:
            logger.exception("a question of the page could not be answered")
            value, status = {"error": "this could not be answered; the terminal says why"}, 500
        with contextlib.suppress(tornado.iostream.StreamClosedError):
            self.answer(value, status)


class _Look(_Handler):
    def initialize(self, page: Page, **more: object) -> None:
        super().initialize(page)
        self._answer: Answer = more["answer"]  # type: ignore[assignment]  # as given in start()

    async def get(self) -> None:
        asked = {
            name: values[-1].decode("utf-8", "replace")
            for name, values in self.request.query_arguments.items()
        }
        await self.answer_with(lambda: self._answer(asked))


class _Change(_Handler):
    def initialize(self, page: Page, **more: object) -> None:
        super().initialize(page)
        self._answer: Callable[[Json], Json] = more["answer"]  # type: ignore[assignment]  # as above

    async def post(self) -> None:
        try:
            order = orjson.loads(self.request.body)
        except orjson.JSONDecodeError:
            order = None
        if not isinstance(order, dict):
            self.answer({"error": "expected a JSON object"}, 400)
            return
        await self.answer_with(lambda: self._answer(order))


class _Live(_Handler):
    """Server-sent events: one for each change, a comment now and then."""

    async def get(self) -> None:
        watchers = self.page.watchers
        if len(watchers) >= _MOST_WATCHERS:
            self.answer({"error": "too many pages are open"}, 503)
            return
        self.set_header("Content-Type", "text/event-stream; charset=utf-8")
        woken = self._woken = asyncio.Event()
        watchers.add(woken)
        try:
            self.write("event: hello\ndata: {}\n\n")
            await self.flush()
            while not self._gone:
                try:
                    await asyncio.wait_for(woken.wait(), _BREATH_SECONDS)
                    woken.clear()
                    self.write("event: changed\ndata: {}\n\n")
                except TimeoutError:
                    self.write(": still here\n\n")
                await self.flush()
        except tornado.iostream.StreamClosedError:
            pass
        finally:
            watchers.discard(woken)

    _gone = False
    _woken: asyncio.Event | None = None

    def on_connection_close(self) -> None:
        self._gone = True
        if self._woken is not None:
            self._woken.set()


class _File(_Handler):
    """The page itself: there is nothing of anybody's in it."""

    is_data = False

    def initialize(self, page: Page, **more: object) -> None:
        super().initialize(page)
        self._files: dict[str, Path] = more["files"]  # type: ignore[assignment]  # as above

    def get(self) -> None:
        path = self._files.get(self.request.path)
        if path is None:
            self.answer({"error": "there is no such page"}, 404)
            return
        self.set_header("Content-Type", f"{_TYPES[path.suffix]}; charset=utf-8")
        self.finish(path.read_bytes())


def _json(value: Json) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:  # a lone surrogate, a number beyond 64 bits
        return json.dumps(value).encode()
