"""Traces as an Explorer exports and imports them: one JSON object in a line."""

from __future__ import annotations

import io
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ..core.json_text import encode
from ..core.trace import Trace
from .archive import Pushed

_NO_DATASET = "export"


def importable(trace: Trace, pushed: Pushed) -> str:
    """The line of a trace: a push has lists of each, an import has one. Raises InvariantError."""
    push = pushed(trace, trace.dataset or _NO_DATASET)
    annotations = push.get("annotations")
    return encode(
        {
            "messages": push["messages"][0],
            "annotations": annotations[0] if annotations else [],
            "metadata": push["metadata"][0],
        }
    )


@contextmanager
def output(path: Path | None) -> Iterator[IO[str]]:
    """A file that is there when it is whole, and that its owner alone can read."""
    if path is None:
        speak_utf8()
        yield sys.stdout
        return
    if path.exists() and not path.is_file():  # /dev/stdout must stay what it is
        with path.open("w", encoding="utf-8", errors="backslashreplace") as file:
            yield file
        return
    try:
        number, new = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # 0600
    except OSError as error:  # it names a file that nobody has asked for
        raise OSError(error.errno, error.strerror, str(path)) from None
    try:
        # A lone surrogate is written as JSON escapes it.
        with open(  # noqa: PTH123  # of a descriptor
            number, "w", encoding="utf-8", errors="backslashreplace", newline="\n"
        ) as file:
            yield file
        Path(new).replace(path)
    except BaseException:
        Path(new).unlink(missing_ok=True)
        raise


def speak_utf8() -> None:
    """What programs read does not depend on the terminal's letters."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
