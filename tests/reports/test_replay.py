"""What is said while recorded flows are judged."""

from __future__ import annotations

import logging

import pytest
from mitmproxy.test import tflow

from invariant_addon.call.state import Call
from invariant_addon.reports.replay import PROGRESS_SECONDS, Replayed


def test_a_long_replay_says_how_far_it_is(caplog: pytest.LogCaptureFixture) -> None:
    """Every ten seconds, not with every flow."""
    now = 0.0
    replayed = Replayed(lambda: now)
    caplog.set_level(logging.INFO)
    for _ in range(100):
        replayed.add(tflow.tflow(), Call(settings=None, judged=True))
        now += PROGRESS_SECONDS / 40
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "40 recorded calls so far, 0 to be blocked",
        "80 recorded calls so far, 0 to be blocked",
    ]
