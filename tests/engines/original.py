"""Run as a program: what the library itself says, without any of our corrections but those of its
parser, which reads the same in less time (test_trees.py).

In: JSON lines of [messages, policy]. Out: for each, the sorted events that its hits bind, or null
if it raised.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any


async def judge(messages: list[Any], policy: Any) -> list[str] | None:
    try:
        result = await policy.a_analyze(messages)
    except Exception:  # noqa: BLE001  # it is the answer
        return None
    return sorted(error.key for error in result.errors)


def main() -> None:
    from invariant.analyzer.policy import LocalPolicy

    sys.path.append(str(Path(__file__).parents[2] / "addon"))
    from invariant_addon.engines import corrections

    corrections.read_faster()
    policies: dict[str, Any] = {}
    for line in sys.stdin:
        messages, text = json.loads(line)
        if text not in policies:
            policies[text] = LocalPolicy.from_string(text)
        print(json.dumps(asyncio.run(judge(messages, policies[text]))), flush=True)


if __name__ == "__main__":
    main()
