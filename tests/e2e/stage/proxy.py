"""The real mitmdump as a child: with invariant or without, always in front of the fake OpenAI."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from . import raw, warm
from .script import wait_until
from .streams import Json
from .upstream import Upstream

if TYPE_CHECKING:
    from mitmproxy.flow import Flow

ROOT = Path(__file__).resolve().parents[3]
ADDON = ROOT / "addon" / "invariant.py"
REDIRECT = ROOT / "tests" / "e2e" / "redirect.py"
MITMDUMP = Path(sys.executable).with_name("mitmdump")
HEALTH = "/.invariant/health"

type Value = str | int | bool | Sequence[str]

_LISTENING = re.compile(r"listening at (?:\S+://)?(?:\S*?):(\d+)\.?\s*$", re.MULTILINE)
_JUDGING = re.compile(r" judging by | no rules: ")
_SHORT = {
    "reverse:https": "reverse:https://api.openai.com",
    "reverse:http": "reverse:http://api.openai.com",
}
_NOT_OURS = re.compile(
    r"^(PYTHON.*|.*_proxy|SSL_CERT.*|.*CA_BUNDLE|OPENAI_.*|INVARIANT.*)$", re.IGNORECASE
)


def clean_environment(home: Path) -> dict[str, str]:
    """This environment without what would change a child's mind: proxies, CAs, Python's paths.

    PYTHONPATH above all: with addon/ on it, `import invariant` in a child finds our script.
    """
    kept = {k: v for k, v in os.environ.items() if not _NOT_OURS.match(k)}
    return kept | {"HOME": str(home), "XDG_CONFIG_HOME": str(home / ".config")}


@dataclass(frozen=True, slots=True)
class Ended:
    """code: the exit code (negative: the signal that killed it). log: all it said."""

    code: int
    log: str


class Proxy:
    """A running mitmdump. Use it as a context manager, or start() and stop() it.

    rules: texts of rule files, or {file name: text}. mode: "regular", "reverse:https",
    "reverse:http" or any of mitmproxy's mode specs without the port. options: for --set; a
    sequence is set item by item. They go before what is usual here, because it starts quickly:
    two workers, no starter rules. addon: without it, this is a bare mitmdump with its own CA.
    save_flows: keep them in a file for `flows()`. program: mitmdump, or mitmweb. cold: run the
    command itself, where that is the point; otherwise a mitmdump with the addon is forked from one
    process that has imported both (see warm_mitmdump.py).
    """

    def __init__(
        self,
        upstream: Upstream,
        folder: Path,
        *,
        rules: Sequence[str] | Mapping[str, str] = (),
        mode: str = "regular",
        options: Mapping[str, Value] | None = None,
        addon: bool = True,
        scripts: Sequence[Path] = (),
        environment: Mapping[str, str] | None = None,
        save_flows: bool = False,
        program: str = "mitmdump",
        cold: bool = False,
    ) -> None:
        self.folder = folder
        self.mode = _SHORT.get(mode, mode)
        self.addon = addon
        self.is_suspect = False  # a test with it failed
        self._is_told = False
        self._asked_at = 0.0  # whether it is ready
        self.host, self.port = "127.0.0.1", 0
        self.confdir, self.certs = folder / "confdir", folder / "certs"
        self.home = folder / "home"
        for path in (self.confdir, self.certs, self.home, folder / "rules"):
            path.mkdir(parents=True, exist_ok=True)
        self.log_file = folder / "mitmdump.log"
        self.flow_file = folder / "flows.mitm" if save_flows else None
        self.rule_files = _write_rules(rules, folder / "rules")
        given: dict[str, Value] = {
            "confdir": str(self.confdir),
            "ssl_verify_upstream_trusted_ca": str(upstream.ca),
        }
        if program == "mitmdump":
            given["flow_detail"] = 0
        if addon:
            given |= {
                "key_size": 1024,  # of mitmproxy's own authority, which shows nobody anything here
                "invariant_certs": str(self.certs),
                "invariant_starter_rules": False,
                "invariant_workers": 2,  # the fewest; each takes a core for a second to start
                "invariant_rules": [str(file) for file in self.rule_files],
            }
        if self.flow_file:
            given["save_stream_file"] = str(self.flow_file)
        given |= options or {}
        self._command = [
            str(MITMDUMP.with_name(program)),
            "--mode",
            self.mode,
            "--listen-host",
            self.host,
        ]
        self._command += ["--listen-port", "0"]
        for script in [*([ADDON] if addon else []), *scripts, REDIRECT]:
            self._command += ["-s", str(script)]
        for name, value in given.items():
            for item in [value] if isinstance(value, str | int) else value:
                text = str(item).lower() if isinstance(item, bool) else str(item)
                self._command += ["--set", f"{name}={text}"]
        self._environment = clean_environment(self.home) | {
            "PYTHONUNBUFFERED": "1",  # else the log comes in blocks, and too late
            "STAGE_TLS_PORT": str(upstream.port),
            "STAGE_PLAIN_PORT": str(upstream.plain_port),
        }
        if not addon:
            self._environment["STAGE_BARE"] = "1"
        self._environment |= environment or {}
        self._is_warm = addon and program == "mitmdump" and not cold
        self._child: subprocess.Popen[bytes] | warm.WarmProcess | None = None

    # --- life

    def start(self, timeout: float = 30) -> Proxy:
        """Start and wait until it serves. RuntimeError, with the log, if it does not."""
        self.launch()
        try:
            self.wait_ready(timeout)
        except BaseException:
            self.stop()
            raise
        return self

    def launch(self) -> Proxy:
        """Start without waiting, for starts that are expected to fail."""
        self._is_told = False
        self._asked_at = time.monotonic()
        with self.log_file.open("ab") as log:
            if self._is_warm:
                self._child = warm.start(self._command, log, self._environment, self.folder)
                return self
            self._child = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                cwd=self.folder,
                start_new_session=True,  # a Ctrl-C is for pytest, which then stops us
            )
        return self

    def wait_ready(self, timeout: float = 30) -> Proxy:
        end = time.monotonic() + timeout
        while not self._is_ready():
            if self._running.poll() is not None:
                raise RuntimeError(f"mitmdump ended: {self._running.returncode}\n{self.log()}")
            if time.monotonic() > end:
                raise RuntimeError(f"mitmdump was not ready in {timeout} s\n{self.log()}")
            time.sleep(0.02)
        return self

    def wait_ended(self, timeout: float = 30) -> Ended:
        """Wait for an end that nobody asked for here."""
        code = self._running.wait(timeout)
        self._close_pipe()
        return Ended(code, self.log())

    def stop(self, timeout: float = 15) -> Ended:
        """SIGTERM, by pid, and wait. What does not listen is killed, and the code says so."""
        child = self._running
        if child.poll() is None:
            self.tell_to_stop()
            try:
                child.wait(timeout)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait(5)
        self._close_pipe()
        return Ended(child.wait(0), self.log())

    def tell_to_stop(self) -> None:
        """SIGTERM, once: a second one would only be noise."""
        if not self._is_told and self._running.poll() is None:
            self._is_told = True
            self._running.send_signal(signal.SIGTERM)

    def kill(self) -> Ended:
        """SIGKILL: what a crash looks like."""
        self._running.kill()
        return self.wait_ended(5)

    def __enter__(self) -> Proxy:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    # --- looking in

    @property
    def pid(self) -> int:
        return self._running.pid

    @property
    def is_running(self) -> bool:
        return self._child is not None and self._child.poll() is None

    @property
    def url(self) -> str:
        """For HTTPS_PROXY, or in reverse mode the address to call."""
        return f"http://{self.host}:{self.port}"

    @property
    def is_reverse(self) -> bool:
        return self.mode.startswith("reverse:")

    @property
    def ca(self) -> Path:
        """What a client must trust."""
        return self.certs / "ca.pem" if self.addon else self.confdir / "mitmproxy-ca-cert.pem"

    def log(self, since: int = 0) -> str:
        """What it said so far, from a byte offset on (see `log_size`)."""
        if not self.log_file.exists():
            return ""
        return self.log_file.read_bytes()[since:].decode(errors="replace")

    def log_size(self) -> int:
        return self.log_file.stat().st_size if self.log_file.exists() else 0

    def wait_log(self, pattern: str, timeout: float = 10, since: int = 0) -> str:
        """Wait for a line that this regular expression finds; returns the whole line."""
        what = f"{pattern!r} in the log"
        find = re.compile(rf"^.*{pattern}.*$", re.MULTILINE)
        wait_until(lambda: find.search(self.log(since)) is not None, timeout, what)
        found = find.search(self.log(since))
        assert found
        return found[0]

    def workers(self) -> list[int]:
        """The pids of its children and theirs."""
        parents: dict[int, list[int]] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    status = (entry / "stat").read_text()
                except OSError:
                    continue  # ended while we looked
                parent = int(status.rpartition(")")[2].split()[1])
                parents.setdefault(parent, []).append(int(entry.name))
        found, todo = [], [self.pid]
        while todo:
            children = parents.get(todo.pop(), [])
            found += children
            todo += children
        return sorted(found)

    def health(self, timeout: float = 10) -> Json:
        """GET /.invariant/health, once no call is pending (or after 2 s): a call is counted after
        its client has the last byte. AssertionError if there is no 200."""
        end = time.monotonic() + 2
        while True:
            with raw.RawClient.through(self, timeout=timeout) as client:
                reply = client.send("GET", HEALTH, headers=[]).wait_end()
            assert reply.status == 200, f"health: {reply.status} {reply.body[:500]!r}"
            parsed = json.loads(reply.body)
            assert isinstance(parsed, dict)
            if not parsed["pending"] or time.monotonic() > end:
                return parsed
            time.sleep(0.02)

    def flows(self) -> list[Flow]:
        """The saved flows but those of health(). mitmproxy may buffer them: stop it first."""
        from mitmproxy.http import HTTPFlow
        from mitmproxy.io import FlowReader  # slow to import, and loud: few tests need it

        if not self.flow_file:
            raise ValueError("flows: the proxy was not started with save_flows=True")
        with self.flow_file.open("rb") as file:
            flows = list(FlowReader(file).stream())
        return [f for f in flows if not (isinstance(f, HTTPFlow) and f.request.path == HEALTH)]

    def client_environment(self) -> dict[str, str]:
        """What scripts/env would set for a program, and a key. Hermetic: own HOME, no rc files."""
        environment = clean_environment(self.home) | {
            "SSL_CERT_FILE": str(self.ca),
            "OPENAI_API_KEY": "sk-stage",
        }
        if self.is_reverse:
            return environment | {"OPENAI_BASE_URL": self.url + "/v1"}
        return environment | {"HTTPS_PROXY": self.url, "https_proxy": self.url}

    # --- inside

    @property
    def _running(self) -> subprocess.Popen[bytes] | warm.WarmProcess:
        if self._child is None:
            raise RuntimeError("the proxy was not started")
        return self._child

    def _is_ready(self) -> bool:
        if not self.port:
            found = _LISTENING.search(self.log())
            if not found:
                return False
            self.port = int(found[1])
        if not self.addon:
            return self.ca.exists()
        # Each question is a handshake, and takes processor time from what is awaited. Most proxies
        # say that they judge; those without rules of their own do not.
        says_so = _JUDGING.search(self.log()) is not None
        if time.monotonic() < self._asked_at + (0.1 if says_so else 0.5):
            return False
        self._asked_at = time.monotonic()
        try:
            return self.ca.exists() and self.health(timeout=5).get("ready") is True
        except (OSError, AssertionError, raw.Lost):
            return False

    def _close_pipe(self) -> None:
        if self._child and self._child.stdin:
            self._child.stdin.close()


class StartProxy(Protocol):
    """The fixtures `start_proxy` and `proxy_for`. options: Proxy's arguments."""

    def __call__(self, **options: Any) -> Proxy: ...


def _write_rules(rules: Sequence[str] | Mapping[str, str], folder: Path) -> list[Path]:
    if isinstance(rules, str):
        raise TypeError("rules: got one text, expected a list of texts or {file name: text}")
    named = (
        dict(rules)
        if isinstance(rules, Mapping)
        else {f"rules-{n}.inv": text for n, text in enumerate(rules, 1)}
    )
    files = []
    for name, text in named.items():
        file = folder / name
        file.write_text(text)
        files.append(file)
    return files
