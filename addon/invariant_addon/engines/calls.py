"""Calls in a rule, of functions, methods, counts and patterns of tools -> why they cannot work."""

from __future__ import annotations

import inspect
import re
from types import FunctionType
from typing import Any

from .kinds import (
    ATTRIBUTES,
    EVENTS,
    LISTS,
    OBJECT_METHODS,
    OPEN,
    PARTS,
    TEXT_METHODS,
    Kind,
    Kinds,
    Node,
    is_a,
    is_builtin,
    origin,
    reads_texts,
)
from .members import SINGLE, WORDS, member_of, said

_METHODS = {
    "contains": '"..." in {}',
    "includes": '"..." in {}',
    "startswith": 'match("...", {})',
    "endswith": 'any(find("...$", {}))',
    "match": 'match("...", {})',
    "find": 'any(find("...", {}))',
    "length": "len({})",
    "len": "len({})",
}


def call_of(node: Node, kinds: Kinds) -> str | None:
    if is_a(node.name, "MemberAccess"):
        return _method(node, kinds)
    if not is_a(node.name, "Identifier"):
        kind = kinds.of(node.name)
        return None if kind in OPEN | {Kind.CALLABLE} else "this is no function"
    kind = kinds.of(node.name)
    if kind not in OPEN | {Kind.CALLABLE, Kind.SOMETHING}:
        return f"{node.name.name} is no function"
    name, value = node.name.name, kinds.value(node.name)
    if is_quantifier(value):
        return f"write {name}(...): with a colon, and its conditions below it"
    if predicate := kinds.predicate(node):
        params = [p.name.name for p in predicate.name.params]
        return None if len(node.args) >= len(params) else _called(name, params)
    return _arity(node, value) or _argument(node, kinds)


def _method(node: Node, kinds: Kinds) -> str | None:
    member, owner = node.name.member, node.name.expr
    kind = kinds.of(owner)
    if kind in (Kind.TEXT, Kind.JSON, Kind.OBJECT):
        allowed = {
            Kind.TEXT: set(TEXT_METHODS),
            Kind.OBJECT: set(OBJECT_METHODS),
            Kind.JSON: {*TEXT_METHODS, *OBJECT_METHODS},
        }[kind]
        if member in allowed:
            return None
        if member in _METHODS:
            return f"there is no .{member}(...), write {_METHODS[member].format(said(owner))}"
        names = ", ".join(f".{name}()" for name in sorted(allowed))
        return f"there is no .{member}(...), but {names}"
    if member in ATTRIBUTES.get(kind, {}):
        return f".{member} is no method, write {said(node.name)}"
    return member_of(node.name, kinds)


def _arity(node: Node, value: Any) -> str | None:
    if not isinstance(value, FunctionType) or not origin(node.name)[0].startswith("invariant"):
        return None
    signature = inspect.signature(value)
    try:
        signature.bind(*node.args, **{str(entry.key): None for entry in node.kwargs})
    except TypeError:
        return _called(node.name.name, list(signature.parameters))
    return None


def _argument(node: Node, kinds: Kinds) -> str | None:
    name = node.name
    given = [kinds.of(arg) for arg in node.args]
    if is_builtin(name, "server"):
        return "which server a tool is on is not known here, write c.function.name"
    if is_builtin(name, "any") and given[0] in SINGLE | {Kind.NONE}:
        return f"any(...) takes a list, and this is {WORDS[given[0]]}"
    if is_builtin(name, "len", "empty") and given[0] in SINGLE | PARTS | {Kind.NONE}:
        return f"{WORDS[given[0]]} has no length"
    if is_builtin(name, "match", "find") and len(given) == 2:
        return _pattern(node) or _searched(node.name.name, node.args[1], given[1])
    if reads_texts(name) and given and given[0] in (Kind.CALL, Kind.FUNCTION, Kind.OBJECT):
        return f"{name.name}(...) sees no text there, name one, as in c.function.arguments.text"
    if origin(name)[1] in ("links", "html_code") and given and given[0] is Kind.TEXT:
        return f"write {name.name}(m), with the message itself"
    return None


def _pattern(node: Node) -> str | None:
    literal = node.args[0]
    if not is_a(literal, "StringLiteral"):
        return None
    try:
        re.compile(literal.value)
    except (re.error, OverflowError, RecursionError) as e:
        return f"this is no regular expression: {e}"
    return None


def _searched(name: str, arg: Node, kind: Kind) -> str | None:
    if kind in EVENTS - {Kind.CALL}:
        return f"{name}(...) takes a text, write {said(arg)}.content"
    if kind in PARTS | LISTS | SINGLE | {Kind.OBJECT, Kind.NONE}:
        return f"{name}(...) takes a text, and this is {WORDS[kind]}"
    return None


def _called(name: str, parameters: list[str]) -> str:
    return f"{name} is called as {name}({', '.join(parameters)})"


def is_quantifier(value: Any) -> bool:
    return isinstance(value, type) and any(b.__name__ == "Quantifier" for b in value.__mro__)


def count_of(node: Node, kinds: Kinds) -> str | None:
    call = node.quantifier_call
    name = call.name if is_a(call, "FunctionCall") else call
    is_predicate = is_a(call, "FunctionCall") and kinds.predicate(call) is not None
    if not is_predicate and ((value := kinds.value(name)) is None or is_quantifier(value)):
        return None
    return "only count(...): and forall: take conditions below them"


def pattern_of(node: Node, _: Kinds) -> str | None:
    name = node.tool_ref.name
    if len(node.args) > 1 or not all(is_a(arg, "ObjectLiteral", "Wildcard") for arg in node.args):
        return f'name the arguments, as in tool:{name}({{path: "..."}})'
    return _unmatched(node.args)


def _unmatched(nodes: list[Node]) -> str | None:
    for node in nodes:
        if is_a(node, "ObjectLiteral"):
            what = _unmatched([entry.value for entry in node.entries])
        elif is_a(node, "ArrayLiteral"):
            what = _unmatched(node.elements)
        elif is_a(node, "StringLiteral"):
            try:
                re.compile(node.value + "$", re.DOTALL)
                what = None
            except (re.error, OverflowError, RecursionError) as e:
                what = f"this is no regular expression: {e}"
        elif is_a(node, "NumberLiteral", "Wildcard", "ValueReference"):
            what = None
        else:
            what = "only texts, numbers, lists and * can be matched, compare the argument instead"
        if what:
            return what
    return None
