"""A mitmproxy script for tests: what takes half a minute in an outage takes part of a second.

Only pauses that no option sets are shortened; it is loaded after the addon.
"""

from __future__ import annotations

from invariant_addon.engines.breaker import Breaker
from invariant_addon.rules import explorer


def shorten(constructor: object, **defaults: float) -> None:
    constructor.__kwdefaults__.update(defaults)  # type: ignore[attr-defined]  # a function has it


explorer.RETRY_SECONDS = 0.1, 0.3
shorten(explorer.DatasetRules.__init__, timeout=1.0, refresh=0.1)
shorten(Breaker.__init__, pause=0.3)

addons: list[object] = []
