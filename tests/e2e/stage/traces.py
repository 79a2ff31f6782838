"""What a proxy kept, as another program reads it."""

from __future__ import annotations

from pathlib import Path

from invariant_addon.core.trace import Trace
from invariant_addon.traces.queries import Summary
from invariant_addon.traces.store import Store, StoreError

from .script import wait_until


def traces(file: Path, count: int, after: int = 0) -> list[Trace]:
    """The last ones, the oldest first, once there are so many. file: traces.db. after: only those
    with a higher number."""
    store = Store(file)
    wait_until(lambda: len(_newest(store, count, after)) >= count, 10, f"{count} traces")
    found = [store.get(summary.id) for summary in reversed(_newest(store, count, after))]
    store.close()
    return [trace for trace in found if trace is not None]


class Kept:
    """What is kept from here on. data: the proxy's folder, where others have left traces before."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self._file = data / "traces.db"
        store = Store(self._file)
        self._after = max((summary.seq for summary in _newest(store, 1, 0)), default=0)
        store.close()

    def traces(self, count: int) -> list[Trace]:
        """As above."""
        return traces(self._file, count, self._after)


def _newest(store: Store, count: int, after: int) -> list[Summary]:
    store.catch_up()  # what was answered before this call
    try:
        return [summary for summary in store.list(count) if summary.seq > after]
    except StoreError:  # none was written yet
        return []
