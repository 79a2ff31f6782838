"""What invariant-ai 0.3.5 gets wrong on everyday traffic, put right in memory.

Only the worker imports this. Each correction has its reason; none touches site-packages. With
another engine they go, and with them search, pruning, marks, slips, trace and detector_cache.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Iterator
from itertools import islice
from typing import Any

from invariant.analyzer.language.ast import Declaration, Node
from invariant.analyzer.runtime import evaluation
from invariant.analyzer.runtime.evaluation import INTERPRETER_STACK, Interpreter, Unknown
from invariant.analyzer.runtime.evaluation_context import PolicyParameters
from invariant.analyzer.runtime.functions import CachedFunctionWrapper
from invariant.analyzer.runtime.interface.primitives import DictValue, StringValue
from invariant.analyzer.runtime.nodes import ToolOutput
from invariant.analyzer.runtime.rule import frozen_dict
from invariant.analyzer.runtime.runtime_errors import MissingPolicyParameter
from invariant.analyzer.runtime.utils.invariant_attributes import (
    invariant_attr,
    is_safe_invariant_value,
)
from lark.parsers.earley import Parser as EarleyParser
from lark.parsers.earley_common import Item as EarleyItem

from .marks import mark
from .search import assignments
from .slips import FaultError, NoMemberError, fault_of_call

MAX_MARKS = 64
"""Places of one needle in one text that are remembered: a user can send a million of them."""

_quantifier = Interpreter.visit_Quantifier
_predicate_call = Interpreter.visit_PredicateCall
_binary = Interpreter.visit_BinaryExpr
_list_comprehension = Interpreter.visit_ListComprehension
_predict_and_complete = EarleyParser.predict_and_complete


def apply() -> None:
    """Put all corrections in place. May be called again."""
    # A result that answers no call has no `_tool_call` at all: `o is tool:x` raises.
    ToolOutput.__private_attributes__["_tool_call"].default = None
    Interpreter.assignments = staticmethod(assignments)  # see search.py
    Interpreter.mark = mark  # see marks.py
    Interpreter.visit = _visit
    Interpreter.visit_ArrayLiteral = _array
    Interpreter.visit_ObjectLiteral = _object
    Interpreter.visit_ListComprehension = _comprehension
    Interpreter.visit_BinaryExpr = _binary_expr
    Interpreter.visit_FunctionCall = _function_call
    Interpreter.visit_MemberAccess = _member_access
    Interpreter.visit_PredicateCall = _predicate
    Interpreter.visit_Quantifier = _quantify
    Interpreter.__enter__ = _enter
    Interpreter.__exit__ = _exit
    # `in` is the only user of `re` there.
    evaluation.re = _Literal
    frozen_dict.__contains__ = _is_known
    read_faster()


def read_faster() -> None:
    """What concerns the parser: it reads the same, in a third of the time."""
    EarleyItem.__eq__ = _is_same_item
    EarleyParser.predict_and_complete = _predict


class _Literal:
    """Stands for `re` in the evaluation of `in`.

    Its left side was compiled as a pattern to find the places: `"rm -rf (" in x` raised, and
    `"[system]" in x` gave wrong places.
    """

    @staticmethod
    def finditer(needle: str, text: str) -> Iterator[re.Match[str]]:
        return islice(re.finditer(re.escape(needle), text), MAX_MARKS)


def _is_same_item(self: Any, other: Any) -> bool:
    """The same answer: a parser has each of its rules once. Comparing them by what they say took a
    quarter of the time that a policy is read."""
    return self is other or (
        self.rule is other.rule and self.ptr == other.ptr and self.start == other.start
    )


def _is_known(self: Any, name: Any) -> bool:
    """The same answer: names are compared by identity. The library goes through all of them, for
    each name that it meets: a fifth of a small check."""
    return name in self.base_dict


def _predict(self: Any, *column: Any) -> None:
    """At each character the parser predicts the rules of a symbol, and those of all symbols that
    they begin with; then the same again for each of these. Half of the time that a policy is read,
    for items that the column has already."""
    if type(self.predictions) is dict:
        self.predictions = _Predictions(self.predictions)
    self.predictions.asked.clear()
    _predict_and_complete(self, *column)


class _Predictions(dict[Any, list[Any]]):
    """The rules to predict for a symbol; none if the column has them. asked: what it has."""

    def __init__(self, rules: dict[Any, list[Any]]) -> None:
        super().__init__(rules)
        self.asked: set[Any] = set()
        self._origins = {s: frozenset(rule.origin for rule in found) for s, found in rules.items()}

    def __getitem__(self, symbol: Any) -> list[Any]:
        if symbol in self.asked:
            return []
        self.asked |= self._origins[symbol]
        return super().__getitem__(symbol)


def _visit(self: Any, node: Any) -> Awaitable[Any]:
    """Half of the time went into two coroutines around each node, and lists into tasks."""
    if isinstance(node, Node):
        method = getattr(self, "visit_" + type(node).__name__, self.generic_visit)
        found: Awaitable[Any] = method(node)
        return found
    return _all(self, node) if isinstance(node, list) else _itself(node)


async def _all(self: Any, nodes: list[Any]) -> list[Any]:
    return [await self.visit(node) for node in nodes]


async def _itself(value: Any) -> Any:
    return value


async def _array(self: Any, node: Any) -> Any:
    """A list is unknown while anything in it is. The library takes it for known, and so
    `(t: str) in [m.content, o.content]` chose from a list of nothing, and never fired; and
    `m.role in [t]` was False before t was chosen."""
    values = [await self.visit(entry) for entry in node.elements]
    return Unknown if any(value is Unknown for value in values) else values


async def _object(self: Any, node: Any) -> Any:
    """The same for an object."""
    found = {await self.visit(e.key): await self.visit(e.value) for e in node.entries}
    return Unknown if any(value is Unknown for value in found.values()) else found


async def _comprehension(self: Any, node: Any) -> Any:
    """And for a list that is made of another."""
    values = await _list_comprehension(self, node)
    is_open = type(values) is list and any(value is Unknown for value in values)
    return Unknown if is_open else values


async def _binary_expr(self: Any, node: Any) -> Any:
    """`"cmd" in args and args.cmd == "x"` asks before it looks, but both sides are evaluated:
    what the right one raises does not count if the left one has decided."""
    if node.op not in ("and", "or"):
        return await _binary(self, node)
    left = await self.visit(node.left)
    try:
        right = await self.visit(node.right)
    except Exception:
        if left is (node.op == "or"):
            return left
        raise
    if left is (node.op == "or") or right is (node.op == "or"):
        return node.op == "or"
    if left is Unknown or right is Unknown:
        return Unknown
    return (left or right) if node.op == "or" else (left and right)


async def _function_call(self: Any, node: Any) -> Any:
    """One argument after the other, without tasks; and what a function raises is told apart."""
    try:
        function = await self.visit(node.name)
    except NoMemberError as e:
        if e.node is node.name:  # a method that there is not: the same in every binding
            raise FaultError("AttributeError") from None
        raise
    args = [await self.visit(arg) for arg in node.args]
    kwargs = {await self.visit(k.key): await self.visit(k.value) for k in node.kwargs}
    if function is Unknown or any(self._is_unknown(a) for a in (*args, *kwargs.values())):
        return Unknown
    if isinstance(function, Declaration):
        return await self.visit_PredicateCall(function, args, **kwargs)
    try:
        return await self.acall_function(function, *args, **kwargs)
    except Exception as e:  # noqa: BLE001  # told apart and raised again
        bare = function.func if isinstance(function, CachedFunctionWrapper) else function
        raise fault_of_call(bare, args, e) from None


async def _member_access(self: Any, node: Any) -> Any:
    """As in the library, but for texts: methods first, then the JSON object that it may hold.

    The other way round, `.lower()` raises on content such as `42`, `null` or `{"lower": 1}`.
    """
    value = await self.visit(node.expr)
    member = node.member
    if value is Unknown:
        return Unknown
    if type(value) is str:
        return _text_member(value, node)
    if type(value) is PolicyParameters:
        if not value.has_policy_parameter(member):
            raise MissingPolicyParameter(member)
        return value.get(member)
    if type(value) is dict:
        if member in value:
            return value[member]
        if member not in DictValue.ALLOWED:
            raise NoMemberError(node)
        return invariant_attr(DictValue(value), member)
    if is_safe_invariant_value(value):
        return invariant_attr(value, member)
    if self.evaluation_context.symbol_table.allows_module_interfacing():
        return getattr(value, member)
    raise TypeError(f"no member access on {type(value).__name__}")


def _text_member(text: str, node: Any) -> Any:
    if node.member in StringValue.ALLOWED:
        return invariant_attr(StringValue(text), node.member)
    try:
        held = json.loads(text)
    except (ValueError, RecursionError):
        held = None
    if isinstance(held, dict) and node.member in held:
        return held[node.member]
    raise NoMemberError(node)


async def _quantify(self: Any, node: Any) -> Any:
    """A binding in a `count` that lacks a key is not counted; in a `forall` it is an error."""
    context = self.evaluation_context
    call = node.quantifier_call
    outer = context.in_count
    context.in_count = getattr(getattr(call, "name", None), "name", None) == "count"
    try:
        return await _quantifier(self, node)
    finally:
        context.in_count = outer


async def _predicate(self: Any, node: Any, args: list[Any], **kwargs: Any) -> Any:
    """What a predicate raises is not False: `not is_safe(call)` would hold."""
    context = self.evaluation_context
    outer, context.in_count = context.in_count, False
    try:
        return await _predicate_call(self, node, args, **kwargs)
    finally:
        context.in_count = outer


def _enter(self: Any) -> Any:
    """One stack of interpreters for each task.

    The library's is one list for all of them, so that a hit carries the places of every other
    message, and `find` in a long conversation ends in a RecursionError.
    """
    self._outer = INTERPRETER_STACK.get()
    self.parent = self._outer[-1] if self._outer else None
    INTERPRETER_STACK.set([*self._outer, self])
    return self


def _exit(self: Any, *_: object) -> None:
    INTERPRETER_STACK.set(self._outer)
