"""What the HTTP layer asks for while a call goes through it: its hooks, and what they get.

It knows no dialect and no engine; imports mitmproxy only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from mitmproxy import http
from mitmproxy.proxy import commands


class PendingCheck:
    """A check that is under way: what the verdict hook gets.

    cancelled: nobody waits for it any more. on_cancel: set by whoever runs it.
    """

    def __init__(self, guard: Guard, query: object) -> None:
        self.guard = guard
        self.query = query
        self.cancelled = False
        self.on_cancel: Callable[[], object] | None = None

    def cancel(self) -> None:
        self.cancelled = True
        if self.on_cancel is not None:
            self.on_cancel()


@runtime_checkable
class Guard(Protocol):
    """What `flow.response.stream` is when a reply is guarded. Times: seconds, monotonic.

    It is a callable too: mitmproxy's own layer (client replay) calls it, and must get nothing.
    """

    def __call__(self, data: bytes) -> list[bytes]: ...

    def feed(self, data: bytes, now: float) -> None: ...

    def end(self, now: float, *, cut: bool) -> None: ...

    def next_query(self, now: float) -> object | None: ...

    def take(self, now: float) -> bytes: ...

    def wake_at(self, now: float) -> float | None: ...

    @property
    def done(self) -> bool: ...

    @property
    def refused(self) -> bool: ...

    @property
    def withholds_head(self) -> bool:
        """The head waits with the body, so that a refusal can still be a whole response."""

    def refusal_event(self) -> bytes:
        """What ends a stream whose head has gone out."""

    def refusal_response(self) -> http.Response:
        """What replaces a response of which nothing has gone out."""

    def lost(self, reason: str) -> None:
        """The stream ended otherwise: the client left, or the flow was killed."""


class PendingRequest:
    """A request that has gone upstream while it is judged.

    response: set by whoever judges: what the client gets, in place of a reply.
    """

    def __init__(self, flow: http.HTTPFlow) -> None:
        self.flow = flow
        self.response: http.Response | None = None


NAMED = "invariant.named"
"""In a flow's metadata, as of its request headers: the name that it was sent to. In reverse mode
mitmproxy writes upstream's over it."""
JUDGED_MEANWHILE = "invariant.judged_meanwhile"
PATIENCE = "invariant.upstream_timeout"
"""In a flow's metadata, as of its request hook: a PendingRequest is to be announced; the seconds of
silence after which upstream is given up."""


@dataclass
class InvariantRequestHook(commands.StartHook):
    """Judge `pending.flow` and set `pending.response` if it is refused. Does not pause either."""

    pending: PendingRequest


@dataclass
class InvariantVerdictHook(commands.StartHook):
    """A guard wants a verdict: judge `check.query` and tell `check.guard`.

    Its argument is no flow: for a flow mitmproxy would call `update` on every addon and wait
    for `resume` at each check.
    """

    check: PendingCheck
