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

    def find(self, request_id: str) -> RefusedCall | None:
        """Raises PrivateFileError."""
        for path in (self._path, self._older):
            lines = (private.read(path) or b"").splitlines()
            for line in reversed(lines):
                if request_id.encode() in line and (found := _read(line, request_id)):
                    return found
        return None


def _read(line: bytes, request_id: str) -> RefusedCall | None:
    """None if the line is damaged, or another's."""
    try:
        found = json.loads(line)
        if found["request_id"] != request_id or not isinstance(found["conversation"], str):
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
