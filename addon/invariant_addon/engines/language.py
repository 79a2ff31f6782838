"""What a policy may say that nobody vouches for: the rule language, and nothing of Python.

A policy is code. The library's parser runs none of it; names are looked up and imported when it is
linked, and everything else happens when it is judged. So a policy that is not trusted is read,
held against the lists below, and only then linked: what is on no list is refused, with its line.

From an expression to code there are these ways, each with its list: an import, a member (`.name`),
a call, and the name of a model that a detector loads. Indexes (`x["name"]`) never read attributes,
and f-strings are never filled in. Lives in the worker only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from typing import Any

from invariant.analyzer.language.scope import IPL_BUILTINS, InputData
from invariant.analyzer.runtime import nodes
from pydantic import BaseModel, RootModel

type Node = Any  # a node of the library's tree, which has no types

MAX_RULES = 200
MAX_BYTES = 64 * 1024
MAX_NAMES = 64
"""Names that are imported; each runs a module of the library once more."""

_OURS = "invariant_addon.engines.detectors"
_TYPES = frozenset({
    *("Message", "ToolCall", "ToolOutput", "Function", "TextChunk", "Image", "Contents", "Event"),
    *("Tool", "ToolParameter", "LLM", "text", "image"),
})  # fmt: skip
_ERRORS = frozenset({"Violation", "PolicyViolation", "AccessDenied"})
_QUANTIFIERS = frozenset({"count", "forall"})
_DETECTORS = {
    # Not semgrep, which starts a program, and not is_similar, which asks a service.
    "code": {"python_code", "ipython_code"},
    "copyright": {"copyright"},
    "fuzzy_matching": {"fuzzy_contains"},
    "moderation": {"moderated"},
    "pii": {"pii"},
    "prompt_injection": {"prompt_injection", "unicode"},
    "secrets": {"secrets"},
}
_PARSERS = {"html": {"html_code", "links"}}  # not ocr, which starts a program

IMPORTS: dict[str, frozenset[str]] = {
    "invariant": _TYPES | _ERRORS | _QUANTIFIERS,
    "invariant.builtins": frozenset(IPL_BUILTINS),
    "invariant.nodes": _TYPES,
    "invariant.errors": _ERRORS,
    "invariant.quantifiers": _QUANTIFIERS,
    "invariant.access_control": frozenset({"should_allow_rbac"}),
    "invariant.detectors": frozenset().union(*_DETECTORS.values()),
    **{f"invariant.detectors.{name}": frozenset(names) for name, names in _DETECTORS.items()},
    "invariant.parsers": frozenset().union(*_PARSERS.values()),
    **{f"invariant.parsers.{name}": frozenset(names) for name, names in _PARSERS.items()},
    _OURS: frozenset({
        *("has_secret", "has_destructive_command", "has_hidden_text", "has_orders", "has_login"),
        "has_private_address",
    }),
}  # fmt: skip
"""Modules and what may be imported from them."""

METHODS = frozenset({
    *("strip", "lower", "upper", "splitlines", "split", "join"),  # of texts; not format
    *("keys", "values", "items", "get"),
    *("text", "image"),  # of a list of contents
})  # fmt: skip
"""What may be called with a dot."""

MODELS = frozenset({
    "protectai/deberta-v3-base-prompt-injection-v2",
    "ProtectAI/deberta-v3-base-prompt-injection-v2",
    "KoalaAI/Text-Moderation",
})  # fmt: skip
"""What a detector may load: any other name may be a folder with code in it, or a service."""

_CLASSES = [getattr(nodes, name) for name in sorted(_TYPES)]
_MODELS = [c for c in _CLASSES if isinstance(c, type) and issubclass(c, BaseModel)]
_FIELDS = frozenset(name for model in _MODELS for name in model.model_fields) - {"root"}
_PYTHON = (
    frozenset(
        name
        for known in (str, list, dict, tuple, set, int, float, type, BaseModel, RootModel, *_MODELS)
        for name in dir(known)
    )
    - _FIELDS
    - METHODS
)
"""Names that mean something in Python, and so no key of an object when they follow a dot."""

_STATEMENTS = frozenset({"PolicyRoot", "RaisePolicy", "Declaration", "Import", "ImportSpecifier"})
_EXPRESSIONS = frozenset({
    *("BinaryExpr", "UnaryExpr", "TernaryOp", "Quantifier", "ListComprehension", "MemberAccess"),
    *("KeyAccess", "FunctionCall", "FunctionSignature", "ParameterDeclaration", "Identifier"),
    *("TypedIdentifier", "StringLiteral", "NumberLiteral", "BooleanLiteral", "NoneLiteral"),
    *("Wildcard", "ObjectLiteral", "ObjectEntry", "ArrayLiteral", "ToolReference"),
    *("SemanticPattern", "ValueReference"),
})  # fmt: skip
_NOT_PARTS = frozenset({"id", "location", "scope", "parent", "source_code", "errors"})
_IF_TRUSTED = "; rule files may, with --set invariant_trusted_rules=true"


def refusal(root: Node) -> str | None:
    """Why this policy may not be linked: "line N: ...", or None. root: as it was parsed."""
    rules = sum(1 for s in root.statements if _is(s, "RaisePolicy"))
    if rules > MAX_RULES:
        return f"{rules} rules are too many, at most {MAX_RULES} may be in one policy"
    names = 0
    todo: list[tuple[Node, bool]] = [(root, False)]
    while todo:  # no recursion: the tree may be deep
        node, is_called = todo.pop()
        if reason := _reason(node, is_called):
            return _at(node, reason, root)
        names += _is(node, "ImportSpecifier")
        if names > MAX_NAMES:
            return _at(node, f"at most {MAX_NAMES} names may be imported", root)
        todo.extend((part, _is(node, "FunctionCall") and part is node.name) for part in _of(node))
    return _unlisted(root)


def _reason(node: Node, is_called: bool) -> str | None:
    kind = type(node).__name__
    if kind not in _STATEMENTS and kind not in _EXPRESSIONS:
        return f"{kind} is no part of the rule language"
    if is_called and kind not in ("Identifier", "MemberAccess"):
        return "only functions may be called, by their names"
    if kind == "MemberAccess":
        return _member(node, is_called)
    check = _CHECKS.get(kind)
    return check(node) if check else None


def _import(node: Node) -> str | None:
    names = [specifier.name for specifier in node.import_specifiers]
    if not names:
        return f"import {node.module} is not allowed, write from ... import ...{_IF_TRUSTED}"
    allowed = IMPORTS.get(str(node.module))
    if allowed is None:
        return f"nothing may be imported from {node.module}{_IF_TRUSTED}"
    for name in names:
        if name not in allowed:
            return f"{name} may not be imported from {node.module}{_IF_TRUSTED}"
    return None


def _alias(node: Node) -> str | None:
    return _hidden(node.alias) if node.alias is not None else None


def _identifier(node: Node) -> str | None:
    return _hidden(node.name)


def _typed(node: Node) -> str | None:
    return _hidden(node.name) or _hidden(node.type_ref)


def _member(node: Node, is_called: bool) -> str | None:
    name = node.member
    if type(name) is not str:
        return "a member has a name"
    if reason := _hidden(name):
        return reason
    if is_called:
        return None if name in METHODS else f".{name}(...) may not be called{_method(name)}"
    if name in _PYTHON and not _is_input(node.expr):
        return f'.{name} is not allowed, write ["{name}"] for a key of that name'
    return None


_INSTEAD_OF = {
    "contains": '"..." in m.content',
    "includes": '"..." in m.content',
    "startswith": 'match("...", m.content)',
    "endswith": 'any(find("...$", m.content))',
}


def _method(name: str) -> str:
    """What to write instead."""
    if instead := _INSTEAD_OF.get(name):
        return f", write {instead}"
    alike = get_close_matches(name, METHODS, 1)
    return f", write .{alike[0]}(...)" if alike else f"; what may: {', '.join(sorted(METHODS))}"


def _key(node: Node) -> str | None:
    return _hidden_key(node.key.value) if _is(node.key, "StringLiteral") else None


def _entry(node: Node) -> str | None:
    return _hidden_key(node.key)


def _string(node: Node) -> str | None:
    if node.modifier == "f" and "__" in node.value:
        return "__ is not allowed in an f-string, which is not filled in anyway"
    return None


def _call(node: Node) -> str | None:
    for argument in node.kwargs:
        if reason := _hidden(argument.key):
            return reason
        if argument.key == "model":
            value = argument.value
            if not _is(value, "StringLiteral") or value.value not in MODELS:
                return f"only these models are allowed: {', '.join(sorted(MODELS))}{_IF_TRUSTED}"
    return None


def _quantifier(node: Node) -> str | None:
    called = node.quantifier_call
    name = called.name if _is(called, "FunctionCall") else called
    source = getattr(getattr(name, "id", None), "value", None)
    if not _is(name, "Identifier") or getattr(source, "obj", None) not in _QUANTIFIERS:
        return "only count and forall may stand before a block"
    return None


_CHECKS: dict[str, Callable[[Node], str | None]] = {
    "Import": _import,
    "ImportSpecifier": _alias,
    "Identifier": _identifier,
    "TypedIdentifier": _typed,
    "KeyAccess": _key,
    "ObjectEntry": _entry,
    "StringLiteral": _string,
    "FunctionCall": _call,
    "Quantifier": _quantifier,
}


def _unlisted(root: Node) -> str | None:
    """Once more for what the linker itself would look up, however it came into the scope."""
    for _, declaration in root.scope.all():
        source = declaration.value
        if _is(source, "ExternalReference") and source.obj not in IMPORTS.get(
            str(source.module), ()
        ):
            return f"{source} may not be imported{_IF_TRUSTED}"
    return None


def _hidden(name: object) -> str | None:
    if type(name) is not str or name.startswith("_"):
        return f"{name} is not allowed: names do not begin with _"
    return None


def _hidden_key(key: object) -> str | None:
    if type(key) is not str or (key.startswith("__") and key.endswith("__")):
        return f"{key} is not allowed as a key"
    return None


def _is_input(node: Node) -> bool:
    return _is(node, "Identifier") and getattr(node.id, "value", None) is InputData


def _of(node: Node) -> Iterator[Node]:
    """What is right below, but for plain values: nodes, or something that is then refused."""
    # `type` is the parser's own note, but for a predicate's parameters.
    left = _NOT_PARTS if _is(node, "ParameterDeclaration") else _NOT_PARTS | {"type"}
    todo = [value for name, value in vars(node).items() if name not in left]
    while todo:
        value = todo.pop()
        if isinstance(value, list | tuple):
            todo.extend(value)
        elif type(value) not in (str, int, float, bool, type(None)):
            yield value


def _is(node: Node, name: str) -> bool:
    return type(node).__name__ == name


def _at(node: Node, what: str, root: Node) -> str:
    # The library does not know where each node is, but where its parts are.
    todo = [node]
    while todo:
        part = todo.pop(0)
        line = getattr(getattr(part, "location", None), "line", -1)
        if line >= 0:
            return f"line {line + 1}: {what}"
        if hasattr(part, "location"):
            todo.extend(_of(part))
    # An import under another name has no place at all.
    for line, text in enumerate(root.source_code.code.split("\n")):
        if re.search(r"\bimport\b.*\bas\b", text):
            return f"line {line + 1}: {what}"
    return what
