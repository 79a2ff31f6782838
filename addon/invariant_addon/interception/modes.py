"""Files that nobody else may read or change: are they so? With the line that mends it.

Whoever can read the leaf's key can speak for the API hosts to this machine; whoever can write
the root can make this machine trust another one.
"""

from __future__ import annotations

import os
import shlex
import stat
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Problem:
    """text: what is wrong. fix: what to type."""

    text: str
    fix: str


def problems(folder: Path) -> list[Problem]:
    """Of the certificates in this folder. None where a system has no such modes, or no files."""
    if sys.platform == "win32":
        return []
    found = []
    for path, forbidden, wanted in (
        (folder, 0o002, "755"),
        (folder / "leaf.pem", 0o077, "600"),
        (folder / "ca.pem", 0o022, "644"),
    ):
        try:
            status = path.stat()
        except OSError:
            continue
        name = shlex.quote(str(path))
        if status.st_uid not in (os.geteuid(), 0) and os.geteuid() != 0:
            found.append(
                Problem(f"{path} belongs to another user", f"sudo chown {os.geteuid()} {name}")
            )
        if (mode := stat.S_IMODE(status.st_mode)) & forbidden and not mode & stat.S_ISVTX:
            who = "read" if forbidden & 0o044 else "changed"
            text = f"{path} has mode {mode:04o}, so it can be {who} by others"
            fix = f"chmod {wanted} {name}"
            if path.name == "leaf.pem":
                fix += " (and scripts/system renew, if anybody else uses this machine)"
            found.append(Problem(text, fix))
    return found
