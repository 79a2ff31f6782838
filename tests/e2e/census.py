"""A mitmproxy script for tests: what is alive in the proxy, in a line of the log, at SIGUSR1.

Python's search for garbage is switched off from the start, so calls that wait for it are counted;
connections (Server) after a search.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections import Counter

logger = logging.getLogger(__name__)

AT_ONCE = ("HTTPFlow", "GuardedHttpStream", "Call", "ReplyGuard")
IN_THE_END = ("Server",)


class Census:
    def running(self) -> None:
        gc.disable()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, self.count)

    def count(self) -> None:
        alive = living()
        gc.collect()
        rest = living()
        counts = {kind: alive[kind] for kind in AT_ONCE} | {kind: rest[kind] for kind in IN_THE_END}
        logger.info("census: %s", " ".join(f"{kind}={count}" for kind, count in counts.items()))


def living() -> Counter[str]:
    return Counter(type(each).__name__ for each in gc.get_objects())


addons = [Census()]
