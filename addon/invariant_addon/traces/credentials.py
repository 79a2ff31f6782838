"""A trace without the credentials that tools bring along for their servers.

They are for that server alone, and no rule looks at them (core/request_fields.py), so no finding
says where they are.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..core.json_text import encode
from ..core.mask import Placeholder
from ..core.trace import Trace

_FIELDS = ("authorization", "headers")
_NAME = "credentials"


def without_credentials(trace: Trace, placeholder: Placeholder) -> Trace:
    tools = trace.parameters.get("tools")
    if not isinstance(tools, list) or not any(_brought(tool) for tool in tools):
        return trace

    def masked(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: masked(item) for key, item in value.items()}
        return placeholder(_NAME, value if isinstance(value, str) else encode(value))

    changed = [
        {**tool, **{field: masked(tool[field]) for field in _brought(tool)}}
        if _brought(tool)
        else tool
        for tool in tools
    ]
    return replace(trace, parameters={**trace.parameters, "tools": changed})


def _brought(tool: Any) -> tuple[str, ...]:
    """The fields of a tool that hold credentials."""
    if not isinstance(tool, dict) or tool.get("type") != "mcp":
        return ()
    return tuple(field for field in _FIELDS if tool.get(field))
