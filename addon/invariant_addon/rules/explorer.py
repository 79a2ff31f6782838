"""Guardrails out of the datasets of an Explorer: known ones at once, new ones in the background.

Rules kept here:
- Once the policies of a dataset were seen, no call waits for the Explorer and none fails because
  of it: what was seen stays in force until the Explorer says otherwise.
- A blocking policy that cannot be read is not passed over: its last good version stays in force,
  and without one the dataset is unavailable.
- No key is in a log, an error or a repr; keys are not kept, only their digests.

How the Explorer is asked: explorer_client.py.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import httpx

from ..core.errors import InvariantError
from ..core.verdict import Action, Guardrail
from ..engines.base import Defect, EngineError
from .explorer_client import Client, Failure, Listed, digest

logger = logging.getLogger(__name__)

type Vet = Callable[[Sequence[Guardrail]], Awaitable[tuple[Defect, ...]]]
"""Which of these guardrails cannot be used, and why: Engine.load."""

POLICY_LIMIT = 64 * 1024
"""Bytes of one policy."""
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


class RulesUnavailableError(InvariantError):
    """The policies of a dataset are not known. This is not a violation: nothing was judged.

    is_key: because of the key that was given, or because there was none.
    """

    def __init__(self, reason: str, *, is_key: bool = False) -> None:
        super().__init__(reason)
        self.is_key = is_key


@dataclass(eq=False, slots=True)
class _Dataset:
    """What is known of a dataset, as it shows itself to one key.

    guardrails: in force; None if they were never seen. missing: a blocking policy that cannot be
    read. good: the versions in force by the id of their policy. vetted: for a text, why it cannot
    be used, or None. weight: their characters. problems, is_stale: what was said in the log, so
    as not to say it again. failure: why the last refresh failed. is_key: it was the key. failures:
    how many failed since the last that did not. due: when the next one may start.
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
    is_key: bool = False
    failures: int = 0
    due: float = 0.0
    refresh: asyncio.Task[None] | None = None

    @property
    def worth(self) -> int:
        """What forgetting it would cost: nothing, a question, or rules that are in force."""
        return (self.guardrails is not None) + bool(self.guardrails or self.missing)


class DatasetRules:
    """The policies of an Explorer's datasets. Belongs to one event loop.

    url: the Explorer, without a path of its API. timeout: seconds that it may take to answer.
    patience: seconds that a call waits for policies that were never seen; None: until they are
    here, or the Explorer was too slow. refresh: seconds at least from one refresh
    of a dataset to the next, while there are calls for it. vet: asked about each new text, a few
    at a time; without it every text is taken for good.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 5.0,
        patience: float | None = None,
        refresh: float = 30.0,
        vet: Vet | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._explorer = Client(url, timeout, transport)
        self._patience = timeout + GRACE_SECONDS if patience is None else patience
        self._refresh = refresh
        self._vet = vet
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()
        self._known: OrderedDict[tuple[str, bytes], _Dataset] = OrderedDict()
        self._is_silent = False
        self._is_closed = False

    async def get(self, dataset: str, authorization: str | None) -> tuple[Guardrail, ...]:
        """The guardrails of this dataset, as it shows itself to this key ("Bearer KEY").

        Waits at most `patience` seconds, and only if they were never seen. Raises
        RulesUnavailableError if they never could be had, or if one that blocks cannot be read.
        """
        known = self._find(dataset, authorization)
        if known.refresh is None and self._clock() >= known.due and not self._is_closed:
            self._start(known, authorization)
        if known.guardrails is None and known.refresh is not None:
            # Unlike awaiting the task: who leaves does not cancel it for the others.
            await asyncio.wait({known.refresh}, timeout=self._patience)
        if known.guardrails is None:
            reason = known.failure or self._what_is_missing(known)
            raise RulesUnavailableError(reason, is_key=known.is_key)
        if known.missing is not None:
            raise RulesUnavailableError(known.missing)
        return known.guardrails

    def _what_is_missing(self, known: _Dataset) -> str:
        if self._is_closed:
            return "the proxy is shutting down"
        return f"dataset {known.name}: its policies are still being read; try again in a moment"

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
        key = (dataset, digest(authorization))
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
        known.refresh = task
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
        except Failure as failure:
            self._failed(known, failure)
        except (EngineError, TimeoutError) as error:
            reason = str(error) or f"no answer within {BATCH_SECONDS:g} s"
            self._failed(known, Failure(f"the policies could not be tried: {reason}"))
        except Exception:  # the edge: it fails as any refresh that fails
            logger.exception("the policies of dataset %s could not be refreshed", known.name)
            self._failed(known, Failure("the policies could not be refreshed"))
        finally:
            known.refresh = None

    def _succeeded(self, known: _Dataset) -> None:
        self._was_heard()
        if known.is_stale:
            logger.info("dataset %s: its policies are refreshed again", known.name)
        known.is_stale, known.failures, known.failure, known.is_key = False, 0, None, False
        if known.missing is None:
            self._schedule(known, self._refresh)
        else:  # somebody mends that policy, and calls fail until it is done
            self._schedule(known, min(self._refresh, RETRY_SECONDS[1]))

    def _failed(self, known: _Dataset, failure: Failure) -> None:
        """Say it once; try again, later each time."""
        known.failure, known.is_key = f"dataset {known.name}: {failure}", failure.is_key
        known.failures += 1
        if failure.is_silent:
            if not self._is_silent:
                logger.warning("%s; policies that were seen before stay in force", failure)
            self._is_silent = True
        else:
            self._was_heard()
            if not known.is_stale:
                known.is_stale = True
                rest = "there are none from before"
                if known.guardrails is not None:
                    rest = "the policies seen before stay in force"
                logger.warning("%s; %s", known.failure, rest)
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

    def _adopt(self, known: _Dataset, listed: Listed) -> None:
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
        present = {guardrail.id for guardrail in in_force}
        in_force += [known.good[i] for i in listed.torn if i in known.good and i not in present]
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


def _excess(text: str) -> str | None:
    if len(text.encode()) <= POLICY_LIMIT:
        return None
    return f"it is larger than {POLICY_LIMIT} bytes"
