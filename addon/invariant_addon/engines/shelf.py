"""Guardrails that are ready, by text and trust: some stay, others only pass through.

Both sides of a worker's pipe keep one, so it knows the standard library only. Guardrails that were
loaded for everybody stay. Those that came with a request are as many as clients like: they take
the place of their like, and never of one that stays.
"""

from __future__ import annotations

from collections import OrderedDict

MAX_KNOWN = 512
"""Guardrails that are made ready in a new worker. These are below the worker's own limits."""
MAX_PASSING = 32
MAX_PASSING_CHARACTERS = 256 * 1024

type Key = tuple[str, bool]
"""A policy's text, and whether it is trusted: the same text may be fine for one and not for the
other."""


class Shelf[V]:
    """kept, passing: how many of each. characters: of all texts that pass together."""

    def __init__(self, *, kept: int, passing: int, characters: int) -> None:
        self._limits = kept, passing, characters
        self._kept: OrderedDict[Key, V] = OrderedDict()
        self._passing: OrderedDict[Key, V] = OrderedDict()
        self._characters = 0

    def __contains__(self, key: Key) -> bool:
        return key in self._kept or key in self._passing

    def __len__(self) -> int:
        return len(self._kept) + len(self._passing)

    def get(self, key: Key) -> V | None:
        """It is used, so it goes last."""
        for side in (self._kept, self._passing):
            if key in side:
                side.move_to_end(key)
                return side[key]
        return None

    def put(self, key: Key, value: V, *, keep: bool) -> None:
        """One that stays goes on staying."""
        kept, passing, characters = self._limits
        self._remove(key)
        if keep or key in self._kept:
            self._kept[key] = value
            self._kept.move_to_end(key)
            if len(self._kept) > kept:
                self._kept.popitem(last=False)
            return
        self._passing[key] = value
        self._characters += len(key[0])
        while len(self._passing) > 1 and (
            len(self._passing) > passing or self._characters > characters
        ):
            self._remove(next(iter(self._passing)))

    def clear(self) -> None:
        self._kept.clear()
        self._passing.clear()
        self._characters = 0

    def kept(self) -> tuple[Key, ...]:
        return tuple(self._kept)

    def _remove(self, key: Key) -> None:
        if key in self._passing:
            del self._passing[key]
            self._characters -= len(key[0])


def shelf_of_a_worker[V]() -> Shelf[V]:
    """What the proxy remembers of it."""
    return Shelf(kept=MAX_KNOWN, passing=MAX_PASSING, characters=MAX_PASSING_CHARACTERS)
