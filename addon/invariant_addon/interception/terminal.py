"""What a command says to the person at the terminal: on stderr, stdout is the command's."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def say(text: str) -> None:
    print(f"invariant: {text}", file=sys.stderr, flush=True)


def show(lines: Sequence[str]) -> None:
    for line in lines:
        print(f"  {line}", file=sys.stderr, flush=True)
