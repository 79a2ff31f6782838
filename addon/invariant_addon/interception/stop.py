"""Everything off, at once: what `scripts/off` does.

The machine is led away from the proxy first, so that nothing fails in between; then each proxy of
this checkout is ended. What cannot be changed from here (the variables of a running program, or of
another shell) is named, and so is a page of the traces: it guards nothing, and somebody may be
reading it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from . import installed, launch, processes, service, system, terminal
from .steps import Machine, StepError

STOP_SECONDS = 12.0
USAGE = "scripts/off [--dry-run]"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser("scripts/off", usage=USAGE, allow_abbrev=False)
    parser.add_argument("--dry-run", action="store_true", help="say what would be done")
    parser.add_argument("--certs", default=str(launch.ROOT / "certs"), help="as invariant_certs")
    try:
        options = parser.parse_args(arguments)
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else 2
    code = 0
    if sys.platform.startswith("linux"):
        code = _system_off(Path(options.certs).expanduser(), dry=options.dry_run)
    ended, left = end_proxies(launch.MITMDUMP[-1], dry=options.dry_run)
    for pid in ended:
        terminal.say(f"{'would end' if options.dry_run else 'ended'} the proxy with the id {pid}")
    for pid in left:
        terminal.say(
            f"the proxy with the id {pid} does not end, or is another user's: sudo kill {pid}"
        )
    if not ended and not left and code == 0:
        terminal.say("no proxy runs")
    for pid in pages(Path("/proc"), launch.ROOT / "addon"):
        terminal.say(
            f"the page of the traces is still there (pid {pid}): Ctrl-C where it was started, or "
            f"kill {pid}"
        )
    for process in pointing(Path("/proc"), os.getpid()):
        terminal.say(f"{process.label} (pid {process.pid}) still uses the proxy: start it again")
    if "INVARIANT_SAVED" in os.environ:
        terminal.say('this shell still uses the proxy; type: eval "$(scripts/env --unset)"')
    return code or bool(left)


def _system_off(folder: Path, *, dry: bool) -> int:
    job = installed.Job(Machine(dry=dry), folder)
    if installed.read_record(folder) is None and not installed.traces(job):
        return 0
    if os.getuid() != 0 and not dry:
        terminal.say(f"the whole machine is guarded; to undo that: sudo {system.sys_script()} off")
        return 1
    try:
        return system.off(job)
    except (StepError, OSError) as error:
        terminal.say(str(error))
        return 1


def end_proxies(script: str, *, dry: bool) -> tuple[list[int], list[int]]:
    """The ids of those that were ended, and of those that were not."""
    found = proxies(script)
    if dry:
        return found, []
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in found:
            if service.is_ours(pid, script):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)
        end = time.monotonic() + STOP_SECONDS
        while time.monotonic() < end and any(service.is_ours(pid, script) for pid in found):
            time.sleep(0.05)
    left = [pid for pid in found if service.is_ours(pid, script)]
    return [pid for pid in found if pid not in left], left


def proxies(script: str) -> list[int]:
    """Processes that load our script into mitmproxy: mitmdump, mitmweb, mitmproxy."""
    if Path("/proc/self").exists():
        found = service.pids()
    else:
        listed = subprocess.run(
            ("ps", "-axo", "pid="), capture_output=True, text=True, check=False, timeout=20
        ).stdout
        found = [int(word) for word in listed.split()]
    return [pid for pid in found if pid != os.getpid() and service.is_ours(pid, script)]


def pages(proc: Path, addon: Path) -> list[int]:
    """The ids of `scripts/traces serve` of this checkout and user. Linux alone."""
    found = []
    for pid in service.pids(proc):
        words = service.words_of(pid, proc)
        # What scripts/traces becomes: python -I -c "... invariant_addon.traces.cli ..." ADDON serve
        if str(addon) not in words[:8] or not any("traces.cli" in word for word in words[:8]):
            continue
        rest = words[words.index(str(addon)) + 1 :]
        with contextlib.suppress(OSError):
            if rest[:1] == ["serve"] and os.getuid() in (0, (proc / str(pid)).stat().st_uid):
                found.append(pid)
    return found


def pointing(proc: Path, own: int) -> list[processes.Process]:
    """Programs of this user whose environment says INVARIANT_PROXY. Linux alone."""
    found = []
    for pid in service.pids(proc):
        with contextlib.suppress(OSError):
            variables = b"\0" + (proc / str(pid) / "environ").read_bytes()
            if b"\0INVARIANT_PROXY=" in variables and pid not in (own, os.getppid()):
                executable = str((proc / str(pid) / "exe").readlink())
                found.append(processes.describe(pid, service.words_of(pid, proc), executable))
    return found[:20]
