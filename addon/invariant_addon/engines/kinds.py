"""An expression of a rule -> what kind of value it always has, as far as its syntax says.

`traps.py` asks this. UNKNOWN and JSON may be anything, and nothing is concluded from them; every
other kind is certain, for the conversations that normalise.py writes: a content is a text and
never null, a role is a text, `tool_calls` is a list, arguments are an object.
It reads the tree that invariant-ai parsed by the names of its classes, and imports nothing of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum, auto
from typing import Any

type Node = Any  # a node of the library's tree, which has no types


class Kind(Enum):
    UNKNOWN = auto()
    JSON = auto()  # what is in the arguments of a call
    BOOL = auto()
    NUMBER = auto()
    TEXT = auto()
    LIST = auto()
    TEXTS = auto()
    CALLS = auto()
    OBJECT = auto()
    MESSAGE = auto()
    CALL = auto()
    OUTPUT = auto()
    FUNCTION = auto()  # of a call: its name and arguments
    NONE = auto()
    CALLABLE = auto()  # a function or method that is not called
    INPUT = auto()
    SOMETHING = auto()  # not known what, but neither true nor false


OPEN = frozenset({Kind.UNKNOWN, Kind.JSON})
LISTS = frozenset({Kind.LIST, Kind.TEXTS, Kind.CALLS})
EVENTS = frozenset({Kind.MESSAGE, Kind.CALL, Kind.OUTPUT})
PARTS = EVENTS | {Kind.FUNCTION}
COMPARISONS = frozenset({"==", "!=", "<", ">", "<=", ">=", "in", "is"})
TYPES = {
    "Message": Kind.MESSAGE,
    "ToolCall": Kind.CALL,
    "ToolOutput": Kind.OUTPUT,
    "Function": Kind.FUNCTION,
    "str": Kind.TEXT,
    "int": Kind.NUMBER,
    "float": Kind.NUMBER,
    "bool": Kind.BOOL,
    "list": Kind.LIST,
    "dict": Kind.OBJECT,
}
# `__invariant_attribute__` of the library's types lets nothing else through.
ATTRIBUTES = {
    Kind.MESSAGE: {
        "role": Kind.TEXT,
        "content": Kind.TEXT,
        "tool_calls": Kind.CALLS,
        "metadata": Kind.OBJECT,
    },
    Kind.CALL: {
        "function": Kind.FUNCTION,
        "id": Kind.TEXT,
        "type": Kind.TEXT,
        "metadata": Kind.OBJECT,
    },
    Kind.OUTPUT: {
        "role": Kind.TEXT,
        "content": Kind.TEXT,
        "tool_call_id": Kind.SOMETHING,
        "metadata": Kind.OBJECT,
    },
    Kind.FUNCTION: {"name": Kind.TEXT, "arguments": Kind.OBJECT},
}
TEXT_METHODS = {
    "lower": Kind.TEXT,
    "upper": Kind.TEXT,
    "strip": Kind.TEXT,
    "split": Kind.TEXTS,
    "splitlines": Kind.TEXTS,
    "join": Kind.TEXT,
    "format": Kind.TEXT,
}
OBJECT_METHODS = {
    "get": Kind.JSON,
    "keys": Kind.SOMETHING,
    "values": Kind.SOMETHING,
    "items": Kind.SOMETHING,
}
_BUILTINS = "invariant.builtins"
_DETECTORS = "invariant.detectors"
_OURS = "invariant_addon.engines.detectors"
_RESULTS = {
    _BUILTINS: {
        "any": Kind.BOOL,
        "empty": Kind.BOOL,
        "match": Kind.BOOL,
        "print": Kind.BOOL,
        "len": Kind.NUMBER,
        "find": Kind.TEXTS,
        "text": Kind.TEXTS,
        "image": Kind.TEXTS,
        "json_loads": Kind.JSON,
        "tuple": Kind.SOMETHING,
        "tool_call": Kind.CALL,
    },
    _DETECTORS: {
        "secrets": Kind.TEXTS,
        "pii": Kind.TEXTS,
        "copyright": Kind.TEXTS,
        "unicode": Kind.TEXTS,
        "semgrep": Kind.LIST,
        "prompt_injection": Kind.BOOL,
        "moderated": Kind.BOOL,
        "is_similar": Kind.BOOL,
        "fuzzy_contains": Kind.BOOL,
    },
}
_ELEMENTS = {
    Kind.CALLS: Kind.CALL,
    Kind.TEXTS: Kind.TEXT,
    Kind.TEXT: Kind.TEXT,
    Kind.OBJECT: Kind.TEXT,
    Kind.JSON: Kind.JSON,
}
_NOT_PARTS = {"id", "type", "location", "scope", "parent"}
_MAX_DEPTH = 50


class Kinds:
    """known: the policy's functions and constants. scope: variables whose kind is known."""

    def __init__(
        self, known: Mapping[Any, Any], scope: Mapping[Any, Kind] | None = None, depth: int = 0
    ) -> None:
        self.known = known
        self.scope = dict(scope or {})
        self.depth = depth

    def within(self, scope: Mapping[Any, Kind]) -> Kinds:
        """Of what is evaluated with these variables, too."""
        return Kinds(self.known, {**self.scope, **scope}, self.depth + 1)

    def of(self, node: Node) -> Kind:
        read = getattr(self, f"_{type(node).__name__}", None)
        if read is None or self.depth > _MAX_DEPTH:
            return Kind.UNKNOWN
        self.depth += 1
        try:
            kind: Kind = read(node)
        finally:
            self.depth -= 1
        return kind

    def element(self, iterable: Node) -> Kind:
        return _ELEMENTS.get(self.of(iterable), Kind.UNKNOWN)

    # literals

    def _StringLiteral(self, _: Node) -> Kind:
        return Kind.TEXT

    def _NumberLiteral(self, _: Node) -> Kind:
        return Kind.NUMBER

    def _BooleanLiteral(self, _: Node) -> Kind:
        return Kind.BOOL

    def _NoneLiteral(self, _: Node) -> Kind:
        return Kind.NONE

    def _ObjectLiteral(self, _: Node) -> Kind:
        return Kind.OBJECT

    def _ToolReference(self, _: Node) -> Kind:
        return Kind.SOMETHING

    _SemanticPattern = _ToolReference

    def _ArrayLiteral(self, node: Node) -> Kind:
        return self._list_of({self.of(element) for element in node.elements})

    def _ListComprehension(self, node: Node) -> Kind:
        variable = getattr(node.var_name, "id", None)
        inner = self.within({variable: self.element(node.iterable)})
        return self._list_of({inner.of(node.expr)})

    def _list_of(self, kinds: set[Kind]) -> Kind:
        return Kind.TEXTS if kinds == {Kind.TEXT} else Kind.LIST

    # variables and members

    def _TypedIdentifier(self, _: Node) -> Kind:
        return Kind.BOOL  # declares a variable, and holds

    def _Identifier(self, node: Node) -> Kind:
        declared = node.id
        if declared in self.scope:
            return Kind(self.scope[declared])
        source: Node = getattr(declared, "value", None)
        if is_a(source, "ExternalReference"):
            return Kind.CALLABLE if callable(self.value(node)) else Kind.UNKNOWN
        if is_a(source, "Declaration"):
            if not source.is_constant:
                return Kind.CALLABLE
            return Kinds(self.known, {}, self.depth).of(source.value[0])
        if declared in self.known:
            return Kind.INPUT if node.name == "input" else Kind.UNKNOWN
        if name := getattr(getattr(declared, "type_ref", None), "name", None):
            return TYPES.get(name, Kind.UNKNOWN)
        return self.of(source)  # name := expression

    def _MemberAccess(self, node: Node) -> Kind:
        kind = self.of(node.expr)
        if kind is Kind.TEXT:
            return Kind.CALLABLE if node.member in TEXT_METHODS else Kind.JSON
        if kind in (Kind.OBJECT, Kind.JSON):
            return Kind.JSON
        return ATTRIBUTES.get(kind, {}).get(node.member, Kind.UNKNOWN)

    def _KeyAccess(self, node: Node) -> Kind:
        return self.element(node.expr) if self.of(node.expr) is not Kind.OBJECT else Kind.JSON

    # operators

    def _UnaryExpr(self, node: Node) -> Kind:
        return Kind.BOOL if node.op == "not" else self.of(node.expr)

    def _BinaryExpr(self, node: Node) -> Kind:
        match node.op:
            case ":=":
                return Kind.BOOL  # says what a name means, and counts for nothing
            case "in" if not is_a(node.left, "TypedIdentifier"):
                left = self.of(node.left)
                if left in LISTS:
                    return Kind.LIST  # one answer for each
                return Kind.UNKNOWN if left in OPEN else Kind.BOOL
            case "in" | "->" | "~>" | "contains_only":
                return Kind.BOOL
            case "is":
                pattern = is_a(node.right, "ToolReference", "SemanticPattern")
                return Kind.UNKNOWN if pattern else Kind.BOOL  # None where there is no call
            case op if op in COMPARISONS:
                return Kind.BOOL
        left, right = self.of(node.left), self.of(node.right)
        if node.op in ("and", "or"):
            return left if left is right else Kind.UNKNOWN
        if Kind.UNKNOWN in (left, right):
            return Kind.UNKNOWN
        if left is right and left in (Kind.TEXT, Kind.NUMBER, Kind.LIST, Kind.TEXTS):
            return left
        return Kind.SOMETHING

    def _TernaryOp(self, node: Node) -> Kind:
        kind = self.of(node.then_expr)
        return kind if kind is self.of(node.else_expr) else Kind.UNKNOWN

    # calls

    def _FunctionCall(self, node: Node) -> Kind:
        if is_a(node.name, "MemberAccess"):
            kind = self.of(node.name.expr)
            methods = {
                Kind.TEXT: TEXT_METHODS,
                Kind.OBJECT: OBJECT_METHODS,
                Kind.JSON: {**TEXT_METHODS, **OBJECT_METHODS},
            }
            return methods.get(kind, {}).get(node.name.member, Kind.UNKNOWN)
        if self.predicate(node) is not None:
            return Kind.BOOL
        module, name = origin(node.name)
        if module.startswith(_DETECTORS):
            module = _DETECTORS
        if module == _OURS:
            return Kind.BOOL if name.startswith("has_") else Kind.UNKNOWN
        return _RESULTS.get(module, {}).get(name, Kind.UNKNOWN)

    def predicate(self, call: Node) -> Node | None:
        """The declaration of the policy's own predicate that is called."""
        source: Node = getattr(getattr(call.name, "id", None), "value", None)
        return source if is_a(source, "Declaration") and not source.is_constant else None

    def value(self, name: Node) -> Any:
        """What an imported name stands for."""
        declared = getattr(name, "id", None)
        found = self.known.get(declared)
        return getattr(found, "func", found)


