"""Real clients as processes of their own: the newest openai SDK, and curl.

Nothing about them is tuned for the tests: default retries, default parsers; the proxy and the CA
come from the environment, as for any program of a user.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

from .proxy import ROOT, Proxy, clean_environment
from .raw import CHAT, HOST
from .script import wait_until
from .streams import Json

SDK_PYTHON = ROOT / ".venv-clients" / "bin" / "python"
SDK_DRIVER = ROOT / "tests" / "e2e" / "sdk_driver.py"
CURL = shutil.which("curl")

type Mode = Literal["create", "parse", "stream", "stream_helper", "async_stream"]


def missing() -> str:
    """Why real clients cannot be run here; "" if they can."""
    if not SDK_PYTHON.exists():
        return "no .venv-clients: the openai SDK is not installed for tests"
    return "" if CURL else "no curl"


@dataclass(frozen=True, slots=True)
class SdkError:
    """What the program's except clause would see."""

    name: str
    bases: Sequence[str]
    text: str
    code: str | None
    kind: str | None
    param: str | None
    body: object
    status: int | None
    cause: str | None


@dataclass(frozen=True, slots=True)
class SdkLine:
    """event: start, head, chunk, result, left, exception or end. at: time.monotonic()."""

    event: str
    at: float
    data: Json


@dataclass(frozen=True, slots=True)
class SdkRun:
    """All that one run of the SDK said. error: None if nothing was raised."""

    lines: Sequence[SdkLine]
    stderr: str
    error: SdkError | None = None

    @property
    def chunks(self) -> list[SdkLine]:
        return [line for line in self.lines if line.event == "chunk"]

    @property
    def deltas(self) -> list[tuple[float, str]]:
        """(time, text) of every chunk with text."""
        return [(c.at, str(c.data["text"])) for c in self.chunks if c.data["text"]]

    @property
    def text(self) -> str:
        """The text that was streamed to the program, or the message of a whole reply."""
        if self.chunks or self.result is None:
            return "".join(text for _, text in self.deltas)
        choices = self.result.get("choices")
        if not isinstance(choices, list):
            return ""
        return str(choices[0]["message"]["content"] or "")

    @property
    def result(self) -> Json | None:
        """The whole reply of `create`, or the final one of `.stream()`."""
        for line in self.lines:
            if line.event == "result":
                return cast(Json, line.data["data"])
        return None

    @property
    def finish_reasons(self) -> list[str]:
        return [
            str(choice["finish_reason"])
            for one in self.chunks
            for choice in cast(list[Json], cast(Json, one.data["data"]).get("choices") or [])
            if choice.get("finish_reason")
        ]


class Sdk:
    """The SDK, imported and ready; see sdk_driver.py. Each job gets a process of its own."""

    def __init__(self, folder: Path) -> None:
        """folder: for its home, and for what it says."""
        self._error = folder / "sdk-driver.err"
        with self._error.open("wb") as error:
            self._driver = subprocess.Popen(
                [str(SDK_PYTHON), str(SDK_DRIVER)],
                stdin=subprocess.PIPE,
                stderr=error,
                env=clean_environment(folder),
            )

    def start(self, job: Json, out: Path, timeout: float) -> SdkProcess:
        assert self._driver.stdin
        out.touch()
        line = json.dumps(job | {"out": str(out)}).encode() + b"\n"
        self._driver.stdin.write(line)
        self._driver.stdin.flush()
        started = Path(f"{out}.pid")
        wait_until(
            lambda: started.exists() or self._driver.poll() is not None, 60, "the SDK to start"
        )
        assert started.exists(), f"the driver ended: {self._error.read_text()}"
        return SdkProcess(int(started.read_text()), out, timeout)

    def stop(self) -> None:
        if self._driver.stdin:
            self._driver.stdin.close()
        self._driver.wait(5)


