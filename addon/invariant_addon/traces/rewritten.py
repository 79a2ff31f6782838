"""A trace with other texts: every text that is in it goes through a function.

So that whoever masks something forgets no field, and a field that is added later is not forgotten
either (tests/traces/test_rewritten.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from ..core.trace import Json, Trace


def rewritten(
    trace: Trace,
    *,
    text: Callable[[str], str],
    messages: Sequence[Json],
    choices: Sequence[Json],
    parameters: Mapping[str, Json],
    usage: Mapping[str, Json],
) -> Trace:
    """The trace with these messages, choices, parameters and usage, and all else by `text`: what
    findings say and where, and the names and words beside the conversation.

    Not its id, which nobody else has chosen, its original, which nobody else sees, and what a
    finding says of its rule, which is its owner's."""
    findings = tuple(
        replace(
            finding,
            words=text(finding.words),
            addresses=tuple(replace(a, path=text(a.path)) for a in finding.addresses),
        )
        for finding in trace.findings
    )
    return replace(
        trace,
        messages=tuple(messages),
        choices=tuple(choices),
        parameters=parameters,
        usage=usage,
        findings=findings,
        finishes=tuple(each if each is None else text(each) for each in trace.finishes),
        reason=text(trace.reason),
        model=text(trace.model),
        endpoint=text(trace.endpoint),
        client=text(trace.client),
        dataset=text(trace.dataset),
        response_id=text(trace.response_id),
    )
