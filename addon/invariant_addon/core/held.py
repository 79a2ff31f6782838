"""The events of a stream that wait to go on, in order, and how many bytes they are."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from .aside import KEY
from .draft import Need


@dataclass(frozen=True, slots=True)
class Held:
    """An event that waits, and those that came right behind it and say nothing new: without text,
    or a heartbeat.

    needs: what must have been judged before it may go on. position: its number in the stream.
    ending: it is the terminal event, or came after it: it waits for the last verdict.
    """

    raws: list[bytes]
    needs: tuple[Need, ...]
    position: int
    ending: bool


class Queue:
    """size: of all that waits, in bytes."""

    def __init__(self) -> None:
        self.size = 0
        self._held: deque[Held] = deque()

    def __len__(self) -> int:
        return len(self._held)

    @property
    def first(self) -> Held | None:
        return self._held[0] if self._held else None

    def add(self, raw: bytes, needs: tuple[Need, ...], position: int, *, ending: bool) -> None:
        self.size += len(raw)
        last = self._held[-1] if self._held else None
        if (
            last is not None
            and last.ending == ending
            # Nothing else may: a later piece of a call, or of sound, has the same need, and its own
            # position says whether a check has seen it.
            and all(need.choice == KEY and need in last.needs for need in needs)
        ):
            last.raws.append(raw)
        else:
            self._held.append(Held([raw], needs, position, ending))

    def pop(self) -> list[bytes]:
        """The first one's bytes."""
        raws = self._held.popleft().raws
        self.size -= sum(map(len, raws))
        return raws

    def drain(self) -> list[bytes]:
        """All that waited."""
        raws = [raw for held in self._held for raw in held.raws]
        self.clear()
        return raws

    def clear(self) -> None:
        self._held.clear()
        self.size = 0
