"""The keys around the items of a Responses reply: which say nothing, and how a reply ended."""

from __future__ import annotations

from typing import Any

from ..aside import all_words, error_words
from ..chat.known import error_text, texts
from ..json_text import as_text, carries_text

RESPONSE_LABELS = frozenset(
    (
        *("id", "object", "created_at", "completed_at", "status", "background", "model", "usage"),
        *("error", "incomplete_details", "output", "conversation", "previous_response_id"),
        # What the request asked for, said again.
        *("instructions", "metadata", "tools", "tool_choice", "parallel_tool_calls", "prompt"),
        *("reasoning", "text", "temperature", "top_p", "top_logprobs", "truncation", "store"),
        *("frequency_penalty", "presence_penalty", "max_output_tokens", "max_tool_calls", "user"),
        *("prompt_cache_key", "prompt_cache_retention", "prompt_cache_options", "service_tier"),
        *("safety_identifier", "moderation", "context_management", "include", "image"),
        *("prompt_cache_diagnostics", "access_programs", "input_transformations", "tool_usage"),
        *("billing", "content_filters", "output_text"),
    )
)
"""Keys of a response that hold no text of the model's. `output` and `output_text` are apart."""

_REASONS = frozenset(("max_output_tokens", "max_messages", "content_filter", "steered"))
"""Why OpenAI ends a response before its time."""


def around_response(response: dict[str, Any]) -> list[tuple[str, str]]:
    """What a response says beside its items, each with its key."""
    found = list(texts(response, RESPONSE_LABELS))
    found += [
        (key, as_text(response[key]))
        for key in ("text", "reasoning")  # objects, with what the request asked for
        if carries_text(response.get(key)) and not isinstance(response[key], dict)
    ]
    if text := error_text(response.get("error")):
        found.append(("error", text))
    return found


def response_words(response: dict[str, Any]) -> str:
    """What a server says of why a response ended so."""
    ended = all_words(response.get("incomplete_details"))
    said = (error_words(response.get("error")), "" if ended in _REASONS else ended)
    return "\n".join(filter(None, said))


def finish_reason(response: dict[str, Any], *, calls: bool) -> str | None:
    """Why it ended, in the words of chat completions."""
    status = response.get("status")
    if status == "incomplete":
        details = response.get("incomplete_details")
        reason = details.get("reason") if isinstance(details, dict) else None
        if reason == "max_output_tokens":
            return "length"
        return reason if isinstance(reason, str) else "incomplete"
    if status == "completed":
        return "tool_calls" if calls else "stop"
    return status if isinstance(status, str) else None
