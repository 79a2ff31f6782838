"""What would have happened to recorded flows (`mitmdump -nr FILE`): a line for each finding, and
a sum. With invariant_replay_fails the exit code says it, too."""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence

from mitmproxy import ctx, http

from ..call.state import Call
from ..core.printable import printable
from ..core.refusal import summary, whereabouts
from ..core.verdict import Action, Violation
from .marks import words

logger = logging.getLogger(__name__)

PROGRESS_SECONDS = 10.0
"""After which it is said how far it is: a large file takes its time."""


class Replayed:
    """Tells of recorded flows as they are judged. Nothing of them is changed or answered."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told: float | None = None
        self._count = 0
        self._ends: Counter[str] = Counter()

    @property
    def is_clean(self) -> bool:
        """Whether there was something to judge, and nothing of it would have been blocked."""
        return self._count > 0 and not self._ends["would have been blocked"]

    def add(self, flow: http.HTTPFlow, call: Call, noted: Sequence[Violation] = ()) -> None:
        """noted: what log and shadow rules found, for the first time in this conversation."""
        name = self._name(flow)
        shadow = [v for v in noted if v.guardrail.action is Action.SHADOW]
        others = [v for v in noted if v.guardrail.action is not Action.SHADOW]
        if call.refused is not None:
            self._ends["would have been blocked"] += 1
            found = call.refused.violations
            told = f"the {call.phase} would have been blocked{_by(found)}: {summary(call.refused)}"
            logger.warning("%s: %s%s", name, printable(told), whereabouts(found, call.messages))
        elif call.unjudged:
            self._ends["not scanned"] += 1
        elif shadow:
            self._ends["would have been blocked by a rule on trial"] += 1
        elif others or call.masked or call.muted:
            self._ends["changed or noted"] += 1
        elif call.is_harmless:
            self._ends["with nothing to judge"] += 1
        else:
            self._ends["clean"] += 1
        if call.judged and call.unread:
            logger.warning("%s: judged in part: %s cannot be read", name, call.unread)
        if call.unjudged:
            logger.warning("%s: not scanned: %s", name, call.unjudged)
        for what, some in (
            ("would have been masked", call.masked),
            ("was let pass as muted", call.muted),
            ("would have been blocked, were it not on trial,", shadow),
            ("noted", others),
        ):
            if some:
                where = whereabouts(tuple(some), call.messages)
                said = printable(words(some))
                logger.warning("%s: %s%s: %s%s", name, what, _by(some), said, where)

    def tell(self, *, is_asked_for: bool) -> None:
        """The sum. is_asked_for: recorded flows were to be read."""
        if self._count:
            ends = ", ".join(f"{count} {end}" for end, count in sorted(self._ends.items()))
            logger.warning("judged %d recorded calls: %s", self._count, ends)
        elif is_asked_for:
            logger.warning("judged 0 recorded calls: none was to a guarded host")

    def _name(self, flow: http.HTTPFlow) -> str:
        now = self._clock()
        if self._told is None:  # the first one waits for the engine, too
            self._told = now
        elif now - self._told >= PROGRESS_SECONDS:
            self._told = now
            found = self._ends["would have been blocked"]
            logger.warning("%d recorded calls so far, %d to be blocked", self._count, found)
        self._count += 1
        address = f"{flow.request.method} {flow.request.path.split('?', 1)[0]}"
        return f"flow {self._count}, {printable(address)}"


class ReplayEnd:
    """Ends mitmproxy with 1 if invariant_replay_fails. The last addon, so that all others have
    written what they have."""

    def __init__(self, replayed: Replayed) -> None:
        self.replayed = replayed

    def done(self) -> None:
        options = ctx.options
        if options.invariant_replay_fails and options.rfile and not self.replayed.is_clean:
            sys.exit(1)


def _by(found: Sequence[Violation]) -> str:
    names = ", ".join(sorted({v.guardrail.name for v in found}))
    return f" by {names}" if names else ""
