"""The /v1/responses dialect: bodies to the model, and what traces keep of them.

Total, as the chat dialect: any JSON of the right outline is read and no text is dropped. The
events of a stream: merge.py. Items: items.py.
"""

from __future__ import annotations

from typing import Any

from ..aside import spoken
from ..chat.form import chat_form
from ..chat.known import check_keys
from ..chat.limits import MAX_MESSAGES, MAX_PARTS, check_count
from ..conversation import Conversation, Exchange, Message, Part, Reply
from ..effects import only_answers
from ..errors import NotUnderstoodError
from ..json_text import carries_text, check_duplicates, decode, encode
from ..request_fields import beside
from .history import references
from .items import folded, read_item
from .known import around_response, finish_reason, response_words
from .parts import ordered, read_part

ENDPOINT = "responses"

_BESIDE = ("messages", "prediction", "system")
"""Keys of other dialects: a server that reads them, and not we, would be a way around the rules."""

ON_WIRE = frozenset(("input", "instructions", "prompt", *_BESIDE))
"""Fields that are read here; the others as in every dialect (request_fields)."""
_REQUEST_NAMES = frozenset(
    (
        *("input", "instructions", "prompt", "previous_response_id", "conversation", "stream"),
        *_BESIDE,
    )
)
ITEM_NAMES = frozenset(
    (
        *("type", "role", "content", "summary", "text", "refusal", "name", "arguments", "input"),
        *("call_id", "output", "outputs", "result", "results", "action", "operation", "code"),
        *("queries", "image_url", "stdout", "stderr"),
    )
)
"""Keys of items that may not come twice with unequal values, nor in other letters."""
_ONCE = _REQUEST_NAMES | ITEM_NAMES | {"variables"}


def parse_request(body: bytes) -> Exchange:
    """The exchange that a request's body opens. Raises NotUnderstoodError.

    Messages: the instructions, those of `input` in order, and then what has no place there (the
    variables of a stored prompt).
    """
    request = decode(body)
    if not isinstance(request, dict):
        raise NotUnderstoodError("the request is not a JSON object")
    check_keys(request, _REQUEST_NAMES)
    check_duplicates(body, _ONCE, all_keys=True)
    places = placed(request)
    messages = [message for _, found in places for message in found]
    check_count(len(messages), 2 * MAX_MESSAGES, "messages in a request")
    more = _beside(request)
    model, continues = request.get("model"), request.get("previous_response_id")
    return Exchange(
        endpoint=ENDPOINT,
        model=model if isinstance(model, str) else "",
        stream=request.get("stream") is True,
        n=1,
        conversation=Conversation((*messages, *more), beside=len(more)),
        continues=continues if isinstance(continues, str) else None,
        refers=references(request, places),
        only_answers=only_answers(request, keeps=True),
    )


def nothing_asked(_body: bytes) -> Exchange:
    """The exchange of a request for a reply that was made before: what was asked is not known."""
    return Exchange(ENDPOINT, "", False, 1, Conversation(()))


def placed(request: dict[str, Any]) -> list[tuple[tuple[str | int, ...], list[Message]]]:
    """The messages of a decoded request, each with the path to where it stands."""
    found: list[tuple[tuple[str | int, ...], list[Message]]] = []
    for key, role in (("instructions", "system"), ("input", "user")):
        value = request.get(key)
        if isinstance(value, str):
            if value or key == "input":
                found.append(((key,), [Message(role, (Part("text", value),) if value else ())]))
        elif isinstance(value, list):
            check_count(len(value), MAX_MESSAGES, "items in a request")
            for index, item in enumerate(value):
                if isinstance(item, dict):
                    _check_item(item)
                found.append(((key, index), read_item(item)))
        elif value is not None:
            found.append(((key,), [Message("unknown", (Part("other", encode(value)),))]))
    return found


def _check_item(item: dict[str, Any]) -> None:
    check_keys(item, ITEM_NAMES)
    content = item.get("content")
    for part in content if isinstance(content, list) else ():
        if isinstance(part, dict):
            check_keys(part, ITEM_NAMES)


def _beside(request: dict[str, Any]) -> list[Message]:
    found = []
    prompt = request.get("prompt")
    variables = prompt.get("variables") if isinstance(prompt, dict) else None
    if isinstance(variables, dict):
        check_count(len(variables), MAX_PARTS, "variables of a prompt")
        parts = [part for value in variables.values() for part in read_part(value)]
        found.append(Message("other", tuple(parts)))
    elif carries_text(variables):
        found.append(Message("other", (Part("other", encode(variables)),)))
    elif prompt is not None and not isinstance(prompt, dict):
        found.append(Message("other", (Part("text", _text(prompt)),)))
    found += [
        Message("other", (Part("other", _text(request[key])),))
        for key in _BESIDE
        if carries_text(request.get(key))
    ]
    return [*found, *(message for _, message in beside(request, ON_WIRE))]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else encode(value)


def parse_reply(body: bytes) -> Reply:
    """The reply in a body that is no event stream. Raises NotUnderstoodError if it is no JSON
    object with a list `output`."""
    response = decode(body)
    output = response.get("output") if isinstance(response, dict) else None
    if not isinstance(output, list):
        raise NotUnderstoodError("the reply has no list of output")
    check_duplicates(body, ITEM_NAMES)
    return Reply((read_response(response), *spoken(response_words(response))))


def read_response(response: dict[str, Any]) -> Message:
    """The turn in a response object whose `output` is a list, or that has none."""
    output = response.get("output") or ()
    check_count(len(output), MAX_MESSAGES, "items of a reply")
    message = folded(output)
    parts = [Part("other", text) for _, text in around_response(response)]
    said = response.get("output_text")
    texts = [part.text for part in message.parts if part.kind == "text"]
    if carries_text(said) and said not in ("".join(texts), "\n".join(texts)):
        parts.append(Part("other", _text(said)))
    return Message("assistant", ordered((*message.parts, *parts)), message.tool_calls)


def shown(request: dict[str, Any]) -> tuple[dict[str, Any], tuple[Any, ...]]:
    """See dialects.Dialect. Its messages are all that addresses count, in chat's form."""
    try:
        messages = [message for _, found in placed(request) for message in found]
        messages += _beside(request)
    except NotUnderstoodError:
        return request, ()
    for key in ("input", "instructions", *_BESIDE):
        request.pop(key, None)
    return request, tuple(chat_form(message) for message in messages)


def said(
    response: dict[str, Any], reply: Reply | None
) -> tuple[tuple[Any, ...], tuple[str | None, ...]]:
    """See dialects.Dialect: the message that rules have read, so that addresses mean it."""
    if reply is None or not reply.choices or not isinstance(response.get("output"), list):
        return (), ()
    message = reply.choices[0]
    return (chat_form(message),), (finish_reason(response, calls=bool(message.tool_calls)),)
