"""Trouble with the file of the traces: told of once, and once when it is over.

A damaged file is set aside, so that a new one is begun.
"""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

from .database import Database, StoreError
from .tables import Losses

logger = logging.getLogger(__name__)

RETRY_SECONDS = 0.25
_ASIDE_SECONDS = 60.0


class Outage:
    """Of one writer, for several threads.

    database: the one that writes; while there is trouble it waits for nobody, else so many seconds
    (`wait`). lock: of the file. failures: since the start.
    """

    def __init__(
        self, path: Path, database: Database, losses: Losses, lock: threading.RLock, *, wait: float
    ) -> None:
        self.failures = 0
        self._path = path
        self._database = database
        self._losses = losses
        self._lock = lock
        self._wait = wait
        self._is_on = False
        self._next_try = 0.0
        self._next_aside = 0.0

    def wait(self, seconds: float) -> None:
        """So long for a locked file, from now on."""
        self._wait = seconds
        if not self._is_on:
            self._database.wait(seconds)

    def may_try(self) -> bool:
        """Whether it is worth a try: there is no trouble, or the last try is a while ago."""
        return not self._is_on or time.monotonic() >= self._next_try

    def begin(self, error: StoreError, database: Database) -> bool:
        """This went wrong with this connection; whether to try again at once, with a new file."""
        with self._lock:
            self.failures += 1
            self._next_try = time.monotonic() + RETRY_SECONDS
            if error.trouble == "damaged" and time.monotonic() >= self._next_aside:
                self._next_aside = time.monotonic() + _ASIDE_SECONDS
                try:
                    aside = database.set_aside()
                except (StoreError, OSError) as failure:
                    logger.warning("%s is damaged, and cannot be moved: %s", self._path, failure)
                else:
                    if aside is not None:
                        logger.warning("%s is damaged: it is %s now", self._path, aside)
                    return True
            if not self._is_on:
                self._is_on = True
                self._database.wait(0.0)
                logger.warning(
                    "traces wait to be written, for the file is %s: %s", error.trouble, error
                )
            return False

    def end(self) -> None:
        """The file could be written."""
        if not self._is_on:
            return
        with self._lock:
            if self._is_on:
                self._is_on = False
                self._database.wait(self._wait)
                logger.warning("traces can be written again (%d were lost)", self._losses.count)
