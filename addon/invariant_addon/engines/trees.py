"""A policy's syntax tree <-> text that another worker can read. Lives in the worker only.

Parsing takes a thousand times as long as reading what was parsed. A text is read into nothing but
the library's own nodes, whoever wrote it.
"""

from __future__ import annotations

import base64
import io
import pickle
from typing import Any

from invariant.analyzer.language import ast, scope, types

_MODULES = {module.__name__: module for module in (ast, scope, types)}
_BUILTINS = {"bool": bool, "float": float, "int": int, "str": str}
_INPUT = "input"
"""Stands for scope.InputData, a bare object() that the library knows by its identity: a copy of it
is no `input`, and each rule with a parameter raised in all workers but one."""


def dump(root: Any) -> str:
    """The tree as text, "" if it cannot be written. As it was parsed: linking adds to a tree."""
    written = io.BytesIO()
    try:
        _Writer(written, protocol=5).dump(root)
    except (pickle.PicklingError, RecursionError, TypeError, AttributeError):
        return ""
    return base64.b85encode(written.getvalue()).decode()


def load(tree: str) -> Any:
    """Raises UnpicklingError for what is no tree."""
    root = _Reader(io.BytesIO(base64.b85decode(tree))).load()
    if not isinstance(root, ast.PolicyRoot):
        raise pickle.UnpicklingError(type(root).__name__)
    return root


class _Writer(pickle.Pickler):
    def persistent_id(self, value: Any) -> str | None:
        return _INPUT if value is scope.InputData else None


class _Reader(pickle.Unpickler):
    def persistent_load(self, name: Any) -> Any:
        if name == _INPUT:
            return scope.InputData
        raise pickle.UnpicklingError("an unknown name")

    def find_class(self, module: str, name: str) -> Any:
        if module == "builtins" and name in _BUILTINS:
            return _BUILTINS[name]
        found = vars(_MODULES[module]).get(name) if module in _MODULES else None
        if isinstance(found, type) and found.__module__ == module:
            return found
        raise pickle.UnpicklingError(f"{module}.{name}")
