"""A recorded WebSocket, judged again: its messages, one after the other, and nothing goes anywhere.

What the client asked is judged before what came for it; a reply is judged as a whole, when the
client speaks again, or at the end. What would have closed the connection ends it here as well.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

from mitmproxy.websocket import WebSocketMessage

from ..layers.websocket import Frame
from .session import Session


async def replay(session: Session, messages: Iterable[WebSocketMessage]) -> None:
    """session: of a flow that is not live."""
    try:
        for message in messages:
            if message.injected:
                continue  # neither side said it
            if message.from_client:
                await _settle(session)
            frame = Frame(
                to_client=not message.from_client,
                is_text=message.is_text,
                content=message.content,
                went_on=not message.dropped,
            )
            session.receive(frame, time.monotonic())
            if message.from_client:
                await _settle(session)
            if session.farewell is not None:
                return
        session.server_left(time.monotonic())
        await _settle(session)
    finally:
        session.lost()
        await session.closings()


async def _settle(session: Session) -> None:
    """Until nothing is to be judged."""
    while True:
        now = time.monotonic()
        work = session.next_work(now)
        if not work and not session.take(now):
            return
        await asyncio.gather(*(one.run() for one in work))
