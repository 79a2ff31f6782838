"""One expression of a rule -> why it does not do what it says, and what to write instead.

`of`: it raises, or says something else, wherever it stands. `never`: it holds for no conversation,
which is only wrong where the rule needs it. See traps.py; kinds of values are those of kinds.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import calls
from .kinds import (
    COMPARISONS,
    EVENTS,
    LISTS,
    OPEN,
    PARTS,
    TYPES,
    Kind,
    Kinds,
    Node,
    is_a,
)
from .members import PATTERNS, SINGLE, WORDS, key_of, member_of, said

_ORDERINGS = {"<", ">", "<=", ">="}
_SIZED = LISTS | {Kind.TEXT, Kind.OBJECT}
_ALIKE = dict.fromkeys(LISTS, Kind.LIST) | {Kind.BOOL: Kind.NUMBER}
_IN_DATA = {"Message", "ToolCall", "ToolOutput", "Function", "str", "list", "Input"}
"""Types that `(x: T)` alone finds something of."""


def of(node: Node, kinds: Kinds) -> str | None:
    check: Callable[[Node, Kinds], str | None] | None = _CHECKS.get(type(node).__name__)
    return check(node, kinds) if check else None


def never(node: Node, kinds: Kinds) -> str | None:
    if is_a(node, "UnaryExpr") and node.op == "not" and is_a(node.expr, "TypedIdentifier"):
        return f"this is never true, write count(max=0): with ({node.expr.name}: ...) below it"
    if not is_a(node, "BinaryExpr"):
        return None
    if node.op == "in" and is_a(node.left, "TypedIdentifier"):
        return _never_in(node, kinds.of(node.right))
    if node.op == "is" and is_a(node.right, *PATTERNS):
        kind = kinds.of(node.left)
        if kind in (Kind.UNKNOWN, Kind.CALL, Kind.OUTPUT):
            return None
        return f"only a tool call or its output is tool:..., and {said(node.left)} is neither"
    if node.op not in ("==", "is", "in") or is_a(node.right, "UnaryExpr"):
        return None  # `is not None` is an `is` of `not None`
    if what := _never_said(node, kinds):
        return what
    left, right = (_ALIKE.get(k, k) for k in (kinds.of(node.left), kinds.of(node.right)))
    if node.op == "in" or left is right or not {left, right} <= {*WORDS, Kind.LIST}:
        return None
    if right is Kind.NONE and left is Kind.TEXT:
        return f'a text is never None here, write {said(node.left)} == ""'
    return f"{WORDS[left]} is never {WORDS[right]}"


def _never_in(node: Node, right: Kind) -> str | None:
    declared = f"({node.left.name}: {node.left.type_ref})"
    if right is Kind.INPUT:
        return f"nothing is found there, write {declared} alone"
    if right in SINGLE | {Kind.NONE} or (right is Kind.TEXT and node.left.type_ref != "str"):
        return f"{WORDS[right]} has no {node.left.type_ref} in it"
    return None


def _never_said(node: Node, kinds: Kinds) -> str | None:
    """Roles and types that normalise.py does not write."""
    if not is_a(node.left, "MemberAccess"):
        return None
    literals = node.right.elements if is_a(node.right, "ArrayLiteral") else [node.right]
    if not literals or not all(is_a(literal, "StringLiteral") for literal in literals):
        return None
    words = {literal.value for literal in literals}
    match kinds.of(node.left.expr), node.left.member:
        case Kind.MESSAGE, "role" if words <= {"tool", "function"}:
            return "the results of tools are no messages, write (o: ToolOutput)"
        case Kind.OUTPUT, "role" if "tool" not in words:
            return 'the role of a tool output is always "tool"'
        case Kind.CALL, "type" if "function" not in words:
            return 'the type of a tool call is always "function"'
    return None


def _text(node: Node, _: Kinds) -> str | None:
    if node.modifier == "f" and "{" in node.value:
        return 'f"..." is not filled in, write "..." + ...'
    return None


def _array(node: Node, _: Kinds) -> str | None:
    if any(is_a(element, *PATTERNS) for element in node.elements):
        return "tool:... only goes with is, as in c is tool:read_file"
    return None


def _typed(node: Node, kinds: Kinds) -> str | None:
    name = node.type_ref
    if name in _IN_DATA or is_a(getattr(node.id, "value", None), "SomeExpr"):
        return None
    if name not in TYPES and not any(d.name == name and _is_own(d) for d in kinds.known):
        return None
    return f"(x: {name}) alone finds nothing, write (x: {name}) in ..., or another type"


def _unary(node: Node, kinds: Kinds) -> str | None:
    if node.op != "not" and kinds.of(node.expr) in _SIZED | PARTS:
        return f"{WORDS[kinds.of(node.expr)]} has no sign"
    return None


def _binary(node: Node, kinds: Kinds) -> str | None:
    op = node.op
    if op in COMPARISONS and is_a(node.left, "UnaryExpr") and node.left.op == "not":
        return f"write not (a {op} b), with parentheses"
    if op in ("->", "~>"):
        return _arrow(node, kinds)
    left, right = kinds.of(node.left), kinds.of(node.right)
    if op == "in" and not is_a(node.left, "TypedIdentifier"):
        return _in(node, left, right)
    if op in _ORDERINGS:
        return _ordering(node, left, right)
    if op == "is":
        return _is(node, left)
    if is_a(node.left, *PATTERNS) or is_a(node.right, *PATTERNS):
        return "tool:... only goes with is, as in c is tool:read_file"
    if op in ("+", "-", "/") and not {left, right} & {*OPEN, Kind.SOMETHING}:
        one = _ALIKE.get(left, left)
        if one is not _ALIKE.get(right, right) or (op != "+" and one is not Kind.NUMBER):
            return f"{WORDS[left]} {op} {WORDS[right]} has no result"
    return None


def _arrow(node: Node, kinds: Kinds) -> str | None:
    a, b = node.left, node.right
    if any(is_a(side, "BinaryExpr") for side in (a, b)):
        return f"write two lines, (a: ...) {node.op} (b: ...) and b {node.op} (c: ...)"
    for side in (a, b):
        if is_a(side, "TypedIdentifier"):
            kind = TYPES.get(side.type_ref, Kind.UNKNOWN)
            if what := _typed(side, kinds):
                return what
        elif is_a(side, "Identifier"):
            kind = kinds.of(side)
        else:
            return f"only variables have an order, write a {node.op} b"
        if kind not in EVENTS | {Kind.UNKNOWN}:
            return f"only messages, tool calls and tool outputs have an order ({node.op})"
    return None


def _in(node: Node, left: Kind, right: Kind) -> str | None:
    if right in PARTS and left not in OPEN:
        inner = {Kind.CALL: "function.arguments.name", Kind.FUNCTION: "arguments.name"}
        path = f"{said(node.right)}.{inner.get(right, 'content')}"
        return f"{WORDS[right]} is not looked into, write ... in {path}"
    if right in SINGLE | {Kind.INPUT}:
        return f"nothing is in {WORDS[right]}"
    if right is Kind.TEXT and left not in OPEN | LISTS | {Kind.TEXT, Kind.SOMETHING}:
        return f"only a text can be in a text, and not {WORDS.get(left, 'this')}"
    return None


def _is(node: Node, left: Kind) -> str | None:
    right = node.right
    if is_a(right, "UnaryExpr") and right.op == "not" and not is_a(right.expr, "NoneLiteral"):
        return "write not (a is b), with parentheses"
    if left in (Kind.CALL, Kind.OUTPUT) and is_a(right, "StringLiteral", "ArrayLiteral"):
        return f"write {said(node.left)} is tool:name"
    if _is_new(right) or _is_new(node.left):
        return "two values are never the same thing, write == instead of is"
    return None


def _ordering(node: Node, left: Kind, right: Kind) -> str | None:
    for side in (node.left, node.right):
        if is_a(side, "BinaryExpr") and side.op in COMPARISONS:
            return "write two comparisons with and between them"
    for one, other, side in ((left, right, node.left), (right, left, node.right)):
        if one in _SIZED and other is Kind.NUMBER:
            return f"{WORDS[one]} is not a number, write len({said(side)})"
        if one in PARTS | {Kind.OBJECT, Kind.NONE}:
            return f"{WORDS[one]} is not more or less than anything"
    if (
        left in _SIZED
        and right in _SIZED
        and _ALIKE.get(left, left) is not _ALIKE.get(right, right)
    ):
        return f"{WORDS[left]} is not more or less than {WORDS[right]}"
    return None


def _is_new(node: Node) -> bool:
    if is_a(node, "StringLiteral"):
        return len(node.value) > 1  # Python keeps one of each letter
    return is_a(node, "ArrayLiteral", "ObjectLiteral")


def _is_own(declared: Any) -> bool:
    return getattr(declared.value, "module", None) == "invariant.builtins"


_CHECKS: dict[str, Callable[[Node, Kinds], str | None]] = {
    "StringLiteral": _text,
    "ArrayLiteral": _array,
    "TypedIdentifier": _typed,
    "MemberAccess": member_of,
    "KeyAccess": key_of,
    "UnaryExpr": _unary,
    "BinaryExpr": _binary,
    "FunctionCall": calls.call_of,
    "Quantifier": calls.count_of,
    "SemanticPattern": calls.pattern_of,
}
