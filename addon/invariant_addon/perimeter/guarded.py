"""The hosts whose calls are judged: does a flow, or a connection, belong to one of them?"""

from __future__ import annotations

from collections.abc import Iterable

from mitmproxy import http
from mitmproxy.proxy.context import Context

GUARDED = "invariant.guarded"
"""In a flow's metadata: it is guarded, also if another addon leads it elsewhere."""


class Guarded:
    """The guarded host names. A call belongs to one if any of its names does."""

    def __init__(self, hosts: Iterable[str]) -> None:
        self._hosts = frozenset(hosts)

    @property
    def names(self) -> frozenset[str]:
        return self._hosts

    def has(self, name: str | None) -> bool:
        return name is not None and name.lower().rstrip(".") in self._hosts

    def has_flow(self, flow: http.HTTPFlow) -> bool:
        request = flow.request
        return (
            GUARDED in flow.metadata  # by what it said at first
            or self.has(request.host)
            or self.has(request.pretty_host)
            or self.has(flow.client_conn.sni)
            or self.has(flow.server_conn.sni)
        )

    def has_connection(self, context: Context) -> bool:
        """Whether what comes on this connection is, or may be, for a guarded host."""
        address = context.server.address
        return self.has(context.client.sni) or self.has(address[0] if address else None)
