"""Guardrails out of the datasets of an Explorer: known ones at once, new ones in the background.

Rules kept here:
- Once the policies of a dataset were seen, no call waits for the Explorer and none fails because
  of it: what was seen stays in force until the Explorer says otherwise.
- A blocking policy that cannot be read is not passed over: its last good version stays in force,
  and without one the dataset is unavailable.
- No key is in a log, an error or a repr; keys are not kept, only their digests.

The Explorer: GET /api/v1/user/identity, GET /api/v1/dataset/byuser/{user}/{dataset}/policy. It
stores any text and any action, so nothing in its replies is taken on trust.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import logging
import random
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from http.cookiejar import CookieJar, DefaultCookiePolicy
from urllib.parse import quote, urlsplit

import httpx
import orjson

from ..core.errors import InvariantError
from ..core.verdict import Action, Guardrail
from ..engines.base import Defect, EngineError

logger = logging.getLogger(__name__)

type Vet = Callable[[Sequence[Guardrail]], Awaitable[tuple[Defect, ...]]]
"""Which of these guardrails cannot be used, and why: Engine.load."""

REPLY_LIMIT = 4 * 2**20
POLICY_LIMIT = 64 * 1024
"""Bytes of one policy."""
MAX_POLICIES = 200
MAX_DATASETS = 256
"""Datasets (for a key) that are remembered."""
MAX_TEXT = 64 * 2**20
"""Characters of policies that are remembered in all."""
RETRY_SECONDS = 2.0, 15.0
"""Between two tries for a dataset that was never seen: at first, and in the end."""
BATCH = 8
"""Policies to vet at once: a cold engine reads ten in a second at best, and checks wait for it."""
BATCH_SECONDS = 60.0
GRACE_SECONDS = 0.2
"""That a caller waits longer than the question may take, to hear what became of it."""

_DATASET = re.compile(r"[A-Za-z0-9_-]{1,256}")
_AUTHORIZATION = re.compile(r"Bearer [!-~]+")
_NO_DATASET = "Dataset not found"


class RulesUnavailableError(InvariantError):
    """The policies of a dataset are not known. This is not a violation: nothing was judged."""


class _Failure(Exception):
    """A refresh that came to nothing, in words for a person. is_silent: there was no reply."""

    def __init__(self, reason: str, *, is_silent: bool = False) -> None:
        super().__init__(reason)
        self.is_silent = is_silent


@dataclass(frozen=True, slots=True)
class _Listed:
    """A dataset's policies: those that are enabled, and what is wrong with others."""

    guardrails: tuple[Guardrail, ...] = ()
    problems: tuple[str, ...] = ()
    is_gone: bool = False


@dataclass(eq=False, slots=True)
class _Dataset:
    """What is known of a dataset, as it shows itself to one key.

    guardrails: in force; None if they were never seen. missing: a blocking policy that cannot be
    read. good: the versions in force by the id of their policy. vetted: for a text, why it cannot
    be used, or None. weight: their characters. problems, is_stale: what was said in the log, so
    as not to say it again. failure: why the last refresh failed. failures: how many failed since
    the last that did not. due: when the next one may start.
    """

    name: str
    guardrails: tuple[Guardrail, ...] | None = None
    missing: str | None = None
    good: dict[str, Guardrail] = field(default_factory=dict)
    vetted: dict[str, str | None] = field(default_factory=dict)
    weight: int = 0
    problems: frozenset[str] = frozenset()
    is_stale: bool = False
    failure: str | None = None
    failures: int = 0
    due: float = 0.0
    refresh: asyncio.Task[None] | None = None

    @property
    def worth(self) -> int:
        """What forgetting it would cost: nothing, a question, or rules that are in force."""
        return (self.guardrails is not None) + bool(self.guardrails or self.missing)


