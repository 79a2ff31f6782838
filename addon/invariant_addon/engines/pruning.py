"""A rule's conditions -> those that decide early, before all variables are chosen.

The library tries each combination of all variables on all conditions: `(a: T) -> (b: T)` costs
600 x 600 evaluations although `a is tool:x` holds for none. A condition that mentions only
variables which are chosen already can say no at once. Nothing else is concluded from it: what it
does not exclude is evaluated whole, as before, so the hits are the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

type Node = Any  # a node of the library's tree, which has no types

_NOT_PARTS = frozenset({"id", "type", "location", "scope", "parent"})
_ARROWS = ("->", "~>")


@dataclass(frozen=True, slots=True, eq=False)
class Test:
    """A condition that excludes a binding if it is False.

    needs: the variables it mentions. before: assignments (`x := ...`) that it needs first.
    is_local: it only looks at the value of its one variable, so that its answer stays.
    arrow: the variables left and right of a lone `->` or `~>`.
    """

    condition: Node
    needs: frozenset[Any]
    before: tuple[Node, ...] = ()
    is_local: bool = False
    arrow: tuple[Any, Any] | None = None


def tests(conditions: Node, known: Mapping[Any, Any]) -> tuple[Test, ...]:
    """Of these conditions, in their order. known: the policy's functions and constants."""
    body = conditions if isinstance(conditions, list) else [conditions]
    assigned = _assigned(body)
    found = (_test(part, assigned, known) for condition in body for part in _split(condition))
    return tuple(test for test in found if test is not None)


def begins_alike(conditions: Node, known: Mapping[Any, Any]) -> bool:
    """Whether these conditions say the same of every conversation while no variable is chosen:
    they look at nothing but their variables, and at what gives the same for the same."""
    for node in _parts(conditions):
        if _is(node, "Quantifier"):
            return False
        if hasattr(node, "id") and node.id in known and not _is_pure(node.id, known):
            return False
    return True


def _assigned(body: list[Node]) -> dict[Any, Node | None]:
    """Variables and the one assignment that each gets; None if there are several."""
    assigned: dict[Any, Node | None] = {}
    for node in body:
        if _is(node, "BinaryExpr") and node.op == ":=":
            assigned[node.left.id] = None if node.left.id in assigned else node
    return assigned


def _split(condition: Node) -> Iterator[Node]:
    # `a and b` is False if one of them is.
    if _is(condition, "BinaryExpr") and condition.op == "and":
        yield from _split(condition.left)
        yield from _split(condition.right)
    else:
        yield condition


def _test(
    condition: Node, assigned: Mapping[Any, Node | None], known: Mapping[Any, Any]
) -> Test | None:
    if _declares(condition):
        return None
    needs: set[Any] = set()
    before: list[Node] = []
    todo = [condition]
    is_local = True
    while todo:
        node = todo.pop()
        names = _names(node)
        if names is None:
            return None
        for name in names:
            if name in known:
                is_local = is_local and _is_pure(name, known)
            elif name not in assigned:
                needs.add(name)
            elif (assignment := assigned[name]) is None:
                return None
            elif not any(assignment is known_one for known_one in before):
                before.append(assignment)
                todo.append(assignment.right)
    if not needs:
        return None  # it is seen before any variable is chosen
    order = {id(node): i for i, node in enumerate(a for a in assigned.values() if a)}
    before.sort(key=lambda node: order[id(node)])
    arrow = None
    if _is_arrow(condition) and not before:
        arrow = (condition.left.id, condition.right.id)
    is_local = is_local and len(needs) == 1
    return Test(condition, frozenset(needs), tuple(before), is_local, arrow)


def _declares(node: Node) -> bool:
    """`(x: T)`, `(x: T) in ...` and `x := ...`: they say what there is, and hold."""
    if _is(node, "TypedIdentifier"):
        return True
    if not _is(node, "BinaryExpr"):
        return False
    return node.op == ":=" or (node.op == "in" and _is(node.left, "TypedIdentifier"))


def _names(condition: Node) -> set[Any] | None:
    """The variables that it mentions, or None if it has some of its own."""
    names: set[Any] = set()
    own: set[Any] = set()
    for node in _parts(condition):
        if _is(node, "Quantifier") or (_is(node, "BinaryExpr") and node.op == ":="):
            return None
        if _is(node, "TypedIdentifier") and not _is_arrow(condition):
            return None
        if _is(node, "ListComprehension"):
            own.add(getattr(node.var_name, "id", None))
        if _is(node, "Identifier") or _is(node, "TypedIdentifier"):
            names.add(node.id)
    return names - own


def _is_arrow(node: Node) -> bool:
    return (
        _is(node, "BinaryExpr")
        and node.op in _ARROWS
        and all(hasattr(side, "id") for side in (node.left, node.right))
    )


def _is_pure(name: Any, known: Mapping[Any, Any], depth: int = 0) -> bool:
    """Whether it gives the same for the same, whatever else is in the conversation."""
    source: Node = getattr(name, "value", None)
    if _is(source, "ExternalReference"):
        return str(source.module).partition(".")[0] in ("invariant", "invariant_addon")
    if not _is(source, "Declaration") or not source.is_constant or depth > len(known):
        return False  # a predicate may have variables of its own; `input` is all there is
    names = [_names(part) for part in source.value]
    return all(
        used is not None and all(n in known and _is_pure(n, known, depth + 1) for n in used)
        for used in names
    )


def _parts(node: Node) -> Iterable[Node]:
    todo = [node]
    while todo:
        node = todo.pop()
        if isinstance(node, list | tuple):
            todo.extend(node)
        elif hasattr(node, "location"):
            yield node
            todo.extend(part for name, part in vars(node).items() if name not in _NOT_PARTS)


def _is(node: Node, name: str) -> bool:
    return type(node).__name__ == name
