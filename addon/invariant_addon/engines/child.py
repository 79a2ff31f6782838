"""One worker process, seen from the proxy: started, asked one question at a time, killed.

Its answers are read as they come, without a task that waits for them: who asked is called from
where asyncio reads the pipe.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from asyncio.subprocess import DEVNULL, PIPE
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
_STDIN, _STDOUT = 0, 1

type Said = bytes | EngineError
"""An answer, or why there is none: then the worker is of no more use, end it."""


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
        self._process: asyncio.SubprocessTransport | None = None
        self._input: asyncio.WriteTransport | None = None
        self._exited = asyncio.Event()
        self._killed = False
        self._told: Callable[[Said], None] | None = None  # who asked
        self._timer: asyncio.TimerHandle | None = None
        self._answers = 0
        self._first_resident = 0
        self.has_timed_out = False

    @property
    def pid(self) -> int | None:
        return self._process.get_pid() if self._process else None

    @property
    def is_alive(self) -> bool:
        if self._process is None or self._killed or self._exited.is_set():
            return False
        return not _has_exited(self._process.get_pid())

    async def start(self) -> None:
        """Returns when the worker can be asked. Raises EngineError if it cannot be."""
        env = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        env |= {"INVARIANT_MAX_ITERATIONS": str(MAX_ITERATIONS), "LOCAL_POLICY": "1"}
        loop = asyncio.get_running_loop()
        said: asyncio.Future[bytes] = loop.create_future()
        self.expect(START_SECONDS, _settler(said))
        output = _Frames(self)
        try:
            self._process, _ = await loop.subprocess_exec(
                lambda: _Pipes(self, output),
                *self._command,
                stdin=PIPE,
                stdout=PIPE,
                stderr=DEVNULL,  # tracebacks quote the conversation
                env=env,
            )
        except OSError as e:
            said.cancel()  # nothing will be said
            self._tell(EngineError("no worker"))
            raise EngineError(f"no worker: {self._command[0]}: {e.strerror}") from e
        pipe = self._process.get_pipe_transport(_STDIN)
        assert isinstance(pipe, asyncio.WriteTransport)
        self._input = pipe
        output.read(self._process.get_pipe_transport(_STDOUT))
        if self._killed:
            self._kill()
        try:
            answer = orjson.loads(await said)
        except EngineError as e:
            raise EngineError(f"no worker: {self._command[0]} did not start") from e
        if not answer["ready"]:
            raise EngineError(f"no worker: {answer['reason']}")
        self._answers = 0
        self._first_resident = self._resident_mb()
        logger.debug("worker %d started; sandbox: %s", self.pid, ", ".join(answer["sandbox"]))

    def put(self, body: bytes, seconds: float, told: Callable[[Said], None]) -> None:
        """Ask one question; told: is called with what it says, once, and not from in here.

        Raises EngineError if it cannot be asked."""
        if self._input is None or not self.is_alive:
            raise EngineError("the worker died")
        self.expect(seconds, told)
        self._input.write(frames.frame(body))

    def expect(self, seconds: float, told: Callable[[Said], None]) -> None:
        """It will say something more; as for `put`."""
        self._told = told
        self._timer = asyncio.get_running_loop().call_later(seconds, self._expire, seconds)

    async def ask(self, body: bytes, seconds: float) -> bytes:
        """The answer to one question. EngineError: the worker is of no more use, end it."""
        said: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.put(body, seconds, _settler(said))
        return await said

    def is_worn(self, wear: Wear) -> bool:
        """Whether it has answered enough, or grown too much, to be replaced."""
        if self._answers >= wear.answers:
            return True
        if self._answers == 0 or self._answers % wear.measured_every:
            return False
        return self._resident_mb() - self._first_resident > wear.growth_mb

    def kill(self) -> None:
        self._killed = True
        self._kill()

    async def end(self) -> None:
        """Killed and reaped when this returns."""
        self.kill()
        if self._process:
            await self._exited.wait()
            self._process.close()
            self._tell(EngineError("the worker died"))

    def _kill(self) -> None:
        if self._process and self._process.get_returncode() is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    def _expire(self, seconds: float) -> None:
        self.has_timed_out = True
        self.kill()
        self._tell(DeadlineError(f"no verdict within {seconds * 1000:.0f} ms"))

    def _tell(self, said: Said) -> None:
        told, self._told = self._told, None
        if self._timer is not None:
            self._timer.cancel()
        if told is not None:
            told(said)

    # from its pipes

    def answered(self, body: bytes) -> None:
        if self._told is None:  # nobody asked, so nobody knows whose answer comes next
            self.kill()
            return
        self._answers += 1
        self._tell(body)

    def failed(self, reason: str) -> None:
        self.kill()
        self._tell(EngineError(reason))

    def exited(self) -> None:
        self._exited.set()
        if self._input:
            self._input.close()
        self._on_exit()

    def _resident_mb(self) -> int:
        """Memory that it takes now. 0 where nobody says (not Linux): then only answers count."""
        try:
            pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        except (OSError, ValueError, IndexError):
            return 0
        return pages * os.sysconf("SC_PAGE_SIZE") // (1024 * 1024)


class _Pipes(asyncio.SubprocessProtocol):
    """What becomes of the process, and of its pipes."""

    def __init__(self, child: Child, output: _Frames) -> None:
        self._child = child
        self._output = output

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self._output.data_received(data)  # before it was connected

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == _STDOUT:
            self._child.failed("the worker died")

    def process_exited(self) -> None:
        self._child.exited()


class _Frames(asyncio.Protocol):
    """What comes out of a worker, frame by frame. Reads its pipe itself: asyncio would hand on each
    piece in the next turn of the event loop."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self._read = bytearray()
        self._behind: asyncio.BaseProtocol | None = None

    def read(self, pipe: asyncio.BaseTransport | None) -> None:
        assert isinstance(pipe, asyncio.ReadTransport)
        self._behind = pipe.get_protocol()
        pipe.set_protocol(self)

    def data_received(self, data: bytes) -> None:
        self._read += data
        head = frames.HEADER.size
        while len(self._read) >= head:
            size: int = frames.HEADER.unpack_from(self._read)[0]
            if size > frames.MAX_ANSWER:
                self._read.clear()
                self._child.failed("the worker's answer is too large")
                return
            if len(self._read) < head + size:
                return
            body = bytes(self._read[head : head + size])
            del self._read[: head + size]
            self._child.answered(body)

    def connection_lost(self, exc: Exception | None) -> None:
        """All that it said was read before."""
        if self._behind is not None:
            self._behind.connection_lost(exc)  # which tells of it


def _settler(said: asyncio.Future[bytes]) -> Callable[[Said], None]:
    def told(answer: Said) -> None:
        if said.done():  # whoever waited has gone
            return
        if isinstance(answer, bytes):
            said.set_result(answer)
        else:
            said.set_exception(answer)

    return told


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
