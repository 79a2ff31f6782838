"""Run as a program: what can be reached with a dot or an index from whatever a rule can hold.

Out: one JSON object: how many pairs of value and name were tried, and the names of those that the
check let pass and that gave something else than data. All names that Python knows are tried.
"""

from __future__ import annotations

import asyncio
import builtins
import json
import sys
from pathlib import Path
from types import BuiltinMethodType, MethodType, ModuleType
from typing import Any

PLAIN = (str, int, float, bool, type(None))


def main() -> None:
    import invariant.analyzer  # noqa: F401  # before ours can hide it

    sys.path.append(str(Path(__file__).parents[2] / "addon"))
    asyncio.run(probe())


async def probe() -> None:
    from invariant.analyzer.language.ast import KeyAccess, MemberAccess
    from invariant.analyzer.language.linking import resolve
    from invariant.analyzer.language.parser import parse
    from invariant.analyzer.language.scope import ExternalReference
    from invariant.analyzer.runtime.evaluation import Interpreter
    from pydantic import BaseModel

    from invariant_addon.engines import corrections, language, reading, search, trace

    corrections.apply()
    root = parse('raise "x" if:\n    (v: Message)\n    v.name == v["name"]\n')
    condition = root.statements[0].body[1]
    member, key = condition.left, condition.right
    assert type(member) is MemberAccess and type(key) is KeyAccess
    variable = member.expr.id
    table = reading._Table()

    class Rules:
        symbol_table = table

    read = trace.Trace(trace.History([{"role": "user", "content": "x", "tool_calls": []}]))
    context = search.Context(read, Rules(), lambda *_: None)
    imported = {
        f"{module}.{name}": resolve(ExternalReference(module, name), table)
        for module, names in language.IMPORTS.items()
        for name in names
    }
    modules = [name for name, value in imported.items() if isinstance(value, ModuleType)]
    values = [*samples(imported), *imported.values(), read, context]
    names = sorted({n for v in values for n in (*dir(v), *dir(type(v)))} | set(dir(builtins)))
    bad: list[str] = []

    def is_data(value: Any) -> bool:
        if isinstance(value, list | tuple | set | frozenset):
            return all(map(is_data, value))
        if isinstance(value, dict):
            return all(map(is_data, (*value, *value.values())))
        if isinstance(value, MethodType | BuiltinMethodType):
            return value.__name__ in language.METHODS
        return isinstance(value, (*PLAIN, BaseModel))

    async def give(node: Any, value: Any) -> Any:
        with Interpreter({variable: value}, {}, context) as interpreter:
            return await interpreter.visit(node)

    passed = 0
    for name in names:
        member.member, key.key.value = name, name
        for node in (member, key):
            root.statements[0].body[1] = node
            if language.refusal(root) is not None:
                continue
            passed += 1
            for value in values:
                try:
                    got = await give(node, value)
                except Exception:  # noqa: BLE001  # it gave nothing
                    continue
                if not is_data(got):
                    bad.append(f"{type(value).__name__} {type(node).__name__} {name}")
    print(
        json.dumps(
            {
                "names": len(names),
                "values": len(values),
                "passed": passed,
                "modules": modules,
                "bad": bad,
            }
        )
    )


def samples(imported: dict[str, Any]) -> list[Any]:
    from invariant.analyzer.runtime import nodes
    from invariant.analyzer.runtime.utils.code import PythonDetectorResult
    from invariant.analyzer.stdlib.invariant.errors import ErrorInformation, UpdateMessage
    from invariant.analyzer.stdlib.invariant.parsers.html import HiddenHTMLData

    function = nodes.Function(name="f", arguments={"a": "b"})
    call = nodes.ToolCall(id="1", type="function", function=function)
    contents = nodes.Contents([nodes.TextChunk(type="text", text="a")])
    return [
        *("text", "{}", 5, 1.5, True, None, [1], ["a"], (1,), {1}, {"a": 1}, {}, {"a": 1}.keys()),
        *({"a": 1}.items(), "a".lower, {}.get, contents.text, print, function, call, contents),
        nodes.Message(role="user", content="x", tool_calls=[call]),
        nodes.ToolOutput(role="tool", content="x", tool_call_id="1"),
        nodes.Image(type="image_url", image_url={"url": "x"}),
        nodes.LLM(vendor="a", model="b"),
        PythonDetectorResult(),
        HiddenHTMLData(),
        ErrorInformation(args=[], kwargs={}, ranges=[]),
        UpdateMessage({}, "x"),
        imported["invariant.AccessDenied"]() if "invariant.AccessDenied" in imported else None,
        imported["invariant.count"](min=1),
        imported["invariant.builtins.Input"]([]),
    ]


if __name__ == "__main__":
    main()
