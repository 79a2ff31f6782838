"""Malformed arguments, read as a lenient client would."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invariant_addon.core.conversation import ToolCall
from invariant_addon.engines.leniently import repaired
from invariant_addon.engines.normalise import arguments

PATH = '{"path": "/etc/passwd"}'


@pytest.mark.parametrize(
    "text",
    [
        PATH[:-1],
        PATH[:-2],
        f"```json\n{PATH}\n```",
        "\ufeff" + PATH,
        PATH.replace("}", ",}"),
        json.dumps(PATH),
        f"[{PATH}]",
        '{"path": "/etc/passwd", "note": "two\nlines"}',
    ],
)
def test_what_an_agent_would_repair_is_seen(text: str) -> None:
    """A rule about the path must see it, or a missing brace would be the way around."""
    read = arguments(ToolCall("a", "read", text))
    assert read["path"] == "/etc/passwd"


@given(st.text(max_size=200))
def test_nothing_makes_it_fail(text: str) -> None:
    """It reads whatever a model writes."""
    assert all(isinstance(value, str) for value in repaired(text).values())
