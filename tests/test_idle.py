"""Memory goes back to the system when nothing is under way."""

from __future__ import annotations

import asyncio
import gc
import os
import weakref
from collections.abc import Sequence
from pathlib import Path

import pytest

from invariant_addon import idle


class _Cycle:
    def __init__(self) -> None:
        self.itself = self


def _watch(monkeypatch: pytest.MonkeyPatch, counts: Sequence[int], *, pending: int = 0) -> int:
    """How often memory was given back while there had been so many calls at each look."""
    left, trims = list(counts), []

    def count() -> int:
        if not left:
            raise EOFError
        return left.pop(0)

    async def watch() -> None:
        await idle.give_back(count, lambda: pending, pause=0)

    monkeypatch.setattr(idle, "find_trim", lambda: lambda: trims.append(True))
    with pytest.raises(EOFError):
        asyncio.run(watch())
    return len(trims)


def test_it_is_given_back_once_after_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that nobody uses sleeps."""
    assert _watch(monkeypatch, [0, 0, 0, 0]) == 0
    assert _watch(monkeypatch, [0, 3, 3, 3, 3, 3, 3]) == 1
    assert _watch(monkeypatch, [0, 3, 3, 3, 3, 4, 4, 4]) == 2


def test_nothing_is_given_back_while_a_call_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would wait for its memory."""
    assert _watch(monkeypatch, [0, 1, 2, 3, 3, 3], pending=1) == 0


def test_what_is_garbage_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections that are over wait for Python's search."""
    gc.collect()
    gone = weakref.ref(_Cycle())
    assert gone() is not None
    _watch(monkeypatch, [0, 1, 1])
    assert gone() is None


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(
    idle.find_trim() is None or not Path("/proc/self/statm").exists(),
    reason="the C library has no malloc_trim, or there is no /proc",
)
def test_what_was_freed_between_what_lives_goes_back() -> None:
    """The reason for all of this: eighty megabytes that nobody uses any more."""
    trim = idle.find_trim()
    assert trim is not None
    trim()
    before = _resident()
    pairs = [(b"x" * 100_000 + b"%d" % n, b"y" * 600 + b"%d" % n) for n in range(800)]
    assert _resident() > before + 60_000_000
    small = [each for _, each in pairs]
    pairs.clear()
    trim()
    assert _resident() < before + 30_000_000
    assert len(small) == 800
