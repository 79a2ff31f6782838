"""A mitmproxy script: SIGUSR1 starts a profile of the proxy's thread, and the next one ends it.

The report goes to the file that BENCH_PROFILE names.
"""

from __future__ import annotations

import asyncio
import cProfile
import io
import os
import pstats
import signal
import time
from pathlib import Path

TOP = 25


class Profile:
    def __init__(self) -> None:
        self._profile: cProfile.Profile | None = None

    def running(self) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, self._toggle)

    def _toggle(self) -> None:
        if self._profile is None:
            # CPU, not wall: what waits, or was pushed off its core, costs nothing here.
            self._profile = cProfile.Profile(time.thread_time)
            self._profile.enable()
            return
        self._profile.disable()
        text = io.StringIO()
        pstats.Stats(self._profile, stream=text).sort_stats("tottime").print_stats(TOP)
        self._profile = None
        file = Path(os.environ["BENCH_PROFILE"])
        part = file.with_suffix(".part")
        part.write_text(text.getvalue())
        part.replace(file)


addons = [Profile()]
