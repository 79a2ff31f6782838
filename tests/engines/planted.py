"""Run as a program: what comes of trees that no parser made. Out: a line for each."""

from __future__ import annotations

import base64
import os
import pickle
import sys
from pathlib import Path
from typing import Any

TEXT = 'raise "x" if:\n    (m: Message)\n    "a" in m.content\n'


class Calls:
    """What it is read to is whatever its function gives."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._what = function, arguments

    def __reduce__(self) -> Any:
        return self._what


def text(value: object) -> str:
    return base64.b85encode(pickle.dumps(value)).decode()


def main() -> None:
    import invariant.analyzer  # noqa: F401  # before ours can hide it

    sys.path.append(str(Path(__file__).parents[2] / "addon"))
    from invariant.analyzer.language import ast
    from invariant.analyzer.language.parser import parse

    from invariant_addon.engines import trees

    planted = {
        "a program": Calls(os.system, "true"),
        "a builtin": Calls(eval, "1"),
        "what a module of the library imports": Calls(ast.re.compile, "x"),
        "a function of the library": Calls(ast.asyncio.run, None),
        "no policy": ast.Location(1, 1, None),
        "a number": 5,
    }
    for name, value in planted.items():
        try:
            print(name, trees.load(text(value)))
        except pickle.UnpicklingError:
            print(name, "refused")
    root = parse(TEXT, optimize_rules=False)
    print("a policy", type(trees.load(trees.dump(root)).statements[0].body[1]).__name__)
    root.statements[0].more = lambda: None
    print("what cannot be written", repr(trees.dump(root)))


if __name__ == "__main__":
    main()
