"""Traces to push, and what to ask about those that were pushed."""

from __future__ import annotations

import time
from collections.abc import Callable

from invariant_addon.core.trace import Finding, Trace
from invariant_addon.core.verdict import Address
from invariant_addon.traces.sender import Sender

from .chaos import ChaosExplorer
from .seen import marked

SECRET = "SECRET-7"

Start = Callable[..., Sender]
"""An outbox, a sink (default: the Explorer), options -> a sender that runs."""


def a_trace(number: int, *, dataset: str = "agents") -> Trace:
    """With a finding in its own words, after as many emoji as it likes."""
    said = f"{'😀' * (number % 5)} call {number} says {SECRET}-{number} ok"
    start = said.index(SECRET)
    address = Address(0, "content", start, len(said) - 3)
    finding = Finding({"id": "g", "name": "n", "action": "log"}, f"w{number}", "noted", (address,))
    message = {"role": "user", "content": said}
    reply = {"role": "assistant", "content": "fine"}
    return Trace(
        f"trace-{number}",
        0.0,
        "judged",
        "chat",
        "m",
        True,
        {},
        (message,),
        (reply,),
        ("stop",),
        (finding,),
        dataset=dataset,
    )


def arrived(chaos: ChaosExplorer) -> list[str]:
    return sorted(trace.metadata["client_trace_id"] for trace in chaos.stored)


def in_place(chaos: ChaosExplorer) -> bool:
    """Whether every annotation marks what was found."""
    for trace in chaos.stored:
        number = trace.metadata["client_trace_id"].removeprefix("trace-")
        (annotation,) = trace.annotations
        assert annotation["content"] == f"w{number}"
        assert marked(trace.messages, annotation["address"]) == [f"{SECRET}-{number}"]
    return True


def eventually(is_so: Callable[[], bool], seconds: float = 5.0) -> None:
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.005)
