"""Guardrails out of rule files on this machine. One file is one guardrail.

The starter rules lie in `starter/block` and `starter/log`. Files are read here; whether a text is
a valid policy is the engine's to say.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import InvariantError
from ..core.verdict import Action, Guardrail

STARTER = Path(__file__).parents[1] / "starter"

_NONBLOCK = getattr(os, "O_NONBLOCK", 0)  # not on Windows

SIZE_LIMIT = 2**20
"""Bytes of one rule file; more is surely not a rule file."""


class RulesError(InvariantError):
    """A rule file cannot be used: which one, and why."""


@dataclass(frozen=True, slots=True)
class Files:
    """The rule files, by what a violation leads to; see `from_files`."""

    block: tuple[Path, ...] = ()
    mask: tuple[Path, ...] = ()
    shadow: tuple[Path, ...] = ()
    log: tuple[Path, ...] = ()
    project: tuple[Path, ...] = ()
    starter: bool = False
    trusted: bool = False

    @property
    def paths(self) -> tuple[Path, ...]:
        return (*self.block, *self.mask, *self.shadow, *self.log, *self.project)

    def read(self) -> tuple[Guardrail, ...]:
        """Their guardrails. Raises RulesError."""
        return from_files(
            self.block,
            log=self.log,
            mask=self.mask,
            shadow=self.shadow,
            project=self.project,
            starter=self.starter,
            trusted=self.trusted,
        )


def from_files(
    block: Sequence[Path] = (),
    *,
    log: Sequence[Path] = (),
    mask: Sequence[Path] = (),
    shadow: Sequence[Path] = (),
    project: Sequence[Path] = (),
    starter: bool = False,
    trusted: bool = False,
) -> tuple[Guardrail, ...]:
    """The guardrails of these files, in order, the starter rules last. Raises RulesError.

    project: files that came with the code that somebody works on; they block, and are never
    trusted. trusted: the other files may use all of the library; the starter rules always may.
    """
    kinds = [(Action.BLOCK, block), (Action.MASK, mask), (Action.SHADOW, shadow), (Action.LOG, log)]
    found = [_from_file(path, action, trusted=trusted) for action, paths in kinds for path in paths]
    found += [_from_file(path, Action.BLOCK, source="project") for path in project]
    if starter:
        for action, folder in ((Action.BLOCK, "block"), (Action.LOG, "log")):
            found += [
                _from_file(path, action, trusted=True, source="starter")
                for path in sorted((STARTER / folder).glob("*.inv"))
            ]
    return tuple(found)


def _from_file(
    path: Path, action: Action, *, trusted: bool = False, source: str = "file"
) -> Guardrail:
    try:
        # Not blocking: to open a pipe that nobody writes to would stop the proxy.
        with os.fdopen(os.open(path, os.O_RDONLY | _NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise RulesError(f"{path}: not a regular file")
            raw = file.read(SIZE_LIMIT + 1)
    except OSError as error:
        raise RulesError(f"{path}: {error.strerror or error}") from error
    if len(raw) > SIZE_LIMIT:
        raise RulesError(f"{path}: larger than {SIZE_LIMIT} bytes")
    try:
        text = raw.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise RulesError(f"{path}: not UTF-8 at byte {error.start}") from error
    if not text.strip():
        raise RulesError(f"{path}: the file is empty")
    digest = hashlib.sha256(f"{path.name}\0{text}".encode()).hexdigest()
    return Guardrail(
        id=digest[:16],
        name=path.stem,
        text=text,
        action=action,
        trusted=trusted,
        source=source,
    )
