"""Run a command with its calls to the OpenAI API guarded: what `scripts/run` does.

A proxy that runs already on the usual port is used; else one is started for this command alone,
on a port of its own, and stopped with it. It is not shared with other runs: whoever came second
would lose it when the first one ends.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from . import certificates, environment, proxy, proxy_log, trust

ROOT = Path(__file__).resolve().parents[3]
MITMDUMP = (str(Path(sys.prefix, "bin", "mitmdump")), "-s", str(ROOT / "addon" / "invariant.py"))
START_SECONDS = 30.0
FAILED = 125  # what env, timeout and docker say when they failed, and not the command
NOT_FOUND = 127
NOT_EXECUTABLE = 126

PROJECT_RULES = ".invariant.inv"
"""Rules that come with a project: they can only add to what the proxy checks."""

FILE_OPTIONS = {"invariant_rules", "invariant_project_rules"}

USAGE = "scripts/run [--rules FILE]... [--set OPTION=VALUE]... -- COMMAND [ARGUMENT]..."


@dataclass(frozen=True, slots=True)
class Order:
    """What the person asked for. options: as for mitmproxy's --set."""

    command: tuple[str, ...]
    options: tuple[str, ...] = ()

    def values(self, name: str) -> list[str]:
        return [o.partition("=")[2] for o in self.options if o.partition("=")[0] == name]


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


def parse(arguments: Sequence[str]) -> Order | int:
    """The order, or the exit code if there is none."""
    own = list(arguments)
    command: list[str] = []
    if "--" in own:
        cut = own.index("--")
        own, command = own[:cut], own[cut + 1 :]
    parser = argparse.ArgumentParser(
        "scripts/run",
        usage=USAGE,
        description="Run a command with its calls to the OpenAI API guarded.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--rules", action="append", default=[], metavar="FILE", help="a file of rules"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="OPTION=VALUE",
        dest="options",
        help="an option of the addon or of mitmproxy",
    )
    try:
        options, rest = parser.parse_known_args(own)
        if rest and not command and not rest[0].startswith("-"):
            parser.error(f"put the command behind --: scripts/run -- {shlex.join(rest)}")
        if rest:
            parser.error(f"unrecognized arguments: {' '.join(rest)}")
        if not command:
            parser.error("no command: put it behind --, as in: scripts/run -- python agent.py")
        for option in options.options:
            if "=" not in option:
                parser.error(f"--set: got {option!r}, expected option=value")
        for file in options.rules:
            if not Path(file).is_file():
                parser.error(f"--rules: got {file!r}, expected a file")
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else 2
    rules = [f"invariant_rules={Path(file).resolve()}" for file in options.rules]
    if (project := project_rules(Path.cwd())) is not None:
        say(f"this project has rules of its own: {project}")
        rules.append(f"invariant_project_rules={project}")
    return Order(tuple(command), (*rules, *options.options))


def project_rules(folder: Path) -> Path | None:
    """The nearest file of rules in this folder or one above it.

    One that belongs to somebody else (in a folder that all may write to) is not the project's.
    """
    for place in (folder, *folder.parents):
        file = place / PROJECT_RULES
        if file.is_file():
            if hasattr(os, "getuid") and file.stat().st_uid not in (os.getuid(), 0):
                say(f"WARNING: {file} is somebody else's, and is not read")
                continue
            return file
    return None


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
        say(f"{Path(order.command[0]).name} was ended by {_signal_name(-code)}")
    return 128 - code


def report(order: Order, guard: proxy.Proxy, trusted: trust.Trust) -> None:
    """What came through, in one line; loudly, if nothing did."""
    log = f"; log: {guard.log}" if guard.log else ""
    after = proxy.probe_at_rest(guard.port, trusted.ca, guard.health)
    if after is None or after.pid != guard.health.pid:
        say(
            f"WARNING: the proxy ended{_how(guard)} before the command did; from then on, each of "
            f"its HTTPS calls failed with a refused connection{log}"
        )
        if guard.log:
            show(proxy_log.essence(proxy_log.read_lines(guard.log), 5))
        return
    calls = proxy.since(guard.health, after)
    if calls["seen"] == 0:
        say("WARNING: NOT ONE CALL to the OpenAI API came through the proxy; nothing was checked.")
        print(f"  If there should have been one: {hint(order.command)}{log}", file=sys.stderr)
        return
    also = " (other programs that use this proxy included)" if guard.process is None else ""
    unjudged = f", {calls['failed']} refused for want of a verdict" if calls["failed"] else ""
    more = f", {calls['partial']} judged in part" if calls["partial"] else ""
    more += f", {calls['harmless']} with nothing to judge" if calls["harmless"] else ""
    more += f", {calls['unfinished']} that ended too soon" if calls["unfinished"] else ""
    say(
        f"{calls['seen']} call{'s' * (calls['seen'] != 1)}: {calls['judged']} judged and passed, "
        f"{calls['blocked']} blocked, {calls['not_scanned']} not scanned{more}{unjudged}{also}{log}"
    )


def _how(guard: proxy.Proxy) -> str:
    """How it ended, if it was ours and if it did."""
    code = guard.process.poll() if guard.process is not None else None
    if code is None:
        return ""
    if code >= 0:
        return f" (exit code {code})"
    name = _signal_name(-code)
    return f" ({name}; the system was short of memory, maybe)" if code == -9 else f" ({name})"


_USUAL_ENDS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE}


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def hint(command: Sequence[str]) -> str:
    """The likeliest reason why calls of this command did not come by."""
    name = Path(command[0]).name.lower()
    stem = name.rstrip("0123456789.").removesuffix(".exe")
    for names, reason in _HINTS:
        if name in names or stem in names:
            return reason
    return (
        "it may ignore HTTPS_PROXY (aiohttp without trust_env=True, node:https in older Deno and "
        "Bun), set NO_PROXY, or call a base_url other than https://api.openai.com"
    )


_HINTS = (
    (
        ("node", "npm", "npx", "pnpm", "yarn", "tsx", "ts-node"),
        "it may unset NODE_OPTIONS, or call a base_url other than https://api.openai.com",
    ),
    (
        ("python", "pypy", "uv", "uvx", "pipx", "poetry", "pytest", "ipython", "jupyter"),
        "aiohttp ignores HTTPS_PROXY without trust_env=True, an httpx client does with "
        "trust_env=False, and base_url may not be https://api.openai.com",
    ),
    (
        ("deno", "bun"),
        "node:https ignores HTTPS_PROXY in older ones (fetch does not), and base_url may not be "
        "https://api.openai.com",
    ),
    (
        ("java", "gradle", "gradlew", "mvn", "mvnw", "kotlin", "scala", "sbt"),
        "it may set -Dhttps.proxyHost or a trust store itself, use an HTTP library that asks for "
        "neither, or call a base_url other than https://api.openai.com",
    ),
    (
        ("docker", "podman", "kubectl", "ssh"),
        "what runs in a container or on another machine does not see these variables",
    ),
    (("sudo", "doas", "su"), "sudo takes these variables away; put it before scripts/run"),
    (
        ("codex",),
        "with a ChatGPT login Codex calls chatgpt.com, not the API; it needs an API key",
    ),
)


def say(text: str) -> None:
    print(f"invariant: {text}", file=sys.stderr, flush=True)


def show(lines: Sequence[str]) -> None:
    for line in lines:
        print(f"  {line}", file=sys.stderr, flush=True)


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
