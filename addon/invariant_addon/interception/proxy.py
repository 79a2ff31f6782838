"""The proxy as a program: is one there, start one, stop it.

Asking goes the way a client's call goes: CONNECT, TLS verified against our root, and a path that
the addon answers itself. So an answer proves that calls from here really are decrypted and seen.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import http.client
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from ..core.errors import InvariantError

HOST = "api.openai.com"
HEALTH_PATH = "/.invariant/health"
ADDRESS = "127.0.0.1"
USUAL_PORT = 8080

_PROBE_SECONDS = 2.0
_PATIENCE = 2  # times as long as one read may take
_REST_SECONDS = 2.0
_STOP_SECONDS = 10.0
_FAILED_TO_PARSE = re.compile(r"^\S*mitmdump: (Failed to parse option )?")
_COUNTERS = (
    *("seen", "judged", "blocked", "not_scanned", "failed", "partial", "harmless", "unfinished"),
    *("masked", "muted"),  # among those
)


class ProxyError(InvariantError):
    """There is no proxy that could be used. Nothing was run unguarded because of it."""


@dataclass(frozen=True, slots=True)
class Health:
    """What the addon says of itself.

    calls: since its start, by kind. pending: those of them that have not ended yet.
    """

    pid: int
    ready: bool
    rules: int
    calls: Mapping[str, int]
    pending: int = 0


@dataclass(slots=True)
class Proxy:
    """One that may be used. process: None if somebody else started it, and will stop it."""

    port: int
    health: Health
    process: subprocess.Popen[bytes] | None = None
    log: Path | None = None
    _scratch: tempfile.TemporaryDirectory[str] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return f"http://{ADDRESS}:{self.port}"

    def stop(self) -> None:
        """End what was started, politely at first; leave alone what was not."""
        if self.process is not None:
            _end(self.process)
        if self._scratch is not None:
            self._scratch.cleanup()


def port_number(text: str) -> int:
    """For a command line. Raises ArgumentTypeError."""
    if not text.isascii() or not text.isdecimal() or not 0 < int(text[:6]) < 65_536:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a number from 1 to 65535")
    return int(text)


def probe(port: int, ca: Path, *, timeout: float = _PROBE_SECONDS) -> Health | None:
    """What the proxy on this port says, or None: nobody there, not ours, or another root."""
    return _in_time(lambda: _probe(port, ca, timeout), _PATIENCE * timeout)


def _probe(port: int, ca: Path, timeout: float) -> Health | None:
    context = ssl.create_default_context(cafile=str(ca))
    connection = http.client.HTTPSConnection(ADDRESS, port, timeout=timeout, context=context)
    connection.set_tunnel(HOST, 443)
    try:
        connection.request("GET", HEALTH_PATH)
        response = connection.getresponse()
        return read_health(response.read(65_536)) if response.status == 200 else None
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()


def probe_direct(
    port: int, ca: Path, *, address: str = ADDRESS, timeout: float = _PROBE_SECONDS
) -> Health | None:
    """The same of a proxy that stands in for the host itself on this port."""
    return _in_time(lambda: _probe_direct(port, ca, address, timeout), _PATIENCE * timeout)


def _in_time(ask: Callable[[], Health | None], seconds: float) -> Health | None:
    """A socket's timeout is one for each read: a program that drips would be asked for ever."""
    found: list[Health | None] = []
    asking = threading.Thread(target=lambda: found.append(ask()), daemon=True)
    asking.start()
    asking.join(seconds)
    return found[0] if found else None


def _probe_direct(port: int, ca: Path, address: str, timeout: float) -> Health | None:
    context = ssl.create_default_context(cafile=str(ca))
    request = f"GET {HEALTH_PATH} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n"
    try:
        with (
            socket.create_connection((address, port), timeout=timeout) as plain,
            context.wrap_socket(plain, server_hostname=HOST) as secure,
        ):
            secure.sendall(request.encode())
            response = http.client.HTTPResponse(secure)
            response.begin()
            return read_health(response.read(65_536)) if response.status == 200 else None
    except (OSError, http.client.HTTPException, ValueError):
        return None


def probe_at_rest(port: int, ca: Path, before: Health) -> Health | None:
    """As `probe`, once the calls that began after `before` have been counted.

    Not for long: other programs' calls may go on.
    """
    end = time.monotonic() + _REST_SECONDS
    found = probe(port, ca)
    while found is not None and found.pending > before.pending and time.monotonic() < end:
        time.sleep(0.05)
        found = probe(port, ca)
    return found


def read_health(body: bytes) -> Health:
    """Raises ValueError if this is not what the addon answers."""
    answer = json.loads(body)
    if not isinstance(answer, dict) or "invariant" not in answer:
        raise ValueError("not an answer of the addon")
    calls = answer.get("calls")
    calls = calls if isinstance(calls, dict) else {}
    return Health(
        pid=int(answer.get("pid", 0)),
        ready=answer.get("ready") is True,
        rules=int(answer.get("rules", 0)),
        calls={name: int(calls.get(name, 0)) for name in _COUNTERS},
        pending=int(answer.get("pending", 0)),
    )


