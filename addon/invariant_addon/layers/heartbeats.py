"""Pings and pongs of a WebSocket, passed on without what is in them.

A ping holds up to 125 bytes of anybody's choice, and whoever gets it sends them back; no rule sees
them. So the other side gets a number in their place, and its answer is told by that number: who
pinged gets its own bytes back, and nobody gets another's (RFC 6455, 5.5.2 and 5.5.3).
"""

from __future__ import annotations

from collections import deque

MAX_OPEN = 64
"""Pings of one side that were not answered yet; older ones never will be."""


class Heartbeats:
    """Of one connection. to_server: who pings is the client."""

    def __init__(self) -> None:
        self._count = 0
        self._open: dict[bool, deque[tuple[bytes, bytes]]] = {
            side: deque(maxlen=MAX_OPEN) for side in (True, False)
        }

    def ping(self, payload: bytes, *, to_server: bool) -> bytes:
        """What goes on in its place."""
        self._count += 1
        number = b"%d" % self._count
        self._open[to_server].append((number, payload))
        return number

    def pong(self, payload: bytes, *, to_server: bool) -> bytes:
        """What goes on in the place of an answer to a ping that came from there.

        An answer may leave out the pings before. One that answers none is a heartbeat: empty.
        """
        asked = self._open[not to_server]
        if all(number != payload for number, _ in asked):
            return b""
        while True:
            number, own = asked.popleft()
            if number == payload:
                return own
