"""The layer that mitmproxy chose for a connection -> ours in the place of its HTTP layer.

It knows no dialect and no engine; imports mitmproxy only.
"""

from __future__ import annotations

from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.layers import TCPLayer
from mitmproxy.proxy.layers.http import HttpLayer, HTTPMode

from .http import GuardedHttpLayer


def guard_http(top: layer.Layer | None) -> bool:
    """Turn the plain HTTP layer at the end of a fresh stack into a guarded one.

    In reverse mode it lies below the TLS layers (`child_layer`). Returns whether one was found.
    """
    current = top
    while current is not None:
        if isinstance(current, HttpLayer):
            if type(current) is HttpLayer:
                # Its own class, not a copy: parents and context already point to this object.
                current.__class__ = GuardedHttpLayer
            return True
        current = getattr(current, "child_layer", None)
    return False


def replace_tcp(nextlayer: layer.NextLayer) -> None:
    """Put a guarded HTTP layer where mitmproxy chose raw TCP.

    It takes whatever does not look like HTTP at first sight for raw TCP (a request of which two
    bytes came first, say), and there is no hook and no judgement then.
    """
    raw = nextlayer.layer
    if isinstance(raw, TCPLayer):
        nextlayer.context.layers.remove(raw)
        nextlayer.layer = GuardedHttpLayer(nextlayer.context, HTTPMode.transparent)


class ClosedLayer(layer.Layer):
    """Hangs up, and passes nothing on."""

    def _handle_event(self, event: events.Event) -> layer.CommandGenerator[None]:
        if isinstance(event, events.Start):
            yield commands.CloseConnection(self.context.client)


def close(nextlayer: layer.NextLayer) -> None:
    """End a connection, whatever was chosen for it. mitmproxy asks nobody else then."""
    nextlayer.layer = ClosedLayer(nextlayer.context)
