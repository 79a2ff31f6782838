"""What has arrived in an Explorer: its rows are read once, from the oldest that matter upwards.

A trace is looked for before it is sent again, which may be thousands of rows later, for others are
sent meanwhile, also by other programs. So the ids of all rows are noted, and each look goes on
where the last one ended. The Explorer gives rows indexes in order, beginning with 0, and not again
when one is deleted.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

from . import explorer_form

BATCH = 50
"""Rows in one question. So many are read once more: one of them may have been on its way."""
LOOK_BACK = 5_000
"""Rows below the newest one with which the first look begins."""
MOST_IDS = 100_000
MOST_DATASETS = 64

type Rows = Callable[[range | None], Sequence[Mapping[str, object]]]
"""Those with these indexes, or all. Raises what `find` raises."""


class _Seen:
    def __init__(self) -> None:
        self.upto: int | None = None  # rows below were read; None: none was
        self.ids: OrderedDict[str, str] = OrderedDict()  # the Explorer's, by a trace's own

    def note(self, rows: Sequence[Mapping[str, object]]) -> None:
        for row in rows:
            metadata, index = row.get("extra_metadata"), row.get("index")
            if isinstance(index, int):
                self.upto = max(self.upto or 0, index + 1)
            if isinstance(metadata, dict):
                name = metadata.get(explorer_form.CLIENT_ID)
                if isinstance(name, str):
                    self.ids[name] = str(row.get("id", ""))
        while len(self.ids) > MOST_IDS:
            self.ids.popitem(last=False)


class Arrivals:
    """For several threads: one looks, the others wait for what it finds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: OrderedDict[str, _Seen] = OrderedDict()

    def find(self, dataset: str, trace_id: str, count: Callable[[], int], rows: Rows) -> str | None:
        """The Explorer's id of this trace; None if it is not there.

        count: of the dataset's traces, now. What these raise ends a look; the next one goes on
        from there.
        """
        with self._lock:
            seen = self._seen.setdefault(dataset, _Seen())
            self._seen.move_to_end(dataset)
            while len(self._seen) > MOST_DATASETS:
                self._seen.popitem(last=False)
            if trace_id not in seen.ids:
                _look(seen, count, rows)
            return seen.ids.get(trace_id)


def _look(seen: _Seen, count: Callable[[], int], rows: Rows) -> None:
    there = count()
    if not there:
        return
    is_first, found = seen.upto is None, False
    at = max(there - LOOK_BACK if seen.upto is None else seen.upto - BATCH, 0)
    while True:
        some = rows(range(at, at + BATCH))
        seen.note(some)
        found = found or bool(some)
        at += BATCH
        # Below the count there may be gaps where traces were deleted; above it, indexes go on as
        # far as traces were deleted below.
        if not some and at > there:
            break
    if found:
        return
    if is_first:  # the newest have indexes far above
        seen.note(rows(None))
    else:  # what was there is gone: they may begin with 0 again
        seen.upto = None
        seen.ids.clear()
        _look(seen, lambda: there, rows)
