"""A mitmproxy script: the least that streams. What the others are compared with."""

from __future__ import annotations

from mitmproxy import http


def responseheaders(flow: http.HTTPFlow) -> None:
    if flow.response and "event-stream" in flow.response.headers.get("content-type", ""):
        flow.response.stream = True
