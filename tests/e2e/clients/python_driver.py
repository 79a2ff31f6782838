"""Jobs for a real client written in Python, run by that client's own interpreter.

argv: openai, responses, agents, langchain, litellm or curl. stdin: one job a line, a JSON object:
way (sync | async, for curl http/1.1 | http/2), stream, content. stdout: JSON lines: start, then
for each job text, perhaps exception, and end. Nothing about the clients is tuned: default retries,
proxy and trust from the environment, as for any program of a user.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any

# LiteLLM prints advice where our lines belong: what others print goes to stderr.
_out = os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(2, 1)

MODEL = "gpt-4o-mini"
CURL = ("curl", "-q", "-sS", "-N", "--max-time", "30", "-w", "\n%{http_code} HTTP/%{http_version}")

type Job = dict[str, Any]
type Sync = Callable[[Job], None]
type Async = Callable[[Job], Awaitable[None]]


class ErrorBody(Exception):
    """curl's user finds an error where the reply should be."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status_code = status


class ErrorEvent(Exception):
    """curl's user finds an error among the events."""


def say(event: str, **more: Any) -> None:
    _out.write(json.dumps({"event": event, **more}) + "\n")
    _out.flush()


def messages(job: Job) -> list[dict[str, str]]:
    return [{"role": "user", "content": job["content"]}]


def on_chunk(chunk: Any) -> None:
    """A chunk as the SDK and LiteLLM give it."""
    for choice in chunk.choices:
        if choice.delta.content:
            say("text", text=choice.delta.content)


def openai(client: Any) -> tuple[Sync, Async]:
    """`create`, of any version."""

    def sync(job: Job) -> None:
        with client.OpenAI() as at:
            reply = at.chat.completions.create(
                model=MODEL, messages=messages(job), stream=job["stream"]
            )
            if not job["stream"]:
                say("text", text=reply.choices[0].message.content)
                return
            for chunk in reply:
                on_chunk(chunk)

    async def asynchronous(job: Job) -> None:
        async with client.AsyncOpenAI() as at:
            reply = await at.chat.completions.create(
                model=MODEL, messages=messages(job), stream=job["stream"]
            )
            if not job["stream"]:
                say("text", text=reply.choices[0].message.content)
                return
            async for chunk in reply:
                on_chunk(chunk)

    return sync, asynchronous


def responses(client: Any) -> tuple[Sync, Async]:
    """`responses.create`."""

    def on_event(event: Any) -> None:
        if event.type == "response.output_text.delta":
            say("text", text=event.delta)

    def sync(job: Job) -> None:
        with client.OpenAI() as at:
            reply = at.responses.create(model=MODEL, input=job["content"], stream=job["stream"])
            if not job["stream"]:
                say("text", text=reply.output_text)
                return
            for event in reply:
                on_event(event)

    async def asynchronous(job: Job) -> None:
        async with client.AsyncOpenAI() as at:
            reply = await at.responses.create(
                model=MODEL, input=job["content"], stream=job["stream"]
            )
            if not job["stream"]:
                say("text", text=reply.output_text)
                return
            async for event in reply:
                on_event(event)

    return sync, asynchronous


def agents(client: Any) -> Async:
    """A run of an agent."""

    async def asynchronous(job: Job) -> None:
        agent = client.Agent(name="a", model=MODEL)
        if not job["stream"]:
            say("text", text=(await client.Runner.run(agent, job["content"])).final_output)
            return
        async for event in client.Runner.run_streamed(agent, job["content"]).stream_events():
            if event.type == "raw_response_event":
                data = event.data
                if data.type == "response.output_text.delta":
                    say("text", text=data.delta)

    return asynchronous


def langchain(client: Any) -> tuple[Sync, Async]:
    """`invoke` and `stream` of a chat model."""

    def sync(job: Job) -> None:
        model = client.ChatOpenAI(model=MODEL)
        if not job["stream"]:
            say("text", text=model.invoke(job["content"]).content)
            return
        for chunk in model.stream(job["content"]):
            say("text", text=chunk.content)

    async def asynchronous(job: Job) -> None:
        model = client.ChatOpenAI(model=MODEL)
        if not job["stream"]:
            say("text", text=(await model.ainvoke(job["content"])).content)
            return
        async for chunk in model.astream(job["content"]):
            say("text", text=chunk.content)

    return sync, asynchronous


