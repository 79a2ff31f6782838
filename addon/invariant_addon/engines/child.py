"""One worker process, seen from the proxy: started, asked one question at a time, killed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from . import frames
from .base import DeadlineError, EngineError
from .shelf import Key
from .wear import Wear

logger = logging.getLogger(__name__)

START_SECONDS = 60.0
"""For the imports: about one second on an idle machine."""

MAX_ITERATIONS = 1_000_000
"""Combinations of variables that a rule may try in one check (INVARIANT_MAX_ITERATIONS).

So many take longer than any deadline: that is what ends a check."""

_WORKER = Path(__file__).with_name("worker.py")
# What Python needs to start. No key, no proxy, and nothing that begins with PYTHON.
_INHERITED = ("PATH", "LANG", "LC_ALL", "SYSTEMROOT", "LD_LIBRARY_PATH")


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
        self._answers = 0
        self._first_resident = 0
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
        self._first_resident = self._resident_mb()
        logger.debug("worker %d started; sandbox: %s", self.pid, ", ".join(answer["sandbox"]))

    async def ask(self, body: bytes, seconds: float) -> bytes:
        """The answer to one question. EngineError: the worker is of no more use, end it."""
        process = self._process
        if process is None or process.stdin is None or not self.is_alive:
            raise EngineError("the worker died")
        try:
            async with asyncio.timeout(seconds):
                process.stdin.write(frames.frame(body))
                await process.stdin.drain()
                answer = await self._receive(process)
        except TimeoutError as e:
            self.has_timed_out = True
            self.kill()
            raise DeadlineError(f"no verdict within {seconds * 1000:.0f} ms") from e
        except (OSError, EOFError) as e:
            raise EngineError("the worker died") from e
        self._answers += 1
        return answer

    def is_worn(self, wear: Wear) -> bool:
        """Whether it has answered enough, or grown too much, to be replaced."""
        if self._answers >= wear.answers:
            return True
        if self._answers == 0 or self._answers % wear.measured_every:
            return False
        return self._resident_mb() - self._first_resident > wear.growth_mb

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

    def _resident_mb(self) -> int:
        """Memory that it takes now. 0 where nobody says (not Linux): then only answers count."""
        try:
            pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        except (OSError, ValueError, IndexError):
            return 0
        return pages * os.sysconf("SC_PAGE_SIZE") // (1024 * 1024)

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


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a worker said to `load`, for each guardrail.

    errors: why it cannot be used, or None. trees: what it was parsed to, for other workers.
    remarks: what to know of it, and whether it gives no verdict for that.
    """

    errors: list[str | None]
    trees: list[str]
    remarks: list[tuple[tuple[str, bool], ...]]


def load_body(keys: Sequence[Key], trees: Sequence[str] = (), *, keep: bool) -> bytes:
    return orjson.dumps(
        {"op": "load", "guardrails": keys, "trees": trees or [""] * len(keys), "keep": keep}
    )


def loaded_of(body: bytes) -> Loaded:
    answer = orjson.loads(body)
    if "errors" not in answer:
        raise EngineError(str(answer.get("error")))
    remarks = [tuple((r["text"], r["lacks"]) for r in told) for told in answer["remarks"]]
    return Loaded(answer["errors"], answer["trees"], remarks)
