"""A pause between calls -> the memory that they needed goes back to the system.

What is freed stays with the C library, in between what still lives: after large calls at the same
time that is a hundred megabytes, for ever. To give it back takes some ten milliseconds, in which
nothing else can get memory: so it is done while no call is under way. Other C libraries than glibc
give memory back by themselves, or not at all.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
from collections.abc import Callable

PAUSE_SECONDS = 10.0


def find_trim() -> Callable[[], object] | None:
    """What gives memory back; None if there is nothing."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library; Windows
        return None
    trim.argtypes = (ctypes.c_size_t,)
    return lambda: trim(0)


async def give_back(
    seen: Callable[[], int], pending: Callable[[], int], *, pause: float = PAUSE_SECONDS
) -> None:
    """Look every so many seconds, until cancelled. seen: how many calls there were, pending: how
    many of them are not over."""
    trim, done_for = find_trim(), seen()
    while True:
        await asyncio.sleep(pause)
        if seen() == done_for or pending():
            continue
        done_for = seen()
        gc.collect()  # among new objects only (garbage.py)
        if trim is not None:
            await asyncio.to_thread(trim)
