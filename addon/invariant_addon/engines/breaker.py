"""When a service that fails is left alone, and how often a call may be tried again.

Both only count: they know no network. Times: seconds, monotonic.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .base import DeadlineError, EngineClosedError, EngineError

FAILURES = 5
"""In a row, after which the service is left alone."""
PAUSE_SECONDS = 5.0
SHARE = 0.1
"""Of the calls, how many may be tried again."""
SAVED = 3.0
"""Tries that may be saved up, for the moment in which a service is restarted."""


class ServiceError(EngineError):
    """The service did not answer, or failed itself. It was not the fault of this one call.

    is_brief: it may be over at once, so that another try is worth its while.
    """

    def __init__(self, reason: str, *, is_brief: bool = False) -> None:
        super().__init__(reason)
        self.is_brief = is_brief


class Breaker:
    """After some failures in a row calls fail at once for a while; then one call is the probe.

    A failure is a ServiceError or a DeadlineError. Any other answer says that the service is there,
    a refusal for one caller's key included.
    """

    def __init__(
        self,
        *,
        failures: int = FAILURES,
        pause: float = PAUSE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._failures = failures
        self._pause = pause
        self._clock = clock
        self._in_a_row = 0
        self._until: float | None = None  # None: calls go through
        self._is_probing = False
        self._why = ""

    def require(self) -> None:
        """Raises EngineError while the service is left alone: why, and for how long."""
        if self._until is None:
            return
        reason = f"{self._in_a_row} failures in a row, the last: {self._why}"
        left = self._until - self._clock()
        if left > 0:
            raise EngineError(f"{reason}; it is asked again in {left:.1f} seconds")
        if self._is_probing:
            raise EngineError(f"{reason}; it is being tried with one call")

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Around one call, and nothing but the call. Raises as `require` does."""
        is_probe = self._enter()
        try:
            yield
        except (ServiceError, DeadlineError) as e:
            self._note_failure(str(e), is_probe)
            raise
        except EngineClosedError:
            raise
        except EngineError:
            self._note_answer()
            raise
        else:
            self._note_answer()
        finally:
            if is_probe:  # also one that was cancelled: the next call takes its place
                self._is_probing = False

    def _enter(self) -> bool:
        """Whether this call is the probe."""
        self.require()
        self._is_probing = self._until is not None
        return self._is_probing

    def _note_answer(self) -> None:
        self._in_a_row = 0
        self._until = None

    def _note_failure(self, why: str, is_probe: bool) -> None:
        if self._until is not None and not is_probe:
            return  # it was on its way when the others failed
        self._in_a_row += 1
        self._why = why
        if self._in_a_row >= self._failures:
            self._until = self._clock() + self._pause


class Budget:
    """Further tries: a share of the calls, so that they never become the load."""

    def __init__(self, *, share: float = SHARE, saved: float = SAVED) -> None:
        self._share = share
        self._most = saved
        self._left = saved

    def earn(self) -> None:
        """One call is made."""
        self._left = min(self._left + self._share, self._most)

    def spend(self) -> bool:
        """Whether one may be tried again; if so, that is one less."""
        if self._left < 1:
            return False
        self._left -= 1
        return True
