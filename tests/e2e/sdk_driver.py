"""Jobs for the real openai SDK, run by another interpreter (.venv-clients).

stdin: a JSON line for each job: mode (create | stream | stream_helper | async_stream; with
structured output: parse, and stream_helper if kwargs say `structured`), api (chat
| responses), kwargs for the call, client: kwargs for the client, stop_after: leave after so many
chunks, environment, and out, the file of a JSON line for each thing that happened, with
time.monotonic(). Beside it: .err, what it said; .pid; and .exit, the exit code, last.

Each job is a process of its own, with its own environment. It is forked from one that has
imported the SDK and nothing more: that takes a second, and a program's calls begin after it.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
import traceback
from operator import attrgetter
from pathlib import Path
from typing import Any

import openai
import pydantic


class Answer(pydantic.BaseModel):
    """What a program asks for with structured output."""

    answer: str


def say(event: str, **more: Any) -> None:
    line = {"event": event, "at": time.monotonic(), **more}
    sys.stdout.write(json.dumps(line, default=repr) + "\n")
    sys.stdout.flush()


def on_chunk(chunk: Any) -> None:
    """A chat chunk, a Responses event, or an event of the .stream() helper."""
    data: Any = chunk.to_dict() if hasattr(chunk, "to_dict") else {"repr": repr(chunk)}
    if data.get("type") == "chunk":  # the helper wraps the chunk
        data = chunk.chunk.to_dict()
    text = ""
    for choice in data.get("choices") or ():
        text += (choice.get("delta") or {}).get("content") or ""
    if data.get("type") == "response.output_text.delta":
        text = data["delta"]
    say("chunk", text=text, data=data)


def endpoint(client: Any, job: dict[str, Any]) -> Any:
    return client.responses if job.get("api") == "responses" else client.chat.completions


def create(job: dict[str, Any]) -> None:
    """With kwargs["call"], any call of the SDK ("files.create"); a list [name, text] is a file."""
    with openai.OpenAI(**job["client"]) as client:
        kwargs = job["kwargs"]
        if call := kwargs.pop("call", None):
            kwargs.pop("messages")
            if kwargs.pop("drop_model"):
                kwargs.pop("model")
            for key, value in kwargs.items():
                if key in ("file", "image"):
                    kwargs[key] = (value[0], value[1].encode("latin-1"))
            result = attrgetter(call)(client)(**kwargs)
        else:
            result = endpoint(client, job).create(**kwargs)
        say("result", data=result.to_dict() if hasattr(result, "to_dict") else {"text": result})


def parse(job: dict[str, Any]) -> None:
    with openai.OpenAI(**job["client"]) as client:
        result = endpoint(client, job).parse(**job["kwargs"], text_format=Answer)
        say("result", data=result.to_dict(), parsed=result.output_parsed.answer)


def stream(job: dict[str, Any]) -> None:
    with (
        openai.OpenAI(**job["client"]) as client,
        endpoint(client, job).create(**job["kwargs"], stream=True) as chunks,
    ):
        say("head")
        for n, chunk in enumerate(chunks, 1):
            on_chunk(chunk)
            if n == job.get("stop_after"):
                say("left")
                return


def stream_helper(job: dict[str, Any]) -> None:
    is_responses = job.get("api") == "responses"
    if job["kwargs"].pop("structured", False):
        job["kwargs"]["text_format"] = Answer
    with (
        openai.OpenAI(**job["client"]) as client,
        endpoint(client, job).stream(**job["kwargs"]) as events,
    ):
        say("head")
        for event in events:
            if is_responses or getattr(event, "type", "") == "chunk":
                on_chunk(event)
        final = events.get_final_response if is_responses else events.get_final_completion
        say("result", data=final().to_dict())


async def async_stream(job: dict[str, Any]) -> None:
    async with (
        openai.AsyncOpenAI(**job["client"]) as client,
        await endpoint(client, job).create(**job["kwargs"], stream=True) as chunks,
    ):
        say("head")
        n = 0
        async for chunk in chunks:
            on_chunk(chunk)
            n += 1
            if n == job.get("stop_after"):
                say("left")
                return


def do(job: dict[str, Any]) -> None:
    modes = {"create": create, "parse": parse, "stream": stream, "stream_helper": stream_helper}
    say("start", version=openai.__version__)
    try:
        if job["mode"] == "async_stream":
            asyncio.run(async_stream(job))
        else:
            modes[job["mode"]](job)
    except Exception as error:  # noqa: BLE001  # whatever a program would see is what the test is about
        say(
            "exception",
            name=type(error).__name__,
            bases=[base.__name__ for base in type(error).__mro__],
            text=str(error),
            code=getattr(error, "code", None),
            kind=getattr(error, "type", None),
            param=getattr(error, "param", None),
            body=getattr(error, "body", None),
            status=getattr(error, "status_code", None),
            cause=repr(error.__cause__) if error.__cause__ else None,
        )
    say("end")


def run(job: dict[str, Any]) -> None:
    """The process of one job; does not return."""
    os.environ.clear()
    os.environ.update(job["environment"])
    for number, path in ((0, os.devnull), (1, job["out"]), (2, job["out"] + ".err")):
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(file, number)
        os.close(file)
    code = 1
    try:
        do(job)
        code = 0
    except BaseException:  # noqa: BLE001  # the edge of the process: it must not go on as the server
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def watch(job: dict[str, Any]) -> None:
    """Start the process and write down its end; does not return."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if (pid := os.fork()) == 0:
        run(job)
    write(Path(job["out"] + ".pid"), pid)
    write(Path(job["out"] + ".exit"), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    os._exit(0)


def write(path: Path, number: int) -> None:
    """Whole, or not there."""
    path.with_suffix(path.suffix + "~").write_text(str(number))
    path.with_suffix(path.suffix + "~").rename(path)


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the watchers
    for line in sys.stdin:
        if os.fork() == 0:
            watch(json.loads(line))


main()