@dataclass(eq=False)
class SdkProcess:
    """The SDK at work."""

    pid: int
    out: Path
    timeout: float

    @property
    def code(self) -> int | None:
        """Its exit code, as of subprocess; None if it still runs."""
        ended = Path(f"{self.out}.exit")
        return int(ended.read_text()) if ended.exists() else None

    def lines(self) -> list[SdkLine]:
        """What it said so far."""
        found = []
        for text in self.out.read_bytes().splitlines(keepends=True):
            if text.endswith(b"\n"):
                data = json.loads(text)
                found.append(SdkLine(data["event"], data["at"], data))
        return found

    def wait_chunks(self, count: int, timeout: float = 20) -> None:
        """Wait until the program has seen so many chunks."""
        wait_until(
            lambda: sum(line.event == "chunk" for line in self.lines()) >= count,
            timeout,
            f"{count} chunks at the SDK",
        )

    def wait_text(self, text: str, timeout: float = 20) -> None:
        wait_until(lambda: text in SdkRun(self.lines(), "").text, timeout, f"{text!r} at the SDK")

    def kill(self) -> None:
        """The program crashes."""
        if self.code is None:
            os.kill(self.pid, signal.SIGKILL)
        wait_until(lambda: self.code is not None, 5, "the end of the SDK")

    def finish(self) -> SdkRun:
        """Wait for its end. AssertionError if the driver (not the SDK's call) failed."""
        end = time.monotonic() + self.timeout
        while self.code is None:
            if time.monotonic() > end:
                self.kill()
                raise AssertionError(f"the SDK did not end: {self.lines()[-3:]}")
            time.sleep(0.01)
        stderr, lines = Path(f"{self.out}.err").read_text(), self.lines()
        if self.code == 0:
            assert lines, f"the driver failed: {stderr}"
            assert lines[-1].event == "end", f"the driver failed: {stderr}"
        elif self.code > 0:
            raise AssertionError(f"the driver failed: {stderr}")
        error = next((line.data for line in lines if line.event == "exception"), None)
        return SdkRun(lines, stderr, _sdk_error(error) if error else None)


@contextmanager
def sdk_process(
    proxy: Proxy,
    mode: Mode = "stream",
    content: str = "Say this is a test",
    *,
    api: Literal["chat", "responses"] = "chat",
    client: Mapping[str, object] | None = None,
    stop_after: int | None = None,
    environment: Mapping[str, str] | None = None,
    timeout: float = 60,
    **kwargs: object,
) -> Iterator[SdkProcess]:
    """Start the SDK; it is killed at the end of the block if it still runs.

    kwargs: for create(), e.g. messages=, tools=, n=. client: kwargs for OpenAI(); its max_retries
    stays at the default. stop_after: the program leaves its loop after so many chunks.
    """
    call: Json = {"model": "gpt-4o-mini"}
    if api == "responses":
        call["input"] = content
    else:
        call["messages"] = [{"role": "user", "content": content}]
    job: Json = {
        "mode": mode,
        "api": api,
        "kwargs": call | kwargs,
        "client": {"timeout": 30} | dict(client or {}),
        "stop_after": stop_after,
    }
    job["environment"] = proxy.client_environment() | dict(environment or {})
    out = proxy.folder / f"sdk-{time.monotonic_ns()}.jsonl"
    running = _sdk_in(proxy.folder.parent).start(job, out, timeout)
    try:
        yield running
    finally:
        if running.code is None:
            running.kill()


_SDKS: dict[Path, Sdk] = {}


def _sdk_in(folder: Path) -> Sdk:
    """The one of this run of the tests, made when it is first needed."""
    if folder not in _SDKS:
        _SDKS[folder] = Sdk(folder)
    return _SDKS[folder]


def stop() -> None:
    """At the end of a run of the tests."""
    while _SDKS:
        _SDKS.popitem()[1].stop()