def origin(name: Node) -> tuple[str, str]:
    """Module and name of what is imported, or built in."""
    source: Node = getattr(getattr(name, "id", None), "value", None)
    return (source.module, source.obj or "") if is_a(source, "ExternalReference") else ("", "")


def is_builtin(name: Node, *names: str) -> bool:
    module, found = origin(name)
    return module == _BUILTINS and found in names


def reads_texts(name: Node) -> bool:
    """Whether it is a function that only looks at the texts in what it is given."""
    module, found = origin(name)
    if module == _BUILTINS:
        return found == "text"
    return module.startswith(_DETECTORS) and found in (
        "secrets",
        "pii",
        "copyright",
        "unicode",
        "prompt_injection",
        "moderated",
    )


def line_of(node: Node) -> int:
    """From 1; 0 if nobody knows. The library does not know where a `not` is, but where its parts
    are."""
    lines = (part.location.line for part in parts(node))
    return next((int(line) + 1 for line in lines if line >= 0), 0)


def is_a(node: Node, *names: str) -> bool:
    return type(node).__name__ in names


def parts(node: Node) -> Iterator[Node]:
    """A node and all below it, in their order."""
    if isinstance(node, list):
        for item in node:
            yield from parts(item)
    elif hasattr(node, "location"):
        yield node
        for name, part in vars(node).items():
            if name not in _NOT_PARTS:
                yield from parts(part)
