"""What a request of a dialect says beside its messages: the tools' descriptions and schemas,
metadata, the user, stop words, the form of the answer. Each field becomes a message at the end, so
that addresses in the real messages stay what they are on the wire.
"""

from __future__ import annotations

from typing import Any

from .conversation import Message
from .plain.texts import field_message, is_label

_TOOLS = frozenset(("tools", "functions"))
SETTINGS = frozenset(
    (
        *("model", "n", "stream", "stream_options", "temperature", "top_p", "logit_bias"),
        *("frequency_penalty", "presence_penalty", "logprobs", "top_logprobs", "max_tokens"),
        *("max_completion_tokens", "max_output_tokens", "seed", "store", "service_tier", "audio"),
        *("reasoning_effort", "verbosity", "modalities", "parallel_tool_calls", "tool_choice"),
        *("include", "truncation", "background", "max_tool_calls", "reasoning", "conversation"),
        *("previous_response_id", "context_management", "text", "generate", "type"),
        *("function_call", "echo", "best_of", "moderation", "prompt_cache_retention"),
    )
)
"""Fields that hold numbers, switches and labels."""
_MAX_PLAIN = 8
"""Levels below which settings are not looked at, but judged."""


def beside(request: dict[str, Any], known: frozenset[str]) -> list[tuple[str, Message]]:
    """A message for each field that holds text, with its key, in the order of the keys.

    known: fields that are read elsewhere. Raises NotUnderstoodError.
    """
    found = []
    for key in sorted(request.keys() - known):
        value = request[key]
        if key in SETTINGS and _is_plain(value, _MAX_PLAIN):
            continue
        if key in _TOOLS:
            value = _without_credentials(value)
        message = field_message(key, value, "tools" if key in _TOOLS else "other")
        if message is not None:
            found.append((key, message))
    return found


def _without_credentials(tools: Any) -> Any:
    """An MCP server's credentials are for that server, as the Authorization header is for OpenAI:
    no model reads them, and a rule against keys would stop every call."""
    if not isinstance(tools, list):
        return tools
    return [
        {key: value for key, value in tool.items() if key not in ("authorization", "headers")}
        if isinstance(tool, dict) and tool.get("type") == "mcp"
        else tool
        for tool in tools
    ]


def _is_plain(value: Any, depth: int) -> bool:
    """Nothing but numbers, switches and single words."""
    if isinstance(value, str):
        return is_label("id", value)
    if isinstance(value, list):
        return depth > 0 and all(_is_plain(item, depth - 1) for item in value)
    if isinstance(value, dict):
        return depth > 0 and all(
            is_label("id", key) and _is_plain(item, depth - 1) for key, item in value.items()
        )
    return True
