"""Where guardrails come from: rule files on this machine. One file is one guardrail.

The starter rules lie beside this module, in `starter/block` and `starter/log`. Only files are
read here; whether a text is a valid policy is the engine's to say.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from .core.errors import InvariantError
from .core.verdict import Action, Guardrail

STARTER = Path(__file__).with_name("starter")

SIZE_LIMIT = 2**20
"""Bytes of one rule file; more is surely not a rule file."""


class RulesError(InvariantError):
    """A rule file cannot be used: which one, and why."""


def from_files(
    block: Sequence[Path], log: Sequence[Path] = (), *, starter: bool = False
) -> tuple[Guardrail, ...]:
    """The guardrails of these files, in order, the starter rules last. Raises RulesError."""
    found = [_from_file(path, Action.BLOCK) for path in block]
    found += [_from_file(path, Action.LOG) for path in log]
    if starter:
        found += [_from_file(path, Action.BLOCK) for path in sorted(STARTER.glob("block/*.inv"))]
        found += [_from_file(path, Action.LOG) for path in sorted(STARTER.glob("log/*.inv"))]
    return tuple(found)


def _from_file(path: Path, action: Action) -> Guardrail:
    try:
        with path.open("rb") as file:
            raw = file.read(SIZE_LIMIT + 1)
    except OSError as error:
        raise RulesError(f"{path}: {error.strerror or error}") from error
    if len(raw) > SIZE_LIMIT:
        raise RulesError(f"{path}: larger than {SIZE_LIMIT} bytes")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RulesError(f"{path}: not UTF-8 at byte {error.start}") from error
    if not text.strip():
        raise RulesError(f"{path}: the file is empty")
    digest = hashlib.sha256(f"{path.name}\0{text}".encode()).hexdigest()
    return Guardrail(id=digest[:16], name=path.stem, text=text, action=action)