def sdk(
    proxy: Proxy,
    mode: Mode = "stream",
    content: str = "Say this is a test",
    *,
    api: Literal["chat", "responses"] = "chat",
    client: Mapping[str, object] | None = None,
    stop_after: int | None = None,
    environment: Mapping[str, str] | None = None,
    timeout: float = 60,
    **kwargs: object,
) -> SdkRun:
    """Run the SDK to its end. Arguments: see sdk_process."""
    with sdk_process(
        proxy,
        mode,
        content,
        api=api,
        client=client,
        stop_after=stop_after,
        environment=environment,
        timeout=timeout,
        **kwargs,
    ) as running:
        return running.finish()


@dataclass(frozen=True, slots=True)
class CurlRun:
    """exit: curl's own code (18 partial, 56 receive error, 60 certificate, 92 HTTP/2 stream).

    head, body: raw bytes, the body not decoded. version: "1.1" or "2". timing: curl's numbers in
    seconds (time_starttransfer, time_total...).
    """

    exit: int
    status: int
    version: str
    head: bytes
    body: bytes
    stderr: str
    timing: Mapping[str, float] = field(default_factory=dict)

    def header(self, name: str) -> str | None:
        for line in self.head.decode("latin-1").splitlines():
            key, colon, value = line.partition(":")
            if colon and key.strip().lower() == name.lower():
                return value.strip()
        return None

    def json(self) -> Json:
        parsed = json.loads(self.body)
        assert isinstance(parsed, dict)
        return parsed


def curl(
    proxy: Proxy,
    body: object = None,
    path: str = CHAT,
    *,
    http: Literal["1.1", "2"] = "1.1",
    method: str | None = None,
    headers: Sequence[str] = (),
    key: bool = True,
    host: str = HOST,
    extra: Sequence[str] = (),
    timeout: float = 30,
) -> CurlRun:
    """One request with curl -N. body: None for a GET, bytes as they are, anything else as JSON.

    In reverse mode it calls the proxy's own address (clear text) and names no host.
    """
    assert CURL
    n = time.monotonic_ns()
    head_file, body_file, input_file = (
        proxy.folder / f"curl-{n}.{what}" for what in ("head", "body", "input")
    )
    base = proxy.url if proxy.is_reverse else f"https://{host}"
    command = [CURL, "-q", "-sS", "-N", "--suppress-connect-headers"]
    command += ["--http2" if http == "2" else "--http1.1", "--max-time", str(timeout)]
    command += ["-D", str(head_file), "-o", str(body_file), "-w", "%{json}"]
    for header in [*(["Authorization: Bearer sk-stage"] if key else []), *headers]:
        command += ["-H", header]
    if body is not None:
        input_file.write_bytes(body if isinstance(body, bytes) else json.dumps(body).encode())
        command += ["-H", "Content-Type: application/json", "--data-binary", f"@{input_file}"]
    if method:
        command += ["-X", method]
    done = subprocess.run(
        [*command, *extra, base + path],
        env=proxy.client_environment(),
        capture_output=True,
        timeout=timeout + 10,
        check=False,
    )
    report = json.loads(done.stdout or b"{}")
    return CurlRun(
        exit=done.returncode,
        status=int(report.get("response_code", 0)),
        version=str(report.get("http_version", "")),
        head=head_file.read_bytes() if head_file.exists() else b"",
        body=body_file.read_bytes() if body_file.exists() else b"",
        stderr=done.stderr.decode(errors="replace"),
        timing={k: v for k, v in report.items() if k.startswith("time_")},
    )


def _sdk_error(data: Json) -> SdkError:
    return SdkError(
        name=str(data["name"]),
        bases=cast(list[str], data["bases"]),
        text=str(data["text"]),
        code=cast(str | None, data["code"]),
        kind=cast(str | None, data["kind"]),
        param=cast(str | None, data["param"]),
        body=data["body"],
        status=cast(int | None, data["status"]),
        cause=cast(str | None, data["cause"]),
    )
