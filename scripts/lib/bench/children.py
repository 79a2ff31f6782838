"""The processes of a run: the fake, the client and the proxies. Ends only what it started."""

from __future__ import annotations

import json
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

HERE = Path(__file__).resolve().parent
START_SECONDS = 60.0
ANSWER_SECONDS = 120.0
STOP_SECONDS = 20.0
# What would change a child's mind: proxies, CAs, Python's paths.
_NOT_OURS = re.compile(
    r"^(PYTHON.*|.*_proxy|SSL_CERT.*|.*CA_BUNDLE|OPENAI_.*|INVARIANT.*)$", re.IGNORECASE
)


class BenchError(Exception):
    """The run cannot go on: a process ended, did not answer, or got other bytes than were sent."""


class Child:
    """A process that ends with its stdin. Use it as a context manager."""

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        environment: Mapping[str, str] | None = None,
        log: Path | None = None,
    ) -> None:
        """log: where its output goes; without it, lines can be read from its stdout."""
        folder.mkdir(parents=True, exist_ok=True)
        kept = {k: v for k, v in os.environ.items() if not _NOT_OURS.match(k)}
        output = log.open("wb") if log else None
        self._process = subprocess.Popen(
            command,
            cwd=folder,
            env=kept | {"HOME": str(folder), "PYTHONUNBUFFERED": "1"} | dict(environment or {}),
            stdin=subprocess.PIPE,
            stdout=output or subprocess.PIPE,
            stderr=output and subprocess.STDOUT,
            bufsize=0,
            start_new_session=True,  # a Ctrl-C is for us, and we stop it
        )
        if output:
            output.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def code(self) -> int | None:
        return self._process.poll()

    def read_line(self, seconds: float = ANSWER_SECONDS) -> str:
        """Raises BenchError if it says nothing in time, or has ended."""
        out = self._process.stdout
        assert out
        line, end = b"", time.monotonic() + seconds
        with selectors.DefaultSelector() as ready:
            ready.register(out, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not ready.select(max(0.0, end - time.monotonic())):
                    raise BenchError(f"a process of the bench said nothing for {seconds:.0f} s")
                data = os.read(out.fileno(), 1 << 16)
                if not data:
                    raise BenchError(f"a process of the bench ended: {self._process.wait(5)}")
                line += data
        return line.decode()

    def write_line(self, line: str) -> None:
        assert self._process.stdin
        try:
            self._process.stdin.write(line.encode() + b"\n")
        except OSError as error:
            raise BenchError("a process of the bench has ended") from error

    def signal(self, number: signal.Signals) -> None:
        if self.code is None:
            self._process.send_signal(number)

    def stop(self) -> None:
        """Its stdin is closed, then SIGTERM; what does not listen is killed."""
        process = self._process
        if process.stdin:
            process.stdin.close()
        try:
            self.signal(signal.SIGTERM)
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout:
            process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


class Upstream(Child):
    """The fake. port: where it listens."""

    def __init__(self, folder: Path, chain: Path) -> None:
        super().__init__([sys.executable, "-I", str(HERE), "role:fake", str(chain)], folder)
        self.port = int(self.read_line(START_SECONDS))


class Client(Child):
    """The load client: one order, one answer."""

    def __init__(self, folder: Path) -> None:
        super().__init__([sys.executable, "-I", str(HERE), "role:load"], folder)

    def order(self, **order: object) -> dict[str, Any]:
        self.send(**order)
        return self.answer()

    def send(self, **order: object) -> None:
        self.write_line(json.dumps(order))

    def answer(self) -> dict[str, Any]:
        """Raises BenchError if the client failed: wrong bytes above all."""
        answer: dict[str, Any] = json.loads(self.read_line())
        if "failed" in answer:
            raise BenchError(str(answer["failed"]))
        return answer
