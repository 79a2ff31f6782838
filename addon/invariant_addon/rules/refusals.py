"""What the proxy refused last, noted for the person who may want to let it pass: refusals.jsonl.

No text of a conversation is in it, only fingerprints (fingerprints.py). Several proxies may append.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import private

KEPT = 256 * 1024
"""Bytes of refusals after which a new file is begun; the one before is kept: some 500 lines."""

BEGINNING = len("inv_") + 8
"""Characters of a request id that are enough to name it; `scripts/traces list` prints more."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rule found. words: the rule's own. finding: the fingerprint."""

    guardrail_id: str
    guardrail: str
    words: str
    finding: str


@dataclass(frozen=True, slots=True)
class RefusedCall:
    """conversation: its fingerprint. violations: none, if it was refused for want of a verdict."""

    request_id: str
    conversation: str
    violations: tuple[Finding, ...]


class Refusals:
    """Of one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / "refusals.jsonl"
        self._older = folder / "refusals.1.jsonl"

    def add(self, call: RefusedCall, *, time: float, phase: str) -> None:
        """Raises PrivateFileError or OSError."""
        line = {
            "request_id": call.request_id,
            "time": time,
            "phase": phase,
            "conversation": call.conversation,
            "violations": [asdict(each) for each in call.violations],
        }
        private.make_folder(self._folder)
        size = private.append(self._path, json.dumps(line).encode() + b"\n")
        if size > KEPT:
            self._begin_another()

    def _begin_another(self) -> None:
        """One program does; what another appends meanwhile is in the older file."""
        with private.locked(self._folder / "lock", seconds=0) as mine:
            if mine and self._path.stat().st_size > KEPT:
                self._path.replace(self._older)

    def find(self, named: str) -> RefusedCall | None:
        """The newest refusal with this request id, or the only one whose id begins so.

        Raises PrivateFileError.
        """
        begun: dict[str, RefusedCall] = {}
        for path in (self._path, self._older):
            lines = (private.read(path) or b"").splitlines()
            for line in reversed(lines):
                if named.encode() in line and (found := _read(line, named)):
                    if found.request_id == named:
                        return found
                    begun.setdefault(found.request_id, found)
        return next(iter(begun.values())) if len(begun) == 1 else None


def is_named(request_id: str, named: str) -> bool:
    """Whether this is the id, or as much of it as nobody else's has."""
    return named == request_id or (len(named) >= BEGINNING and request_id.startswith(named))


def _read(line: bytes, named: str) -> RefusedCall | None:
    """None if the line is damaged, or another's."""
    try:
        found = json.loads(line)
        request_id = found["request_id"]
        if not isinstance(request_id, str) or not isinstance(found["conversation"], str):
            return None
        if not is_named(request_id, named):
            return None
        violations = tuple(_finding(each) for each in found["violations"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return RefusedCall(request_id, found["conversation"], violations)


def _finding(entry: Any) -> Finding:
    """Raises ValueError, KeyError or TypeError."""
    texts = [entry[name] for name in ("guardrail_id", "guardrail", "words", "finding")]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("not a finding")
    return Finding(*texts)
