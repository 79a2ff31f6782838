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
_BUILTINS = {"bool": bool, "float": float, "int": int, "object": object, "str": str}


def dump(root: Any) -> str:
    """The tree as text, "" if it cannot be written. As it was parsed: linking adds to a tree."""
    try:
        return base64.b85encode(pickle.dumps(root, protocol=5)).decode()
    except (pickle.PicklingError, RecursionError, TypeError, AttributeError):
        return ""


def load(tree: str) -> Any:
    """Raises UnpicklingError for what is no tree."""
    root = _Reader(io.BytesIO(base64.b85decode(tree))).load()
    if not isinstance(root, ast.PolicyRoot):
        raise pickle.UnpicklingError(type(root).__name__)
    return root


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module == "builtins" and name in _BUILTINS:
            return _BUILTINS[name]
        found = vars(_MODULES[module]).get(name) if module in _MODULES else None
        if isinstance(found, type) and found.__module__ == module:
            return found
        raise pickle.UnpicklingError(f"{module}.{name}")
