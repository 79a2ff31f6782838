"""Which traces leave this machine, where to, and with whose key."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from invariant_addon.traces import shipping
from invariant_addon.traces.shipping import Destinations, Shipping
from invariant_addon.traces.store import Store

from .chaos import KEY, ChaosExplorer
from .pushes import a_trace, eventually

OWNERS = f"Bearer {KEY}"
FINISHED = replace(a_trace(1), findings=())
STEP = replace(FINISHED, finishes=("tool_calls",))
NO_DATASET = replace(FINISHED, dataset="")


@contextlib.contextmanager
def ships(folder: Path, **to: object) -> Iterator[tuple[Shipping, Store]]:
    store = Store(folder / "data" / "traces.db")
    made = Shipping(store, Destinations(**to), b"key of this machine")  # type: ignore[arg-type]
    made.start()
    yield made, store
    made.stop(1.0)
    store.close()


def test_nothing_leaves_unless_somebody_said_so(tmp_path: Path, chaos: ChaosExplorer) -> None:
    """An Explorer may be there for its rules alone."""
    with ships(tmp_path, explorer=chaos.url, authorization=OWNERS) as (made, _):
        assert made.sinks(FINISHED) == () == made.sinks(FINISHED, "Bearer theirs")


def test_the_rule_says_which(tmp_path: Path, chaos: ChaosExplorer) -> None:
    """And without a dataset there is no place for it."""
    for rule, step in (("finished", ()), ("all", ("explorer",))):
        to = {"explorer": chaos.url, "authorization": OWNERS, "rule": rule}
        with ships(tmp_path, **to) as (made, _):
            assert made.sinks(FINISHED) == ("explorer",)
            assert made.sinks(STEP) == step
            assert made.sinks(replace(STEP, findings=a_trace(1).findings)) == ("explorer",)
            assert made.sinks(NO_DATASET) == ()


def test_a_callers_key_has_a_sink_of_its_own(tmp_path: Path, chaos: ChaosExplorer) -> None:
    """Whose name does not tell it. The owner's own key, sent by a call, is the owner's."""
    chaos.users["theirs"] = "eve"
    to = {"explorer": chaos.url, "authorization": OWNERS, "rule": "all"}
    with ships(tmp_path, **to) as (made, store):
        assert made.sinks(FINISHED, OWNERS) == ("explorer",)
        (name,) = made.sinks(FINISHED, "Bearer theirs")
        assert name.startswith("explorer:") and "theirs" not in name
        assert made.sinks(FINISHED, "Bearer theirs") == (name,) != made.sinks(FINISHED, "Bearer o")
        store.add(FINISHED, (name,))
        made.wake()
        eventually(lambda: len(chaos.stored) == 1)
        assert chaos.stored[0].user == "eve"
    with ships(tmp_path, **to) as (made, _):
        assert made.sinks(FINISHED, "Bearer theirs") == (name,), "after a restart as well"


def test_without_a_key_only_callers_push(tmp_path: Path, chaos: ChaosExplorer) -> None:
    """As a gateway for many may be run."""
    with ships(tmp_path, explorer=chaos.url, rule="all") as (made, _):
        assert made.sinks(FINISHED) == () != made.sinks(FINISHED, "Bearer theirs")


def test_many_callers_do_not_mean_many_threads(
    tmp_path: Path, chaos: ChaosExplorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that sends a new key with each call would have a thread for each. Who is let go
    is served again with the next call."""
    monkeypatch.setattr(shipping, "CALLERS", 3)
    for number in range(8):
        chaos.users[f"key-{number}"] = f"user-{number}"
    with ships(tmp_path, explorer=chaos.url, rule="all") as (made, store):
        for number in range(8):
            made.sinks(FINISHED, f"Bearer key-{number}")
        assert len(made._sender._lanes) == 3
        for number in (0, 7):
            trace = replace(FINISHED, id=f"trace-{number}")
            store.add(trace, made.sinks(trace, f"Bearer key-{number}"))
            made.wake()
        eventually(lambda: {trace.user for trace in chaos.stored} == {"user-0", "user-7"})


def test_keys_are_in_no_repr() -> None:
    """It would end up in a log one day."""
    to = Destinations("http://e", OWNERS, "all", otlp_headers={"api-key": KEY})
    assert KEY not in repr(to)
