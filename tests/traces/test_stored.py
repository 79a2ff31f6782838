"""The store as an outbox: what cannot be read, or is somebody else's, is not sent."""

from __future__ import annotations

import contextlib
import dataclasses
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from invariant_addon.traces.store import Store
from invariant_addon.traces.stored import StoredOutbox

from .pushes import a_trace


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "data" / "traces.db")
    yield store
    store.close()


def change(store: Store, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(store.path)) as connection, connection:
        connection.execute(statement)


def state(store: Store, trace_id: str) -> tuple[str, str]:
    (row,) = store.deliveries(trace_id)
    return row.state, row.note


def test_a_trace_that_cannot_be_read_is_dead_and_the_others_go_on(store: Store) -> None:
    """It would stand at the head of the queue for ever."""
    for number in (1, 2):
        store.add(a_trace(number), ["explorer"])
    change(store, "UPDATE bodies SET body = x'00' WHERE seq = 1")
    outbox = StoredOutbox(store)
    assert list(outbox.due("explorer", 9, 1e10)) == ["trace-1", "trace-2"]
    assert outbox.begin("trace-1", "explorer") is None
    assert state(store, "trace-1") == ("dead", "the trace cannot be read")
    delivery = outbox.begin("trace-2", "explorer")
    assert delivery is not None
    assert (delivery.trace_id, delivery.sink, delivery.tries) == ("trace-2", "explorer", 0)
    assert delivery.trace == a_trace(2)
    assert outbox.begin("trace-2", "explorer") is None, "it is taken"


def test_what_is_sent_is_the_trace_as_it_is_when_it_is_taken(store: Store) -> None:
    """A finding that comes between the look and the try would not be sent by anybody."""
    store.add(dataclasses.replace(a_trace(1), findings=()), ["explorer"])
    outbox = StoredOutbox(store)
    (trace_id,) = outbox.due("explorer", 9, 1e10)
    store.revise(a_trace(1))
    delivery = outbox.begin(trace_id, "explorer")
    assert delivery is not None and delivery.trace.findings


def test_who_took_too_long_has_no_say_any_more(store: Store) -> None:
    """Its lease is over, and another proxy tries by now."""
    store.add(a_trace(1), ["explorer"])
    outbox = StoredOutbox(store)
    first = outbox.begin("trace-1", "explorer")
    change(store, "UPDATE deliveries SET lease = 0")
    second = outbox.begin("trace-1", "explorer")
    assert first is not None and second is not None and second.tries == 1
    outbox.dead(first, "no")
    assert state(store, "trace-1") == ("pending", "")
    outbox.sent(second, "there")
    assert state(store, "trace-1") == ("sent", "")
