"""Run a command with its calls to the OpenAI API guarded: what `scripts/run` does.

A proxy that runs already on the usual port is used; else one is started for this command alone,
on a port of its own, and stopped with it. It is not shared with other runs: whoever came second
would lose it when the first one ends.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

from . import certificates, environment, proxy, proxy_log, trust
from .order import FILE_OPTIONS, Order, parse
from .summary import report, signal_name
from .terminal import say, show

ROOT = Path(__file__).resolve().parents[3]
MITMDUMP = (str(Path(sys.prefix, "bin", "mitmdump")), "-s", str(ROOT / "addon" / "invariant.py"))
START_SECONDS = 30.0
FAILED = 125  # what env, timeout and docker say when they failed, and not the command
NOT_FOUND = 127
NOT_EXECUTABLE = 126


class Signals:
    """Passes on to the command what this program is told."""

    def __init__(self) -> None:
        self.received: int | None = None
        self.child: subprocess.Popen[bytes] | None = None
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup stays nohup
                signal.signal(number, self._receive)

    def was_stopped(self) -> bool:
        return self.received is not None

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self.child is None:
            self.received = number
        elif number != signal.SIGINT or not _is_in_foreground():
            self.child.send_signal(number)  # Ctrl-C has reached the command already


def main(arguments: Sequence[str]) -> int:
    order = parse(arguments)
    if isinstance(order, int):
        return order
    if (found := shutil.which(order.command[0])) is None:
        exists = os.sep in order.command[0] and Path(order.command[0]).exists()
        say(f"{order.command[0]}: {'not executable' if exists else 'command not found'}")
        return NOT_EXECUTABLE if exists else NOT_FOUND
    signals = Signals()
    try:
        guard, trusted, hosts = prepare(order, signals)
    except (proxy.ProxyError, OSError, ValueError) as error:
        say(f"{error}; {Path(found).name} was not run")
        return 128 + signals.received if signals.received is not None else FAILED
    try:
        code = run(order, guard, trusted, hosts, signals)
        report(order, guard, trusted)
    finally:
        guard.stop()
    return code


def prepare(order: Order, signals: Signals) -> tuple[proxy.Proxy, trust.Trust, tuple[str, ...]]:
    """A proxy that answers, and what makes clients trust it. Raises ProxyError, OSError."""
    folder = Path((order.values("invariant_certs") or [str(ROOT / "certs")])[-1]).expanduser()
    hosts = (*certificates.DEFAULT_HOSTS, *order.values("invariant_hosts"))
    made = certificates.ensure(folder, hosts)
    if made.created:
        say(f"made a certificate in {folder} ({made.reason}; good until {made.not_after:%Y-%m-%d})")
    if made.ends_soon:
        say(f"WARNING: {made.ends_soon}; scripts/system renew makes a new one")
    trusted = trust.write_trust(made, os.environ, java=has_java(os.environ))

    guard = None if order.options else running(trusted)
    if guard is None:
        guard = started(order, trusted, signals)
        where = f"its own proxy, {guard.url}"
    else:
        where = f"the proxy that runs on {guard.url} (pid {guard.health.pid})"
    rules = guard.health.rules
    say(f"guarding {order.command[0]} through {where}, {rules} rule{'s' * (rules != 1)}")
    if rules == 0:
        say("WARNING: no rules are loaded, so no call can be blocked (--rules FILE loads some)")
    if guard.log:  # it was started here, and nobody else saw it
        for remark in proxy_log.remarks(proxy_log.read_lines(guard.log)):
            say(f"WARNING: {remark}")
    if removed := environment.bypasses(os.environ, hosts):
        say(f"taken out of NO_PROXY, calls would go past the proxy: {', '.join(removed)}")
    if replaced := environment.replaced_proxy(os.environ, guard.url):
        say(f"WARNING: HTTPS_PROXY was {replaced}; it is replaced for this command")
    if trusted.java and environment.replaced_java_trust(os.environ):
        say("WARNING: JAVA_TOOL_OPTIONS names a trust store; ours takes its place")
    return guard, trusted, hosts


def has_java(base: Mapping[str, str]) -> bool:
    """Java says a line about JAVA_TOOL_OPTIONS at each start; without one nobody reads it."""
    return bool(base.get("JAVA_HOME")) or shutil.which("java", path=base.get("PATH")) is not None


def running(trusted: trust.Trust) -> proxy.Proxy | None:
    """The proxy that somebody keeps running on the usual port, if it is this project's."""
    health = proxy.probe(proxy.USUAL_PORT, trusted.ca)
    return proxy.Proxy(proxy.USUAL_PORT, health) if health and health.ready else None


def started(order: Order, trusted: trust.Trust, signals: Signals) -> proxy.Proxy:
    command = [*MITMDUMP, *(part for option in order.options for part in ("--set", option))]
    # The rules are left out: their name is right, and any text can be a file's name.
    names = {option.partition("=")[0] for option in order.options} - FILE_OPTIONS
    log = proxy_log.open_log(state_folder(os.environ), time.strftime("%Y%m%d-%H%M%S"))
    with proxy.OptionCheck(command, sorted(names)) as check:

        def give_up() -> str:
            return "stopped while the proxy started" if signals.was_stopped() else check.problem()

        try:
            guard = proxy.start(
                command, ca=trusted.ca, log=log, timeout=START_SECONDS, give_up=give_up
            )
        except proxy.ProxyError as error:
            lines = proxy_log.read_lines(log)
            if signals.was_stopped():
                raise
            if wrong := proxy_log.refused_option(lines) or check.wait(START_SECONDS):
                raise proxy.ProxyError(wrong) from error
            say(f"the log is {log}; what matters in it:")
            show(proxy_log.essence(lines))
            raise
        if wrong := check.wait(START_SECONDS):
            guard.stop()
            raise proxy.ProxyError(wrong)
        return guard


def state_folder(base: Mapping[str, str]) -> Path:
    """Where logs go: as the XDG Base Directory Specification has it."""
    state = base.get("XDG_STATE_HOME", "")
    if os.path.isabs(state):  # noqa: PTH117 - "" is no path, and Path("") would be "."
        return Path(state, "invariant")
    try:
        return Path.home() / ".local" / "state" / "invariant"
    except RuntimeError:  # nobody, in a container
        return Path(tempfile.gettempdir()) / f"invariant-{os.getuid()}"


def run(
    order: Order,
    guard: proxy.Proxy,
    trusted: trust.Trust,
    hosts: Sequence[str],
    signals: Signals,
) -> int:
    """The command's exit code, as a shell would give it."""
    guarded = environment.guarded_environment(os.environ, guard.url, trusted, hosts)
    if signals.received is not None:
        return 128 + signals.received
    try:
        child = subprocess.Popen(order.command, env=guarded)
    except OSError as error:
        say(f"{order.command[0]}: {error.strerror}")
        return NOT_EXECUTABLE
    signals.child = child
    if signals.received is not None:  # it came while the command was being started
        child.send_signal(signals.received)
    code = child.wait()
    if code >= 0:
        return code
    if -code not in _USUAL_ENDS:  # a shell would say so; without a word it looks like our doing
        say(f"{Path(order.command[0]).name} was ended by {signal_name(-code)}")
    return 128 - code


_USUAL_ENDS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE}


def answers(command: Sequence[str]) -> bool:
    """Whether this command says yes; no if it is not there."""
    try:
        ended = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return ended.returncode == 0


def _is_in_foreground() -> bool:
    """Whether a Ctrl-C at the terminal reaches this program's group, the command included."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)
