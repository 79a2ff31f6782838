"""How often Python looks for garbage, and among what."""

from __future__ import annotations

import gc

from invariant_addon.garbage import look_at_new_objects_only


def test_the_search_for_garbage_is_short_and_frequent() -> None:
    """2,000 calls of 200 KB came to 540 MB, and a search among all objects took 70 ms and more, in
    which no call went on."""
    before = gc.get_threshold()
    try:
        for _ in range(2):  # the script is loaded again
            look_at_new_objects_only()
            assert gc.get_freeze_count() > 10 * len(gc.get_objects())
        assert gc.get_threshold() == (*before[:2], 2)
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)


def test_what_is_frozen_does_not_put_off_the_search() -> None:
    """Python waits until a quarter as many objects have come as there were: mitmproxy has half a
    million, and thousands of connections that were over were waiting."""
    before = gc.get_threshold()
    old: list[list[int]] = [[] for _ in range(500_000)]
    try:
        look_at_new_objects_only()
        searches = gc.get_stats()[2]["collections"]
        new: list[list[int]] = [[] for _ in range(100_000)]
        assert gc.get_stats()[2]["collections"] > searches
        assert len(old) > len(new)
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
