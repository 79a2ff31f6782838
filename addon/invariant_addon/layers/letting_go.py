"""What is over goes: a stream at once, with its bodies, and a closed connection to upstream.

mitmproxy's stream holds on to itself: by its states, which are its own methods, and by its place in
its stack of layers. So each call that was over waited for the search for garbage, with all that was
sent and received, and that search comes seldom: after a minute of calls by sixteen clients hundreds
of them were left.

And mitmproxy's HTTP layer keeps each connection to upstream, with all of its layers, until the
client leaves: for one that keeps its connection, that is each reply that was refused midway.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mitmproxy.connection import ConnectionState
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.layers.http import HttpLayer

type Handler = Callable[[events.Event], layer.CommandGenerator[None]]


class State:
    """A field whose value is one of the object's own methods: kept without the object."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = f"_{name}"

    def __set__(self, stream: Any, method: Any) -> None:
        stream.__dict__[self._name] = method.__func__

    def __get__(self, stream: Any, owner: type | None = None) -> Handler:
        bound: Handler = stream.__dict__[self._name].__get__(stream)
        return bound


def leave_stack(stream: layer.Layer) -> None:
    """It is over: nobody looks for it among its layers any more."""
    if stream in stream.context.layers:
        stream.context.layers.remove(stream)


def forget_closed(http: HttpLayer) -> bool:
    """Forget the connections to upstream that are closed and that no stream goes by any more.
    Whether there is none that has to wait for its stream."""
    used = [s.flow.server_conn for s in http.streams.values() if hasattr(s, "flow")]
    # Nobody waits here for one that a layer inside of this one opens, in a tunnel.
    opened = [c.connection for c in http.command_sources if isinstance(c, commands.OpenConnection)]
    is_all = True
    for connection in [*http.connections]:
        if connection in (http.context.client, http.context.server):
            continue  # mitmproxy looks for these
        if connection.state is not ConnectionState.CLOSED or connection.error:
            continue  # what could not be opened is not tried again
        if connection in http.waiting_for_establishment or connection in opened:
            continue
        if connection in used:
            is_all = False
        else:
            del http.connections[connection]
    return is_all
