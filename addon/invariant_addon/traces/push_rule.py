"""Which traces are pushed.

"finished" is invariant-gateway's rule: those with something found in them, and those whose reply is
at its end. So of an agent's turns the ones that only call a tool are not pushed; they come back in
the request of the next.
"""

from __future__ import annotations

from typing import Literal, get_args

from ..core.trace import Trace

PushRule = Literal["finished", "all"]
PUSH_RULES: tuple[str, ...] = get_args(PushRule)
_ENDS = ("stop", "length", "content_filter")


def is_pushed(trace: Trace, rule: PushRule = "finished") -> bool:
    if rule == "all" or not trace.choices:
        return True
    if any(finding.effect != "muted" for finding in trace.findings):
        return True
    return bool(trace.finishes) and trace.finishes[0] in _ENDS
