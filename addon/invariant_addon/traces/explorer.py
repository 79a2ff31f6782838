"""The sink that pushes to an Explorer.

An Explorer takes no id from its clients, and may have stored a trace although it answered 500 or
not at all. So the id of a trace is in its metadata, and before a trace is sent again it is looked
for there. While that question has no clear answer, nothing is sent.

The Explorer: POST /api/v1/push/trace, GET /api/v1/user/identity, GET /api/v1/dataset/byuser/
{user}/{dataset} (num_traces) and …/traces?indices=0,1,2.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from urllib.parse import quote

import httpx
import orjson

from ..core.trace import Trace
from . import explorer_form
from .arrivals import Arrivals
from .client import Answer, Client, SilenceError, TooMuchError, bearer
from .sink import Dead, Outcome, Retry, Sent

NAME = "explorer"
PUSH = "/api/v1/push/trace"
IDENTITY = "/api/v1/user/identity"
BODY_LIMIT = 64 * 2**20
LOOK_SECONDS = 30.0
"""For all questions about one trace: nobody else gets it for about a minute."""
ROWS_LIMIT = 32 * 2**20
"""Bytes of one answer with rows: their metadata can have a request's tools in it."""
MAX_REFUSALS = 12
"""Answers 500 to one trace that is not there afterwards: then it is the trace's fault."""
SLOW = 60.0
"""Seconds until the next try, where a person has to do something."""

_BAD_KEY = (401, 403)
_KEY_ADVICE = "set INVARIANT_API_KEY to a key of this Explorer, and restart"
_URL_ADVICE = "check the Explorer's URL"


class _UnclearError(Exception):
    """Whether the trace is there is not known. outcome: what to do then."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__()
        self.outcome = outcome


class ExplorerSink:
    """Pushes to the Explorer at this URL.

    authorization: "Bearer KEY". name: as the outbox knows it. is_callers: the key is that of a
    program that calls, so nobody here can mend it. timeout: seconds for an answer. Raises
    ValueError for a URL or a key that cannot be one.
    """

    def __init__(
        self,
        url: str,
        authorization: str,
        *,
        name: str = NAME,
        is_callers: bool = False,
        timeout: float = 10.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._client = Client(url, bearer(authorization), timeout=timeout, transport=transport)
        self._name = name
        self._is_callers = is_callers
        self._lock = threading.Lock()
        self._user: str | None = None
        self._arrivals = Arrivals()
        self._refusals: OrderedDict[str, int] = OrderedDict()  # answers 500, by trace

    @property
    def name(self) -> str:
        return self._name

    def deliver(self, trace: Trace, tries: int) -> Outcome:
        try:
            body = explorer_form.body(trace, trace.dataset)
        except explorer_form.FormError as error:
            return Dead(str(error))
        if len(body) > BODY_LIMIT:
            return Dead(f"{len(body)} bytes are too many for one push")
        try:
            if tries and (found := self.find(trace.dataset, trace.id)) is not None:
                return Sent(found)
            return self._read(self._client.ask("POST", PUSH, body), trace.id)
        except SilenceError as error:
            return Retry(str(error), is_outage=error.is_unreachable, pause=error.pause)
        except TooMuchError as error:
            return Retry(str(error))
        except _UnclearError as unclear:
            return unclear.outcome

    def close(self) -> None:
        self._client.close()

    def _read(self, answer: Answer, trace_id: str) -> Outcome:
        if answer.status != 200:
            outcome = self._failure(answer)
            if answer.status == 500 and self._count(trace_id) >= MAX_REFUSALS:
                return Dead(f"the Explorer answered {MAX_REFUSALS} times with status 500")
            return outcome
        ids, user = answer.member("id"), answer.member("username")
        if not (isinstance(ids, list) and len(ids) == 1 and isinstance(ids[0], str)):
            return Retry("the answer cannot be read", advice=_URL_ADVICE, pause=SLOW)
        if isinstance(user, str) and user:
            self._user = user
        with self._lock:
            self._refusals.pop(trace_id, None)
        return Sent(ids[0])

    def _count(self, trace_id: str) -> int:
        with self._lock:
            count = self._refusals[trace_id] = self._refusals.pop(trace_id, 0) + 1
            if len(self._refusals) > 1024:
                self._refusals.popitem(last=False)
            return count

    # -- what is there already ------------------------------------------------------------------

    def find(self, dataset: str, trace_id: str) -> str | None:
        """The Explorer's id of this trace, if it is there. Raises _UnclearError."""
        until = time.monotonic() + LOOK_SECONDS
        path = f"/api/v1/dataset/byuser/{quote(self._who(), safe='')}/{quote(dataset, safe='')}"
        return self._arrivals.find(
            dataset,
            trace_id,
            lambda: self._traces(path),
            lambda indexes: self._rows(path, indexes, until),
        )

    def _traces(self, path: str) -> int:
        """How many the dataset has; 0 if there is none."""
        answer = self._client.ask("GET", path, limit=ROWS_LIMIT)
        if answer.status == 404 and answer.member("detail") == "Dataset not found":
            return 0
        count = answer.member("num_traces") if answer.status == 200 else None
        if not isinstance(count, int):
            raise _UnclearError(self._unexpected(answer))
        return count

    def _who(self) -> str:
        if self._user is None:
            answer = self._client.ask("GET", IDENTITY)
            user = answer.member("username") if answer.status == 200 else None
            if not isinstance(user, str) or not user:
                raise _UnclearError(self._unexpected(answer))
            self._user = user
        return self._user

    def _rows(self, path: str, indexes: range | None, until: float) -> list[dict[str, object]]:
        if time.monotonic() > until:
            raise _UnclearError(Retry("it takes too long to look whether the trace is there"))
        which = "" if indexes is None else "?indices=" + ",".join(map(str, indexes))
        answer = self._client.ask("GET", f"{path}/traces{which}", limit=ROWS_LIMIT)
        try:
            rows = orjson.loads(answer.body) if answer.status == 200 else None
        except orjson.JSONDecodeError:
            rows = None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise _UnclearError(self._unexpected(answer))
        return rows

    def _unexpected(self, answer: Answer) -> Outcome:
        self._user = None  # it may have another name now
        if answer.status == 200:
            return Retry("the answer cannot be read", advice=_URL_ADVICE, pause=SLOW)
        failure = self._failure(answer)
        if self._is_callers and answer.status in _BAD_KEY:
            return failure
        # It was the question that was refused, and not the trace.
        return Retry(failure.note) if isinstance(failure, Dead) else failure

    def _failure(self, answer: Answer) -> Outcome:
        if answer.status not in _BAD_KEY:
            return _failure(answer)
        if self._is_callers:
            return Dead("the Explorer did not accept the key that came with the call")
        note = f"the Explorer did not accept the API key ({answer.status})"
        return Retry(note, is_outage=True, advice=_KEY_ADVICE, pause=SLOW)


def _failure(answer: Answer) -> Outcome:
    status = answer.status
    note = f"the Explorer answered with status {status}"
    if status in (400, 413, 422):
        return Dead(note)
    if status == 429:
        return Retry(note, is_outage=True, pause=answer.pause)
    if status >= 500:
        return Retry(note, pause=answer.pause)
    return Retry(note, is_outage=True, advice=_URL_ADVICE, pause=SLOW)
