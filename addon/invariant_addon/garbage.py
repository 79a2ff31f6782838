"""Python's search for garbage: short and frequent, so that no call waits for it."""

from __future__ import annotations

import gc


def look_at_new_objects_only() -> None:
    """Leave what mitmproxy and we are made of out of Python's search for garbage, and let it come
    more often: a connection that is over waits for it with all that it holds, and each search among
    all objects would hold up all calls."""
    gc.unfreeze()  # this script was loaded again
    gc.collect()
    gc.freeze()
    # Python looks among old objects when a quarter as many have come as were there at the last
    # look (devguide, "garbage collector design"), and what was frozen still counts: look once more.
    gc.collect()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, 2)
