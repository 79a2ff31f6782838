"""A client that does not trust the certificate: say which program it is, and what to type.

mitmproxy says only that a handshake failed, and of clients that just hang up it says it where
nobody looks. The connection stays refused: to let it by unread would be to fail open.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from mitmproxy import ctx, tls

from ..background import in_background
from ..interception.processes import Address, Process, find
from ..interception.remedies import remedy
from .guarded import Guarded

logger = logging.getLogger(__name__)

LOOKS = 20
"""How many connections are looked up while they are open, after the start and after a failure: a
client that refuses the certificate is gone a moment later. A look-up costs some milliseconds, and
such trouble comes when things are set up."""
LOOK_SECONDS = 0.25
QUIET = 60.0  # seconds between two lines about the same program
_MOST = 256


class Distrust:
    """The hooks. guarded: whose handshakes are looked at, as of now."""

    def __init__(
        self,
        guarded: Callable[[], Guarded],
        look_up: Callable[[Address, Address], Process | None] = find,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._guarded = guarded
        self._look_up = look_up
        self._clock = clock
        self._left = LOOKS
        self._looks: OrderedDict[str, asyncio.Task[Process | None]] = OrderedDict()
        self._said: OrderedDict[str, tuple[float, int]] = OrderedDict()

    async def tls_clienthello(self, data: tls.ClientHelloData) -> None:
        client = data.context.client
        if self._left > 0 and self._guarded().has(data.client_hello.sni):
            self._left -= 1
            look = self._looks[client.id] = self._look(client.peername, client.sockname)
            while len(self._looks) > _MOST:
                self._looks.popitem(last=False)
            # Before it sees the certificate: a moment later it may be gone.
            await asyncio.wait((look,), timeout=LOOK_SECONDS)

    def tls_established_client(self, data: tls.TlsData) -> None:
        self._looks.pop(data.conn.id, None)

    async def tls_failed_client(self, data: tls.TlsData) -> None:
        """Not for a client that has hung up before it said what it wants."""
        client = data.context.client
        look = self._looks.pop(client.id, None)
        if not self._guarded().has(client.sni):
            return
        self._left = LOOKS  # it will try again
        process = await (look or self._look(client.peername, client.sockname))
        self._say(process, str(client.sni), client.error or "")

    def _look(self, peer: Address | None, own: Address | None) -> asyncio.Task[Process | None]:
        async def look() -> Process | None:
            if not peer or not own:
                return None
            try:
                return await asyncio.to_thread(self._look_up, peer[:2], own[:2])
            except RuntimeError:  # the proxy is ending: there are no threads any more
                return None

        return in_background(look(), "whose connection")

    def _say(self, process: Process | None, host: str, error: str) -> None:
        label = process.label if process is not None else "a program"
        since, left_out = self._said.pop(label, (-QUIET, 0))
        now = self._clock()
        if now - since < QUIET:
            self._said[label] = since, left_out + 1
            return
        self._said[label] = now, 0
        while len(self._said) > _MOST:
            self._said.popitem(last=False)
        folder = Path(ctx.options.invariant_certs).expanduser()
        logger.warning(
            "%s%s did not trust the certificate for %s%s; its call was not sent. To mend it: %s",
            label,
            f" (pid {process.pid})" if process is not None else "",
            host,
            f" ({left_out} more times meanwhile)" if left_out else _why(error),
            remedy(process.program if process is not None else "", folder),
        )


def _why(error: str) -> str:
    """Some clients say so, and others hang up; those may have had another reason."""
    if "alert" in error or "unknown ca" in error:
        return ""
    return ", or hung up before the handshake was over"
