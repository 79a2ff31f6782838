"""Python's search for garbage: short and frequent, so that no call waits for it."""

from __future__ import annotations

import gc


def look_at_new_objects_only() -> None:
    """Leave what mitmproxy and we are made of out of Python's search for garbage, and let it come
    more often: a call that is over waits for it with all of its bodies, hundreds of megabytes in
    all, and each search among all objects would hold up all calls."""
    gc.unfreeze()  # this script was loaded again
    gc.collect()
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, 2)
