"""How many calls there were, and how they ended."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass
class Counters:
    """Calls to guarded hosts since the start.

    seen: all of them. judged: those whose request and reply got their verdict. blocked: refused.
    masked: those whose request was changed. not_scanned: passed without a verdict. failed: refused
    because there was no verdict. muted: let through although a rule was broken. partial: judged,
    but for pictures, sound or files in them. harmless: there was nothing to judge. unfinished: the
    client left, or upstream failed, before the verdict. All but masked and muted add up to `seen`.
    """

    seen: int = 0
    judged: int = 0
    blocked: int = 0
    masked: int = 0
    not_scanned: int = 0
    failed: int = 0
    muted: int = 0
    partial: int = 0
    harmless: int = 0
    unfinished: int = 0

    def as_dict(self) -> dict[str, int]:
        return asdict(self)
