"""What the proxy has to know of an endpoint that it judges, in one table.

A dialect turns bodies into the one model (conversation.py) and back into what clients understand.
Everything outside core/ asks this table and names no dialect.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from . import completions, refusal
from .chat import bodies as chat
from .chat.form import chat_form
from .conversation import Conversation, Exchange, Reply
from .draft import Merger
from .endpoints import Endpoint
from .errors import NotUnderstoodError
from .layout import Layout, chat_layout, no_layout, prompt_layout
from .plain import bodies as text_bodies
from .responses import bodies as responses
from .responses.layout import responses_layout
from .responses.merge import EventMerger
from .responses.refusal import responses_events
from .terms import Refusal

type Shown = tuple[dict[str, Any], tuple[Any, ...]]
"""The parameters of a request, and its messages in the form of chat completions."""

type Said = tuple[tuple[Any, ...], tuple[str | None, ...]]
"""The messages of a reply in the form of chat completions, and why each of them ended."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """name: as in Exchange.endpoint and in traces.

    parse_request, parse_reply: identity-encoded bodies; raise NotUnderstoodError. merger: a new
    one for each streamed reply. refusal_event: what ends a stream midway; its last argument is
    what went out before. layout: of a decoded request, for masks. shown: a decoded request as a
    trace holds it, which may take it apart. said: the same for a reply, from what
    Merger.completion (or the decoded body) and the parser made of it. is_plain: there is no such
    form, and a trace shows what was read.
    """

    name: str
    parse_request: Callable[[bytes], Exchange]
    parse_reply: Callable[[bytes], Reply]
    merger: Callable[[], Merger]
    refusal_event: Callable[[Refusal, str, Conversation | None, bytes], bytes]
    layout: Callable[[Any], Layout]
    shown: Callable[[dict[str, Any]], Shown]
    said: Callable[[dict[str, Any], Reply | None], Said]
    is_plain: bool = False


def _chat_shown(request: dict[str, Any]) -> Shown:
    messages = request.pop("messages", ())
    return request, tuple(messages) if isinstance(messages, list) else ()


def _chat_said(completion: dict[str, Any], _reply: Reply | None) -> Said:
    choices = [c for c in completion.get("choices") or () if isinstance(c, dict)]
    spoken = [c for c in choices if c.get("message") is not None]
    return (
        tuple(c["message"] for c in spoken),
        tuple(c.get("finish_reason") for c in spoken),
    )


def _chat_refusal_event(
    refused: Refusal, request_id: str, asked: Conversation | None, _sent: bytes
) -> bytes:
    return refusal.chat_event(refused, request_id, asked)


CHAT = Dialect(
    name=chat.ENDPOINT,
    parse_request=chat.parse_request,
    parse_reply=chat.parse_reply,
    merger=chat.ChunkMerger,
    refusal_event=_chat_refusal_event,
    layout=chat_layout,
    shown=_chat_shown,
    said=_chat_said,
)


def _prompts_shown(request: dict[str, Any]) -> Shown:
    prompt = request.pop("prompt", ())
    prompts = prompt if isinstance(prompt, list | tuple) else [prompt]
    return request, tuple({"role": "user", "content": each} for each in prompts)


def _texts_said(completion: dict[str, Any], _reply: Reply | None) -> Said:
    choices = [c for c in completion.get("choices") or () if isinstance(c, dict)]
    return (
        tuple({"role": "assistant", "content": c.get("text")} for c in choices),
        tuple(c.get("finish_reason") for c in choices),
    )


COMPLETIONS = Dialect(
    name=completions.ENDPOINT,
    parse_request=completions.parse_request,
    parse_reply=completions.parse_reply,
    merger=completions.TextMerger,
    refusal_event=_chat_refusal_event,
    layout=prompt_layout,
    shown=_prompts_shown,
    said=_texts_said,
)


def _plain_said(_completion: dict[str, Any], reply: Reply | None) -> Said:
    choices = tuple(chat_form(message) for message in reply.choices) if reply else ()
    return choices, (None,) * len(choices)


RESPONSES = Dialect(
    name=responses.ENDPOINT,
    parse_request=responses.parse_request,
    parse_reply=responses.parse_reply,
    merger=EventMerger,
    refusal_event=responses_events,
    layout=responses_layout,
    shown=responses.shown,
    said=responses.said,
)


def _asked_of_stored(body: bytes) -> Exchange:
    """No such request has a body, but what one says all the same is judged before it leaves."""
    if not body:
        return responses.nothing_asked(body)
    return text_bodies.read_request(body, "", parse_line, responses.ENDPOINT)


STORED_RESPONSE = replace(RESPONSES, parse_request=_asked_of_stored, layout=no_layout)

DIALECTS: Mapping[Endpoint, Dialect] = MappingProxyType(
    {
        Endpoint.CHAT: CHAT,
        Endpoint.RESPONSES: RESPONSES,
        Endpoint.STORED_RESPONSE: STORED_RESPONSE,
        Endpoint.COMPLETIONS: COMPLETIONS,
    }
)
"""Of the endpoints that speak one; the texts of the others are read by `plain`."""


_ASKED_AS_RESPONSES = ("/responses/compact", "/responses/input_tokens")
"""Paths whose requests are those of a response."""


def plain(name: str, asked_type: str = "", said_type: str = "") -> Dialect:
    """How an endpoint without a dialect is read. asked_type, said_type: the content types."""

    def parse_request(body: bytes) -> Exchange:
        if body and name.casefold().endswith(_ASKED_AS_RESPONSES):
            return responses.parse_request(body)
        return text_bodies.read_request(body, asked_type, parse_line, name)

    return Dialect(
        name=name,
        parse_request=parse_request,
        parse_reply=lambda body: text_bodies.read_reply(body, said_type),
        merger=chat.ChunkMerger,  # no reply of it is judged while it streams
        refusal_event=_chat_refusal_event,
        layout=no_layout,
        shown=lambda request: (request, ()),
        said=_plain_said,
        is_plain=True,
    )


def parse_line(endpoint: Endpoint, body: bytes) -> Exchange:
    """The request that a line of a batch's file holds. Raises NotUnderstoodError."""
    dialect = DIALECTS.get(endpoint)
    if dialect is not None:
        return dialect.parse_request(body)
    if endpoint.is_dialect:  # pragma: no cover - every dialect has its entry
        raise NotUnderstoodError("a request in a dialect that is not known")
    return text_bodies.read_request(body, "", parse_line, endpoint.value)
