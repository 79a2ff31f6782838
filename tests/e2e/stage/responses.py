"""What OpenAI's Responses API says, as bytes: event streams and whole replies.

Framing and order as recorded at api.openai.com: `event:` and `data:` on each event, numbers that
count up, no [DONE]. Every builder of a stream returns a list with one event per item.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from .streams import Json

MODEL = "gpt-4o-mini-2024-07-18"
ID = "resp_stage00000000000000000000000000"
PATH = "/v1/responses"


def request(content: Any = "Say this is a test", *, stream: bool = True, **more: object) -> Json:
    return {"model": "gpt-4o-mini", "input": content, "stream": stream} | more


def message(text: str, *, size: int = 6) -> Json:
    """size: characters of a delta."""
    return {"type": "message", "text": text, "size": size}


def words(pieces: Sequence[str]) -> Json:
    """A message with these deltas."""
    return {"type": "message", "text": "".join(pieces), "pieces": list(pieces)}


def reasoning(text: str, *, size: int = 6) -> Json:
    return {"type": "reasoning", "text": text, "size": size}


def function(name: str, arguments: str, *, number: int = 0) -> Json:
    return {
        "type": "function_call",
        "name": name,
        "arguments": arguments,
        "call_id": f"call_stage{number}",
    }


def custom(name: str, text: str) -> Json:
    return {"type": "custom_tool_call", "name": name, "input": text, "call_id": "call_custom"}


def response(items: Sequence[Json], status: str = "completed", **more: object) -> Json:
    """A whole response object. more: replaces top-level fields."""
    output = [_item(item, n) for n, item in enumerate(items)]
    found: Json = {
        "id": ID,
        "object": "response",
        "created_at": 1_731_456_250,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "model": MODEL,
        "output": output,
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "store": True,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": {
            "input_tokens": 12,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": 5,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 17,
        }
        if status == "completed"
        else None,
        "user": None,
        "metadata": {},
    }
    return found | more


def stream(items: Sequence[Json], *, final: bool = True, **more: object) -> list[bytes]:
    """more: replaces top-level fields of the response. final: it ends with response.completed."""
    begun = response([], "in_progress") | more
    events: list[Json] = [
        {"type": "response.created", "response": begun},
        {"type": "response.in_progress", "response": begun},
    ]
    for n, item in enumerate(items):
        events += _of_item(item, n)
    if final:
        events.append({"type": "response.completed", "response": response(items) | more})
    return framed(events)


def framed(events: Sequence[Json], first: int = 0) -> list[bytes]:
    """The events as bytes, numbered from `first` where they have no number."""
    return [
        b"event: %s\ndata: %s\n\n"
        % (
            str(event.get("type", "")).encode(),
            json.dumps({**event, "sequence_number": n}, separators=(",", ":")).encode(),
        )
        for n, event in enumerate(events, first)
    ]


def payloads(raw: bytes) -> list[Any]:
    """The JSON of each complete event. A reader for tests, strict where OpenAI is."""
    found: list[Any] = []
    for block in raw.split(b"\n\n")[:-1]:
        lines = (line for line in block.split(b"\n") if line.startswith(b"data: "))
        found += [json.loads(line.removeprefix(b"data: ")) for line in lines]
    return found


def text_of(raw: bytes) -> str:
    deltas = (p for p in payloads(raw) if p["type"] == "response.output_text.delta")
    return "".join(p["delta"] for p in deltas)


def _item(item: Json, n: int, status: str = "completed") -> Json:
    """As `output_item.done` and a whole response have it."""
    kind = item["type"]
    if kind == "message":
        part = {"type": "output_text", "text": item["text"], "annotations": [], "logprobs": []}
        return {
            "id": f"msg_{n}",
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": [part],
        }
    if kind == "reasoning":
        part = {"type": "summary_text", "text": item["text"]}
        return {"id": f"rs_{n}", "type": "reasoning", "summary": [part]}
    return {"id": f"item_{n}", "status": status} | item


def _of_item(item: Json, n: int) -> Iterator[Json]:
    at: Json = {"output_index": n}
    kind, done = item["type"], _item(item, n)
    where = at | {"item_id": done["id"]}
    if kind == "message":
        yield {"type": "response.output_item.added", **at, "item": done | {"content": []}}
        where |= {"content_index": 0}
        empty: Json = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        yield {"type": "response.content_part.added", **where, "part": empty}
        for piece in _pieces(item):
            yield {"type": "response.output_text.delta", **where, "delta": piece, "logprobs": []}
        text = item["text"]
        yield {"type": "response.output_text.done", **where, "text": text, "logprobs": []}
        yield {"type": "response.content_part.done", **where, "part": empty | {"text": text}}
    elif kind == "reasoning":
        yield {"type": "response.output_item.added", **at, "item": done | {"summary": []}}
        where |= {"summary_index": 0}
        part: Json = {"type": "summary_text", "text": ""}
        yield {"type": "response.reasoning_summary_part.added", **where, "part": part}
        for piece in _pieces(item):
            yield {"type": "response.reasoning_summary_text.delta", **where, "delta": piece}
        text = item["text"]
        yield {"type": "response.reasoning_summary_text.done", **where, "text": text}
        part = part | {"text": text}
        yield {"type": "response.reasoning_summary_part.done", **where, "part": part}
    else:
        names = {"function_call": "arguments", "custom_tool_call": "input"}
        events = {
            "function_call": "response.function_call_arguments",
            "custom_tool_call": "response.custom_tool_call_input",
        }
        key = names[str(kind)]
        begun = done | {key: "", "status": "in_progress"}
        yield {"type": "response.output_item.added", **at, "item": begun}
        for piece in _pieces({"text": item[key], "size": 5}):
            yield {"type": f"{events[str(kind)]}.delta", **where, "delta": piece}
        yield {"type": f"{events[str(kind)]}.done", **where, key: item[key]}
    yield {"type": "response.output_item.done", **at, "item": done}


def _pieces(item: Json) -> list[str]:
    if isinstance(pieces := item.get("pieces"), list):
        return pieces
    text, size = str(item["text"]), int(str(item["size"]))
    return [text[at : at + size] for at in range(0, len(text), size)]
