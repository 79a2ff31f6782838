"""A rule's syntax -> whether a hit on a prefix is final.

A rule is final if it can only stay violated while text is added to the last message, or further
messages and calls follow. Whatever is not provably so is not final: a prefix that hits such a
rule is held and not refused, and the last check decides.

Every expression has a `Kind`; a rule is final if each of its conditions is fixed or rising.
It reads the tree that invariant-ai parsed by the names of its classes, and imports nothing of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from re import _parser  # type: ignore[attr-defined]  # no public way to read a pattern's tree
from typing import Any

type Node = Any  # a node of the library's tree, which has no types


class Kind(Enum):
    """What can happen to a value as the conversation grows."""

    OPEN = auto()  # anything
    FIXED = auto()  # nothing: a literal, a role, what a tool call holds
    RISING = auto()  # once true (or not empty), always true
    GROWING = auto()  # a text that gets longer at its end
    FOLDED = auto()  # the lower case of one: a sigma at its end may change, too
    TEXTS = auto()  # a list of growing texts
    MESSAGE = auto()
    CALL = auto()  # complete whenever anything is checked
    CALLS = auto()  # a list of calls that may get more
    OUTPUT = auto()


@dataclass(frozen=True, slots=True)
class Value:
    """kind: see there. texts: the literals that it is one of (or a list of), if that is known."""

    kind: Kind
    texts: frozenset[str] | None = None


OPEN = Value(Kind.OPEN)
FIXED = Value(Kind.FIXED)
RISING = Value(Kind.RISING)

_CONSTANT = {Kind.FIXED, Kind.CALL}
_TRUTH = {Kind.FIXED, Kind.RISING}
_TEXT = {Kind.GROWING, Kind.FOLDED}
_SEEN = {Kind.MESSAGE, Kind.OUTPUT, Kind.GROWING, Kind.TEXTS}
"""What detectors read of a conversation that grows at its end."""
_TYPES = {
    "Message": Kind.MESSAGE,
    "ToolCall": Kind.CALL,
    "ToolOutput": Kind.OUTPUT,
    "Function": Kind.FIXED,
    "str": Kind.GROWING,
}
_ATTRIBUTES = {
    (Kind.MESSAGE, "role"): Kind.FIXED,
    (Kind.MESSAGE, "content"): Kind.GROWING,
    (Kind.MESSAGE, "tool_calls"): Kind.CALLS,
    (Kind.CALL, "id"): Kind.FIXED,
    (Kind.CALL, "type"): Kind.FIXED,
    (Kind.CALL, "function"): Kind.FIXED,
    (Kind.OUTPUT, "role"): Kind.FIXED,
    (Kind.OUTPUT, "content"): Kind.GROWING,
    (Kind.OUTPUT, "tool_call_id"): Kind.FIXED,
    (Kind.FIXED, "*"): Kind.FIXED,
}
_ELEMENTS = {
    Kind.FIXED: Kind.FIXED,
    Kind.TEXTS: Kind.GROWING,
    Kind.GROWING: Kind.GROWING,  # (t: str) in m.content is that content
    Kind.CALLS: Kind.CALL,
}
_PURE = {"len", "min", "max", "sum", "tuple", "empty", "json_loads", "match", "find", "any"}
_DETECTORS = "invariant_addon.engines.detectors"
# Of ours, those that a text can only add findings to: tests/engines/test_detectors.py tries.
_RISING = {"has_secret", "has_hidden_text", "has_orders", "has_login", "has_private_address"}
_MAX_DEPTH = 50
_FIRST_GREEK = 0x370  # everything below has one lower case


def is_final(rule: Node) -> bool:
    """Whether a hit of this `raise ... if` statement stays a hit whatever follows."""
    return _Reading({}).holds(rule.body)


def grows(pattern: str, *, folded: bool = False) -> bool:
    """Whether a match of this pattern anywhere in a text survives text added at its end.

    It does if the pattern never looks at where the text ends. folded: the text is in lower case,
    where a final sigma changes with what follows; patterns that could tell do not count.
    """
    try:
        return _all_grow(_parser.parse(pattern), folded)
    except (re.error, OverflowError, RecursionError):
        return False


class _Reading:
    """Kinds of expressions, given those of the variables in scope."""

    def __init__(self, scope: Mapping[Node, Value], depth: int = 0) -> None:
        self._scope = dict(scope)
        self._depth = depth

    def holds(self, conditions: Node) -> bool:
        nodes = conditions if isinstance(conditions, list) else [conditions]
        return all(self.value(node).kind in _TRUTH for node in nodes)

    def value(self, node: Node) -> Value:
        read: Callable[[Node], Value] | None = getattr(self, f"_{type(node).__name__}", None)
        if read is None or self._depth > _MAX_DEPTH:
            return OPEN
        self._depth += 1
        try:
            return read(node)
        finally:
            self._depth -= 1

    def _all(self, nodes: Iterable[Node]) -> bool:
        return all(self.value(node).kind in _CONSTANT for node in nodes)

    # literals

    def _StringLiteral(self, node: Node) -> Value:
        return Value(Kind.FIXED, frozenset({node.value}))

    def _NumberLiteral(self, _: Node) -> Value:
        return FIXED

    _BooleanLiteral = _NoneLiteral = _Wildcard = _ToolReference = _Import = _NumberLiteral

    def _ArrayLiteral(self, node: Node) -> Value:
        values = [self.value(element) for element in node.elements]
        if any(v.kind is not Kind.FIXED for v in values):
            return OPEN
        texts = [v.texts for v in values]
        if any(t is None for t in texts):
            return FIXED
        return Value(Kind.FIXED, frozenset(text for t in texts if t for text in t))

    def _ObjectLiteral(self, node: Node) -> Value:
        return FIXED if self._all(entry.value for entry in node.entries) else OPEN

    def _SemanticPattern(self, node: Node) -> Value:
        # <EMAIL_ADDRESS> and the like are not among the fixed: they ask a model.
        return FIXED if self._all(node.args) else OPEN

    # variables and members

    def _TypedIdentifier(self, _: Node) -> Value:
        return FIXED  # declares a variable and holds

    def _Identifier(self, node: Node) -> Value:
        declared = node.id
        if declared in self._scope:
            return self._scope[declared]
        source = getattr(declared, "value", None)
        kind = _TYPES.get(getattr(declared.type_ref, "name", ""), Kind.OPEN) if declared else None
        if source is None:
            return Value(kind or Kind.OPEN)
        match type(source).__name__:
            case "SomeExpr":
                return self._element(self.value(source.candidates), kind)
            case "Declaration" if source.is_constant and len(source.value) == 1:
                return _Reading({}, self._depth).value(source.value[0])
            case "Declaration" | "ExternalReference":
                return OPEN
        return self.value(source)  # name := expression

    def _element(self, domain: Value, kind: Kind | None) -> Value:
        element = _ELEMENTS.get(domain.kind, Kind.OPEN)
        if element is Kind.FIXED or element is kind:
            return Value(element, domain.texts)
        return OPEN

    def _MemberAccess(self, node: Node) -> Value:
        kind = self.value(node.expr).kind
        return Value(_ATTRIBUTES.get((kind, node.member), _ATTRIBUTES.get((kind, "*"), Kind.OPEN)))

    def _KeyAccess(self, node: Node) -> Value:
        return FIXED if self._all((node.expr, node.key)) else OPEN

    # operators

    def _UnaryExpr(self, node: Node) -> Value:
        return FIXED if node.op in "+-" and self._all((node.expr,)) else OPEN

    def _BinaryExpr(self, node: Node) -> Value:
        match node.op:
            case ":=":
                return FIXED
            case "->":
                return FIXED  # the order of what is there does not change
            case "~>":
                # A message of reasoning may still come between two messages.
                right = node.right
                named = getattr(right, "type_ref", None)
                kind = _TYPES.get(named) if named else self.value(right).kind
                return FIXED if kind in (Kind.CALL, Kind.OUTPUT) else OPEN
            case "in" if type(node.left).__name__ == "TypedIdentifier":
                # Holds while there is such an element.
                return FIXED if self.value(node.right).kind in _ELEMENTS else OPEN
        left, right = self.value(node.left), self.value(node.right)
        match node.op:
            case "in":
                return self._contains(left, right)
            case "and" | "or":
                if left.kind in _TRUTH and right.kind in _TRUTH:
                    return FIXED if left.kind is right.kind is Kind.FIXED else RISING
                return OPEN
            case "is" if left.kind is Kind.OUTPUT and right.kind is Kind.FIXED:
                return FIXED  # the call that it answers
        return FIXED if left.kind in _CONSTANT and right.kind in _CONSTANT else OPEN

    def _contains(self, needle: Value, text: Value) -> Value:
        if needle.kind is not Kind.FIXED:
            return OPEN
        if text.kind is Kind.FOLDED:
            known = needle.texts is not None and not any(_has_sigma(t) for t in needle.texts)
            return RISING if known else OPEN
        return {Kind.FIXED: FIXED, Kind.GROWING: RISING}.get(text.kind, OPEN)

    # calls

    def _ListComprehension(self, node: Node) -> Value:
        domain = self.value(node.iterable)
        element = Value(_ELEMENTS.get(domain.kind, Kind.OPEN), domain.texts)
        if domain.kind is Kind.GROWING:  # its characters
            return OPEN
        inner = _Reading({**self._scope, node.var_name.id: element}, self._depth)
        if node.condition is not None and not inner.holds(node.condition):
            return OPEN
        return RISING if inner.holds(node.expr) else OPEN

    def _FunctionCall(self, node: Node) -> Value:
        if node.kwargs:
            return OPEN
        if type(node.name).__name__ == "MemberAccess":
            return self._method(node.name, node.args)
        if type(node.name).__name__ != "Identifier":
            return OPEN
        source: Node = getattr(node.name.id, "value", None)
        values = [self.value(arg) for arg in node.args]
        match type(source).__name__:
            case "Declaration" if not source.is_constant:
                return self._predicate(source, values)
            case "ExternalReference" if source.module == "invariant.builtins":
                return self._builtin(source.obj, values)
            case "ExternalReference" if source.module.startswith("invariant.detectors"):
                return self._detector(source.obj, values)
            case "ExternalReference" if source.module == _DETECTORS:
                return self._our_detector(source.obj, values)
        return OPEN

    def _method(self, member: Node, args: list[Node]) -> Value:
        kind = self.value(member.expr).kind
        if kind is Kind.FIXED:
            return FIXED if self._all(args) else OPEN
        if kind not in _TEXT or args or member.member not in ("lower", "upper", "strip"):
            return OPEN
        return Value(Kind.FOLDED if member.member == "lower" else kind)

    def _predicate(self, declaration: Node, values: list[Value]) -> Value:
        names = [parameter.name.id for parameter in declaration.name.params]
        if len(names) != len(values):
            return OPEN
        inner = _Reading(dict(zip(names, values, strict=True)), self._depth + 5)
        return RISING if inner.holds(declaration.value) else OPEN

    def _builtin(self, name: str, values: list[Value]) -> Value:
        kinds = [value.kind for value in values]
        if name in _PURE and all(kind in _CONSTANT for kind in kinds):
            return FIXED
        match name, kinds:
            case "any", [Kind.RISING]:
                return RISING
            case "tool_call", [Kind.OUTPUT]:
                return Value(Kind.CALL)
            case "text", [Kind.MESSAGE | Kind.OUTPUT | Kind.GROWING | Kind.TEXTS]:
                return Value(Kind.TEXTS)
            case "find" | "match", [Kind.FIXED, Kind.GROWING | Kind.FOLDED]:
                patterns = values[0].texts or frozenset()
                folded = kinds[1] is Kind.FOLDED
                known = patterns and all(grows(p, folded=folded) for p in patterns)
                return RISING if known else OPEN
        return OPEN

    def _detector(self, name: str, values: list[Value]) -> Value:
        # Its patterns never look at where the text ends. The other detectors count words, parse
        # or ask a model: more text may change their mind.
        if name != "secrets" or len(values) != 1:
            return OPEN
        if values[0].kind in _CONSTANT:
            return FIXED
        return RISING if values[0].kind in _SEEN else OPEN

    def _our_detector(self, name: str, values: list[Value]) -> Value:
        if not values or any(value.kind not in _CONSTANT for value in values[1:]):
            return OPEN
        if values[0].kind in _CONSTANT:
            return FIXED
        return RISING if name in _RISING and values[0].kind in _SEEN else OPEN


def _has_sigma(text: str) -> bool:
    return "\u03c3" in text or "\u03c2" in text


def _all_grow(tree: Iterable[tuple[Any, Any]], folded: bool) -> bool:
    return all(_grows(str(op), argument, folded) for op, argument in tree)


def _grows(op: str, argument: Any, folded: bool) -> bool:
    """Opcodes of `re` that only look at what they consume, or at what lies before."""
    match op:
        case "LITERAL" | "NOT_LITERAL":
            return not folded or argument < _FIRST_GREEK
        case "RANGE":
            return not folded or max(argument) < _FIRST_GREEK
        case "ANY" | "CATEGORY" | "NEGATE":
            return True
        case "IN":
            return _all_grow(argument, folded)
        case "BRANCH":
            return all(_all_grow(branch, folded) for branch in argument[1])
        case "SUBPATTERN":
            return _all_grow(argument[-1], folded)
        case "MAX_REPEAT" | "MIN_REPEAT":
            return _all_grow(argument[2], folded)
        case "AT":
            return str(argument) in ("AT_BEGINNING", "AT_BEGINNING_STRING")
        case "ASSERT":
            return bool(argument[0] < 0) and _all_grow(argument[1], folded)
    return False  # lookahead, word boundary, end, atomic, possessive, back reference, unknown
