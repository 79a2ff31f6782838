"""The two events that end a Responses stream midway.

`error` with OpenAI's error object in it, then `response.failed`: each alone fails in some client
(one yields the first as if it were text, another tries again for ever on the second); both stop
every client at once, and it tells its user why.
"""

from __future__ import annotations

import re
from typing import Any

from .. import sse
from ..conversation import Conversation
from ..errors import NotUnderstoodError
from ..json_text import decode, encode
from ..refusal import error_body
from ..terms import Refusal

_NUMBER = re.compile(rb'"sequence_number"\s*:\s*([0-9]{1,15})')
_CODE = "invalid_prompt"
"""The only code of a failed response after which Codex does not try again."""


def responses_events(
    refusal: Refusal, request_id: str, asked: Conversation | None, sent: bytes
) -> bytes:
    """sent: what the client has got of the stream. It begins with a blank line, as chat_event."""
    error = decode(error_body(refusal, "response", request_id, asked))["error"]
    number = _last_number(sent) + 1
    told = {"type": "error", "sequence_number": number, "error": error}
    failed = {
        "type": "response.failed",
        "sequence_number": number + 1,
        "response": {
            **_begun(sent, request_id),
            "status": "failed",
            "error": {"code": _CODE, "message": error["message"]},
            "incomplete_details": None,
            "output": [],
            "usage": None,
        },
    }
    return b"\n" + _event(told) + _event(failed)


def _event(payload: dict[str, Any]) -> bytes:
    text = f"event: {payload['type']}\ndata: {encode(payload)}\n\n"
    return text.encode("utf-8", "replace")


def _last_number(sent: bytes) -> int:
    """In a JSON string its quotes would be escaped, so what is found is a key."""
    for start in (max(0, len(sent) - 2**16), 0):
        if found := _NUMBER.findall(sent, start):
            return int(found[-1])
    return -1


def _begun(sent: bytes, request_id: str) -> dict[str, Any]:
    """The response as the stream's first events told it."""
    decoder = sse.Decoder(len(sent) + 1)
    for event in decoder.feed(sent[: 2**20])[:8]:
        try:
            payload = decode(event.data) if event.data else None
        except NotUnderstoodError:
            continue
        response = payload.get("response") if isinstance(payload, dict) else None
        if isinstance(response, dict) and isinstance(response.get("id"), str):
            return response
    return {
        "id": f"resp_{request_id}",
        "object": "response",
        "created_at": 0,
        "model": "",
        "instructions": None,
        "metadata": {},
        "parallel_tool_calls": True,
        "temperature": None,
        "tool_choice": "auto",
        "tools": [],
        "top_p": None,
    }
