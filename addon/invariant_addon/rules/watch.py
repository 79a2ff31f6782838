"""Whether rule files were edited: asked now and then, cheap, and never in the middle of a write."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

type _Stamp = tuple[int, int, int, int]
type _State = tuple[_Stamp | None, ...]


class Watch:
    """The state of some files when they were read, and since.

    An editor may empty a file before it writes it, and half a rule file can be a rule file too. So
    a change counts once it is the same at two looks in a row.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths = tuple(paths)
        self._read = self._seen = self._look()

    def has_changed(self) -> bool:
        """Whether they are to be read again. True once for each change."""
        now, before = self._look(), self._seen
        self._seen = now
        if now == self._read or now != before:
            return False
        self._read = now
        return True

    def _look(self) -> _State:
        return tuple(_state(path) for path in self._paths)


def _state(path: Path) -> _Stamp | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino
