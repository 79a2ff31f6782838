"""One call: what follows from what is known of it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from invariant_addon.call.state import Call


@pytest.mark.parametrize("fails_open", [True, False])
def test_what_is_missing_for_the_reply_too_is_refused_at_once(fails_open: bool) -> None:
    """Where requests may pass without a verdict and replies may not, the reply could never be
    delivered: nobody shall pay for it."""
    settings = SimpleNamespace(fails_open=lambda phase: phase == "request" or fails_open)
    call = Call(settings)  # type: ignore[arg-type]  # as much of the settings as is read
    call.lack("no rules")
    assert call.unjudged == "no rules"
    assert (call.refused is None) is fails_open


def test_a_check_that_was_cancelled_lets_no_reply_pass() -> None:
    """A proxy that ends cancels its tasks; a request that has gone upstream was not judged then."""

    async def scene(*, cancels: bool) -> Call:
        call = Call(settings=None)
        call.checking = asyncio.create_task(asyncio.sleep(60 if cancels else 0))
        await asyncio.sleep(0)
        if cancels:
            call.checking.cancel()
        await call.wait_checked()
        return call

    assert asyncio.run(scene(cancels=True)).refused is not None
    assert asyncio.run(scene(cancels=False)).refused is None
