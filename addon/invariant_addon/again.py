"""What was changed after its verdict, by mitmproxy's other addons or by a person: judged again.

Scripts come before map_remote, modify_body and the like, and a person may edit a flow that is
intercepted later still. So the layer compares what it sends with what was judged (its seal).
"""

from __future__ import annotations

import logging
from dataclasses import replace

from mitmproxy import http

from .call import reply_check
from .call.state import Call, withheld
from .calls import Calls
from .core.endpoints import Endpoint, find
from .core.terms import Refusal
from .intake import Intake
from .layers.seals import ChangedMessage, Seal, seal

logger = logging.getLogger(__name__)

UNKNOWN = (
    "refused: it was led to a guarded host after it had gone by the guard (map_remote, or another "
    "script); send it to that host in the first place"
)
BODY = 0
METHOD, PATH, ABOUT = 1, 2, 3


async def judge(changed: ChangedMessage, calls: Calls, intake: Intake) -> http.Response | None:
    """What the client gets in its place; None if it may go on."""
    flow, call = changed.flow, calls.get(changed.flow)
    if changed.is_reply:
        return await _judge_reply(flow, call, calls)
    is_judged = call is not None and call.endpoint.is_dialect
    if _is_elsewhere_only(changed, is_judged=is_judged):
        return None
    if changed.judged is None:
        logger.warning("%s %s: %s", flow.request.method, flow.request.host, UNKNOWN)
        return _unknown()
    calls.forget(flow)
    await intake.take(flow)
    return flow.response


def _is_elsewhere_only(changed: ChangedMessage, *, is_judged: bool) -> bool:
    """It goes to another place (map_remote), and says what it said when it was judged."""
    before, after = changed.judged, seal(changed.flow.request)
    if before is None or before[BODY] != after[BODY] or before[ABOUT] != after[ABOUT]:
        return False
    return is_judged or _endpoint(before) is _endpoint(after)


def _unknown() -> http.Response:
    """The answer to a request of which nothing is known."""
    call = Call(settings=None)
    call.refused = Refusal(reason=UNKNOWN)
    return call.response()


async def _judge_reply(
    flow: http.HTTPFlow, call: Call | None, calls: Calls
) -> http.Response | None:
    """The refusal of a reply that was changed; None if it may go on.

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
    await reply_check.judge(fresh, flow.response)
    is_clean = fresh.refused is None and fresh.unjudged is None
    if not (is_clean and call.unjudged is not None):  # the rest of it was not judged all the same
        await calls.correct(flow, call, fresh)
    return fresh.response() if fresh.refused is not None else None


def _endpoint(sealed: Seal) -> Endpoint:
    return find(str(sealed[METHOD]), str(sealed[PATH]))
