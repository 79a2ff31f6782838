"""The environment of a guarded program: what makes its calls come through the proxy.

Pure: a mapping in, a mapping out. Which runtime reads which variable was measured, and it is why
there are so many of them. HTTP_PROXY is never set: plain HTTP is not ours. Java prints a line at
each start about JAVA_TOOL_OPTIONS, so that is only set where there is a Java.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from .certificates import DEFAULT_HOSTS
from .trust import ADDING, JAVA_PASSWORD, REPLACING, Trust

PRELOAD = Path(__file__).resolve().parents[3] / "scripts" / "lib" / "node-preload.cjs"

_LOCAL = ("localhost", "127.0.0.1", "::1")  # not "[::1]": httpx 0.28 refuses to start with it
_SEPARATOR = re.compile(r"[\s,]+")


def guarded_environment(
    base: Mapping[str, str],
    proxy_url: str,
    trust: Trust,
    hosts: Sequence[str] = DEFAULT_HOSTS,
    preload: Path | None = PRELOAD,
) -> dict[str, str]:
    """`base`, with every variable that sends calls to these hosts through the proxy.

    preload: the file for Node's --require.
    """
    passed_by = ",".join(dict.fromkeys((*_kept(base, hosts), *_LOCAL)))
    guarded = {
        **base,
        **dict.fromkeys(("HTTPS_PROXY", "https_proxy"), proxy_url),
        **dict.fromkeys(("NO_PROXY", "no_proxy"), passed_by),
        **dict.fromkeys(REPLACING, str(trust.bundle)),
        **dict.fromkeys(ADDING, str(trust.extra)),
        "NODE_USE_ENV_PROXY": "1",  # Node 22.21 and later
        "AIOHTTP_TRUST_ENV": "True",  # LiteLLM's; aiohttp itself needs trust_env=True in the code
        "INVARIANT_PROXY": proxy_url,
        "INVARIANT_GUARDED": ",".join(h for h in dict.fromkeys(hosts) if h not in DEFAULT_HOSTS),
    }
    if preload is not None:  # older Nodes, and what does not ask NODE_USE_ENV_PROXY
        require = f"--require {_quoted(preload)}"
        guarded["NODE_OPTIONS"] = _with(base.get("NODE_OPTIONS", ""), require)
    if trust.java is not None:
        options = base.get("JAVA_TOOL_OPTIONS", "")
        guarded["JAVA_TOOL_OPTIONS"] = _with(options, _java(proxy_url, trust.java))
    return guarded


def replaced_java_trust(base: Mapping[str, str]) -> bool:
    """Whether Java is told of a trust store of its own, in whose place ours comes."""
    options = base.get("JAVA_TOOL_OPTIONS", "")
    return "-Djavax.net.ssl.trustStore=" in options and "java-" not in options


def _java(proxy_url: str, store: Path) -> str:
    host, _, port = proxy_url.rpartition("//")[2].partition(":")
    return (
        f"-Dhttps.proxyHost={host} -Dhttps.proxyPort={port} "
        f"-Djavax.net.ssl.trustStore={_quoted(store)} "
        f"-Djavax.net.ssl.trustStorePassword={JAVA_PASSWORD} "
        "-Dhttp.nonProxyHosts=localhost|127.*|[::1]"
    )


def _with(options: str, ours: str) -> str:
    """Behind what was there: the last one counts. A run inside a run adds nothing."""
    return options if ours in options else f"{options} {ours}".strip()


def _quoted(path: Path) -> str:
    """Node and Java both take double quotes around a path with spaces."""
    return f'"{path}"' if " " in str(path) else str(path)


def bypasses(base: Mapping[str, str], hosts: Sequence[str] = DEFAULT_HOSTS) -> tuple[str, ...]:
    """The entries of NO_PROXY that would lead a client past the proxy."""
    return tuple(entry for entry in _entries(base) if _is_bypass(entry, hosts))


def replaced_proxy(base: Mapping[str, str], proxy_url: str) -> str | None:
    """The proxy that was set before ours took its place, without user and password."""
    for name in ("https_proxy", "HTTPS_PROXY"):
        if (value := base.get(name)) and value.rstrip("/") != proxy_url:
            return re.sub(r"//[^/@]*@", "//", value)
    return None


def _kept(base: Mapping[str, str], hosts: Sequence[str]) -> list[str]:
    return [entry for entry in _entries(base) if not _is_bypass(entry, hosts)]


def _entries(base: Mapping[str, str]) -> list[str]:
    both = f"{base.get('no_proxy', '')},{base.get('NO_PROXY', '')}"
    return list(dict.fromkeys(entry for entry in _SEPARATOR.split(both) if entry))


def _is_bypass(entry: str, hosts: Sequence[str]) -> bool:
    """Clients disagree on what an entry means; this takes the widest reading of each.

    requests compares the ends of names without regard for dots, Node and Go read a port, some
    know wildcards in the middle.
    """
    name = re.sub(r":\d+$", "", entry.lower()).rstrip(".").lstrip(".")
    name = name.removeprefix("*.")
    return any(host.endswith(name) or fnmatch.fnmatchcase(host, name) for host in hosts)
