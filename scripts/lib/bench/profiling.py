"""Where the proxy's CPU goes while a scenario runs: cProfile, in the proxy itself.

Profiling slows Python functions down more than what is written in C: the shares are hints.
"""

from __future__ import annotations

import os
import re
import signal
import time
from dataclasses import asdict, replace
from pathlib import Path

from children import HERE, BenchError, Client
from contenders import Contender, Runner
from scenarios import Scenario

_LONG = re.compile(r"(\S*/)((?:[^/\s]+/){2}[^/\s]+:\d+)")
WAIT_SECONDS = 30.0


def with_profile(contender: Contender) -> Contender:
    return replace(contender, scripts=(*contender.scripts, HERE / "mitm_profile.py"))


def profile(scenario: Scenario, runner: Runner, client: Client) -> str:
    """The report: the 25 functions that take most time by themselves."""
    if runner.child is None:
        raise BenchError(f"{runner.contender.name} has no proxy to profile")
    file = runner.ca.parents[1] / "profile.txt"
    file.unlink(missing_ok=True)
    client.order(do="prepare", scenario=asdict(scenario), route=runner.route)
    runner.child.signal(signal.SIGUSR1)
    time.sleep(0.2)
    found = client.order(do="go")
    runner.child.signal(signal.SIGUSR1)
    end = time.monotonic() + WAIT_SECONDS
    while not file.exists():
        if runner.child.code is not None or time.monotonic() > end:
            raise BenchError("the proxy wrote no profile")
        time.sleep(0.1)
    count = f"{found['calls']:.0f} calls, {found['chunks']:.0f} chunks, {found['wall']:.2f} s"
    return f"{count} (with the profiler)\n{_shorten(file)}"


def _shorten(file: Path) -> str:
    lines = [line.rstrip() for line in file.read_text().splitlines()]
    return os.linesep.join(_LONG.sub(r"\2", line)[:100] for line in lines if line)
