"""Rules that invariant-ai reads, but not as they were meant.

Its parser takes them without a word; then they never fire, or raise on every check. Better to say
so when they are loaded. Measured with 0.3.5:

- `secrets(m)` as a condition is a list, which is neither true nor false: it never fires.
- `not m.role == "user"` is read as `(not m.role) == "user"`: it never fires.
- `a in x or b in x or c in x` is read as `a in (x.. or b in x)..`: it raises.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_LISTS = {"find", "text", "image", "secrets", "pii", "copyright"}
_COMPARISONS = {"==", "!=", "<", ">", "<=", ">=", "in", "is"}
_NOT_PARTS = {"id", "type", "location", "scope", "parent"}


def trap(conditions: list[Any]) -> str | None:
    """Why these conditions do not do what they say, and what to write instead."""
    for condition in conditions:
        name = getattr(getattr(condition, "name", None), "name", None)
        if _is(condition, "FunctionCall") and name in _LISTS:
            return _at(condition, f"{name}(...) alone is never true, write any({name}(...))")
        for node in _parts(condition):
            if _is(node, "BinaryExpr") and node.op in _COMPARISONS and _is_not(node.left):
                return _at(node, f"write not (a {node.op} b), with parentheses")
            if _is(node, "MemberAccess") and _is_junction(node.expr):
                return _at(node, "put parentheses around each part of a chain of and, or")
    return None


def _parts(node: Any) -> Iterator[Any]:
    if isinstance(node, list):
        for item in node:
            yield from _parts(item)
    elif hasattr(node, "location"):
        yield node
        for name, part in vars(node).items():
            if name not in _NOT_PARTS:
                yield from _parts(part)


def _is(node: Any, name: str) -> bool:
    return type(node).__name__ == name


def _is_not(node: Any) -> bool:
    return _is(node, "UnaryExpr") and node.op == "not"


def _is_junction(node: Any) -> bool:
    return _is(node, "BinaryExpr") and node.op in ("and", "or")


def _at(node: Any, what: str) -> str:
    # The library does not know where a `not` is, but where its parts are.
    line = next((n.location.line for n in _parts(node) if n.location.line >= 0), None)
    return what if line is None else f"line {line + 1}: {what}"
