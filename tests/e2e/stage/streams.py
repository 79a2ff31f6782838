"""What OpenAI says, as bytes: chat streams in api.openai.com's own framing, and whole replies.

Every builder returns a list with one event per item, so that a test can say "after the third
event". Framing as recorded: `data: ` with a space, LF, a blank line; no `event:`, no comments.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from itertools import zip_longest

type Json = dict[str, object]

MODEL = "gpt-4o-mini-2024-07-18"
ID = "chatcmpl-Bstage0000000000000000000000"
CREATED = 1_731_456_250
DONE = b"data: [DONE]\n\n"
USAGE: Json = {
    "prompt_tokens": 12,
    "completion_tokens": 5,
    "total_tokens": 17,
    "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
}
_PADDING = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"


def chat(content: str = "Say this is a test", *, stream: bool = True, **more: object) -> Json:
    """A request body. `more` is added, or replaces what is there (messages=...)."""
    body: Json = {
        "model": "gpt-4o-mini",
        "messages": [{"role": "user", "content": content}],
        "stream": stream,
    }
    return body | more


def event(data: Json | str) -> bytes:
    text = data if isinstance(data, str) else _dumps(data)
    return b"data: " + text.encode() + b"\n\n"


def chunk(choices: Sequence[Json], model: str = MODEL, **more: object) -> Json:
    return {
        "id": ID,
        "object": "chat.completion.chunk",
        "created": CREATED,
        "model": model,
        "service_tier": "default",
        "system_fingerprint": "fp_0ba0d124f1",
        "choices": list(choices),
    } | more


def text_stream(
    words: Iterable[str],
    model: str = MODEL,
    *,
    usage: bool = True,
    done: bool = True,
    finish: str = "stop",
    obfuscation: bool = True,
) -> list[bytes]:
    """The role, an event for each word, the finish; then usage and [DONE] if asked for."""
    return choices_stream(
        [words], model, usage=usage, done=done, finish=finish, obfuscation=obfuscation
    )


def choices_stream(
    choices: Sequence[Iterable[str]],
    model: str = MODEL,
    *,
    usage: bool = True,
    done: bool = True,
    finish: str = "stop",
    obfuscation: bool = True,
) -> list[bytes]:
    """n > 1: the words of all choices take turns, as they do on the wire."""
    deltas: list[Json] = [
        _choice(n, {"role": "assistant", "content": "", "refusal": None})
        for n in range(len(choices))
    ]
    for turn in zip_longest(*choices):
        deltas += [_choice(n, {"content": w}) for n, w in enumerate(turn) if w is not None]
    ends = [_choice(n, {}, finish) for n in range(len(choices))]
    return _events(deltas + ends, model, usage=usage, done=done, obfuscation=obfuscation)


def refusal_stream(words: Iterable[str], model: str = MODEL, *, done: bool = True) -> list[bytes]:
    """The model declines: the text is in `refusal`, not in `content`."""
    deltas = [_choice(0, {"role": "assistant", "content": None, "refusal": ""})]
    deltas += [_choice(0, {"refusal": word}) for word in words]
    return _events([*deltas, _choice(0, {}, "stop")], model, usage=True, done=done)


def tool_stream(
    text: str = "",
    calls: Sequence[tuple[str, str]] = (),
    model: str = MODEL,
    *,
    fragment: int = 6,
    interleave: bool = False,
    usage: bool = True,
    done: bool = True,
) -> list[bytes]:
    """Text, then function calls: (name, arguments as JSON text), in fragments of some characters.

    interleave: the calls' fragments take turns instead of coming one call after the other.
    """
    return _calls_stream(
        text, calls, "function", "arguments", model, fragment, interleave, usage=usage, done=done
    )


def custom_tool_stream(
    text: str = "",
    calls: Sequence[tuple[str, str]] = (),
    model: str = MODEL,
    *,
    fragment: int = 6,
    interleave: bool = False,
    usage: bool = True,
    done: bool = True,
) -> list[bytes]:
    """As `tool_stream`, with custom tools: (name, free text)."""
    return _calls_stream(
        text, calls, "custom", "input", model, fragment, interleave, usage=usage, done=done
    )


def function_call_stream(
    name: str, arguments: str, model: str = MODEL, *, fragment: int = 6, done: bool = True
) -> list[bytes]:
    """The deprecated `function_call`, which old agents still use."""
    first: Json = {
        "role": "assistant",
        "content": None,
        "function_call": {"name": name, "arguments": ""},
    }
    deltas = [_choice(0, first)]
    deltas += [
        _choice(0, {"function_call": {"arguments": piece}})
        for piece in _fragments(arguments, fragment)
    ]
    return _events([*deltas, _choice(0, {}, "function_call")], model, usage=True, done=done)


def completion(
    content: str | None = "This is a test.",
    calls: Sequence[tuple[str, str]] = (),
    model: str = MODEL,
    **more: object,
) -> Json:
    """A whole reply, as it comes without `stream`. more: replaces top-level fields."""
    message: Json = {
        "role": "assistant",
        "content": content,
        "refusal": None,
        "annotations": [],
    }
    if calls:
        message["tool_calls"] = [
            {"id": _call_id(n), "type": "function", "function": {"name": name, "arguments": args}}
            for n, (name, args) in enumerate(calls)
        ]
    body: Json = {
        "id": ID,
        "object": "chat.completion",
        "created": CREATED,
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": message,
                "logprobs": None,
                "finish_reason": "tool_calls" if calls else "stop",
            }
        ],
        "usage": USAGE,
        "service_tier": "default",
        "system_fingerprint": "fp_0ba0d124f1",
    }
    return body | more


def error(message: str, *, kind: str = "invalid_request_error", code: str | None = None) -> Json:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def payloads(raw: bytes) -> list[Json]:
    """The JSON of each complete `data:` event; [DONE], comments and blank lines are left out.

    A reader for tests, strict where OpenAI is: anything else in the stream raises.
    """
    found: list[Json] = []
    for block in raw.split(b"\n\n")[:-1]:
        for line in block.split(b"\n"):
            if not line or line.startswith((b":", b"event: ")):
                continue
            if not line.startswith(b"data: "):
                raise ValueError(f"not an event line: {line!r}")
            if line != b"data: [DONE]":
                found.append(json.loads(line.removeprefix(b"data: ")))
    return found


def content_of(raw: bytes, choice: int = 0) -> str:
    """The text of one choice in the complete events of a raw chat stream."""
    text = ""
    for payload in payloads(raw):
        choices = payload.get("choices")
        for one in choices if isinstance(choices, list) else ():
            if one["index"] == choice:
                text += one["delta"].get("content") or ""
    return text


def _calls_stream(
    text: str,
    calls: Sequence[tuple[str, str]],
    kind: str,
    field: str,
    model: str,
    fragment: int,
    interleave: bool,
    *,
    usage: bool,
    done: bool,
) -> list[bytes]:
    role: Json = {"role": "assistant", "content": "" if text else None, "refusal": None}
    deltas = [_choice(0, role)]
    deltas += [_choice(0, {"content": word}) for word in _words(text)]
    series: list[list[Json]] = []
    for n, (name, arguments) in enumerate(calls):
        opening: Json = {
            "index": n,
            "id": _call_id(n),
            "type": kind,
            kind: {"name": name, field: ""},
        }
        rest: list[Json] = [
            {"index": n, kind: {field: piece}} for piece in _fragments(arguments, fragment)
        ]
        series.append([opening, *rest])
    turns = (
        [call for turn in zip_longest(*series) for call in turn if call is not None]
        if interleave
        else [call for one in series for call in one]
    )
    deltas += [_choice(0, {"tool_calls": [call]}) for call in turns]
    return _events([*deltas, _choice(0, {}, "tool_calls")], model, usage=usage, done=done)


def _events(
    choices: Sequence[Json], model: str, *, usage: bool, done: bool, obfuscation: bool = True
) -> list[bytes]:
    dice = random.Random(len(choices))  # the same stream for the same call
    more: Json = {"usage": None} if usage else {}
    events: list[bytes] = []
    for choice in choices:
        padding: Json = {}
        if obfuscation:
            padding["obfuscation"] = "".join(dice.choices(_PADDING, k=dice.randint(1, 16)))
        events.append(event(chunk([choice], model, **more, **padding)))
    if usage:
        events.append(event(chunk([], model, usage=USAGE)))
    if done:
        events.append(DONE)
    return events


def _choice(index: int, delta: Json, finish: str | None = None) -> Json:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}


def _words(text: str) -> list[str]:
    """Tokens as models cut them: the space belongs to the word behind it."""
    words = text.split(" ")
    return [w if n == 0 else " " + w for n, w in enumerate(words)] if text else []


def _fragments(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


def _call_id(n: int) -> str:
    return f"call_stage{n:018d}"


def _dumps(data: Json) -> str:
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False)
