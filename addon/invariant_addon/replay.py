"""What would have happened to recorded flows (`mitmdump -nr FILE`): one line each, and a sum."""

from __future__ import annotations

import logging
from collections import Counter

from mitmproxy import http

from .core.refusal import summary, whereabouts
from .guard import Call

logger = logging.getLogger(__name__)


class Replayed:
    """Tells of recorded flows as they are judged. Nothing of them is changed or answered."""

    def __init__(self) -> None:
        self._count = 0
        self._ends: Counter[str] = Counter()

    def add(self, flow: http.HTTPFlow, call: Call) -> None:
        self._count += 1
        name = f"flow {self._count}, {flow.request.method} {flow.request.path.split('?', 1)[0]}"
        if call.refused is None:
            self._ends["not scanned" if call.unjudged else "clean"] += 1
            if call.unjudged or call.masked or call.muted:
                logger.warning("%s: %s", name, flow.comment)
            return
        self._ends["would have been blocked"] += 1
        where = whereabouts(call.refused.violations, call.messages)
        rules = ", ".join(sorted({v.guardrail.name for v in call.refused.violations}))
        logger.warning(
            "%s: the %s would have been blocked%s: %s%s",
            name,
            call.phase,
            f" by {rules}" if rules else "",
            summary(call.refused),
            where,
        )

    def tell(self) -> None:
        if self._count:
            ends = ", ".join(f"{count} {end}" for end, count in sorted(self._ends.items()))
            logger.warning("judged %d recorded calls: %s", self._count, ends)
