"""Rules that invariant-ai reads, but not as they were meant.

Its parser takes them without a word; then they never fire, or raise on every check. Better to say
so when they are loaded. What a condition is, is only concluded from kinds that are certain
(kinds.py); what may work is let be. Measured with 0.3.5:

- only True fires: a text, a number or a list, `secrets(m)` or `m.tool_calls`, never does;
- `not m.role == "user"` is read as `(not m.role) == "user"`, and `a in x or b in x or c in x` as
  `a in (x.. or b in x)..`;
- a name that is used before it is set, or outside of the `count` that declares it, is unknown, and
  so is the whole rule; so is a `count` whose body has a name or a list comprehension of its own;
- a member, key or method that there is not raises, and so does a comparison of unlike things. The
  library's TypeError and KeyError would pass for a slip (slips.py), so that nobody hears of it.

What is wrong with single expressions is in misuse.py, calls.py and members.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from . import misuse
from .kinds import LISTS, OPEN, Kind, Kinds, Node, is_a, is_builtin, line_of, parts
from .members import said

_MAX_DEPTH = 10
"""Predicates in predicates that are followed."""


@dataclass(frozen=True, slots=True)
class Trap:
    """line: from 1; 0 if the library does not know it. what: the reason, and what to write."""

    line: int
    what: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.what}" if self.line else self.what


class _Use(Enum):
    """What is asked of an expression."""

    TRUE = auto()  # to be True: a text is not
    TRUTH = auto()  # whether it is empty or not: a text is fine
    VALUE = auto()


def traps(statement: Node, known: Mapping[Any, Any]) -> list[Trap]:
    """What is wrong with a `raise ... if`, by line. known: the policy's functions and constants."""
    known = dict(known.items())
    check = _Check(Kinds(known), [])
    check.conditions(statement.body)
    check.names(statement.body, frozenset(known), statement.exception_or_constructor)
    return sorted(set(check.found), key=lambda trap: (trap.line, trap.what))


class _Check:
    def __init__(self, kinds: Kinds, found: list[Trap], depth: int = 0) -> None:
        self._kinds = kinds
        self._depth = depth
        self.found = found

    def _add(self, node: Node, what: str) -> None:
        self.found.append(Trap(line_of(node), what))

    def conditions(self, body: Node) -> None:
        for condition in _flat(body):
            before = len(self.found)
            self.expression(condition, _Use.TRUE)
            if len(self.found) == before and (never := self.never(condition)):
                self._add(*never)

    # what is wrong with a part of it

    def expression(self, node: Node, use: _Use = _Use.VALUE) -> None:
        kind = self._kinds.of(node)
        if what := misuse.of(node, self._kinds):
            self._add(node, what)
            return
        if use is _Use.TRUE and kind is not Kind.BOOL and kind not in OPEN:
            self._add(node, _alone(node, kind))
        elif kind is Kind.CALLABLE and is_a(node, "MemberAccess"):
            self._add(node, f".{node.member} is a method, write .{node.member}()")
        for part, its_use in _operands(node, use):
            self.expression(part, its_use)
        if is_a(node, "ListComprehension"):
            variable = getattr(node.var_name, "id", None)
            scope = {variable: self._kinds.element(node.iterable)}
            inner = _Check(self._kinds.within(scope), self.found, self._depth)
            inner.expression(node.expr)
            if node.condition is not None:
                inner.expression(node.condition, _Use.TRUE)
        elif is_a(node, "Quantifier"):
            self.conditions(node.body)
        elif inside := self._inside(node):
            check, body = inside
            check.conditions(body)
            check.names(body, frozenset(check._kinds.scope))

    def _inside(self, call: Node) -> tuple[_Check, Node] | None:
        """The policy's own predicate, as it is called here: its conditions, and a check of them."""
        if not is_a(call, "FunctionCall") or self._depth > _MAX_DEPTH:
            return None
        predicate = self._kinds.predicate(call)
        if predicate is None:
            return None
        names = [parameter.name.id for parameter in predicate.name.params]
        given = [self._kinds.of(arg) for arg in call.args]
        scope = dict(zip(names, given, strict=False))
        check = _Check(Kinds(self._kinds.known, scope), self.found, self._depth + 1)
        return check, predicate.value

    # what can never hold

    def never(self, node: Node) -> tuple[Node, str] | None:
        """Why this condition holds for no conversation, and the part that does not."""
        if is_a(node, "BinaryExpr") and node.op in ("and", "or"):
            left, right = self.never(node.left), self.never(node.right)
            return (left or right) if node.op == "and" else (left and right)
        if is_a(node, "Quantifier"):
            if not _at_least_one(node):
                return None
            return self._unseen(node) or self._never_all(node.body)
        if is_a(node, "FunctionCall"):
            if inside := self._inside(node):
                check, body = inside
                return check._never_all(body)
            if is_builtin(node.name, "any") and is_a(node.args[0], "ListComprehension"):
                comprehension = node.args[0]
                variable = getattr(comprehension.var_name, "id", None)
                scope = {variable: self._kinds.element(comprehension.iterable)}
                inner = _Check(self._kinds.within(scope), self.found, self._depth)
                return inner._never_all([comprehension.expr, comprehension.condition])
            return None
        what = misuse.never(node, self._kinds)
        return (node, what) if what else None

    def _never_all(self, body: Node) -> tuple[Node, str] | None:
        return next((n for c in _flat(body) if c is not None and (n := self.never(c))), None)

    def _unseen(self, count: Node) -> tuple[Node, str] | None:
        """A name set outside of the count: it counts, in vain, before that has a value."""
        for node in parts(count.body):
            source = getattr(getattr(node, "id", None), "value", None)
            if not hasattr(source, "location") or is_a(source, "SomeExpr", "Declaration"):
                continue
            if any(is_a(p, "Identifier") and p.id not in self._kinds.known for p in parts(source)):
                return node, f"count does not see {node.name}, write out what it stands for"
        return None

    # names

    def names(self, body: Node, known: frozenset[Any], raised: Node = None) -> None:
        """Whether each name is known where it is used."""
        conditions = _flat(body)
        known |= frozenset(self._kinds.known)
        known |= {n.id for n in _outside_counts(conditions) if is_a(n, "TypedIdentifier")}
        for condition in conditions:
            own = {n.left.id for n in _outside_counts(condition) if _is_set(n)}
            self._named(condition, known if _is_set(condition) else known | own)
            known |= own
        if raised is not None:
            self._named(raised, known)

    def _named(self, node: Node, known: frozenset[Any]) -> None:
        if isinstance(node, list):
            for part in node:
                self._named(part, known)
        elif _is_set(node):
            self._named(node.right, known)
        elif is_a(node, "Quantifier"):
            self._named(node.quantifier_call, known)
            for part in parts(node.body):
                if _is_set(part) or is_a(part, "ListComprehension"):
                    what = "a name of its own" if _is_set(part) else "a list comprehension"
                    where = "put that into a predicate, is_bad(c: ToolCall) := ..."
                    self._add(part, f"count and forall cannot have {what}, {where}")
                    return
            self.names(node.body, known)
        elif is_a(node, "ListComprehension"):
            self._named(node.iterable, known)
            inner = known | {getattr(node.var_name, "id", None)}
            self._named([node.expr, node.condition], inner)
        elif is_a(node, "Identifier"):
            if node.id not in known:
                source = getattr(node.id, "value", None)
                if source is not None and not is_a(source, "SomeExpr"):
                    what = f"{node.name} is used before it is set, move {node.name} := ... up"
                else:
                    what = f"{node.name} is unknown outside of the count or forall that declares it"
                self._add(node, what)
        elif hasattr(node, "location") and not is_a(node, "TypedIdentifier"):
            self._named([p for n, p in vars(node).items() if _is_part(n, p)], known)


