"""mitmdumps that need not import anything: forked from one process that has done it once.

Run as a program with a socket as stdin. A byte asks for a mitmdump; with it come its stdin, its
output and a socket of its own, on which a line follows: JSON with `command`, `environment` and
`folder`. Lines come back on it: the pid, and at the end the exit code, as of subprocess.

Importing mitmproxy and the addon is more than half of what a start costs. All else is as if the
command had been typed: options, the loading of scripts, the addon's objects, workers.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import socket
import sys
from pathlib import Path

from mitmproxy.tools import main

ADDON = str(Path(__file__).resolve().parents[2] / "addon")


ALL = (
    "mitmproxy.tools.dump",
    "invariant_addon.addon",
    "invariant_addon.perimeter",
    "invariant_addon.view",
    "anyio.streams.tls",  # for redirect.py
)


def import_all() -> None:
    """What a start imports, and no more: nothing is made of it here."""
    sys.path[0] = ADDON  # as mitmproxy has it while it loads the script
    for name in ALL:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # else each collection of each copy would write to all of these pages


def serve(asked: socket.socket) -> list[str]:
    """Returns in a process that is to be a mitmdump, with its arguments; or when nobody asks."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the watchers
    while True:
        byte, files, _, _ = socket.recv_fds(asked, 1, 3)
        if not byte:
            sys.exit(0)
        if os.fork() == 0:
            asked.close()
            return watch(*files)
        for file in files:
            os.close(file)


def watch(stdin: int, output: int, line: int) -> list[str]:
    """Wait for the mitmdump and report its end. Returns in the mitmdump."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, 0)  # where requests came from
    os.close(nowhere)
    said = socket.socket(fileno=line)
    with said.makefile("rb") as asked:
        job = json.loads(asked.readline())
    if (pid := os.fork()) == 0:
        said.close()
        for number, file in ((0, stdin), (1, output), (2, output)):
            os.dup2(file, number)
        os.close(stdin)
        os.close(output)
        return become(job["command"], job["environment"], job["folder"])
    os.close(stdin)
    os.close(output)
    try:
        said.sendall(b"%d\n" % pid)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        said.sendall(b"%d\n" % code)
    except BrokenPipeError:
        pass  # the test run was killed; its mitmdump sees that for itself
    os._exit(0)


def become(command: list[str], environment: dict[str, str], folder: str) -> list[str]:
    os.setsid()  # a Ctrl-C is for pytest, which then stops us
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = command
    sys.path[0] = str(Path(command[0]).parent)
    return command[1:]


if __name__ == "__main__":
    import_all()
    main.mitmdump(serve(socket.socket(fileno=os.dup(0))))
