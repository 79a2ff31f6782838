"""A guardrails service over HTTP: a path and a body -> an answer's body, or why there is none.

It knows no messages and no verdicts. An error's text says what can be done about it, and never
quotes what was sent, what came back, or a key: exceptions of the libraries below do.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import zlib
from collections.abc import Iterator
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx

from ..outgoing import base_url, quieten, trust
from .base import DeadlineError, EngineClosedError, EngineError, KeyRejectedError
from .breaker import ServiceError

MAX_ANSWER = 8 * 2**20
"""Bytes of one answer, before and after it is unpacked."""
MAX_DRAINED = 64 * 2**10
"""Bytes of an error's text that are read away to keep the connection."""
CONNECTIONS = 64
KEEP_SECONDS = 30.0

KEY_ADVICE = "set INVARIANT_API_KEY or send Invariant-Guardrails-Authorization"
_BRIEF = {502, 503, 504}


class Service:
    """One client with its connections, for all callers.

    url: without the path of the API. session: its name for all that is asked from here.
    timeout: seconds for each step (connect: half of it); whoever asks limits the whole.
    """

    def __init__(self, url: str, *, session: str, timeout: float) -> None:
        self._url = httpx.URL(base_url(url))
        self._session = session
        self._timeout = timeout
        self._client: httpx.AsyncClient | None = None

    @property
    def host(self) -> str:
        return self._url.netloc.decode("ascii")

    async def open(self) -> None:
        quieten()
        self._client = httpx.AsyncClient(
            base_url=self._url,
            verify=await asyncio.to_thread(trust),
            trust_env=False,  # a proxy that is asked for in the environment may be this very one
            timeout=httpx.Timeout(self._timeout, connect=self._timeout / 2),
            limits=httpx.Limits(
                max_connections=CONNECTIONS,
                max_keepalive_connections=CONNECTIONS,
                keepalive_expiry=KEEP_SECONDS,
            ),
            headers={
                "Accept": "application/json",
                "Accept-Encoding": "gzip",
                "Content-Type": "application/json",
                "X-Session-Id": self._session,
            },
            # A cookie that one caller is given must not go out with another's key.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        )

    async def aclose(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    def headers(self, authorization: str | None) -> dict[str, str]:
        """What is said on behalf of one caller. KeyRejectedError if it cannot be said in HTTP."""
        if not authorization:
            return {}
        if not authorization.isascii() or not authorization.isprintable():
            raise KeyRejectedError(
                f"the Invariant API key has characters that no key has: {KEY_ADVICE}"
            )
        return {"Authorization": authorization.strip()}

    async def post(self, path: str, body: bytes, headers: dict[str, str]) -> bytes:
        """Ask once.

        ServiceError and DeadlineError: the service is down, fails or is slow. KeyRejectedError: it
        did not accept the key. EngineError: it refused for another reason, or what it answered
        cannot be used.
        """
        if self._client is None:
            raise EngineClosedError
        try:
            async with self._client.stream("POST", path, content=body, headers=headers) as response:
                if response.is_success:
                    return await _read(response)
                await _drain(response)
                raise self._refused(response.status_code, path)
        # From None: their texts and fields hold requests and answers.
        except httpx.TimeoutException as e:
            raise self._late(e) from None
        except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL, OSError, ValueError) as e:
            raise self._broken(e) from None

    def _refused(self, status: int, path: str) -> EngineError:
        service = f"the guardrails service at {self.host}"
        if status in (401, 403):
            return KeyRejectedError(
                f"the guardrails service did not accept the Invariant API key ({status}): "
                f"{KEY_ADVICE}"
            )
        if status >= 500:
            return ServiceError(f"{service} failed ({status})", is_brief=status in _BRIEF)
        if status == 404:
            return EngineError(f"{service} knows no {path} (404): is its URL right?")
        if status == 413:
            return EngineError(f"the conversation is too long for {service} (413)")
        if status == 429:
            return EngineError(f"{service} was asked too often (429)")
        if status < 400:
            return EngineError(f"{service} sends elsewhere ({status}): set the URL that it means")
        return EngineError(f"{service} did not accept the question ({status})")

    def _late(self, e: httpx.TimeoutException) -> DeadlineError:
        ms = f"{self._timeout * 1000:.0f} ms"
        if isinstance(e, httpx.PoolTimeout):
            return DeadlineError(f"all connections to {self.host} were busy for {ms}")
        if isinstance(e, httpx.ConnectTimeout):
            ms = f"{self._timeout * 500:.0f} ms"
            return DeadlineError(f"no connection to {self.host} within {ms}")
        return DeadlineError(f"the guardrails service at {self.host} gave no answer within {ms}")

    def _broken(self, e: Exception) -> ServiceError:
        service = f"the guardrails service at {self.host}"
        causes = list(_causes(e))
        if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
            return ServiceError(
                f"the certificate of {self.host} is not trusted: "
                "set SSL_CERT_FILE to a bundle that has its authority"
            )
        if any(isinstance(cause, socket.gaierror) for cause in causes):
            return ServiceError(f"{service} was not found: no such host name", is_brief=True)
        if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
            return ServiceError(f"{service} is not there: connection refused", is_brief=True)
        if isinstance(e, httpx.ConnectError):
            return ServiceError(f"{service} cannot be reached", is_brief=True)
        if isinstance(e, httpx.NetworkError | httpx.RemoteProtocolError):
            return ServiceError(f"{service} broke the connection", is_brief=True)
        return ServiceError(f"{service} cannot be talked to ({type(e).__name__})")


async def _read(response: httpx.Response) -> bytes:
    """The body, counted while it comes: an unpacker that is not told to stop fills the memory."""
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        _check_size(len(body))
    match response.headers.get("content-encoding", "").strip().lower():
        case "" | "identity":
            return bytes(body)
        case "gzip" | "x-gzip":
            return await asyncio.to_thread(_unpack, bytes(body))
    raise EngineError("the guardrails service answered in an encoding that was not asked for")


def _unpack(body: bytes) -> bytes:
    unpacker = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        text = unpacker.decompress(body, MAX_ANSWER + 1)
    except zlib.error:
        raise EngineError("the guardrails service answered with broken gzip") from None
    _check_size(len(text))
    return text


def _check_size(size: int) -> None:
    if size > MAX_ANSWER:
        raise EngineError(f"the guardrails service answered more than {MAX_ANSWER} bytes")


async def _drain(response: httpx.Response) -> None:
    length = response.headers.get("content-length", "")
    if length.isascii() and length.isdigit() and int(length[:9]) <= MAX_DRAINED:
        async for _ in response.aiter_raw():
            pass


def _causes(e: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while e is not None and id(e) not in seen:
        seen.add(id(e))
        yield e
        e = e.__cause__ or e.__context__
