"""What the proxy has to know of an endpoint that it judges, in one table.

A dialect turns bodies into the one model (conversation.py) and back into what clients understand.
Everything outside core/ asks this table and names no dialect.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from . import chat, refusal, responses
from .conversation import Conversation, Exchange, Reply
from .draft import Merger
from .endpoints import Endpoint
from .layout import Layout, chat_layout
from .responses_layout import responses_layout
from .responses_merge import EventMerger
from .responses_refusal import responses_events
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
    Merger.completion (or the decoded body) and the parser made of it.
    """

    name: str
    parse_request: Callable[[bytes], Exchange]
    parse_reply: Callable[[bytes], Reply]
    merger: Callable[[], Merger]
    refusal_event: Callable[[Refusal, str, Conversation | None, bytes], bytes]
    layout: Callable[[Any], Layout]
    shown: Callable[[dict[str, Any]], Shown]
    said: Callable[[dict[str, Any], Reply | None], Said]


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
STORED_RESPONSE = replace(RESPONSES, parse_request=responses.nothing_asked)

DIALECTS: Mapping[Endpoint, Dialect] = MappingProxyType(
    {
        Endpoint.CHAT: CHAT,
        Endpoint.RESPONSES: RESPONSES,
        Endpoint.STORED_RESPONSE: STORED_RESPONSE,
    }
)
"""Of the endpoints that are judged; an endpoint that is not in it is not."""
