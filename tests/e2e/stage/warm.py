"""A mitmdump that starts in no time: see warm_mitmdump.py. Used like subprocess.Popen."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

PROGRAM = Path(__file__).resolve().parents[1] / "warm_mitmdump.py"


class Warm:
    """The process that mitmdumps are forked from."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._asking, asked = socket.socketpair()
        with asked:
            self._process = subprocess.Popen(
                [sys.executable, "-u", str(PROGRAM)],
                stdin=asked.fileno(),
                env=dict(environment),
                start_new_session=True,
            )

    def start(
        self, command: Sequence[str], log: BinaryIO, environment: Mapping[str, str], folder: Path
    ) -> WarmProcess:
        stdin, ours = os.pipe()
        said, asked = socket.socketpair()
        with asked:
            socket.send_fds(self._asking, [b"!"], [stdin, log.fileno(), asked.fileno()])
        os.close(stdin)
        job = {"command": command, "environment": dict(environment), "folder": str(folder)}
        said.sendall(json.dumps(job).encode() + b"\n")
        return WarmProcess(said, os.fdopen(ours, "wb", buffering=0))

    def stop(self) -> None:
        self._asking.close()
        self._process.wait(5)


_WARM: list[Warm] = []


def start(
    command: Sequence[str], log: BinaryIO, environment: Mapping[str, str], folder: Path
) -> WarmProcess:
    """From the process of this run of the tests, which is made when it is first needed."""
    if not _WARM:
        _WARM.append(Warm(environment))
    return _WARM[0].start(command, log, environment, folder)


def stop() -> None:
    """At the end of a run of the tests."""
    while _WARM:
        _WARM.pop().stop()


class WarmProcess:
    """What the stage uses of Popen: pid, stdin, returncode, poll, wait, send_signal, kill."""

    def __init__(self, said: socket.socket, stdin: BinaryIO) -> None:
        self.stdin = stdin
        self.returncode: int | None = None
        self._said = said
        self._lines = said.makefile("rb", buffering=0)  # select() knows of no buffer
        self.pid = self._number()

    def poll(self) -> int | None:
        return self.returncode if self.returncode is not None else self._look(0)

    def wait(self, timeout: float | None = None) -> int:
        code = self.returncode if self.returncode is not None else self._look(timeout)
        if code is None:
            raise subprocess.TimeoutExpired("mitmdump", timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _look(self, timeout: float | None) -> int | None:
        if select.select([self._said], [], [], timeout)[0]:
            self.returncode = self._number()
            self._lines.close()
            self._said.close()
        return self.returncode

    def _number(self) -> int:
        line = self._lines.readline()
        if not line:
            raise RuntimeError("the process that mitmdumps are forked from has died")
        return int(line)
