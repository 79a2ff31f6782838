"""The log of a proxy that was started here: where it lies, and what of it a person should read.

Most of a log is talk: our own questions after the proxy's health, what was loaded, tracebacks
around the one line that was written for whoever runs it. Nothing here knows mitmproxy but the
shape of its lines: `[time] text`, `[time][client] text`, and for each call two lines that start
with the client.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from itertools import dropwhile
from pathlib import Path

from .proxy import HEALTH_PATH

_LOGS_KEPT = 20
_TIME = re.compile(r"^\[\d\d:\d\d:\d\d\.\d+\](?:\[(?P<client>[^\]]*)\])? ?")
_CALL = re.compile(r"^(?P<client>\S+:\d+): [A-Z]+ ")
_TRACEBACK = "Traceback (most recent call last):"
_RAISED = "mitmproxy.exceptions.OptionsError: "
_REFUSED = re.compile(
    r"(?:mitmproxy\.exceptions\.OptionsError: |\[[\d:.]+\] (?=(?:invariant_\w+|mode): got ))"
    r"(?P<said>.*)"
)
_TALK = re.compile(
    r"^(Loading script |.* listening at |Errors? logged during startup|error in script )"
)
_ERROR = re.compile(
    r"\b(errors?|exception|failed|fails|cannot|could not|crashed|died|killed|no such|refused"
    r"|denied|not start)\b",
    re.IGNORECASE,
)


def open_log(folder: Path, name: str) -> Path:
    """A new log file that only its owner can read; the oldest ones go."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for old in sorted(folder.glob("run-*.log"), key=_age)[: -_LOGS_KEPT + 1]:
        old.unlink(missing_ok=True)
    descriptor, path = tempfile.mkstemp(prefix=f"run-{name}-", suffix=".log", dir=folder)
    os.close(descriptor)
    return Path(path)


def read_lines(log: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return log.read_text(encoding="utf-8", errors="replace").splitlines()
    return []


def essence(lines: Sequence[str], count: int = 15) -> list[str]:
    """At most `count` lines that matter: the newest errors, then the newest of the rest."""
    entries = list(_entries(lines))
    asked = {m["client"] for e in entries if HEALTH_PATH in e[0] and (m := _CALL.match(e[0]))}
    errors: dict[str, None] = {}  # in their order, each once
    rest: list[str] = []
    for entry in entries:
        stamp = _TIME.match(entry[0]) or _CALL.match(entry[0])
        if (stamp and stamp["client"] in asked) or entry[-1].startswith("SystemExit"):
            continue
        said = _said(entry)
        if _TRACEBACK in entry or (said and not _CALL.match(said[0]) and _ERROR.search(said[0])):
            errors.update(dict.fromkeys(said))
        else:
            rest += said
    first = list(errors)[-count:]
    return first + (rest[-left:] if (left := count - len(first)) else [])


def remarks(lines: Sequence[str]) -> list[str]:
    """What its owner should know of rules that were adopted all the same."""
    said = (_TIME.sub("", line) for line in lines)
    return [text for text in said if text.startswith("rule file ")]


def refused_option(lines: Sequence[str]) -> str | None:
    """What an option was and should have been, if the proxy ended because of one."""
    refused = [m["said"] for line in lines if (m := _REFUSED.match(line))]
    return refused[-1] if refused else None


def _entries(lines: Sequence[str]) -> Iterator[list[str]]:
    """Each with the lines that belong to it."""
    entry: list[str] = []
    for line in lines:
        if entry and (_TIME.match(line) or _CALL.match(line) or _TALK.match(line)):
            yield entry
            entry = []
        entry.append(line)
    if entry:
        yield entry


def _said(entry: Sequence[str]) -> list[str]:
    """An entry's text: no time, no talk, and of tracebacks the last one's message."""
    text = [_TIME.sub("", entry[0]), *entry[1:]]
    if _TRACEBACK in entry:
        first = text.index(_TRACEBACK)
        last = len(text) - text[::-1].index(_TRACEBACK)
        message = dropwhile(lambda line: line.startswith(" "), text[last:])
        text = text[:first] + [line.removeprefix(_RAISED) for line in message]
    return text[1:] if text and _TALK.match(text[0]) else text


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
