"""What /proc knows: the CPU time and memory of a process and its children, and this machine."""

from __future__ import annotations

import os
import platform
import ssl
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Usage:
    """cpu: seconds of the process itself. workers: of its children and theirs, ended ones too.

    rss, workers_rss: resident memory in MiB, shared pages counted in each of them.
    """

    cpu: float
    workers: float
    rss: float
    workers_rss: float
    count: int


def usage(pid: int) -> Usage:
    own, ended = _times(pid)
    rss, found = _rss(pid), _children(pid)
    workers = ended
    for child in found:
        try:
            workers += sum(_times(child))
        except OSError:
            continue  # ended while we looked; its parent has its time from now on
    return Usage(own, workers, rss, sum(map(_rss, found)), len(found))


def _times(pid: int) -> tuple[float, float]:
    """Seconds of the process, and of its children that ended and were waited for."""
    fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    user, system, ended_user, ended_system = map(int, fields[11:15])
    return (user + system) / _TICK, (ended_user + ended_system) / _TICK


def _rss(pid: int) -> float:
    try:
        pages = int((_PROC / str(pid) / "statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _children(pid: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # ended while we looked
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found: list[int] = []
    todo = [pid]
    while todo:
        children = parents.get(todo.pop(), [])
        found += children
        todo += children
    return found


def keep_to_last_core() -> None:
    """Client and upstream share one core, so that they do not take turns with the proxy's."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) > 1:
            os.sched_setaffinity(0, cores[-1:])


def facts() -> list[str]:
    """This machine in a few lines, for whoever compares two runs."""
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    packages = ", ".join(f"{name} {version(name)}" for name in ("mitmproxy", "invariant-ai"))
    return [
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores ({_processor()})",
        f"Python {platform.python_version()}, {packages}, {ssl.OPENSSL_VERSION}",
        f"load average at the start: {load}",
    ]


def overload() -> str | None:
    """A warning if others keep the cores busy."""
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load <= cores:
        return None
    return f"load average {load:.1f} on {cores} cores: others disturb, trust ratios only"


def _processor() -> str:
    try:
        lines = (_PROC / "cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown"