def _operands(node: Node, use: _Use) -> Iterator[tuple[Node, _Use]]:
    """What an expression is made of, and what it asks of each; without what has its own scope."""
    match type(node).__name__:
        case "BinaryExpr" if node.op == "and":
            yield node.left, _Use.TRUTH
            yield node.right, use
        case "BinaryExpr" if node.op == "or":
            yield node.left, use
            yield node.right, use
        case "BinaryExpr" if node.op == ":=":
            yield node.right, _Use.VALUE
        case "BinaryExpr":
            yield node.left, _Use.VALUE
            yield node.right, _Use.VALUE
        case "UnaryExpr":
            yield node.expr, _Use.TRUTH
        case "TernaryOp":
            yield node.condition, _Use.TRUTH
            yield node.then_expr, use
            yield node.else_expr, use
        case "FunctionCall":
            if is_a(node.name, "MemberAccess"):
                yield node.name.expr, _Use.VALUE
            yield from ((arg, _Use.VALUE) for arg in node.args)
            yield from ((entry.value, _Use.VALUE) for entry in node.kwargs)
        case "MemberAccess":
            yield node.expr, _Use.VALUE
        case "KeyAccess":
            yield node.expr, _Use.VALUE
            yield node.key, _Use.VALUE
        case "ListComprehension":
            yield node.iterable, _Use.VALUE
        case "ArrayLiteral":
            yield from ((element, _Use.VALUE) for element in node.elements)
        case "ObjectLiteral":
            yield from ((entry.value, _Use.VALUE) for entry in node.entries)


def _alone(node: Node, kind: Kind) -> str:
    name = getattr(getattr(node, "name", None), "name", None)
    if kind in LISTS and is_a(node, "FunctionCall") and name:
        return f"{name}(...) alone is never true, write any({name}(...))"
    if kind in LISTS and not is_a(node, "MemberAccess", "Identifier"):
        return "a list alone is never true, write any(...) around it"
    match kind:
        case Kind.TEXT:
            return 'a text alone is never true, say what about it, as in "word" in m.content'
        case Kind.NUMBER:
            return "a number alone is never true, compare it, as in len(...) > 0"
        case Kind.CALLABLE:
            called = name or getattr(node, "member", None) or node.name
            return f"a function alone is never true, call it: {called}(...)"
    if kind in LISTS:
        return f"a list alone is never true, write len({said(node)}) > 0"
    return "this alone is never true, compare it with something"


def _at_least_one(quantifier: Node) -> bool:
    """Whether it is a count that none cannot satisfy."""
    call = quantifier.quantifier_call
    if getattr(getattr(call, "name", None), "name", None) != "count":
        return False
    limits = [*call.args[:1], *(entry.value for entry in call.kwargs if entry.key == "min")]
    return any(is_a(limit, "NumberLiteral") and limit.value > 0 for limit in limits)


def _flat(body: Node) -> list[Node]:
    return [c for part in body for c in _flat(part)] if isinstance(body, list) else [body]


def _is_set(node: Node) -> bool:
    return is_a(node, "BinaryExpr") and node.op == ":="


def _is_part(name: str, part: Node) -> bool:
    return name not in ("id", "type", "location", "scope") and (
        isinstance(part, list) or hasattr(part, "location")
    )


def _outside_counts(nodes: Node) -> Iterable[Node]:
    if isinstance(nodes, list):
        for node in nodes:
            yield from _outside_counts(node)
    elif hasattr(nodes, "location"):
        yield nodes
        if not is_a(nodes, "Quantifier"):
            for name, part in vars(nodes).items():
                if _is_part(name, part):
                    yield from _outside_counts(part)
