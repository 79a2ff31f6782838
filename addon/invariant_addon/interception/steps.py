"""What is done to the machine, step by step: each is said as a shell's line before it is done.

`root` is a prefix for all paths, so that everything can be tried on a copy. With `dry`, the lines
are said and nothing is done.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..core.errors import InvariantError

SECONDS = 300.0  # some systems rebuild all of their stores


class StepError(InvariantError):
    """A step failed. Those before it were done."""


@dataclass(slots=True)
class Machine:
    """say: gets each line. done: the lines so far."""

    root: Path = Path("/")
    dry: bool = False
    say: Callable[[str], None] = field(default_factory=lambda: tell)
    done: list[str] = field(default_factory=list)

    def at(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def run(self, *command: str, may_fail: bool = False) -> None:
        self._tell(shlex.join(command))
        if self.dry:
            return
        try:
            ended = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise StepError(f"{command[0]}: {error}") from error
        if ended.returncode and not may_fail:
            last = "\n".join(ended.stdout.strip().splitlines()[-3:])
            raise StepError(f"{shlex.join(command)} ended with {ended.returncode}: {last}")

    def install(self, source: Path, target: Path) -> None:
        """A copy that everybody can read."""
        self._tell(shlex.join(("install", "-m", "644", str(source), str(target))))
        if not self.dry:
            _write(target, source.read_bytes(), 0o644)

    def restore(self, source: Path, target: Path) -> None:
        """The bytes of one file into another one, which keeps its owner and mode."""
        self._tell(f"cat {shlex.quote(str(source))} > {shlex.quote(str(target))}")
        if not self.dry:
            _write(target, source.read_bytes(), None)

    def write(self, target: Path, text: str, mode: int = 0o644) -> None:
        lines = "\n".join(f"  {line}" for line in text.splitlines())
        self._tell(f"cat > {shlex.quote(str(target))} <<'END'\n{lines}\n  END")
        if not self.dry:
            _write(target, text.encode(), mode)

    def edit(self, target: Path, change: Callable[[str], str], shown: Sequence[str]) -> None:
        """In place: a hosts file may be a mount of its own, and keeps its owner and labels."""
        for line in shown:
            self._tell(line)
        if self.dry:
            return
        try:
            with target.open("r+b") as file:
                # Bytes that are no text go through unharmed.
                before = file.read().decode("utf-8", "surrogateescape")
                after = change(before)
                if after != before:
                    file.seek(0)
                    file.write(after.encode("utf-8", "surrogateescape"))
                    file.truncate()
                    file.flush()
                    os.fsync(file.fileno())
        except OSError as error:
            raise StepError(f"{target}: {error.strerror}") from error

    def remove(self, target: Path) -> None:
        if target.is_symlink() or target.exists():
            self._tell(shlex.join(("rm", str(target))))
            if not self.dry:
                target.unlink(missing_ok=True)

    def _tell(self, line: str) -> None:
        self.done.append(line)
        self.say(f"  {line}")


def tell(line: str) -> None:
    """Beside what else is said: to stderr, so that the order is kept."""
    print(line, file=sys.stderr, flush=True)


def _write(target: Path, data: bytes, mode: int | None) -> None:
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0)
        with os.fdopen(os.open(target, flags, mode or 0o644), "wb") as file:
            file.write(data)
        if mode is not None:
            target.chmod(mode)
    except OSError as error:
        raise StepError(f"{target}: {error.strerror}") from error
