"""Finding what has arrived, however much came after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invariant_addon.traces import arrivals, explorer_form
from invariant_addon.traces.arrivals import BATCH, Arrivals


class Dataset:
    """An Explorer's: indexes in order, and not again when one is deleted."""

    def __init__(self) -> None:
        self.rows: dict[int, str] = {}
        self.next = 0
        self.asked = 0
        self.fails_after = 10**9

    def push(self, name: str) -> None:
        self.rows[self.next] = name
        self.next += 1

    def wanted(self, indexes: range | None) -> Sequence[Mapping[str, object]]:
        self.asked += 1
        if self.asked > self.fails_after:
            raise TimeoutError
        return [
            {"index": n, "id": f"id of {name}", "extra_metadata": {explorer_form.CLIENT_ID: name}}
            for n, name in self.rows.items()
            if indexes is None or n in indexes
        ]

    def find(self, among: Arrivals, name: str) -> bool:
        found = among.find("d", name, lambda: len(self.rows), self.wanted)
        assert found in (None, f"id of {name}")
        return found is not None


def test_what_arrived_long_ago_is_found() -> None:
    """A trace that an outage delays is sent again behind thousands of others."""
    dataset, among = Dataset(), Arrivals()
    dataset.push("first")
    assert not dataset.find(among, "unclear")
    dataset.push("unclear")
    for n in range(3 * arrivals.LOOK_BACK):
        dataset.push(str(n))
    assert dataset.find(among, "unclear") and not dataset.find(among, "never")


def test_each_row_is_read_once() -> None:
    """Or a look would take longer each time."""
    dataset, among = Dataset(), Arrivals()
    for n in range(2000):
        dataset.push(str(n))
    assert not dataset.find(among, "x")
    dataset.asked = 0
    for n in range(20):
        dataset.push(f"more {n}")
        assert dataset.find(among, f"more {n}") and not dataset.find(among, "x")
    assert dataset.asked <= 20 * 2 * 3


def test_a_look_that_was_cut_off_goes_on_where_it_ended() -> None:
    """A slow Explorer is not asked for the same rows for ever."""
    dataset, among = Dataset(), Arrivals()
    for n in range(60 * BATCH):
        dataset.push(str(n))
    for cut in range(1, 100):
        dataset.fails_after = dataset.asked + 5
        try:
            assert dataset.find(among, str(60 * BATCH - 1))
        except TimeoutError:
            assert cut < 30
        else:
            break
    else:
        pytest.fail("it never came to an end")


@given(st.lists(st.sampled_from(("push", "look", "delete", "wipe", "others")), max_size=60))
def test_it_is_there_if_it_is_there(steps: list[str]) -> None:
    """Whatever was pushed, deleted or wiped between two looks."""
    dataset, among = Dataset(), Arrivals()
    for number, step in enumerate(steps):
        if step == "push":
            dataset.push(f"own {number}")
        elif step == "others":
            for n in range(70):
                dataset.push(f"{number} {n}")
        elif step == "delete" and dataset.rows:
            del dataset.rows[sorted(dataset.rows)[number % len(dataset.rows)]]
        elif step == "wipe":
            dataset.rows.clear()
            dataset.next = 0
            among.find("d", "nobody", lambda: 0, dataset.wanted)
            dataset.push(f"after {number}")
        elif step == "look":
            for name in list(dataset.rows.values())[-3:]:
                assert dataset.find(among, name)
            assert not dataset.find(among, "never")
