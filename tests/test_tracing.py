"""Calls that are over, or as far as they came, in the store of this machine."""

from __future__ import annotations

import asyncio
import threading

import pytest

from invariant_addon.judge import Looked
from invariant_addon.traces.entry import Entry
from invariant_addon.traces.store import Store
from invariant_addon.tracing import Tracing

from .test_drafts import a_call


def test_a_call_that_ends_while_the_proxy_does_is_told_of_as_it_ended(
    store: Store, tracing: Tracing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was unfinished when that was looked at, and is over when that has been written down."""
    flow, call = a_call()
    tells, may_tell = threading.Event(), threading.Event()
    add = store._submit

    def slow(entry: Entry) -> bool:
        done = add(entry)
        if not tells.is_set():
            tells.set()
            assert may_tell.wait(20)
        return done

    monkeypatch.setattr(store, "_submit", slow)

    async def scene() -> None:
        leaving = asyncio.ensure_future(tracing.keep_unfinished(flow, call))
        await asyncio.to_thread(tells.wait, 20)
        call.judged = call.closed = True
        ending = asyncio.ensure_future(tracing.keep(flow, call))
        await asyncio.sleep(0)
        may_tell.set()
        await asyncio.wait_for(asyncio.gather(leaving, ending), 20)

    asyncio.run(scene())
    kept = store.get(call.request_id)
    assert kept is not None and kept.status == "judged"


def test_a_trace_says_that_log_rules_could_not_look(store: Store, tracing: Tracing) -> None:
    """It would pass for one in which they found nothing."""
    flow, call = a_call()
    call.judged = call.closed = True

    async def scene() -> None:
        trace = await tracing.keep(flow, call, more=True)
        assert trace is not None and trace.status == "judged"
        await tracing.add(trace, call, (), Looked(failure="overloaded"))

    asyncio.run(scene())
    kept = store.get(call.request_id)
    assert kept is not None
    assert (kept.status, kept.reason) == ("partial", "log rules gave no verdict: overloaded")
