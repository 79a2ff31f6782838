"""One worker process, seen from the proxy: started, asked one question at a time, killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable
from pathlib import Path

import orjson

from . import frames
from .base import EngineError

START_SECONDS = 60.0
"""For the imports: about one second on an idle machine."""

MAX_ITERATIONS = 50_000
"""Combinations of variables that a rule may try in one check (INVARIANT_MAX_ITERATIONS)."""

_WORKER = Path(__file__).with_name("worker.py")
# What Python needs to start. No key, no proxy, and nothing that begins with PYTHON.
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "SYSTEMROOT", "LD_LIBRARY_PATH")


def _has_exited(pid: int) -> bool:
    """Whether it is gone although nobody has told us yet: nothing more should be asked of it."""
    if not hasattr(os, "waitid"):  # macOS before Python 3.13
        return False
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


class Child:
    """A worker process. on_exit: called once when it is gone, for whatever reason."""

    def __init__(self, python: str, memory_mb: int, on_exit: Callable[[], None]) -> None:
        self._command = (python, "-P", str(_WORKER), str(memory_mb))
        self._on_exit = on_exit
        self._process: Process | None = None
        self._reaper: asyncio.Task[None] | None = None
        self._killed = False
        self.has_timed_out = False

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def is_alive(self) -> bool:
        process = self._process
        if process is None or process.returncode is not None or self._killed:
            return False
        return not _has_exited(process.pid)

    async def start(self) -> None:
        """Returns when the worker can be asked. Raises EngineError if it cannot be."""
        env = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        env |= {"INVARIANT_MAX_ITERATIONS": str(MAX_ITERATIONS), "LOCAL_POLICY": "1"}
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=PIPE,
                stdout=PIPE,
                stderr=DEVNULL,  # tracebacks quote the conversation
                env=env,
                limit=frames.MAX_ANSWER,
            )
        except OSError as e:
            raise EngineError(f"no worker: {self._command[0]}: {e.strerror}") from e
        self._reaper = asyncio.create_task(self._reap(self._process))
        if self._killed:
            self._process.kill()
        try:
            async with asyncio.timeout(START_SECONDS):
                answer = orjson.loads(await self._receive(self._process))
        except (OSError, EOFError, TimeoutError) as e:
            raise EngineError(f"no worker: {self._command[0]} did not start") from e
        if not answer["ready"]:
            raise EngineError(f"no worker: {answer['reason']}")

    async def ask(self, body: bytes, seconds: float) -> bytes:
        """The answer to one question. EngineError: the worker is of no more use, end it."""
        process = self._process
        if process is None or process.stdin is None or not self.is_alive:
            raise EngineError("the worker died")
        try:
            async with asyncio.timeout(seconds):
                process.stdin.write(frames.frame(body))
                await process.stdin.drain()
                return await self._receive(process)
        except TimeoutError as e:
            self.has_timed_out = True
            self.kill()
            raise EngineError(f"no verdict within {seconds * 1000:.0f} ms") from e
        except (OSError, EOFError) as e:
            raise EngineError("the worker died") from e

    def kill(self) -> None:
        self._killed = True
        if self._process and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def end(self) -> None:
        """Killed and reaped when this returns."""
        self.kill()
        if self._reaper:
            await self._reaper

    async def _receive(self, process: Process) -> bytes:
        if process.stdout is None:
            raise EOFError
        head = await process.stdout.readexactly(frames.HEADER.size)
        size: int = frames.HEADER.unpack(head)[0]
        if size > frames.MAX_ANSWER:
            self.kill()
            raise EngineError("the worker's answer is too large")
        return await process.stdout.readexactly(size)

    async def _reap(self, process: Process) -> None:
        await process.wait()
        if process.stdin:
            process.stdin.close()
        self._on_exit()
