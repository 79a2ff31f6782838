"""One timer for all streams of a connection, in place of one for each request.

mitmproxy makes a task for each timer, and keeps the stream that asked for it, with its bodies,
until it fires.
"""

from __future__ import annotations

import time

from mitmproxy.proxy import commands, events, layer

LONGEST_SECONDS = 5.0
"""The stream that set it is kept so long."""


class Tick(events.Event):
    """For each stream of the connection: time has passed."""


class Clock:
    """Set by streams, struck by the layer that gets mitmproxy's events."""

    def __init__(self) -> None:
        self._pending: dict[commands.Command, float] = {}

    def set(self, seconds: float) -> layer.CommandGenerator[None]:
        """Strike after that time, or before."""
        end = time.monotonic() + min(seconds, LONGEST_SECONDS)
        if not self._pending or end < min(self._pending.values()):
            timer = commands.RequestWakeup(end - time.monotonic())
            self._pending[timer] = end
            yield timer

    def strikes(self, event: events.Wakeup) -> bool:
        """Whether it was one of its timers that fired."""
        return self._pending.pop(event.command, None) is not None
