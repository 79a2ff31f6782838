"""A fake Explorer: plain HTTP/1.1 on a loopback port, in a thread with its own loop.

It knows the routes that policies are read from, with the status codes of the real one, and does
what its knobs say: slow, broken, garbled, silent, gone and back on the same port.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

KEY = "inv-test-key"
USER = "ada"
IDENTITY = "/api/v1/user/identity"

_POLICIES = re.compile(r"/api/v1/dataset/byuser/([^/]+)/([^/]+)/policy")
_REASONS = {200: "OK", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 500: "Error"}

type Policy = dict[str, Any]


def policy(
    name: str,
    content: str,
    *,
    action: str = "block",
    enabled: bool = True,
    identity: str | None = None,
) -> Policy:
    """One policy, as the Explorer sends it. Its id is made of its name unless given."""
    return {
        "id": identity or f"id-{name}",
        "name": name,
        "content": content,
        "enabled": enabled,
        "action": action,
        "extra_metadata": {},
        "last_updated_time": "2026-01-02 03:04:05",
    }


@dataclass(frozen=True, slots=True)
class Request:
    """headers: names in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    at: float = field(default_factory=time.monotonic)


class Explorer:
    """requests: those since the last reset, in order of arrival.

    Knobs, for requests that come after they were set. delay: seconds before each answer. status:
    answer with this one. body: these bytes in place of every 200's. hang: no answer until it is
    False again. cut: the connection ends in the middle of each answer. only: the five hold for
    paths with this in them. users: who a key belongs to.
    dev_mode: everybody is "developer". cookie: sent with every answer.
    """

    def __init__(self) -> None:
        self.port = 0
        self.requests: list[Request] = []
        self.errors: list[BaseException] = []
        self._datasets: dict[tuple[str, str], list[Policy]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="fake Explorer", daemon=True
        )
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self.mend()

    def mend(self) -> None:
        """All knobs as they were at first, and listening if it was started."""
        self.users = {KEY: USER}
        self.dev_mode = False
        self.delay = 0.0
        self.status: int | None = None
        self.body: bytes | None = None
        self.hang = False
        self.cut = False
        self.only = ""
        self.cookie: str | None = None
        if self._thread.is_alive():
            self.up()

    # --- for tests

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def set(self, dataset: str, *policies: Policy, user: str = USER) -> None:
        """What this dataset holds from now on; it is made if it is new."""
        self._datasets[user, dataset] = list(policies)

    def remove(self, dataset: str, *, user: str = USER) -> None:
        del self._datasets[user, dataset]

    def count(self, part: str = "") -> int:
        """Requests with this in their path."""
        return sum(part in request.path for request in self.requests)

    def down(self) -> None:
        """Nobody listens, and open connections break."""
        self._run(self._stop())

    def up(self) -> None:
        """On the same port as before."""
        self._run(self._listen())

    def reset(self) -> None:
        """As new, and listening."""
        self.down()
        self._datasets.clear()
        self.requests.clear()
        self.errors.clear()
        self.mend()

    def start(self) -> Explorer:
        self._thread.start()
        self.up()
        return self

    def stop(self) -> None:
        self.down()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    # --- inside

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._accepted, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while await self._answer(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the peer is gone, or we are
        except Exception as error:  # noqa: BLE001  # the edge of the fake: a bug here must fail the test
            self.errors.append(error)
        finally:
            self._connections.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.rstrip().split("\r\n")
        method, path, _ = first.split(" ")
        fields = (line.partition(":") for line in lines)
        request = Request(method, path, {n.lower(): v.strip() for n, _, v in fields})
        await reader.readexactly(int(request.headers.get("content-length", "0")))
        self.requests.append(request)
        if self.delay and self.only in path:
            await asyncio.sleep(self.delay)
        while self.hang and self.only in path:  # noqa: ASYNC110  # it is set from another thread
            await asyncio.sleep(0.01)
        status, said = self._reply(request)
        body = json.dumps(said).encode()
        if self.body is not None and status == 200 and self.only in path:
            body = self.body
        reply = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Other')}"]
        reply += ["content-type: application/json", f"content-length: {len(body)}"]
        reply += [f"set-cookie: {self.cookie}"] if self.cookie else []
        is_cut = self.cut and self.only in path
        body = body[: len(body) // 2] if is_cut else body
        writer.write("\r\n".join([*reply, "", ""]).encode("latin-1") + body)
        await writer.drain()
        return not is_cut

    def _reply(self, request: Request) -> tuple[int, object]:
        """(status, JSON) as the real one answers."""
        if self.status is not None and self.only in request.path:
            return self.status, {"detail": "told to"}
        path = request.path.partition("?")[0]
        wanted = _POLICIES.fullmatch(path)
        if path != IDENTITY and wanted is None:
            return 404, {"detail": "Not Found"}
        authorization = request.headers.get("authorization")
        if authorization is None and not self.dev_mode:
            if wanted is None:
                return 403, {"detail": "Not authenticated"}
            return 404, {"detail": "Dataset not found"}
        key = re.fullmatch("Bearer (.+)", authorization or "")
        user = "developer" if self.dev_mode else self.users.get(key[1]) if key else None
        if user is None:
            return 401, {"detail": "Invalid API key"}
        if wanted is None:
            return 200, {"username": user}
        owner, dataset = (unquote(part) for part in wanted.groups())
        policies = self._datasets.get((owner, dataset))
        if policies is None:
            return 404, {"detail": "Dataset not found"}
        if owner != user:
            return 403, {"detail": "Not your dataset"}
        return 200, {"policies": policies}
