"""The HTTP layer of a connection, with streams that can await a verdict (stream.py).

It knows no dialect and no engine; imports mitmproxy only.
"""

from __future__ import annotations

from weakref import WeakValueDictionary

from mitmproxy.connection import Connection
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.layers.http import HttpLayer

from .clock import Clock, Fed, Tick
from .letting_go import forget_closed
from .stream import GuardedHttpStream


class GuardedHttpLayer(HttpLayer):
    """mitmproxy's HTTP layer, with streams that can await a verdict."""

    # Made when they are needed: a layer of mitmproxy's becomes one of these (choice.py).
    _clock: Clock | None = None
    _sleepers: WeakValueDictionary[commands.Command, layer.Layer] | None = None
    _has_closed = False

    def make_stream(self, stream_id: int) -> layer.CommandGenerator[None]:
        self._clock = self._clock or Clock()
        stream = GuardedHttpStream(self.context.fork(), stream_id, self._clock)
        self.streams[stream_id] = stream
        yield from self.event_to_child(stream, events.Start())

    def _handle_event(self, event: events.Event) -> layer.CommandGenerator[None]:
        try:
            yield from self._handle_and_note(event)
        except Exception:  # mitmproxy logs it, and would leave the client waiting for ever
            yield commands.CloseConnection(self.context.client)
            raise

    def _handle_and_note(self, event: events.Event) -> layer.CommandGenerator[None]:
        for command in self._handle(event):
            if isinstance(command, commands.RequestWakeup):
                # Who sleeps is not kept for it: it may be over before, and would stay with all
                # that it holds until the timer fires.
                self._sleepers = WeakValueDictionary() if self._sleepers is None else self._sleepers
                self._sleepers[command] = self.command_sources.pop(command)
            yield command
            self._has_closed |= isinstance(command, commands.CloseConnection)
        if self._has_closed:
            self._has_closed = not forget_closed(self)

    def _handle(self, event: events.Event) -> layer.CommandGenerator[None]:
        if isinstance(event, events.Wakeup):
            sleeper = self._sleepers.pop(event.command, None) if self._sleepers else None
            if self._clock and self._clock.strikes(event):
                for stream in [*self.streams.values()]:
                    yield from self.event_to_child(stream, Tick())
            elif sleeper is not None:
                yield from self.event_to_child(sleeper, event)
        elif not isinstance(event, events.ConnectionEvent) or self._knows(event.connection):
            yield from super()._handle_event(event)
        while self._clock and self._clock.fed:
            fed, _ = self._clock.fed.popitem()
            yield from self.event_to_child(fed, Fed())

    def _knows(self, connection: Connection) -> bool:
        """Or it was closed and forgotten, and that it is closed is no news."""
        return connection in self.connections or connection == self.context.server
