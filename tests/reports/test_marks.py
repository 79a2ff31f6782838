"""What a flow tells, and what of it is believed when it comes from a file."""

from __future__ import annotations

import io
from typing import Any

import pytest
from mitmproxy.io import FlowReader, FlowWriter
from mitmproxy.test import tflow

from invariant_addon.call.state import Call
from invariant_addon.core.terms import Refusal
from invariant_addon.core.verdict import Address, Guardrail, Violation
from invariant_addon.reports import marks


def test_findings_survive_a_file() -> None:
    """With half a character in a key and in a name, too: such a flow must not be missing."""
    flow = tflow.tflow()
    where = (Address(2), Address(2, "tool_calls.0.function.arguments.a\ud800", 3, 7))
    violation = Violation(Guardrail("1", "bi\ud800rds", ""), "no birds", where)
    marks.show(flow, Call(settings=None, refused=Refusal(violations=(violation,))))
    marks.show_noted(flow, (violation,))
    file = io.BytesIO()
    FlowWriter(file).add(flow)
    file.seek(0)
    (read,) = FlowReader(file).stream()
    blocked, noted = marks.findings(read)  # type: ignore[arg-type]  # it is one of HTTP
    assert (blocked.effect, noted.effect, blocked.words) == ("blocked", "noted", "no birds")
    path = "tool_calls.0.function.arguments.a?"
    assert blocked.addresses == noted.addresses == (Address(2, path, 3, 7),)


ODD = {"id": 1, "name": 2, "action": 3, "source": 4, "words": 5, "effect": "odd", "places": []}


@pytest.mark.parametrize(
    "told",
    [
        *(None, 7, [], {}, {"findings": 7}, {"findings": [7, {}, None]}, {"findings": [ODD]}),
        {"findings": [ODD | {"effect": []}]},
        {"findings": [ODD | {"effect": "blocked", "places": [["x", "content", 1, 2]]}]},
        {"findings": [ODD | {"effect": "blocked", "places": [[1], 7]}]},
    ],
)
def test_what_a_file_tells_is_read_with_care(told: Any) -> None:
    """It may be anybody's."""
    flow = tflow.tflow()
    flow.metadata["invariant"] = told
    assert marks.findings(flow) == ()
