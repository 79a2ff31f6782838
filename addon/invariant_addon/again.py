"""What was changed after its verdict, by mitmproxy's other addons or by a person: judged again.

Scripts come before map_remote, modify_body and the like, and a person may edit a flow that is
intercepted later still. So the layer compares what it sends with what was judged (layer.seal).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from mitmproxy import http

from .core.endpoints import Endpoint, find
from .core.terms import Refusal
from .guard import Call, withheld
from .layer import ChangedMessage, Seal, seal

UNKNOWN = (
    "refused: it was led to a guarded host after it had gone by the guard (map_remote, or another "
    "script); send it to that host in the first place"
)
BODY = 0
METHOD, PATH, ABOUT = 1, 2, 3


def is_elsewhere_only(changed: ChangedMessage, *, is_judged: bool) -> bool:
    """It goes to another place (map_remote), and says what it said when it was judged."""
    before, after = changed.judged, seal(changed.flow.request)
    if before is None or before[BODY] != after[BODY] or before[ABOUT] != after[ABOUT]:
        return False
    return is_judged or _endpoint(before) is _endpoint(after)


def unknown() -> http.Response:
    """The answer to a request of which nothing is known."""
    call = Call(settings=None)
    call.refused = Refusal(reason=UNKNOWN)
    return call.response()


async def judge_reply(
    flow: http.HTTPFlow,
    call: Call | None,
    judge: Callable[[http.Response, Call], Awaitable[None]],
    report: Callable[[Call, Call], Awaitable[None]],
) -> http.Response | None:
    """The refusal of a reply that was changed; None if it may go on. report: gets the call as it
    was and as it is now, if it ends otherwise.

    A refusal that somebody changed stays one: whatever it is now, nobody judged the call.
    """
    assert flow.response
    if call is None:
        return None
    if call.refused is not None:
        return call.response()
    if call.exchange is None:
        return None if call.unjudged else withheld()
    if not call.endpoint.judges_reply:
        return None
    fresh = replace(call, judged=False, unjudged=None, reply=None, closed=True)
    await judge(flow.response, fresh)
    if fresh.refused is not None or fresh.unjudged is not None:
        await report(call, fresh)
    return fresh.response() if fresh.refused is not None else None


def _endpoint(sealed: Seal) -> Endpoint:
    return find(str(sealed[METHOD]), str(sealed[PATH]))
