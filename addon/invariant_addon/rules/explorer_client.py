"""Asks an Explorer for the policies of a dataset, and reads what it answers.

No key is in a log, an error or a repr; keys are not kept, only their digests.

The Explorer: GET /api/v1/user/identity, GET /api/v1/dataset/byuser/{user}/{dataset}/policy. It
stores any text and any action, so nothing in its replies is taken on trust.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from urllib.parse import quote

import httpx
import orjson

from ..core.verdict import Action, Guardrail
from ..outgoing import base_url, quieten, trust

REPLY_LIMIT = 4 * 2**20
MAX_POLICIES = 200
MAX_USERS = 256
"""Keys whose user is remembered."""

KEY_ADVICE = "set INVARIANT_API_KEY or send Invariant-Authorization"

_NO_DATASET = "Dataset not found"


class Failure(Exception):
    """A refresh that came to nothing, in words for a person.

    is_silent: there was no reply. is_key: the key was not accepted, or there was none.
    """

    def __init__(self, reason: str, *, is_silent: bool = False, is_key: bool = False) -> None:
        super().__init__(reason)
        self.is_silent = is_silent
        self.is_key = is_key


@dataclass(frozen=True, slots=True)
class Listed:
    """A dataset's policies: those that are enabled, and what is wrong with others.

    torn: the ids of others that are enabled, as far as they have one.
    """

    guardrails: tuple[Guardrail, ...] = ()
    problems: tuple[str, ...] = ()
    torn: tuple[str, ...] = ()
    is_gone: bool = False


class Client:
    """Asks an Explorer for policies. Everything that goes wrong is a Failure."""

    def __init__(
        self, url: str, timeout: float, transport: httpx.AsyncBaseTransport | None
    ) -> None:
        self._url = base_url(url)
        self._name = f"the Explorer at {self._url} (invariant_explorer)"
        self._timeout = timeout
        self._transport = transport
        self._client: httpx.AsyncClient | None = None
        self._opening = asyncio.Lock()
        self._users: OrderedDict[bytes, str] = OrderedDict()

    async def policies(self, dataset: str, authorization: str | None, *, sure: bool) -> Listed:
        """sure: if there is no such dataset, ask again whether the user still has that name."""
        try:
            async with asyncio.timeout(self._timeout):
                user = self._users.get(digest(authorization))
                if user is not None:
                    listed = await self._ask_policies(user, dataset, authorization)
                    if not (listed.is_gone and sure):
                        return listed
                user = await self._ask_user(authorization)
                return await self._ask_policies(user, dataset, authorization)
        except TimeoutError:
            reason = f"{self._name} gave no policies within {self._timeout:g} s"
            raise Failure(reason, is_silent=True) from None

    async def aclose(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _ask_user(self, authorization: str | None) -> str:
        status, body = await self._ask("/api/v1/user/identity", authorization)
        user = _member(body, "username") if status == 200 else None
        if not isinstance(user, str) or not 0 < len(user) <= 256:
            raise self._unexpected(status)
        self._users[digest(authorization)] = user
        if len(self._users) > MAX_USERS:
            self._users.popitem(last=False)
        return user

    async def _ask_policies(self, user: str, dataset: str, authorization: str | None) -> Listed:
        path = f"/api/v1/dataset/byuser/{quote(user, safe='')}/{quote(dataset, safe='')}/policy"
        status, body = await self._ask(path, authorization)
        # Its words count, too: a 404 of a reverse proxy must not switch the policies off.
        if status == 404 and _member(body, "detail") == _NO_DATASET:
            return Listed(is_gone=True)
        listed = _read(body) if status == 200 else None
        if listed is None:
            raise self._unexpected(status)
        return listed

    def _unexpected(self, status: int) -> Failure:
        if status == 200:
            return Failure(f"what {self._name} answers cannot be read: is that its address?")
        return Failure(f"{self._name} answered with status {status}")

    async def _ask(self, path: str, authorization: str | None) -> tuple[int, bytes]:
        """(status, body). Raises Failure; no text of the HTTP library is in it, with one
        exception: why a connection could not be made."""
        headers = {"accept": "application/json", "accept-encoding": "identity"}
        if authorization is not None:
            headers["authorization"] = authorization
        client = await self._open()
        body = bytearray()
        try:
            async with client.stream("GET", self._url + path, headers=headers) as response:
                async for piece in response.aiter_raw():
                    body += piece
                    if len(body) > REPLY_LIMIT:
                        raise Failure(
                            f"the reply of {self._name} is larger than {REPLY_LIMIT} bytes"
                        )
        except httpx.TimeoutException:
            raise TimeoutError from None
        except httpx.ConnectError as error:
            reason = f"{self._name} cannot be reached: {error}"
            raise Failure(reason, is_silent=True) from None
        except httpx.HTTPError as error:
            reason = f"the connection to {self._name} broke ({type(error).__name__})"
            raise Failure(reason, is_silent=True) from None
        if response.status_code in (401, 403):
            self._users.pop(digest(authorization), None)
        if response.status_code == 401:
            reason = "the Explorer did not accept the Invariant API key"
            raise Failure(f"{reason}: {KEY_ADVICE}", is_key=True)
        if response.status_code == 403:
            reason = "the Explorer does not let this Invariant API key read the policies"
            if authorization is None:
                reason = "the Explorer wants an Invariant API key, and the call has none"
            raise Failure(f"{reason}: {KEY_ADVICE}", is_key=True)
        return response.status_code, bytes(body)

    async def _open(self) -> httpx.AsyncClient:
        async with self._opening:
            if self._client is None:
                # In a thread: reading the CA certificates takes 30 ms.
                self._client = await asyncio.to_thread(self._make_client)
            return self._client

    def _make_client(self) -> httpx.AsyncClient:
        quieten()
        return httpx.AsyncClient(
            # The environment may name a proxy, and that proxy may be us.
            trust_env=False,
            verify=trust(),
            transport=self._transport,
            # Nor may the cookies of one key go with another.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            timeout=self._timeout,
            limits=httpx.Limits(max_connections=16, max_keepalive_connections=4),
        )


def _read(body: bytes) -> Listed | None:
    """None: this is no list of policies."""
    entries = _member(body, "policies")
    if not isinstance(entries, list):
        return None
    found: dict[str, Guardrail] = {}
    problems: list[str] = []
    torn: list[str] = []
    for number, entry in enumerate(entries, 1):
        if isinstance(entry, dict) and entry.get("enabled") is False:
            continue
        try:
            guardrail = _read_policy(entry)
            if guardrail.id in found:
                raise ValueError("there are two with this id")
            found[guardrail.id] = guardrail
        except ValueError as error:
            identity = entry.get("id") if isinstance(entry, dict) else None
            if isinstance(identity, str):
                torn.append(identity)
            which = _one_line(identity) or f"number {number}"
            problems.append(f"policy {which} was skipped: {error}")
        if len(found) + len(problems) > MAX_POLICIES:
            raise Failure(f"the dataset has more than {MAX_POLICIES} policies")
    if problems and not (found or torn):
        return None
    return Listed(tuple(found.values()), tuple(problems), tuple(torn))


def _read_policy(entry: object) -> Guardrail:
    """Raises ValueError: what is wrong."""
    if not isinstance(entry, dict):
        raise ValueError("not an object")
    if entry.get("enabled") is not True:
        raise ValueError("'enabled' is neither true nor false")
    identity, text, action = (entry.get(key) for key in ("id", "content", "action"))
    if not isinstance(identity, str) or not 0 < len(identity) <= 200:
        raise ValueError("its id is not a text of 1 to 200 characters")
    if not isinstance(text, str):
        raise ValueError("its content is not a text")
    if action not in list(Action):
        raise ValueError(f"its action is {_one_line(action) or 'missing'}, which is unknown")
    name = _one_line(entry.get("name")) or _one_line(identity)
    return Guardrail(identity, name, text, Action(action), trusted=False, source="dataset")


def _one_line(value: object) -> str:
    """As it may stand in a log."""
    if not isinstance(value, str):
        return ""
    return "".join(c if c.isprintable() else " " for c in value[:200]).strip()


def _member(body: bytes, key: str) -> object:
    """What this JSON object has there; None if it is no such object."""
    try:
        read = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return read.get(key) if isinstance(read, dict) else None


def digest(authorization: str | None) -> bytes:
    return hashlib.sha256((authorization or "").encode()).digest()
