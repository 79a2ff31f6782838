"""The runtimes on the PATH: does each call the API through the proxy, and does it trust it?

Each is made to ask for the health of the proxy at the API's own address, which only the proxy
answers. So the answer is proof, and no network and no key is needed.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum

from .proxy import HEALTH_PATH, HOST

SECONDS = 25.0  # a JVM that compiles, on a busy machine
URL = f"https://{HOST}{HEALTH_PATH}"

_PYTHON = "import urllib.request as u; print(u.urlopen({url!r}, timeout=10).read().decode())"
_REQUESTS = "import requests; print(requests.get({url!r}, timeout=10).text)"
_HTTPX = "import httpx; print(httpx.get({url!r}, timeout=10).text)"
_AIOHTTP = """
import aiohttp, asyncio
async def main():
    async with aiohttp.ClientSession() as session:
        async with session.get({url!r}, timeout=aiohttp.ClientTimeout(10)) as reply:
            print(await reply.text())
asyncio.run(main())"""
_FETCH = "fetch({url!r}).then(r => r.text()).then(t => console.log(t), e => { console.log(e); " + (
    "if (e.cause) console.log(String(e.cause.message || e.cause.code || e.cause)) })"
)
_HTTPS = (
    "(process.getBuiltinModule ? process.getBuiltinModule('node:https') : require('https'))"
    ".get({url!r}, r => r.on('data', d => console.log(String(d)))).on('error', e => console.log(e))"
)
_JAVA = """
var r = java.net.http.HttpClient.newHttpClient().send(
  java.net.http.HttpRequest.newBuilder(java.net.URI.create("{url}")).build(),
  java.net.http.HttpResponse.BodyHandlers.ofString());
System.out.println(r.body());
/exit
"""


class Way(StrEnum):
    VIA = "VIA-PROXY"
    DIRECT = "DIRECT"
    REFUSED = "REFUSED"
    ABSENT = "ABSENT"


@dataclass(frozen=True, slots=True)
class Runtime:
    """A way to call. needs: what must be importable for it. stdin: what it reads."""

    name: str
    command: tuple[str, ...]
    needs: tuple[str, ...] = ()
    stdin: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    runtime: str
    way: Way
    said: str = ""


def usual(python: str = "python3") -> list[Runtime]:
    """What is looked for. Go and other compiled programs have nothing to be asked with."""

    def code(template: str) -> str:
        return template.replace("{url!r}", repr(URL)).replace("{url}", URL)

    return [
        Runtime("curl", ("curl", "-sS", "--max-time", "10", URL)),
        Runtime("python urllib", (python, "-c", code(_PYTHON))),
        Runtime("python requests", (python, "-c", code(_REQUESTS)), ("requests",)),
        Runtime("python httpx", (python, "-c", code(_HTTPX)), ("httpx",)),
        Runtime("python aiohttp", (python, "-c", code(_AIOHTTP)), ("aiohttp",)),
        Runtime("node fetch", ("node", "-e", code(_FETCH))),
        Runtime("node https", ("node", "-e", code(_HTTPS))),
        Runtime("deno fetch", ("deno", "eval", code(_FETCH))),
        Runtime("deno https", ("deno", "eval", code(_HTTPS))),
        Runtime("bun fetch", ("bun", "-e", code(_FETCH))),
        Runtime("bun https", ("bun", "-e", code(_HTTPS))),
        Runtime("java", ("jshell", "-s", "-"), stdin=code(_JAVA)),
    ]


def look(runtimes: Sequence[Runtime], environment: Mapping[str, str]) -> list[Seen]:
    """Try them, two at a time; those that are not there are left out."""
    with ThreadPoolExecutor(2) as pool:
        seen = pool.map(lambda runtime: try_one(runtime, environment), runtimes)
        return [one for one in seen if one.way is not Way.ABSENT]


def try_one(runtime: Runtime, environment: Mapping[str, str]) -> Seen:
    program = shutil.which(runtime.command[0], path=environment.get("PATH"))
    if program is None:
        return Seen(runtime.name, Way.ABSENT)
    command = list(runtime.command)
    if program.endswith("jshell"):  # its programs run in a JVM of their own, which is told so
        options = environment.get("JAVA_TOOL_OPTIONS", "").split()
        command[1:1] = [f"-R{option}" for option in options]
    try:
        # Python and Node load modules from where they are started: not from just anywhere.
        with tempfile.TemporaryDirectory(prefix="invariant-") as empty:
            ended = subprocess.run(
                [program, *command[1:]],
                cwd=empty,
                input=runtime.stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env=dict(environment),
                timeout=SECONDS,
                check=False,
            )
    except subprocess.TimeoutExpired:
        return Seen(runtime.name, Way.REFUSED, f"no answer in {SECONDS:.0f} s")
    except OSError as error:
        return Seen(runtime.name, Way.REFUSED, str(error.strerror))
    return judge(runtime, ended.stdout)


_ANSWERED = re.compile(r'"invariant"\s*:')
_DISTRUSTS = re.compile(
    r"certificate|CERT_|PKIX|self.signed|unable to get local issuer|SSLHand", re.IGNORECASE
)
_ALONE = re.compile(
    # It asked for the address of the host itself, or was told that there is no way to it.
    r"could not resolve|name or service not known|nodename nor servname|ENOTFOUND|EAI_AGAIN"
    r"|getaddrinfo|temporary failure in name|unresolvedaddress|unknownhost|dns error|no such host"
    r"|network is unreachable|ENETUNREACH|No address associated|invalid_api_key|Invalid URL \(GET"
    r"|Cannot connect to host api\.openai\.com|failed to lookup",
    re.IGNORECASE,
)
_NO_PROXY = re.compile(
    r"ECONNREFUSED|connection refused|Failed to connect|ConnectException", re.IGNORECASE
)


def judge(runtime: Runtime, said: str) -> Seen:
    """What its output means. Whatever is not an answer of the proxy is none."""
    if _ANSWERED.search(said):
        return Seen(runtime.name, Way.VIA)
    if any(f"No module named '{name}'" in said for name in runtime.needs):
        return Seen(runtime.name, Way.ABSENT)
    if "command not found" in said and "pyenv" in said:
        return Seen(runtime.name, Way.ABSENT)
    if _DISTRUSTS.search(said):
        return Seen(runtime.name, Way.REFUSED, "it does not trust the certificate")
    if _NO_PROXY.search(said):
        return Seen(runtime.name, Way.REFUSED, "the connection was refused")
    if _ALONE.search(said):
        return Seen(runtime.name, Way.DIRECT, "it does not ask the proxy")
    return Seen(runtime.name, Way.DIRECT, "somebody else answered, or nobody")
