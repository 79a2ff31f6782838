"""For all tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from invariant_addon.traces.shipping import Destinations, Shipping
from invariant_addon.traces.store import Store
from invariant_addon.tracing import Tracing

# Where tests run in the background of a shell, Ctrl-C is ignored, also by all that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says more about what else the machine does than about the code; tests
# about speed measure processor time.
settings.register_profile(
    "invariant",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    # Others are tried in each run; for a long look: INVARIANT_TEST_EXAMPLES=2000 scripts/test ...
    max_examples=int(os.environ.get("INVARIANT_TEST_EXAMPLES", "60")),
)
settings.load_profile("invariant")

TESTS = Path(__file__).parent
LONGEST = (
    "e2e/test_outages.py",
    "e2e/test_world.py",
    "e2e/test_run.py",
    "e2e/test_first_light.py",
    "e2e/test_faults.py",
    "e2e/test_perimeter.py",
    "engines/test_language.py",
    "e2e/test_request_check.py",
    "e2e/test_gateway.py",
    "engines/test_starter_commands.py",
    "e2e/test_mutes.py",
    "page/test_browser.py",
    "e2e/test_trace_sinks.py",
    "e2e/test_demo.py",
    "e2e/test_replays.py",
    "engines/test_remote.py",
    "interception/test_launch.py",
    "engines/test_workers.py",
    "e2e/test_harness.py",
)
"""Files that take ten seconds or more. They go first: the last file runs alone."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where files are dealt out to processes, as scripts/test does. Then those that wait as much
    as they compute, and at the end the many short ones."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: _place(item.path.relative_to(TESTS)))


def _place(file: Path) -> int:
    if (name := file.as_posix()) in LONGEST:
        return LONGEST.index(name)
    return len(LONGEST) + (file.parts[0] != "e2e")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "traces.db", key=b"k" * 32)
    yield store
    store.close()


@pytest.fixture
def tracing(store: Store) -> Iterator[Tracing]:
    tracing = Tracing(store, Shipping(store, Destinations(), b"k" * 32), b"k" * 32)
    yield tracing
    tracing.close(0)