def litellm(client: Any) -> tuple[Sync, Async]:
    """`completion` and `acompletion`."""

    def sync(job: Job) -> None:
        reply = client.completion("openai/" + MODEL, messages(job), stream=job["stream"])
        if not job["stream"]:
            say("text", text=reply.choices[0].message.content)
            return
        for chunk in reply:
            on_chunk(chunk)

    async def asynchronous(job: Job) -> None:
        reply = await client.acompletion("openai/" + MODEL, messages(job), stream=job["stream"])
        if not job["stream"]:
            say("text", text=reply.choices[0].message.content)
            return
        async for chunk in reply:
            on_chunk(chunk)

    return sync, asynchronous


def curl(job: Job) -> None:
    """One call, read as a shell script would: line by line, then the status."""
    body = {"model": MODEL, "messages": messages(job), "stream": job["stream"]}
    lines: list[str] = []
    with subprocess.Popen(
        [
            *CURL,
            "--" + job["way"].replace("/", ""),
            *("-H", "Content-Type: application/json"),
            *("-H", f"Authorization: Bearer {os.environ['OPENAI_API_KEY']}"),
            *("-d", json.dumps(body), "https://api.openai.com/v1/chat/completions"),
        ],
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    ) as child:
        assert child.stdout
        for line in child.stdout:
            lines.append(line)
            if line.startswith("data: {"):
                on_event(json.loads(line.removeprefix("data: ")))
    assert child.returncode == 0, f"curl ended with {child.returncode}"
    status, version = lines.pop().split()
    assert version.removesuffix(".0") == job["way"].upper(), f"curl spoke {version}"
    if status != "200":
        raise ErrorBody(json.loads("".join(lines))["error"]["message"], int(status))
    if not job["stream"]:
        say("text", text=json.loads("".join(lines))["choices"][0]["message"]["content"])


def on_event(data: dict[str, Any]) -> None:
    if "error" in data:
        raise ErrorEvent(data["error"]["message"])
    for choice in data["choices"]:
        if choice["delta"].get("content"):
            say("text", text=choice["delta"]["content"])


def on_exception(error: Exception) -> None:
    say(
        "exception",
        name=type(error).__name__,
        bases=[base.__name__ for base in type(error).__mro__],
        text=str(error),
        status=getattr(error, "status_code", None),
    )


def ways(name: str) -> tuple[str, Sync | None, Async | None]:
    """The client's version, and its synchronous and asynchronous way to call."""
    if name == "curl":
        said = subprocess.run(["curl", "--version"], capture_output=True, text=True, check=True)
        return said.stdout.split()[1], curl, None
    if name == "langchain":
        sync, asynchronous = langchain(importlib.import_module("langchain_openai"))
        return version("langchain-openai"), sync, asynchronous
    # Else LiteLLM fetches a list of prices from GitHub when it is imported.
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    if name == "agents":
        os.environ["OPENAI_AGENTS_DISABLE_TRACING"] = "1"  # else it sends traces to OpenAI
        asynchronous = agents(importlib.import_module(name))
        return version("openai-agents"), None, asynchronous
    make = {"openai": openai, "responses": responses, "litellm": litellm}[name]
    package = "litellm" if name == "litellm" else "openai"
    sync, asynchronous = make(importlib.import_module(package))
    return version(package), sync, asynchronous


def main() -> None:
    number, sync, asynchronous = ways(sys.argv[1])
    say("start", version=number)
    # One loop for all jobs: LiteLLM keeps its connections from one call to the next.
    with asyncio.Runner() as runner:
        for line in sys.stdin:
            job = json.loads(line)
            try:
                if job["way"] == "async" and asynchronous:
                    runner.run(_awaited(asynchronous, job))
                elif sync:
                    sync(job)
            except Exception as error:  # noqa: BLE001  # whatever a program would see is what the test is about
                on_exception(error)
            say("end")


async def _awaited(call: Async, job: Job) -> None:
    await call(job)


main()
