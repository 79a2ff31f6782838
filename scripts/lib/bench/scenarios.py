"""What is asked, and what the fake answers: scenarios to bytes, the same in every process.

Upstream and client render them for themselves, so each knows what the other must say. It opens
no socket and knows no proxy.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache

HOST = "api.openai.com"
LONGEST = 10_000
"""Chunks of one reply at most."""

_WORDS = (
    " the", " fund", " holds", " a", " little", " of", " everything", ",", " so", " no", " single",
    " company", " can", " sink", " it", ".", " Costs", " are", " low", " and", " over", " decades",
    " its", " owners", " did", " well", ".",
)  # fmt: skip
_SENTENCE = "Please compare these two funds for me, and tell me what each of them costs a year. "
_SAME = {
    "id": "chatcmpl-Bx0000000000000000000000000000",
    "object": "chat.completion.chunk",
    "created": 1763856000,
    "model": "gpt-4o-mini-2024-07-18",
    "service_tier": "default",
    "system_fingerprint": "fp_0000000000",
}


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of traffic.

    chunks: events with text in each streamed reply; 0: not streamed. gap: seconds between them.
    at_once: connections, each with one call after the other. messages: of the request.
    seconds: when no new call is begun any more. calls: of each connection, at most. pause: seconds
    before each call, like a client that does something with what it got.
    """

    name: str
    title: str
    at_once: int
    chunks: int = 0
    gap: float = 0.0
    messages: int = 1
    seconds: float = 1.5
    calls: int = 1_000
    pause: float = 0.0

    @property
    def is_paced(self) -> bool:
        return self.gap > 0

    def shortened(self) -> Scenario:
        """For --quick."""
        if self.is_paced:
            at_once = max(1, self.at_once // 3)
            return replace(self, at_once=at_once, chunks=min(self.chunks, 30))
        return replace(self, seconds=0.4)


PACED = Scenario("paced", "paced, 20 ms from chunk to chunk", 24, 100, 0.02, calls=1)
SCENARIOS = (
    Scenario("burst-1", "burst, 500 chunks at once", 1, 500, calls=250),
    Scenario("burst-16", "burst, 500 chunks at once", 16, 500, calls=16),
    PACED,
    Scenario("plain-1", "not streamed, 1 KB", 1),
    Scenario("plain-apart", "not streamed, 1 KB, 10 ms apart", 1, seconds=4.0, pause=0.01),
    Scenario("plain-32", "not streamed, 1 KB", 32),
    Scenario("history-3", "3 messages, 20 chunks", 1, 20, messages=3),
    Scenario("history-30", "30 messages, 20 chunks", 1, 20, messages=30),
    Scenario("history-150", "150 messages, 20 chunks", 1, 20, messages=150),
)


@cache
def request(chunks: int, gap: float, messages: int, prompt: str = _SENTENCE) -> bytes:
    """A whole HTTP request. Its x-bench header tells the fake what to answer."""
    said = [
        {"role": ("user", "assistant")[number % 2], "content": prompt * (1 if number else 3)}
        for number in range(messages - 1)
    ]
    said.append({"role": "user", "content": prompt})
    asked = {"model": "gpt-4o-mini", "messages": said, "stream": bool(chunks)}
    body = json.dumps(asked, separators=(",", ":")).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: {HOST}\r\nuser-agent: invariant-bench\r\n"
        f"authorization: Bearer none-is-needed\r\naccept: application/json\r\n"
        f"content-type: application/json\r\nx-bench: {chunks}/{gap * 1000:g}\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


@cache
def events(chunks: int) -> tuple[bytes, ...]:
    """The events of a streamed reply: role, text, finish, [DONE]. Like OpenAI's, each padded."""
    found = [_event(0, {"role": "assistant", "content": "", "refusal": None}, None)]
    found += [
        _event(number, {"content": _WORDS[number % len(_WORDS)]}, None) for number in range(chunks)
    ]
    return (*found, _event(0, {}, "stop"), b"data: [DONE]\n\n")


def _event(number: int, delta: dict[str, object], finish: str | None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    chunk = {**_SAME, "choices": [choice], "obfuscation": "x3Kq9ZtWb7Lm"[: 4 + number % 8]}
    return b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"


@cache
def body(chunks: int) -> bytes:
    """What the client must have received in the end, to the byte."""
    if chunks:
        return b"".join(events(chunks))
    text = "".join(_WORDS[number % len(_WORDS)] for number in range(150))
    message: dict[str, object] = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    usage = {"prompt_tokens": 20, "completion_tokens": 150, "total_tokens": 170}
    reply = {**_SAME, "object": "chat.completion", "choices": [choice], "usage": usage}
    return json.dumps(reply, separators=(",", ":")).encode()


@cache
def response(chunks: int) -> tuple[bytes, ...]:
    """The fake's bytes: one piece for each event (the first with the head), or one in all."""
    if not chunks:
        head = _head("application/json", f"content-length: {len(body(0))}")
        return (head + body(0),)
    head = _head("text/event-stream; charset=utf-8", "transfer-encoding: chunked")
    pieces = [b"%x\r\n%b\r\n" % (len(event), event) for event in events(chunks)]
    return (head + pieces[0], *pieces[1:-1], pieces[-1] + b"0\r\n\r\n")


def _head(media_type: str, framing: str) -> bytes:
    return (
        f"HTTP/1.1 200 OK\r\ncontent-type: {media_type}\r\n{framing}\r\n"
        f"openai-processing-ms: 1\r\nx-request-id: req_00000000000000000000000000000000\r\n\r\n"
    ).encode()
