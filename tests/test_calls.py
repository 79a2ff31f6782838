"""The calls under way: which of them a flow is, and what is counted."""

from __future__ import annotations

import asyncio

import pytest
from mitmproxy import http
from mitmproxy.test import tflow, tutils

from invariant_addon.call.brought import Brought
from invariant_addon.call.routes import route
from invariant_addon.calls import Calls
from invariant_addon.judges import Judges
from invariant_addon.reports.ends import Reports


@pytest.fixture
def reports() -> Reports:
    return Reports()


@pytest.fixture
def calls(reports: Reports) -> Calls:
    """Without settings: whatever wants an engine is refused."""
    return Calls(Judges(), reports)


@pytest.fixture
def flow() -> http.HTTPFlow:
    request = tutils.treq(method=b"POST", host="api.openai.com", path=b"/v1/chat/completions")
    flow = tflow.tflow(req=request, resp=tutils.tresp())
    flow.live = True
    return flow  # and hold it: calls do not


def test_what_was_answered_here_is_no_call(
    calls: Calls, reports: Reports, flow: http.HTTPFlow
) -> None:
    """Its reply is ours: it is neither judged nor counted."""
    calls.leave_out(flow)
    assert asyncio.run(calls.find(flow)) is None
    assert reports.counters.seen == 0


def test_a_call_of_before_a_reload_is_opened_once(
    calls: Calls, reports: Reports, flow: http.HTTPFlow
) -> None:
    """The reply's head asks for it, and its end does again."""

    async def both() -> None:
        first = await calls.find(flow)
        assert first is not None and first is await calls.find(flow)

    asyncio.run(both())
    assert reports.counters.seen == 1 and calls.pending == 1


def test_a_changed_call_is_counted_once_and_its_old_check_ends(
    calls: Calls, reports: Reports, flow: http.HTTPFlow
) -> None:
    """Somebody changed it after its verdict: it is the same call, and nobody waits for the first
    verdict any more."""

    async def change() -> None:
        calls.count()
        call = await calls.open(flow, route(flow.request))
        check = call.checking = asyncio.create_task(asyncio.sleep(60))
        calls.forget(flow)
        calls.count()
        again = await calls.open(flow, route(flow.request))
        await asyncio.wait((check,))
        assert check.cancelled()
        assert again is not call and again.checking is None and calls.get(flow) is again

    asyncio.run(change())
    assert reports.counters.seen == 1 and calls.pending == 1


def test_what_cannot_be_read_in_one_way_alone_is_refused_and_counted(
    calls: Calls, reports: Reports, flow: http.HTTPFlow
) -> None:
    """The 400 says so; it is no outage."""
    call = calls.reject(flow, "two lengths")
    assert call.refused is not None and call.refused.is_invalid
    assert b"two lengths" in (call.response().content or b"")
    assert calls.get(flow) is call and reports.counters.seen == 1


def test_calls_that_are_over_or_recorded_are_not_waited_for(
    calls: Calls, flow: http.HTTPFlow
) -> None:
    """At the end of the proxy, what is under way is kept; a recorded flow is not under way."""
    recorded = flow.copy()
    recorded.live = False
    call, _ = calls.reject(flow, ""), calls.reject(recorded, "")
    assert calls.unfinished == [(flow, call)] and calls.pending == 2
    call.closed = True
    assert calls.unfinished == [] and calls.pending == 1


def test_a_call_on_a_websocket_brings_what_its_upgrade_brought(
    calls: Calls, flow: http.HTTPFlow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its messages have no headers: rules, keys and the dataset came with the first request."""
    asked: list[Brought] = []

    async def find(_: Judges, brought: Brought) -> None:
        asked.append(brought)
        raise TimeoutError

    monkeypatch.setattr(Judges, "find", find)
    judges = Judges()
    judges.ready.set()
    calls = Calls(judges, Reports())
    turn = flow.copy()
    calls.bring(flow, Brought(dataset="mine"))
    asyncio.run(calls.open(turn, route(turn.request), head=flow))
    asyncio.run(calls.open(turn, route(turn.request)))
    assert [brought.dataset for brought in asked] == ["mine", ""]


def test_a_call_that_ends_twice_at_once_is_counted_once(
    calls: Calls, reports: Reports, flow: http.HTTPFlow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last verdict on a reply, and the client that leaves just then."""

    async def scene() -> None:
        calls.count()
        call = await calls.open(flow, route(flow.request))

        async def takes_a_moment(*_: object, **__: object) -> None:
            await asyncio.sleep(0)

        monkeypatch.setattr(calls, "keep", takes_a_moment)
        await asyncio.gather(calls.close(flow, call), calls.close(flow, call))

    asyncio.run(scene())
    ends = reports.counters.as_dict()
    assert ends.pop("seen") == 1 == sum(ends.values())
