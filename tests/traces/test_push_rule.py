"""Which traces are pushed: invariant-gateway's rule, or all."""

from __future__ import annotations

from typing import Any

import pytest

from invariant_addon.core.trace import Finding, Trace
from invariant_addon.traces.push_rule import is_pushed

REPLY = {"role": "assistant", "content": "x"}


@pytest.mark.parametrize(
    ("choices", "finishes", "effects", "wanted"),
    [
        (1, ("stop",), (), True),
        (1, ("length",), (), True),
        (1, ("content_filter",), (), True),
        (1, ("tool_calls",), (), False),
        (1, (None,), (), False),
        (1, (), (), False),
        (2, ("tool_calls", "stop"), (), False),
        (2, ("stop", "tool_calls"), (), True),
        (0, (), (), True),
        (1, ("tool_calls",), ("blocked",), True),
        (1, (None,), ("noted",), True),
        (1, ("tool_calls",), ("shadow",), True),
        (1, ("tool_calls",), ("muted",), False),
    ],
)
def test_a_trace_is_pushed_when_it_is_finished_or_has_findings(
    choices: int, finishes: tuple[str | None, ...], effects: tuple[Any, ...], wanted: bool
) -> None:
    """The turns of an agent that only call a tool come back in the next request."""
    findings = tuple(Finding({"id": "g"}, "w", effect) for effect in effects)
    trace = Trace(
        "t", 0.0, "judged", "chat", "m", False, {}, (), (REPLY,) * choices, finishes, findings
    )
    assert is_pushed(trace) is wanted
    assert is_pushed(trace, "all")
