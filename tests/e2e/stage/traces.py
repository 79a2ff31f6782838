"""What a proxy kept, as another program reads it."""

from __future__ import annotations

from pathlib import Path

from invariant_addon.core.trace import Trace
from invariant_addon.traces.store import Store, StoreError

from .script import wait_until


def traces(file: Path, count: int) -> list[Trace]:
    """The last ones, the oldest first, once there are so many. file: traces.db."""
    store = Store(file)

    def are_there() -> bool:
        store.catch_up()  # what was answered before this call
        try:
            return len(store.list(count)) >= count
        except StoreError:  # none was written yet
            return False

    wait_until(are_there, 10, f"{count} traces")
    found = [store.get(summary.id) for summary in reversed(store.list(count))]
    store.close()
    return [trace for trace in found if trace is not None]
