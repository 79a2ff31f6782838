"""Which layer a connection gets: ours in the place of mitmproxy's, or none at all."""

from __future__ import annotations

from mitmproxy import connection
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.addons.tlsconfig import TlsConfig
from mitmproxy.proxy import commands, context, events, layer
from mitmproxy.proxy.layers import TCPLayer
from mitmproxy.proxy.layers import http as http_layers
from mitmproxy.proxy.layers.http import HTTPMode
from mitmproxy.test import taddons, tflow

from invariant_addon.layers.choice import ClosedLayer, close, guard_http, replace_tcp
from invariant_addon.layers.http import GuardedHttpLayer


def connected() -> context.Context:
    with taddons.context(Proxyserver(), TlsConfig()) as tctx:
        return context.Context(tflow.tclient_conn(), tctx.options)


def test_the_http_layer_below_tls_layers_is_found() -> None:
    """In reverse mode the HTTP layer is not on top; missing it would be a bypass."""
    ctx = connected()
    outer = http_layers.tls.ServerTLSLayer(ctx)
    outer.child_layer = inner = http_layers.tls.ClientTLSLayer(ctx)
    inner.child_layer = plain = http_layers.HttpLayer(ctx, HTTPMode.transparent)
    assert guard_http(outer) and type(plain) is GuardedHttpLayer
    assert not guard_http(None)


def test_what_mitmproxy_takes_for_raw_tcp_is_read_as_http() -> None:
    """There is no hook for raw TCP that could judge a request of which two bytes came first."""
    chosen = layer.NextLayer(connected())
    chosen.layer = TCPLayer(chosen.context)
    replace_tcp(chosen)
    assert isinstance(chosen.layer, GuardedHttpLayer)
    assert chosen.context.layers == [chosen.layer]


def test_a_connection_that_cannot_be_guarded_is_closed_unread() -> None:
    """What came on it before is passed on by the layer that is chosen: this one has nowhere to."""
    chosen = layer.NextLayer(connected())
    chosen.layer = TCPLayer(chosen.context)  # mitmproxy had chosen already
    client = chosen.context.client

    def events_come(*incoming: events.Event) -> list[commands.Command]:
        found: list[commands.Command] = []
        for event in incoming:
            for command in chosen.handle_event(event):
                found.append(command)
                if isinstance(command, layer.NextLayerHook):
                    close(chosen)
                    found += chosen.handle_event(events.HookCompleted(command))
        return found

    hook, closing = events_come(events.Start(), events.DataReceived(client, b"POST /v1/"))
    assert isinstance(hook, layer.NextLayerHook) and isinstance(chosen.layer, ClosedLayer)
    assert isinstance(closing, commands.CloseConnection) and closing.connection is client
    client.state = connection.ConnectionState.CAN_WRITE
    assert not events_come(
        events.DataReceived(client, b"responses HTTP/1.1\r\n"), events.ConnectionClosed(client)
    )