def since(before: Health, after: Health) -> dict[str, int]:
    """The calls between two answers of the same proxy."""
    return {name: after.calls[name] - before.calls[name] for name in _COUNTERS}


def start(
    command: Sequence[str],
    *,
    ca: Path,
    log: Path,
    timeout: float,
    give_up: Callable[[], str],
) -> Proxy:
    """Run `command` (plus where to listen) until it answers.

    Its output goes to `log`. Raises ProxyError if it ends or stays silent, or if `give_up` has a
    reason ("": none) to wait no longer; then nothing is left running.
    """
    # A folder of its own that goes with it: mitmproxy writes an authority of its own at every
    # start, which nobody needs, and would read options from the person's folder.
    scratch = tempfile.TemporaryDirectory(prefix="invariant-")
    port = _free_port()
    with log.open("ab") as output:
        process = subprocess.Popen(
            [
                *command,
                *("--mode", f"regular@{ADDRESS}:{port}"),
                *("--set", f"confdir={scratch.name}"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=_own_environment(os.environ),
            start_new_session=True,  # Ctrl-C at the terminal is for the guarded program
        )
    try:
        health = _wait(process, port, ca, timeout, give_up)
    except BaseException:
        _end(process)
        scratch.cleanup()
        raise
    return Proxy(port, health, process, log, scratch)


class OptionCheck:
    """Asks mitmproxy which options there are, on another core, while the proxy starts.

    From the proxy itself nobody would hear: an option that it does not know it keeps for a script
    that may still come, and a script whose options have the wrong type is not loaded, silently.
    """

    def __init__(self, command: Sequence[str], names: Sequence[str]) -> None:
        """command: that of the proxy. names: the options in it; if there are none, all is well."""
        self._names = names
        self._process: subprocess.Popen[bytes] | None = None
        if not names:
            return
        self._scratch = tempfile.TemporaryDirectory(prefix="invariant-")
        self._said, self._options = (Path(self._scratch.name, name) for name in ("err", "out"))
        with self._said.open("wb") as said, self._options.open("wb") as options:
            self._process = subprocess.Popen(
                [*command, "--set", f"confdir={self._scratch.name}", "--options"],
                stdin=subprocess.DEVNULL,
                stdout=options,
                stderr=said,
                env=_own_environment(os.environ),
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            _end(self._process)
            self._scratch.cleanup()

    def problem(self) -> str:
        """What is wrong, as far as is known; "" if nothing."""
        if self._process is None or self._process.poll() is None:
            return ""
        if self._process.returncode != 0:
            said = self._said.read_text(errors="replace").strip().rpartition("\n")[2]
            return _FAILED_TO_PARSE.sub("", said)
        return unknown_option(self._names, self._options.read_text(errors="replace"))

    def wait(self, timeout: float) -> str:
        """The problem, once it is known whether there is one."""
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout)
        return self.problem()


def unknown_option(names: Sequence[str], printed: str) -> str:
    """Which of the names is not among the options that `mitmdump --options` printed."""
    known = re.findall(r"^([a-z]\w*):", printed, re.MULTILINE)
    # If the addon could not even be loaded, the proxy itself will say why.
    if any(name.startswith("invariant_") for name in known):
        for name in names:
            if name not in known:
                return no_such_option(name, known)
    return ""


def no_such_option(name: str, known: Iterable[str]) -> str:
    alike = difflib.get_close_matches(name, tuple(known), 1, 0.8)
    return f"{name}: there is no such option" + (f"; did you mean {alike[0]}?" if alike else "")


def _wait(
    process: subprocess.Popen[bytes],
    port: int,
    ca: Path,
    timeout: float,
    give_up: Callable[[], str],
) -> Health:
    end = time.monotonic() + timeout
    answered = False
    while time.monotonic() < end:
        if reason := give_up():
            raise ProxyError(reason)
        if (code := process.poll()) is not None:
            raise ProxyError(f"the proxy ended at once (exit code {code})")
        health = probe(port, ca)
        if health is not None and health.ready:
            return health
        answered = answered or health is not None
        # Its engine starts on the same cores: once it answers, ask less often.
        time.sleep(0.2 if answered else 0.05)
    what = "was not ready" if answered else "did not answer"
    raise ProxyError(f"the proxy {what} within {timeout:.0f} s")


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            # Its session is its own, so this reaches its workers and nobody else.
            with contextlib.suppress(ProcessLookupError):
                if sys.platform == "win32":
                    process.kill()
                else:
                    os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _own_environment(base: Mapping[str, str]) -> dict[str, str]:
    """Without what is meant for the guarded program's Python."""
    return {
        name: value
        for name, value in base.items()
        if not name.startswith("PYTHON") and name not in ("VIRTUAL_ENV", "__PYVENV_LAUNCHER__")
    } | {"PYTHONUNBUFFERED": "1"}


def _free_port() -> int:
    with socket.create_server((ADDRESS, 0)) as server:
        return int(server.getsockname()[1])
