"""What came through the proxy while a command ran -> one line at its end, loud if nothing did."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from . import proxy, proxy_log, trust
from .order import Order
from .terminal import say, show


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
    among = ", ".join(f"{calls[name]} {name}" for name in ("masked", "muted") if calls[name])
    unjudged += f", of these {among}" if among else ""
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
    name = signal_name(-code)
    return f" ({name}; the system was short of memory, maybe)" if code == -9 else f" ({name})"


def signal_name(number: int) -> str:
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
