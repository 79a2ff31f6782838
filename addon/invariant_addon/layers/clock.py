"""When the streams of a connection go on: after all that one read brought, and as time passes.

One read brings up to hundreds of events, and what they release goes out at once: a record of TLS
and a write for each of them would cost more than all else. And one timer serves all streams:
mitmproxy makes a task for each.
"""

from __future__ import annotations

import time

from mitmproxy.proxy import commands, events, layer

LONGEST_SECONDS = 5.0
"""Nobody takes it back when all is over."""


class Tick(events.Event):
    """For each stream of the connection: time has passed."""


class Fed(events.Event):
    """For a stream that got data: there is no more of it for now."""


class Clock:
    """Set by streams, struck by the layer that gets mitmproxy's events.

    fed: the streams that got data of which there may be more.
    """

    def __init__(self) -> None:
        self.fed: dict[layer.Layer, None] = {}
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
