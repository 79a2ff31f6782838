"""HTTP for sinks: a path and a body -> a status and a body, or why there is none.

One client with its connections for all threads. An error's text never quotes what was sent, what
came back, or a key: exceptions of the library below do.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx
import orjson

from ..core.errors import InvariantError
from ..outgoing import base_url, quieten, trust

CONNECT_SECONDS = 3.0
LONGEST_PAUSE = 300.0
"""That an answer may ask for."""
_AUTHORIZATION = re.compile(r"Bearer [!-~]+")


class SilenceError(InvariantError):
    """There was no answer. What was sent may have arrived all the same.

    is_unreachable: no, for there was no connection. pause: seconds in which it may still be read.
    """

    def __init__(self, reason: str, *, is_unreachable: bool = False, pause: float = 0.0) -> None:
        super().__init__(reason)
        self.is_unreachable = is_unreachable
        self.pause = pause


class TooMuchError(InvariantError):
    """An answer is larger than anybody would read."""


@dataclass(frozen=True, slots=True)
class Answer:
    """pause: seconds that it asks for until the next try."""

    status: int
    body: bytes
    pause: float = 0.0

    def member(self, key: str) -> object:
        """What this JSON object has there; None if it is no such object."""
        try:
            read = orjson.loads(self.body)
        except orjson.JSONDecodeError:
            return None
        return read.get(key) if isinstance(read, dict) else None


class Client:
    """url: without the path of an API. timeout: seconds for one answer, all in all (but for the
    time that a large body takes to go out). Raises ValueError for what cannot be sent."""

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str],
        *,
        timeout: float = 10.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = base_url(url)
        self._headers = dict(headers)
        self._timeout = timeout
        self._transport = transport
        self._client: httpx.Client | None = None
        self._opening = threading.Lock()

    def ask(self, method: str, path: str, body: bytes | None = None, limit: int = 2**20) -> Answer:
        """limit: bytes of the answer. Raises SilenceError and TooMuchError."""
        client = self._open()
        until = time.monotonic() + self._timeout
        read = bytearray()
        headers = {"content-type": "application/json"} if body is not None else {}
        try:
            with client.stream(method, self.url + path, content=body, headers=headers) as response:
                for piece in response.iter_raw():
                    read += piece
                    if len(read) > limit:
                        raise TooMuchError(f"an answer is larger than {limit} bytes")
                    if time.monotonic() > until:
                        raise self._late()
        except httpx.ConnectTimeout:
            reason = f"{self.url} cannot be reached: no answer"
            raise SilenceError(reason, is_unreachable=True) from None
        except httpx.TimeoutException:
            raise self._late() from None
        except httpx.ConnectError as error:  # its text is the system's, about the connection
            reason = f"{self.url} cannot be reached: {error}"
            raise SilenceError(reason, is_unreachable=True) from None
        except httpx.HTTPError as error:
            raise SilenceError(f"the connection broke ({type(error).__name__})") from None
        return Answer(response.status_code, bytes(read), _pause(response.headers))

    def close(self) -> None:
        with self._opening:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _late(self) -> SilenceError:
        return SilenceError(f"no whole answer within {self._timeout:g} s", pause=self._timeout)

    def _open(self) -> httpx.Client:
        with self._opening:
            if self._client is None:
                self._client = self._make()
            return self._client

    def _make(self) -> httpx.Client:
        quieten()
        return httpx.Client(
            # The environment may name a proxy, and that proxy may be us.
            trust_env=False,
            verify=trust() if self.url.startswith("https:") else False,  # or there is no TLS
            transport=self._transport,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            timeout=httpx.Timeout(self._timeout, connect=min(CONNECT_SECONDS, self._timeout)),
            limits=httpx.Limits(max_connections=8, max_keepalive_connections=8),
            headers={
                "accept": "application/json",
                "accept-encoding": "identity",
                **self._headers,
            },
        )


def bearer(authorization: str) -> dict[str, str]:
    """The header with this key ("Bearer KEY"). Raises ValueError, which does not quote it."""
    if not _AUTHORIZATION.fullmatch(authorization):
        raise ValueError("the API key is not of the form Bearer KEY")
    return {"authorization": authorization}


def _pause(headers: httpx.Headers) -> float:
    asked: str = headers.get("retry-after", "")
    return min(float(asked), LONGEST_PAUSE) if re.fullmatch("[0-9]{1,9}", asked) else 0.0
