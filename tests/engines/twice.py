"""Run as a program: policies as the library's parser reads them, and with our corrections of it.

In: a JSON list of texts. Out: for each, the tree that both come to, or null if they differ; "" for
a text that neither reads.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def read(parse: Any, trees: Any, text: str) -> str:
    try:
        root = parse(text, optimize_rules=False)
    except Exception:  # noqa: BLE001  # it is the answer
        return ""
    return "" if root.errors else str(trees.dump(root))


def main() -> None:
    import invariant.analyzer  # noqa: F401  # before ours can hide it

    sys.path.append(str(Path(__file__).parents[2] / "addon"))
    from invariant.analyzer.language.parser import parse

    from invariant_addon.engines import corrections, trees

    texts = json.load(sys.stdin)
    before = [read(parse, trees, text) for text in texts]
    corrections.read_faster()
    after = [read(parse, trees, text) for text in texts]
    print(json.dumps([a if a == b else None for a, b in zip(before, after, strict=True)]))


if __name__ == "__main__":
    main()
