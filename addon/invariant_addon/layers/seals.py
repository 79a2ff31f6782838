"""What was judged, to be compared with what is about to be sent; and the hook for what differs.

It knows no dialect and no engine; imports mitmproxy only.
"""

from __future__ import annotations

from dataclasses import dataclass

from mitmproxy import http
from mitmproxy.proxy import commands

SEALED = "invariant.sealed"
SEALED_REPLY = "invariant.sealed_reply"
"""In a flow's metadata: what was judged. What differs from it when it is sent was changed by
another addon or by a person, and is judged again (InvariantChangedHook)."""

type Seal = tuple[object, ...]
_ABOUT_THE_BODY = frozenset({b"content-encoding", b"content-type"})


def seal(request: http.Request) -> Seal:
    """What of a request is compared. The body is the same object, as a rule: that is quick."""
    about, hosts = [], []
    for name, value in request.headers.fields:
        if (lower := name.lower()) in _ABOUT_THE_BODY:
            about.append((lower, value))
        elif lower == b"host":
            hosts.append(value)
    to = request.scheme, request.host, request.port, request.data.authority, tuple(hosts)
    return (request.raw_content, request.method, request.path, tuple(about), *to)


def seal_reply(response: http.Response) -> Seal:
    headers = response.headers
    return (response.raw_content, response.status_code, headers.get("content-encoding", ""))


class ChangedMessage:
    """A request or a reply that is not what was judged, or of which nothing is known.

    judged: what was; None if nothing. response: set by whoever judges: what the client gets.
    """

    def __init__(self, flow: http.HTTPFlow, judged: Seal | None, *, is_reply: bool) -> None:
        self.flow = flow
        self.judged = judged
        self.is_reply = is_reply
        self.response: http.Response | None = None


@dataclass
class InvariantChangedHook(commands.StartHook):
    """Judge what is about to be sent. The stream waits."""

    changed: ChangedMessage
