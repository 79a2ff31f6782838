"""Run as a program: what the library consists of once it is imported. `late`: with stand-ins.

Out: one JSON object: every module of the library with its names; which modules of others are
loaded; and what the stand-ins turn into when they are used.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    if "late" in sys.argv:
        addon = str(Path(__file__).parents[2] / "addon")
        sys.path.append(addon)
        from invariant_addon.engines import late

        sys.path.remove(addon)
        with late.late_imports():
            import invariant.analyzer
    else:
        import invariant.analyzer  # noqa: F401

    ours = {name: module for name, module in sys.modules.items() if name.startswith("invariant.")}
    found = {name: sorted(vars(module)) for name, module in ours.items()}
    loaded = [name for name in ("openai.types", "aiohttp.client") if name in sys.modules]
    print(json.dumps({"names": found, "loaded": loaded, "used": asyncio.run(use())}))


async def use() -> dict[str, Any]:
    import openai
    from invariant.analyzer import remote_policy
    from invariant.analyzer.runtime.utils import base
    from invariant.analyzer.stdlib.invariant.detectors import fuzzy_matching

    client = base.get_openai_client()
    session = remote_policy.aiohttp.ClientSession()
    await session.close()
    values = (client, session, fuzzy_matching.AsyncOpenAI(base_url="http://localhost/"))
    return {
        "made": [f"{type(value).__module__}.{type(value).__qualname__}" for value in values],
        "address": str(values[2].base_url),
        "same": [isinstance(values[2], openai.AsyncOpenAI), openai.__version__],
    }


if __name__ == "__main__":
    main()
