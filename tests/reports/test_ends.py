"""What the proxy says about itself."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

from invariant_addon.reports.ends import Reports


def test_a_proxy_that_is_ready_has_its_rules() -> None:
    """Rules that came while the backlog was counted: scripts/run warned that there were none."""

    async def ask() -> dict[str, Any]:
        judges = SimpleNamespace(current=None, ready=asyncio.Event())
        loop = asyncio.get_running_loop()

        def adopt() -> None:
            judges.current = SimpleNamespace(guardrails=(1, 2))
            judges.ready.set()

        def backlog() -> None:  # in a thread
            loop.call_soon_threadsafe(adopt)

        judges.tracing = SimpleNamespace(backlog=backlog)
        response = await Reports().health(judges, pending=lambda: 0)  # type: ignore[arg-type]  # what it reads of them
        found: dict[str, Any] = json.loads(response.content or b"")
        return found

    found = asyncio.run(ask())
    assert (found["ready"], found["rules"]) == (True, 2)
