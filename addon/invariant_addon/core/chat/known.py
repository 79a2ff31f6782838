"""What the keys around a chat message mean: which say nothing, and what the others say.

A key that is not known here is text: clients in other languages read keys in any letter case
(Go, .NET), and vendors invent fields that their clients show.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from .. import aside
from ..errors import NotUnderstoodError
from ..json_text import as_text, carries_text, encode

ERROR_LABELS = frozenset(aside.ERROR_LABELS)

BODY_LABELS = frozenset(
    (
        # OpenAI: ChatCompletion and ChatCompletionChunk
        *("id", "object", "created", "model", "service_tier", "system_fingerprint", "usage"),
        *("moderation", "obfuscation", "metadata", "request_id"),
        # Azure OpenAI's content filter
        *("prompt_filter_results", "prompt_annotations"),
        # OpenRouter; Groq; vLLM; DeepInfra and Together
        *("provider", "x_groq", "kv_transfer_params", "prompt_token_ids", "prompt_logprobs"),
    )
)
"""Keys of a body or chunk that hold no text for a reader. `choices` and `error` are apart;
`citations` and `search_results` (Perplexity) are text: clients show them."""

CHOICE_LABELS = frozenset(
    (
        *("index", "finish_reason", "logprobs"),  # OpenAI
        *("content_filter_results", "content_filter_result", "content_filter_offsets"),  # Azure
        "content_filter_raw",  # Azure, with asynchronous filters
        "native_finish_reason",  # OpenRouter
        *("stop_reason", "token_id", "token_ids", "prompt_token_ids"),  # vLLM
        *("matched_stop", "seed"),  # SGLang, Together
    )
)
"""Keys of a choice that hold no text for a reader. `message` and `delta` are apart."""

KNOWN_ROLES = frozenset(("assistant", "user", "system", "developer", "tool", "function", "model"))
"""Any other role in a reply is text."""

_BASE64 = re.compile(r"[A-Za-z0-9+/=_\-\s]*")


def texts(fields: dict[str, Any], labels: frozenset[str]) -> Iterator[tuple[str, str]]:
    """The unknown fields that a rule could read, each with its text."""
    for key, value in fields.items():
        if key not in labels and carries_text(value):
            yield key, as_text(value)


def error_text(error: Any) -> str:
    """What an `error` holds beside the server's message: Groq's failed_generation is the model's
    text, word for word. "" for an error as OpenAI sends it."""
    if isinstance(error, dict):
        return "\n".join(text for _, text in texts(error, ERROR_LABELS))
    return "" if isinstance(error, str) or not carries_text(error) else encode(error)


def sound_text(data: Any) -> str:
    """What can be read in a field that should hold base64: "" if it does."""
    if isinstance(data, str):
        return "" if _BASE64.fullmatch(data) else data
    return encode(data) if carries_text(data) else ""


def check_keys(fields: dict[str, Any], names: frozenset[str]) -> None:
    """Refuse a key that is one of these names but for the case of its letters.

    Go's encoding/json and .NET take it for the name, Python and JavaScript do not: whoever reads
    the request after us may see another one. casefold: Go folds "ſ" and "K" as well.
    """
    if fields.keys() <= names:
        return
    for key in fields:
        if key not in names and (name := key.casefold()) in names:
            raise NotUnderstoodError(f'ambiguous key: "{name}" in other letters')
