"""The /v1/chat/completions dialect: bodies to the model, streamed chunks to a draft.

Everything here is total: it takes any JSON of the right outline and drops no text. What has
not even the outline raises NotUnderstoodError, and so does what is too much (limits.py) or reads
otherwise elsewhere (a key that comes twice, or in other letters). Fields: OpenAI's API reference,
and what vendors with the same endpoint send (tests/core/test_chat_request.py lists them).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..aside import error_words, spoken
from ..conversation import Conversation, Exchange, Message, Part, Reply
from ..effects import only_answers
from ..errors import NotUnderstoodError
from ..json_text import check_duplicates, decode
from ..request_fields import beside
from .fields import said_by
from .known import (
    BODY_LABELS,
    CHOICE_LABELS,
    KNOWN_ROLES,
    check_keys,
    error_text,
    texts,
)
from .limits import MAX_CHOICES, MAX_MESSAGES, check_count
from .merge import ChunkMerger
from .message import read_message

__all__ = [
    "ENDPOINT",
    "ChunkMerger",
    "beside_messages",
    "parse_reply",
    "parse_request",
    "reply_from_completion",
]

ENDPOINT = "chat.completions"

_REQUEST_NAMES = frozenset(("messages", "system", "prediction", "stream", "n"))
_MESSAGE_NAMES = frozenset(
    ("role", "content", "name", "refusal", "tool_calls", "tool_call_id", "function_call")
)
_CALL_NAMES = frozenset(("id", "type", "function", "custom", "name", "arguments", "input"))
_ONCE = _REQUEST_NAMES | _MESSAGE_NAMES | _CALL_NAMES | {"text", "choices", "message", "delta"}
_ON_WIRE = frozenset(("messages", "prediction", "system"))
_REPLY_LABELS = BODY_LABELS | {"choices", "error"}
_WHOLE_LABELS = CHOICE_LABELS | {"message"}


def parse_request(body: bytes) -> Exchange:
    """The exchange that a request's body (identity-encoded JSON) opens.

    Raises NotUnderstoodError if it is no JSON object with a list `messages`.
    """
    request = decode(body)
    if not isinstance(request, dict):
        raise NotUnderstoodError("the request is not a JSON object")
    check_keys(request, _REQUEST_NAMES)
    messages = request.get("messages")
    if not isinstance(messages, list):
        raise NotUnderstoodError("the request has no list of messages")
    check_count(len(messages), MAX_MESSAGES, "messages in a request")
    # What a rule does not see must not go upstream: no encoder writes any key twice.
    check_duplicates(body, _ONCE, all_keys=True)
    found = []
    for message in messages:
        _check_message(message)
        found.append(read_message(message))
    found += (message for _, message in beside_messages(request))
    model, n = request.get("model"), request.get("n")
    return Exchange(
        endpoint=ENDPOINT,
        model=model if isinstance(model, str) else "",
        stream=request.get("stream") is True,
        n=n if type(n) is int and n > 0 else 1,  # not isinstance: true is no number here
        conversation=Conversation(tuple(found), beside=len(found) - len(messages)),
        only_answers=only_answers(request, keeps=False),
    )


def _check_message(message: Any) -> None:
    """Refuse keys that a server may read in any letter case, and we do not."""
    if not isinstance(message, dict):
        return
    check_keys(message, _MESSAGE_NAMES)
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        if isinstance(call, dict):
            for fields in (call, call.get("function"), call.get("custom")):
                if isinstance(fields, dict):
                    check_keys(fields, _CALL_NAMES)
    if isinstance(message.get("function_call"), dict):
        check_keys(message["function_call"], _CALL_NAMES)


def beside_messages(request: dict[str, Any]) -> list[tuple[str, Message]]:
    """What the model reads beside `messages`, each with its field: OpenAI's predicted output,
    Anthropic's system text, then all other fields that hold text (request_fields).

    They come last, so that the addresses in `messages` stay what they are on the wire.
    """
    found = []
    prediction, system = request.get("prediction"), request.get("system")
    if isinstance(prediction, dict):
        rest = {key: value for key, value in prediction.items() if key not in ("role", "type")}
        found.append(("prediction", read_message(rest, "other")))
    elif prediction:
        found.append(("prediction", read_message({"content": prediction}, "other")))
    if system:
        found.append(("system", read_message({"content": system}, "system")))
    return [*found, *beside(request, _ON_WIRE)]


def parse_reply(body: bytes) -> Reply:
    """The reply that a body which is no event stream holds.

    Raises NotUnderstoodError if it is no JSON object with a list `choices`.
    """
    completion = decode(body)
    reply = reply_from_completion(completion)
    check_duplicates(body, _ONCE)
    return reply


def reply_from_completion(completion: Any) -> Reply:
    """The reply in a decoded `chat.completion` object, its choices in the order of their indexes.

    What it says beside its choices is said by the first. Raises NotUnderstoodError if it is no
    object with a list `choices`.
    """
    choices = completion.get("choices") if isinstance(completion, dict) else None
    if not isinstance(choices, list):
        raise NotUnderstoodError("the reply has no list of choices")
    check_count(len(choices), MAX_CHOICES, "choices of a reply")
    found = [
        (_index(choice, position), _choice_message(choice))
        for position, choice in enumerate(choices)
    ]
    found.sort(key=lambda pair: pair[0])
    messages = [message for _, message in found]
    around = [text for _, text in texts(completion, _REPLY_LABELS)]
    if text := error_text(completion.get("error")):
        around.append(text)
    if around:
        messages[:1] = [_with_texts(messages[0] if messages else Message("assistant"), around)]
    return Reply((*messages, *spoken(error_words(completion.get("error")))))


def _index(choice: Any, position: int) -> int:
    index = choice.get("index") if isinstance(choice, dict) else None
    return index if type(index) is int else position


def _choice_message(choice: Any) -> Message:
    """A choice without a message is read whole, as an unknown thing.

    Whatever role the wire says: this is the assistant's turn, and clients read it as such.
    """
    value = choice.get("message") if isinstance(choice, dict) else None
    if value is None:
        return replace(read_message(choice, "assistant"), role="assistant")
    message = read_message(value, "assistant")
    around = [text for _, text in texts(choice, _WHOLE_LABELS)]
    if text := said_by(choice.get("logprobs"), value):
        around.append(text)
    role = value.get("role") if isinstance(value, dict) else None
    if isinstance(role, str) and role and role not in KNOWN_ROLES:
        around.append(role)
    return _with_texts(replace(message, role="assistant"), around)


def _with_texts(message: Message, texts: list[str]) -> Message:
    if not texts:
        return message
    return replace(message, parts=(*message.parts, *(Part("other", text) for text in texts)))
