"""The guarded agent as a child: `scripts/run ... -- python agent.py`, prompts in, answers out."""

from __future__ import annotations

import codecs
import os
import selectors
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

START_SECONDS = 60.0
TURN_SECONDS = 40.0
STOP_SECONDS = 30.0
_END = "\nyou> "  # a turn is over when the agent asks for the next prompt


class SessionError(Exception):
    """The agent or scripts/run did not get as far as an answer. No scene went wrong by that."""


@dataclass(slots=True)
class Turn:
    """All that the agent printed in answer to one prompt. arrivals: when, time.monotonic()."""

    text: str = ""
    arrivals: list[float] = field(default_factory=list)


class Session:
    """notes: what scripts/run said so far; each line goes to `on_note` as well."""

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        on_note: Callable[[str], None],
    ) -> None:
        self.notes: list[str] = []
        self._on_note = on_note
        self._half_note = b""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._child = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # a Ctrl-C is for us, and we stop it
        )
        assert self._child.stdin and self._child.stdout and self._child.stderr
        self._input = self._child.stdin
        self._pipes = selectors.DefaultSelector()
        self._pipes.register(self._child.stdout, selectors.EVENT_READ, "answer")
        self._pipes.register(self._child.stderr, selectors.EVENT_READ, "note")

    def start(self) -> None:
        """Wait until the agent asks for a prompt. Raises SessionError."""
        self._read_turn("\n", lambda _: None, START_SECONDS)

    def ask(self, prompt: str, on_text: Callable[[str], None]) -> Turn:
        """One turn; its text goes to `on_text` as it comes. Raises SessionError."""
        try:
            self._input.write(prompt.encode() + b"\n")
        except OSError as error:
            raise SessionError("the agent has ended") from error
        return self._read_turn("", on_text, TURN_SECONDS)

    def finish(self) -> int:
        """No more prompts: the agent ends by itself. The exit code. Raises SessionError."""
        self._input.close()
        end = time.monotonic() + STOP_SECONDS
        while self._pipes.get_map():
            self._read(end)
        try:
            return self._child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise SessionError("scripts/run did not end") from error

    def stop(self) -> None:
        """End whatever is left: scripts/run passes SIGTERM on, and takes its proxy with it."""
        self._input.close()
        if self._child.poll() is None:
            self._child.terminate()
            try:
                self._child.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()
        self._pipes.close()
        for pipe in (self._child.stdout, self._child.stderr):
            if pipe:
                pipe.close()

    def _read_turn(self, waiting: str, on_text: Callable[[str], None], seconds: float) -> Turn:
        """waiting: text that has come, and may be the beginning of the next prompt."""
        turn, end = Turn(), time.monotonic() + seconds
        while not waiting.endswith(_END):
            waiting += self._read(end)
            kept = next(n for n in range(len(_END), -1, -1) if waiting.endswith(_END[:n]))
            if shown := waiting[: len(waiting) - kept]:
                on_text(shown)
                turn.text += shown
                turn.arrivals.append(time.monotonic())
                waiting = waiting[len(shown) :]
        return turn

    def _read(self, end: float) -> str:
        """What the agent printed next, maybe nothing. Raises SessionError."""
        ready = self._pipes.select(max(0.0, end - time.monotonic()))
        if not ready:
            raise SessionError("the agent did not answer in time")
        text = ""
        for key, _ in ready:
            data = os.read(key.fd, 65_536)
            if not data:
                self._pipes.unregister(key.fileobj)
            if key.data == "note":
                self._note(data)
            else:
                text += self._decoder.decode(data)
        if not self._pipes.get_map() and not self._input.closed:
            raise SessionError(f"scripts/run ended too early (exit code {self._child.wait()})")
        return text

    def _note(self, data: bytes) -> None:
        *lines, self._half_note = (self._half_note + data).split(b"\n")
        for line in lines:
            self.notes.append(line.decode(errors="replace").rstrip())
            self._on_note(self.notes[-1])
