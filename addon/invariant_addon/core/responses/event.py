"""The events of a Responses stream: which key holds what, and which say nothing by themselves."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ..conversation import PartKind

LABELS = frozenset(
    (
        *("type", "sequence_number", "item_id", "output_index", "content_index", "summary_index"),
        *("delta", "logprobs", "obfuscation", "annotation_index", "command_index", "stream_id"),
        *("response_id", "partial_image_index", "size", "quality", "background", "output_format"),
        *("status", "copilot_usage"),
    )
)
"""Keys of an event that say nothing to a reader; `delta` and `logprobs` only where DELTAS or
DONES read them."""

DELTAS: Mapping[str, tuple[str, PartKind, str]] = MappingProxyType(
    {
        "response.output_text.delta": ("content", "text", "content_index"),
        "response.refusal.delta": ("content", "refusal", "content_index"),
        "response.reasoning_summary_text.delta": ("summary", "reasoning", "summary_index"),
        "response.reasoning_text.delta": ("content", "reasoning", "content_index"),
    }
)
"""Events that carry a piece of text: in which list of the item, what it is, and its index."""

DONES: Mapping[str, tuple[str, PartKind, str, str]] = MappingProxyType(
    {
        "response.output_text.done": ("content", "text", "content_index", "text"),
        "response.refusal.done": ("content", "refusal", "content_index", "refusal"),
        "response.reasoning_summary_text.done": ("summary", "reasoning", "summary_index", "text"),
        "response.reasoning_text.done": ("content", "reasoning", "content_index", "text"),
    }
)
"""Events that say such a text as a whole; and under which key."""

PARTS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "response.content_part.added": ("content", "content_index"),
        "response.content_part.done": ("content", "content_index"),
        "response.reasoning_summary_part.added": ("summary", "summary_index"),
        "response.reasoning_summary_part.done": ("summary", "summary_index"),
    }
)

TERMINAL = frozenset(
    (
        *("response.completed", "response.failed", "response.incomplete"),
        *("response.cancelled", "response.done"),
    )
)
"""Each has the whole `response`."""

CALLING = frozenset(
    (
        *("response.function_call_arguments", "response.custom_tool_call_input"),
        *("response.mcp_call_arguments", "response.code_interpreter_call_code"),
        *("response.shell_call_command", "response.shell_call_output_content"),
        *("response.apply_patch_call_operation_diff", "response.mcp_call"),
    )
)
"""Types of events, without `.delta` and `.done`, that say what a call is made of."""
