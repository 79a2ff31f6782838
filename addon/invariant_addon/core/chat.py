"""The /v1/chat/completions dialect: bodies to the model, streamed chunks to a draft.

Everything here is total: it takes any JSON of the right outline and drops no text. What has
not even the outline raises NotUnderstoodError. Fields: OpenAI's API reference, and
what vendors with the same endpoint send (tests/core/test_chat_request.py lists them).
"""

from __future__ import annotations

from typing import Any

from .chat_merge import ChunkMerger
from .chat_message import read_message
from .conversation import Conversation, Exchange, Message, Reply
from .errors import NotUnderstoodError
from .json_text import decode

__all__ = ["ENDPOINT", "ChunkMerger", "parse_reply", "parse_request", "reply_from_completion"]

ENDPOINT = "chat.completions"


def parse_request(body: bytes) -> Exchange:
    """The exchange that a request's body (identity-encoded JSON) opens.

    Raises NotUnderstoodError if it is no JSON object with a list `messages`.
    """
    request = decode(body)
    if not isinstance(request, dict):
        raise NotUnderstoodError("the request is not a JSON object")
    messages = request.get("messages")
    if not isinstance(messages, list):
        raise NotUnderstoodError("the request has no list of messages")
    model, n = request.get("model"), request.get("n")
    return Exchange(
        endpoint=ENDPOINT,
        model=model if isinstance(model, str) else "",
        stream=request.get("stream") is True,
        n=n if type(n) is int and n > 0 else 1,  # not isinstance: true is no number here
        conversation=Conversation(tuple(read_message(message) for message in messages)),
    )


def parse_reply(body: bytes) -> Reply:
    """The reply that a body which is no event stream holds.

    Raises NotUnderstoodError if it is no JSON object with a list `choices`.
    """
    return reply_from_completion(decode(body))


def reply_from_completion(completion: Any) -> Reply:
    """The reply in a decoded `chat.completion` object, its choices in the order of their indexes.

    Raises NotUnderstoodError if it is no object with a list `choices`.
    """
    choices = completion.get("choices") if isinstance(completion, dict) else None
    if not isinstance(choices, list):
        raise NotUnderstoodError("the reply has no list of choices")
    found = [
        (_index(choice, position), _choice_message(choice))
        for position, choice in enumerate(choices)
    ]
    found.sort(key=lambda pair: pair[0])
    return Reply(tuple(message for _, message in found))


def _index(choice: Any, position: int) -> int:
    index = choice.get("index") if isinstance(choice, dict) else None
    return index if type(index) is int else position


def _choice_message(choice: Any) -> Message:
    """A choice without a message is read whole, as an unknown thing."""
    message = choice.get("message") if isinstance(choice, dict) else None
    return read_message(choice if message is None else message, "assistant")
