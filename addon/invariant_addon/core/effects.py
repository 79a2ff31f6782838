"""A decoded request of a dialect -> whether it asks for an answer, and for nothing else.

What is not known to be without effect counts as having one: an answer that is withheld undoes
nothing of what the call has left behind at OpenAI or done in the world.
"""

from __future__ import annotations

from typing import Any

from .request_fields import SETTINGS

_KNOWN = SETTINGS.union(
    ("messages", "system", "prediction", "functions", "tools", "stop", "response_format", "user"),
    ("input", "instructions", "prompt", "suffix", "metadata", "safety_identifier"),
    ("prompt_cache_key", "prompt_cache_options"),
)
"""Fields that change nothing but the answer. Those of them that may do more are looked at below;
all others (`web_search_options`, `plugins`) may."""
_OURS = frozenset(("function", "custom"))
"""Tools that the client runs. What OpenAI runs (MCP, containers, searches) acts by itself."""
_SAID = ("messages", "input")


def only_answers(request: dict[str, Any], *, keeps: bool) -> bool:
    """keeps: OpenAI stores the answer unless the request says otherwise."""
    given = {key: value for key, value in request.items() if value is not None}
    if not given.keys() <= _KNOWN or given.get("store", keeps) is not False:
        return False
    if given.get("background", False) is not False or "conversation" in given:
        return False
    # A stored prompt brings tools of its own. Else it is what legacy completions go on from.
    prompts = given.get("prompt", "")
    if not isinstance(prompts, str | list):
        return False
    tools = given.get("tools", [])
    are_ours = isinstance(tools, list) and all(
        isinstance(tool, dict) and tool.get("type") in _OURS for tool in tools
    )
    return are_ours and not any(_names_address(given.get(key)) for key in _SAID)


def _names_address(said: Any) -> bool:
    """Whether a picture or a file in it is to be fetched: the address tells its server what is in
    it (`image_url`, `file_url`)."""
    waiting = [said]
    while waiting:  # no recursion: the nesting is the sender's choice
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            for key, inner in value.items():
                if key.lower().endswith("url") and isinstance(inner, str):
                    if not inner.lower().startswith("data:"):
                        return True
                elif isinstance(inner, list | dict):
                    waiting.append(inner)
    return False
