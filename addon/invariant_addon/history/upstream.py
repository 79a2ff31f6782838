"""Asks OpenAI for turns that were never seen here, with the caller's own key.

From upstream directly, and not through this proxy. Replies and conversations can be read as long as
OpenAI stores them (`store` is not false); stored prompts, and single items, cannot.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from ..core.conversation import Message
from ..core.errors import InvariantError, NotUnderstoodError
from ..core.json_text import decode
from ..core.references import Reference
from ..core.responses.history import read_kept_items, read_kept_output

_ID = re.compile(r"[A-Za-z0-9_-]{1,200}")
_PAGE = 100
_MAX_PAGES = 100
_MAX_TURNS = 200
_LIMIT = 64 * 2**20
"""Bytes of all answers together."""


class UnseenError(InvariantError):
    """What is kept could not be had. Quotes nothing that somebody said."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Where a request goes, and with which headers OpenAI knows whose it is."""

    base: str
    headers: Mapping[str, str]


class Upstream:
    """One client for all. trust: made when it is first needed; it takes a while. seconds: for all
    that one request needs. proxy: through which this machine reaches the internet, if any."""

    def __init__(
        self, trust: Callable[[], ssl.SSLContext], seconds: float, proxy: str | None = None
    ) -> None:
        self._trust = trust
        self._seconds = seconds
        self._proxy = proxy
        self._client: httpx.AsyncClient | None = None
        self._opening = asyncio.Lock()

    async def fetch(
        self,
        caller: Caller,
        reference: Reference,
        known: Callable[[Reference], tuple[Message, ...] | None],
    ) -> tuple[Message, ...]:
        """All messages up to the end of what is named. known: what need not be asked for.

        Raises UnseenError.
        """
        if reference.kind not in ("response", "conversation"):
            raise UnseenError("OpenAI does not tell what it is")
        try:
            async with asyncio.timeout(self._seconds):
                asking = _Asking(await self._open(), caller)
                if reference.kind == "conversation":
                    return read_kept_items(await asking.items(f"conversations/{_id(reference.id)}"))
                return await self._response(asking, reference, known)
        except TimeoutError:
            raise UnseenError(f"OpenAI did not send it in {self._seconds:g} s") from None
        except httpx.HTTPError as error:
            raise UnseenError(f"OpenAI could not be asked ({type(error).__name__})") from None
        except NotUnderstoodError as error:
            raise UnseenError(f"what OpenAI sent could not be read: {error}") from None

    async def _response(
        self,
        asking: _Asking,
        reference: Reference,
        known: Callable[[Reference], tuple[Message, ...] | None],
    ) -> tuple[Message, ...]:
        """The chain, from its end to its beginning; then put together."""
        chain: list[tuple[list[Any], list[Any]]] = []
        before: tuple[Message, ...] = ()
        at: str | None = reference.id
        while at is not None:
            if chain and (found := known(Reference("response", at))) is not None:
                before = found
                break
            if len(chain) >= _MAX_TURNS:
                raise UnseenError(f"it goes back more than {_MAX_TURNS} turns")
            path = f"responses/{_id(at)}"
            response = await asking.get(path)
            output = response.get("output")
            chain.append((await asking.items(path, "input_items"), output or []))
            if response.get("status") in ("queued", "in_progress") or not isinstance(
                output, list | None
            ):
                raise UnseenError("it is not finished")
            if response.get("prompt"):
                raise UnseenError("it came from a stored prompt")
            if response.get("conversation"):
                raise UnseenError("it belongs to a conversation")
            previous = response.get("previous_response_id")
            at = previous if isinstance(previous, str) else None
        seen: set[str] = set()
        messages = list(before)
        for asked, said in reversed(chain):
            messages += read_kept_items([item for item in asked if _is_new(item, seen)])
            messages += read_kept_output([item for item in said if _is_new(item, seen)])
        return tuple(messages)

    async def _open(self) -> httpx.AsyncClient:
        async with self._opening:
            if self._client is None:
                self._client = httpx.AsyncClient(
                    verify=await asyncio.to_thread(self._trust),
                    trust_env=False,  # else it would come back to this proxy
                    proxy=self._proxy,
                    timeout=self._seconds,
                    follow_redirects=False,
                )
            return self._client

    async def aclose(self) -> None:
        if self._client is not None:
            await self._client.aclose()


class _Asking:
    """What one request costs at most: the bytes of all its answers are counted."""

    def __init__(self, client: httpx.AsyncClient, caller: Caller) -> None:
        self._client, self._caller = client, caller
        self._left = _LIMIT

    async def get(self, path: str, **query: str | int) -> dict[str, Any]:
        url = f"{self._caller.base}/v1/{path}"
        headers = dict(self._caller.headers)
        async with self._client.stream("GET", url, headers=headers, params=query) as response:
            if response.status_code != 200:
                raise UnseenError(f"OpenAI answers {response.status_code}")
            body = bytearray()
            async for piece in response.aiter_bytes():
                body += piece
                if len(body) > self._left:
                    raise UnseenError(f"it is more than {_LIMIT} bytes")
        self._left -= len(body)
        large = len(body) > 2**17
        value = await asyncio.to_thread(decode, bytes(body)) if large else decode(bytes(body))
        if not isinstance(value, dict):
            raise NotUnderstoodError("not a JSON object")
        return value

    async def items(self, path: str, name: str = "items") -> list[Any]:
        """All pages, the oldest item first."""
        found: list[Any] = []
        after: dict[str, str] = {}
        for _ in range(_MAX_PAGES):
            page = await self.get(f"{path}/{name}", order="asc", limit=_PAGE, **after)
            data = page.get("data")
            if not isinstance(data, list):
                raise NotUnderstoodError("a page without a list")
            found += data
            if page.get("has_more") is not True:
                return found
            last = page.get("last_id")
            if not isinstance(last, str) or not data or after.get("after") == last:
                raise NotUnderstoodError("a page without an end")
            after = {"after": last}
        raise UnseenError(f"it is more than {_MAX_PAGES} pages")


def _id(text: str) -> str:
    """It becomes part of an address."""
    if not _ID.fullmatch(text):
        raise UnseenError("its id is not one of OpenAI's")
    return text


def _is_new(item: Any, seen: set[str]) -> bool:
    """Some servers list what came before, too."""
    found = item.get("id") if isinstance(item, dict) else None
    if not isinstance(found, str):
        return True
    if found in seen:
        return False
    seen.add(found)
    return True
