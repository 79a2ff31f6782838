"""A call whose reply is being judged -> its trace, but for how it ends.

A reply that is no stream goes to the client when its trace is kept. Nearly all are judged clean,
and while a worker looks at one, the proxy has nothing to do for this call: so the trace that it
will be then is made in that time, and only its times are filled in afterwards.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

from mitmproxy import http

from .call.as_trace import status_of, timing_of, trace_of
from .call.state import Call
from .core.conversation import Reply
from .core.trace import Timing, Trace
from .traces import codec
from .traces.codec import CodecError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Draft:
    """Without times and client. begun: what codec.write made of what is to be kept of it. reply:
    the one in it."""

    trace: Trace
    begun: bytes
    reply: Reply


@dataclass(frozen=True, slots=True)
class Finished:
    """draft: the trace, without times and client. body: what codec.write makes of what is to be
    kept of it, with them."""

    draft: Trace
    body: bytes
    timing: Timing
    client: str

    @property
    def trace(self) -> Trace:
        """Made when it is asked for: most calls end without that."""
        return replace(self.draft, timing=self.timing, client=self.client)


class Drafts:
    """kept: what is to be kept of a trace."""

    def __init__(self, kept: Callable[[Trace], Trace]) -> None:
        self._kept = kept
        self._drafts: WeakKeyDictionary[Call, _Draft] = WeakKeyDictionary()

    def begin(self, flow: http.HTTPFlow, call: Call) -> None:
        """Unless it is settled already, or there is something to tell of it. Never raises."""
        if call.closed or call.reply is None or not _is_plain(call) or call.unread:
            return
        try:
            trace = replace(trace_of(flow, call, "judged"), timing=Timing(0.0), client="")
            begun = codec.write(self._kept(trace))
        except Exception:  # the edge: then it is made when the call is over, and fails there
            logger.debug("a trace could not be made in advance", exc_info=True)
            return
        self._drafts[call] = _Draft(trace, begun, call.reply)

    def finish(self, flow: http.HTTPFlow, call: Call) -> Finished | None:
        """None if there is no draft, or the call did not end as it says."""
        draft = self._drafts.pop(call, None)
        if draft is None or draft.reply is not call.reply or not _is_plain(call):
            return None
        if status_of(call) != "judged":
            return None
        timing = timing_of(flow, call)
        try:
            body = codec.complete(draft.begun, timing, call.client)
        except CodecError:
            return None
        return Finished(draft.trace, body, timing, call.client)


def _is_plain(call: Call) -> bool:
    """Nothing was found in it so far."""
    is_settled = call.refused is not None or call.unjudged is not None
    return not (is_settled or call.masked or call.muted)