class DatasetRules:
    """The policies of an Explorer's datasets. Belongs to one event loop.

    url: the Explorer, without a path of its API. timeout: seconds that it may take to answer, and
    that a call waits for policies that were never seen. refresh: seconds at least from one refresh
    of a dataset to the next, while there are calls for it. vet: asked about each new text, a few
    at a time; without it every text is taken for good.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 5.0,
        refresh: float = 30.0,
        vet: Vet | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._explorer = _Explorer(url, timeout, transport)
        self._patience = timeout + GRACE_SECONDS
        self._refresh = refresh
        self._vet = vet
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()
        self._known: OrderedDict[tuple[str, bytes], _Dataset] = OrderedDict()
        self._is_silent = False
        self._is_closed = False

    async def get(self, dataset: str, authorization: str | None) -> tuple[Guardrail, ...]:
        """The guardrails of this dataset, as it shows itself to this key ("Bearer KEY").

        Waits at most `timeout` seconds and a little, and only if they were never seen. Raises
        RulesUnavailableError if they never could be had, or if one that blocks cannot be read.
        """
        known = self._find(dataset, authorization)
        if known.refresh is None and self._clock() >= known.due and not self._is_closed:
            self._start(known, authorization)
        if known.guardrails is None and known.refresh is not None:
            # Unlike awaiting the task: who leaves does not cancel it for the others.
            await asyncio.wait({known.refresh}, timeout=self._patience)
        if known.guardrails is None:
            raise RulesUnavailableError(known.failure or self._what_is_missing(known))
        if known.missing is not None:
            raise RulesUnavailableError(known.missing)
        return known.guardrails

    def _what_is_missing(self, known: _Dataset) -> str:
        if self._is_closed:
            return "the proxy is shutting down"
        return f"dataset {known.name}: its policies are still being read"

    async def aclose(self) -> None:
        """End the refreshes and the connections. What is known stays available."""
        self._is_closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._explorer.aclose()

    # -- what is remembered -------------------------------------------------------------------

    def _find(self, dataset: str, authorization: str | None) -> _Dataset:
        if not _DATASET.fullmatch(dataset):
            raise RulesUnavailableError(
                "the name of the dataset may have letters, digits, '_' and '-', 256 at most"
            )
        if authorization is not None and not _AUTHORIZATION.fullmatch(authorization):
            # Not only politeness: the HTTP library quotes a header that it cannot send.
            raise RulesUnavailableError("the Invariant API key is not of the form Bearer KEY")
        key = (dataset, _digest(authorization))
        known = self._known.get(key)
        if known is None:
            if not self._make_room(1):
                raise RulesUnavailableError("too many datasets are asked for at once")
            known = self._known[key] = _Dataset(dataset)
        self._known.move_to_end(key)
        return known

    def _make_room(self, count: int) -> bool:
        """Forget what is least missed: names and keys that nobody knows, then the oldest."""
        while (
            len(self._known) + count > MAX_DATASETS
            or sum(known.weight for known in self._known.values()) > MAX_TEXT
        ):
            idle = [key for key, known in self._known.items() if known.refresh is None]
            if not idle:
                return False
            del self._known[min(idle, key=lambda key: self._known[key].worth)]
        return True

    # -- refreshing ---------------------------------------------------------------------------

    def _start(self, known: _Dataset, authorization: str | None) -> None:
        task = asyncio.create_task(
            self._run(known, authorization), name=f"invariant: policies of {known.name}"
        )
        known.refresh, known.failure = task, None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, known: _Dataset, authorization: str | None) -> None:
        """One refresh, whatever becomes of it."""
        try:
            # Rules are not dropped lightly.
            sure = known.guardrails != ()
            listed = await self._explorer.policies(known.name, authorization, sure=sure)
            await self._try_new(known, listed.guardrails)
            self._adopt(known, listed)
            self._succeeded(known)
        except _Failure as failure:
            self._failed(known, failure)
        except (EngineError, TimeoutError) as error:
            reason = str(error) or f"no answer within {BATCH_SECONDS:g} s"
            self._failed(known, _Failure(f"the policies could not be tried: {reason}"))
        except Exception:  # the edge: it fails as any refresh that fails
            logger.exception("the policies of dataset %s could not be refreshed", known.name)
            self._failed(known, _Failure("the policies could not be refreshed"))
        finally:
            known.refresh = None

    def _succeeded(self, known: _Dataset) -> None:
        self._was_heard()
        if known.is_stale:
            logger.info("dataset %s: its policies are refreshed again", known.name)
        known.is_stale, known.failures, known.failure = False, 0, None
        if known.missing is None:
            self._schedule(known, self._refresh)
        else:  # somebody mends that policy, and calls fail until it is done
            self._schedule(known, min(self._refresh, RETRY_SECONDS[1]))

    def _failed(self, known: _Dataset, failure: _Failure) -> None:
        """Say it once; try again, later each time."""
        known.failure = f"dataset {known.name}: {failure}"
        known.failures += 1
        if failure.is_silent:
            if not self._is_silent:
                logger.warning("%s; policies that were seen before stay in force", failure)
            self._is_silent = True
        else:
            self._was_heard()
            if known.guardrails is not None and not known.is_stale:
                known.is_stale = True
                logger.warning("%s; the policies seen before stay in force", known.failure)
        if known.guardrails is None:
            first, last = RETRY_SECONDS
            self._schedule(known, min(first * 2 ** min(known.failures - 1, 8), last))
        else:
            self._schedule(known, self._refresh * min(2**known.failures, 4))

    def _was_heard(self) -> None:
        if self._is_silent:
            self._is_silent = False
            logger.info("the Explorer answers again")

    def _schedule(self, known: _Dataset, pause: float) -> None:
        # Many proxies that were started together do not ask together for ever.
        known.due = self._clock() + pause * random.uniform(1, 1.25)

    async def _try_new(self, known: _Dataset, guardrails: Sequence[Guardrail]) -> None:
        """What was found out stays, also if the engine gives up halfway. Raises EngineError."""
        texts = {guardrail.text for guardrail in guardrails}
        known.vetted = {text: why for text, why in known.vetted.items() if text in texts}
        fresh = {g.text: g for g in guardrails if g.text not in known.vetted}
        known.vetted |= {text: reason for text in fresh if (reason := _excess(text))}
        left = [guardrail for text, guardrail in fresh.items() if text not in known.vetted]
        for batch in itertools.batched(left, BATCH):
            defects: tuple[Defect, ...] = ()
            if self._vet is not None:
                async with asyncio.timeout(BATCH_SECONDS):
                    defects = await self._vet(batch)
            known.vetted |= dict.fromkeys(guardrail.text for guardrail in batch)
            known.vetted |= {defect.guardrail.text: defect.reason for defect in defects}

    def _adopt(self, known: _Dataset, listed: _Listed) -> None:
        """Put these policies in force, as far as they can be used."""
        in_force: list[Guardrail] = []
        problems = list(listed.problems)
        known.missing = None
        for guardrail in listed.guardrails:
            reason = known.vetted[guardrail.text]
            if reason is None:
                in_force.append(guardrail)
                continue
            problem = f"policy {guardrail.name} cannot be used: {reason}"
            if last_good := known.good.get(guardrail.id):
                in_force.append(last_good)
                problem += "; its last good version stays in force"
            elif guardrail.action in (Action.BLOCK, Action.MASK):
                known.missing = known.missing or f"dataset {known.name}: {problem}"
            problems.append(problem)
        self._tell(known, tuple(in_force), problems, is_gone=listed.is_gone)
        known.guardrails = tuple(in_force)
        known.good = {guardrail.id: guardrail for guardrail in in_force}
        known.problems = frozenset(problems)
        known.weight = sum(len(text) for text in known.vetted)
        self._make_room(0)

    def _tell(
        self,
        known: _Dataset,
        in_force: tuple[Guardrail, ...],
        problems: list[str],
        *,
        is_gone: bool,
    ) -> None:
        for problem in problems:
            if problem not in known.problems:
                logger.warning("dataset %s: %s", known.name, problem)
        if is_gone and known.guardrails:
            logger.warning("dataset %s is gone: its policies no longer apply", known.name)
        elif in_force != (known.guardrails or ()):
            logger.info("dataset %s: %d policies in force", known.name, len(in_force))


class _Explorer:
    """Asks an Explorer for policies. Everything that goes wrong is a _Failure."""

    def __init__(
        self, url: str, timeout: float, transport: httpx.AsyncBaseTransport | None
    ) -> None:
        self._url = _base(url)
        self._timeout = timeout
        self._transport = transport
        self._client: httpx.AsyncClient | None = None
        self._opening = asyncio.Lock()
        self._users: OrderedDict[bytes, str] = OrderedDict()

    async def policies(self, dataset: str, authorization: str | None, *, sure: bool) -> _Listed:
        """sure: if there is no such dataset, ask again whether the user still has that name."""
        try:
            async with asyncio.timeout(self._timeout):
                user = self._users.get(_digest(authorization))
                if user is not None:
                    listed = await self._ask_policies(user, dataset, authorization)
                    if not (listed.is_gone and sure):
                        return listed
                user = await self._ask_user(authorization)
                return await self._ask_policies(user, dataset, authorization)
        except TimeoutError:
            reason = f"the Explorer gave no policies within {self._timeout:g} s"
            raise _Failure(reason, is_silent=True) from None

    async def aclose(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _ask_user(self, authorization: str | None) -> str:
        status, body = await self._ask("/api/v1/user/identity", authorization)
        user = _member(body, "username") if status == 200 else None
        if not isinstance(user, str) or not 0 < len(user) <= 256:
            raise _unexpected(status)
        self._users[_digest(authorization)] = user
        if len(self._users) > MAX_DATASETS:
            self._users.popitem(last=False)
        return user

    async def _ask_policies(self, user: str, dataset: str, authorization: str | None) -> _Listed:
        path = f"/api/v1/dataset/byuser/{quote(user, safe='')}/{quote(dataset, safe='')}/policy"
        status, body = await self._ask(path, authorization)
        # Its words count, too: a 404 of a reverse proxy must not switch the policies off.
        if status == 404 and _member(body, "detail") == _NO_DATASET:
            return _Listed(is_gone=True)
        if status != 200:
            raise _unexpected(status)
        return _read(body)

    async def _ask(self, path: str, authorization: str | None) -> tuple[int, bytes]:
        """(status, body). Raises _Failure; no text of the HTTP library is in it, with one
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
                        raise _Failure(f"the Explorer's reply is larger than {REPLY_LIMIT} bytes")
        except httpx.TimeoutException:
            raise TimeoutError from None
        except httpx.ConnectError as error:
            reason = f"the Explorer at {self._url} cannot be reached: {error}"
            raise _Failure(reason, is_silent=True) from None
        except httpx.HTTPError as error:
            reason = f"the connection to the Explorer broke ({type(error).__name__})"
            raise _Failure(reason, is_silent=True) from None
        if response.status_code in (401, 403):
            self._users.pop(_digest(authorization), None)
        if response.status_code == 401:
            raise _Failure("the Explorer did not accept the Invariant API key")
        if response.status_code == 403:
            if authorization is None:
                raise _Failure("the Explorer wants an Invariant API key, and the call has none")
            raise _Failure("the Explorer does not let this Invariant API key read the policies")
        return response.status_code, bytes(body)

    async def _open(self) -> httpx.AsyncClient:
        async with self._opening:
            if self._client is None:
                # In a thread: reading the CA certificates takes 30 ms.
                self._client = await asyncio.to_thread(self._make_client)
            return self._client

    def _make_client(self) -> httpx.AsyncClient:
        # It would say each request at level info, and mitmproxy shows what any library says.
        logging.getLogger("httpx").setLevel(logging.WARNING)
        context = httpx.create_ssl_context(trust_env=False)
        context.load_default_certs()  # with those of this machine, for an Explorer of one's own
        return httpx.AsyncClient(
            # The environment may name a proxy, and that proxy may be us.
            trust_env=False,
            verify=context,
            transport=self._transport,
            # Nor may the cookies of one key go with another.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            timeout=self._timeout,
            limits=httpx.Limits(max_connections=16, max_keepalive_connections=4),
        )


