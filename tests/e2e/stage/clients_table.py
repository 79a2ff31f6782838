"""Real clients of several makers as programs that run: what a user of each gets to see.

`scripts/clients` makes their environments, in .clients/. A program gets the environment that
`scripts/run` gives it, and answers one job after the other; its imports are paid for once.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from invariant_addon.interception.environment import guarded_environment
from invariant_addon.interception.trust import Trust

from .clients import SDK_PYTHON
from .proxy import ROOT, Proxy, clean_environment
from .script import wait_until
from .streams import Json

MADE = ROOT / ".clients"
DRIVERS = ROOT / "tests" / "e2e" / "clients"
NODE = MADE / "node"


@dataclass(frozen=True, slots=True)
class Client:
    """command: starts its driver. needs: a program on the PATH, or what scripts/clients makes:
    a .ready says that it is whole.

    ways: what there is to call. refused, cut: the classes of what is raised for a refused call,
    and for a refusal midway. mode: of the proxy. api: what it calls, chat or responses.
    """

    name: str
    command: Sequence[str | Path]
    needs: Sequence[str | Path]
    ways: Sequence[str] = ("sync", "async")
    refused: str = "BadRequestError"
    cut: str = "APIError"
    mode: str = "regular"
    api: str = "chat"

    def missing(self) -> str:
        """Why it cannot be run here; "" if it can."""
        for need in self.needs:
            if isinstance(need, str) and not shutil.which(need):
                return f"{self.name}: there is no {need} on the PATH"
            if isinstance(need, Path) and not need.exists():
                return (
                    f"{self.name}: there is no {need.relative_to(ROOT)}; scripts/clients makes it"
                )
        return ""


def _python(name: str, environment: Path, program: str, **more: str) -> Client:
    python = environment / "bin" / "python"
    command: list[str | Path] = [python, DRIVERS / "python_driver.py", program]
    return Client(name, command, [environment / ".ready"], **more)


def _node(name: str, node: str | Path, package: str, way: str = "chat", **more: str) -> Client:
    command: list[str | Path] = [node, DRIVERS / "node_driver.mjs", NODE, package, way]
    return Client(name, command, [node, NODE / ".ready"], ["async"], **more)


NEWEST_NODE = NODE / "node_modules/.bin/node"


CLIENTS = (
    _python("openai-python 1", MADE / "openai-1", "openai"),
    _python("openai-python 2", MADE / "openai-2", "openai"),
    _python("openai-python 3", SDK_PYTHON.parents[1], "openai"),
    _python(
        "langchain-openai",
        MADE / "langchain",
        "langchain",
        refused="OpenAIInvalidRequestError",
    ),
    _python("litellm", MADE / "litellm", "litellm", cut="MidStreamFallbackError"),
    _node("openai-node 7", NEWEST_NODE, "openai"),
    # Whatever Node is here may be too old to know proxies: it is given a base URL instead.
    _node("openai-node 6", "node", "openai-6", mode="reverse:http"),
    Client(
        "curl",
        [sys.executable, DRIVERS / "python_driver.py", "curl"],
        ["curl"],
        ["http/1.1", "http/2"],
        refused="ErrorBody",
        cut="ErrorEvent",
    ),
    _python("openai-python 3, responses", SDK_PYTHON.parents[1], "responses", api="responses"),
    # Its runs share connections, so they all belong to one loop.
    replace(_python("openai-agents", MADE / "agents", "agents", api="responses"), ways=["async"]),
    _node("openai-node 7, responses", NEWEST_NODE, "openai", "responses", api="responses"),
    _node("@openai/agents", NEWEST_NODE, "@openai/agents", "agents", api="responses"),
    _node(
        "AI SDK 7",
        NEWEST_NODE,
        "ai",
        "ai",
        api="responses",
        refused="AI_APICallError",
        cut="AI_StreamProviderError",
    ),
)


@dataclass(frozen=True, slots=True)
class Seen:
    """What one job showed. error: the exception's class, "" if there was none; bases: and those
    it comes from; status: the HTTP status that it tells."""

    text: str
    error: str = ""
    bases: Sequence[str] = ()
    message: str = ""
    status: int | None = None

    def __str__(self) -> str:
        text = f'"{self.text}"' if self.text else ""
        if not self.error:
            return text
        status = f" (status {self.status})" if self.status else ""
        return ", then ".join(filter(None, (text, f"{self.error}{status}: {self.message}")))


class Program:
    """A client at work. One job at a time."""

    def __init__(self, client: Client, proxy: Proxy, folder: Path) -> None:
        self.client = client
        self.proxy = proxy
        self._out, self._err = folder / "out.jsonl", folder / "stderr"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._child = subprocess.Popen(
                [str(part) for part in client.command],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=err,
                env=_environment(proxy),
                cwd=folder,
            )
        self._from = 1  # the first line is "start"

    @property
    def is_running(self) -> bool:
        return self._child.poll() is None

    @property
    def version(self) -> str:
        wait_until(lambda: bool(self._lines()), 90, f"{self.client.name} to start")
        return str(self._lines()[0]["version"])

    def start(self, way: str, content: str = "Say this is a test", *, stream: bool) -> None:
        """Begin a job, once the client is ready for it."""
        assert self.version and self._child.stdin
        self._from = len(self._lines())
        job = {"way": way, "stream": stream, "content": content}
        self._child.stdin.write(json.dumps(job).encode() + b"\n")
        self._child.stdin.flush()

    def wait_text(self, text: str, timeout: float = 30) -> None:
        """Wait until the program has seen this, or was told something else."""
        wait_until(
            lambda: text in self._seen().text or bool(self._seen().error),
            timeout,
            f"{text!r} at {self.client.name}",
        )

    def finish(self, timeout: float = 60) -> Seen:
        """Wait for the end of the job."""
        wait_until(
            lambda: any(line["event"] == "end" for line in self._job()),
            timeout,
            f"the end of {self.client.name}'s job",
        )
        return self._seen()

    def ask(self, way: str, content: str = "Say this is a test", *, stream: bool) -> Seen:
        self.start(way, content, stream=stream)
        return self.finish()

    def tell_to_stop(self) -> None:
        """Its input ends, so it does."""
        if self._child.stdin:
            self._child.stdin.close()

    def stop(self) -> None:
        """By force if it does not listen."""
        self.tell_to_stop()
        try:
            self._child.wait(5)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait(5)

    def _lines(self) -> list[Json]:
        lines = [line for line in self._out.read_bytes().splitlines(True) if line.endswith(b"\n")]
        if self._child.poll() is not None:
            said = self._err.read_text(errors="replace")[-3000:]
            raise AssertionError(f"the driver of {self.client.name} ended: {lines[-3:]} {said}")
        return [json.loads(line) for line in lines]

    def _job(self) -> list[Json]:
        return self._lines()[self._from :]

    def _seen(self) -> Seen:
        lines = self._job()
        text = "".join(str(line["text"] or "") for line in lines if line["event"] == "text")
        for line in lines:
            if line["event"] == "exception":
                bases = cast(list[str], line["bases"])
                status = cast(int | None, line["status"])
                return Seen(text, str(line["name"]), bases, str(line["text"]), status)
        return Seen(text)


def _environment(proxy: Proxy) -> dict[str, str]:
    """As scripts/run makes it; with a base URL for the clients that know no proxy."""
    base = clean_environment(proxy.home) | {"OPENAI_API_KEY": "sk-stage"}
    if proxy.is_reverse:
        return base | {"OPENAI_BASE_URL": proxy.url + "/v1"}
    return guarded_environment(base, proxy.url, Trust(proxy.ca, proxy.ca, proxy.ca))
