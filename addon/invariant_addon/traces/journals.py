"""The journals beside a store: whose program is alive, and what those of killed ones hold.

The files of one program are taken in in their order, and by one program at a time: a revision that
is in the second needs what is in the first.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..rules import private
from ..rules.private import PrivateFileError
from . import records
from .journal import identity
from .records import MAGIC

_POLL_SECONDS = 0.01
_HALF_MADE_NS = 60 * 10**9
"""One that has no name after so long is of a program that was killed."""


@dataclass(frozen=True, slots=True)
class Abandoned:
    """A journal of a program that was killed, open to be read."""

    path: Path
    number: int
    size: int

    @property
    def owner(self) -> str:
        return _owner(self.path)

    def records(self) -> Iterator[tuple[bytes, int]]:
        """And where each ends: what is behind the last one is torn."""
        return records.read(self.number, len(MAGIC), self.size)

    def remove(self) -> None:
        with contextlib.suppress(OSError):
            self.path.unlink()


def living(store: Path) -> set[str]:
    """The owners of those that are in use."""
    return {_owner(path) for path in _journals(store) if _is_in_use(path)}


def present(store: Path) -> set[str]:
    """The owners of all that are there: alive, or killed and not taken in yet."""
    return {_owner(path) for path in _journals(store)}


def noted(store: Path) -> int:
    """Bytes of records."""
    return sum(max(0, _size(path) - len(MAGIC)) for path in _journals(store))


def has_records(store: Path) -> bool:
    return noted(store) > 0


def abandoned(store: Path) -> Iterator[Abandoned]:
    """Each of them, while this program has it for itself, the oldest program's first. A file that
    somebody else could have written is left alone."""
    _clean_up(store)
    files: dict[str, list[Path]] = {}
    for path in sorted(_journals(store), key=_changed):
        files.setdefault(_owner(path), []).append(path)
    for of_one in files.values():
        for path in sorted(of_one, key=_number):
            with contextlib.suppress(OSError, PrivateFileError), private.taken(path) as number:
                if number is None:  # whoever has it goes on with the rest, too
                    break
                if identity(path) != identity(number):
                    continue
                size = os.fstat(number).st_size
                begins = os.pread(number, len(MAGIC), 0)
                if begins == MAGIC:
                    yield Abandoned(path, number, size)
                elif MAGIC.startswith(begins):
                    path.unlink()  # killed before its first record


def await_cleared(store: Path, seconds: float) -> bool:
    """Wait until what programs that are alive have in their journals now is somewhere else, so long
    at most; whether it is."""
    until = time.monotonic() + seconds
    sizes = {path: _size(path) for path in _journals(store) if _is_in_use(path)}
    while True:
        # It grows, until it is cleared as a whole.
        sizes = {p: now for p, size in sizes.items() if len(MAGIC) < (now := _size(p)) >= size}
        if not sizes:
            return True
        if time.monotonic() >= until:
            return False
        time.sleep(_POLL_SECONDS)


def _clean_up(store: Path) -> None:
    """Remove what programs left that were killed while they began one."""
    for path in store.parent.glob(f".{store.name}.journal.*"):
        if time.time_ns() - _changed(path) > _HALF_MADE_NS:
            with contextlib.suppress(OSError, PrivateFileError), private.taken(path) as number:
                if number is not None:
                    path.unlink()


def _journals(store: Path) -> list[Path]:
    return sorted(store.parent.glob(f"{store.name}.journal.*"))


def _owner(path: Path) -> str:
    return path.name.rpartition(".")[2].partition("-")[0]


def _number(path: Path) -> int:
    digits = path.name.rpartition("-")[2]
    return int(digits) if digits.isascii() and digits.isdecimal() and len(digits) < 10 else -1


def _is_in_use(path: Path) -> bool:
    try:
        with private.taken(path) as number:
            return number is None
    except PrivateFileError:
        return False  # it is gone, or none of ours


def _changed(path: Path) -> int:
    try:
        return path.lstat().st_mtime_ns
    except OSError:
        return 0


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