def _read(body: bytes) -> _Listed:
    entries = _member(body, "policies")
    if not isinstance(entries, list):
        raise _unexpected(200)
    found: dict[str, Guardrail] = {}
    problems: list[str] = []
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
            which = _one_line(identity) or f"number {number}"
            problems.append(f"policy {which} was skipped: {error}")
        if len(found) + len(problems) > MAX_POLICIES:
            raise _Failure(f"the dataset has more than {MAX_POLICIES} policies")
    return _Listed(tuple(found.values()), tuple(problems))


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


def _excess(text: str) -> str | None:
    if len(text.encode()) <= POLICY_LIMIT:
        return None
    return f"it is larger than {POLICY_LIMIT} bytes"


def _member(body: bytes, key: str) -> object:
    """What this JSON object has there; None if it is no such object."""
    try:
        read = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return read.get(key) if isinstance(read, dict) else None


def _unexpected(status: int) -> _Failure:
    if status == 200:
        return _Failure("the Explorer's reply cannot be read")
    return _Failure(f"the Explorer answered with status {status}")


def _base(url: str) -> str:
    """Raises ValueError. A user in it would take the place of the key, and be said in logs."""
    url = url.strip()
    if any(c in url for c in "@?#"):
        raise ValueError("expected the Explorer's URL without user, query and fragment")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"got {url!r}, expected a URL such as https://explorer.example.com")
    return url.rstrip("/")


def _digest(authorization: str | None) -> bytes:
    return hashlib.sha256((authorization or "").encode()).digest()
