"""A file that is sent, or fetched: text, lines of JSON (each of them a request or a reply), or what
no rule can read.

The lines of a batch's file are requests that OpenAI runs later: each is judged as if it had come
by itself, in the dialect of the endpoint that it names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..conversation import Exchange, Message, Part, Reply
from ..endpoints import Endpoint, find
from ..errors import NotUnderstoodError
from ..json_text import check_duplicates, decode, encode
from .blobs import read_bytes
from .replies import reply_of, together
from .texts import messages_of

MAX_LINES = 50_000
"""Requests of a batch, as OpenAI has it."""

type ParseRequest = Callable[[Endpoint, bytes], Exchange]
"""A request's body in the dialect of an endpoint."""
type Separate = tuple[tuple[Message, ...], ...]


def read_upload(
    data: bytes, name: str, parse: ParseRequest, *, is_batch: bool = False
) -> tuple[list[Message], Separate]:
    """Messages that are judged together, and those of requests that stand for themselves.

    is_batch: each line has to be a request. Raises NotUnderstoodError.
    """
    found = read_bytes(data)
    label = [Message("other", (Part("other", name),))] if name else []
    if found.kind is not None:
        if is_batch:
            raise NotUnderstoodError("a batch whose requests are not lines of JSON")
        return [*label, Message("user", found.parts)], ()
    lines = json_lines(found.text, strict=is_batch)
    if lines is None:
        return [*label, *_plain(found.text)], ()
    return label, tuple(tuple(read_line(line, parse)) for line in lines)


def _plain(text: str) -> list[Message]:
    """A text, or JSON over several lines."""
    if text.lstrip()[:1] in ("{", "["):
        try:
            value = decode(text)
        except NotUnderstoodError:
            pass
        else:
            check_duplicates(text, frozenset(), all_keys=True)
            return messages_of(value, "user")
    return [Message("user", (Part("text", text),))] if text else []


def json_lines(text: str, *, strict: bool = False) -> list[Any] | None:
    """The values of a text whose lines are JSON objects; a line that is none is a text among them.

    None if it is no such text. strict: raise NotUnderstoodError then, and for such a line.
    """
    lines = [line for line in text.split("\n") if line.strip()]
    if len(lines) > MAX_LINES:
        if strict or text.lstrip().startswith("{"):
            raise NotUnderstoodError(f"a file of more than {MAX_LINES} lines of JSON")
        return None
    found: list[Any] = []
    objects = 0
    for line in lines:
        try:
            value = decode(line)
        except NotUnderstoodError:
            value = line
        if isinstance(value, dict):
            check_duplicates(line, frozenset(), all_keys=True)
            objects += 1
        elif strict:
            raise NotUnderstoodError("a line that is not a JSON object")
        found.append(value if isinstance(value, dict) else line)
    return found if objects or strict else None


def read_line(value: Any, parse: ParseRequest) -> list[Message]:
    """The messages of one line: a batch's request, a conversation to learn from, or any JSON."""
    if not isinstance(value, dict):
        return [Message("user", (Part("text", str(value)),))]
    body, url = value.get("body"), value.get("url")
    if isinstance(body, dict) and isinstance(url, str):
        endpoint = find(str(value.get("method", "POST")), url)
        if endpoint in (Endpoint.UNKNOWN, Endpoint.HEALTH):
            raise NotUnderstoodError("a batch's request to an endpoint that is not known")
        rest = {key: item for key, item in value.items() if key not in ("body", "url", "method")}
        asked = parse(endpoint, _json(body)).conversation.messages
        return [*asked, *messages_of(rest, "user")]
    if isinstance(value.get("messages"), list):  # to learn from
        return list(parse(Endpoint.CHAT, _json(value)).conversation.messages)
    return messages_of(value, "user")


def _json(value: Any) -> bytes:
    return encode(value).encode("utf-8", "surrogatepass")


def read_download(data: bytes) -> Reply:
    """What a file says that is fetched: the results of a batch are judged one by one."""
    found = read_bytes(data)
    if found.kind is not None:
        return Reply((Message("assistant", found.parts),))
    lines = json_lines(found.text)
    if lines is None:
        return Reply(together(_plain(found.text)))
    choices: list[Message] = []
    for line in lines:
        response = line.get("response") if isinstance(line, dict) else None
        body = response.get("body") if isinstance(response, dict) else None
        if isinstance(body, dict):
            choices += reply_of(body).choices
            rest = {key: item for key, item in line.items() if key != "response"}
            choices += together(messages_of(rest, "assistant"))
        else:
            choices += together(messages_of(line, "assistant"))
    return Reply(tuple(choices))
