"""A rule's tree -> what to know of the rule although it can be used. Lives in the worker only.

- It asks for a detector whose package is not installed here: where it gets that far, it gives no
  verdict.
- A condition of it holds for every text, which nobody means.

Said when a rule is read, and only what is certain. traps.py has what makes a rule useless.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .kinds import Kinds, Node, is_a, is_builtin, line_of, origin, parts

_DETECTORS = "invariant.detectors"
_TRANSFORMERS = ("transformers", "torch")
_PRESIDIO = ("presidio-analyzer", "spacy")
_NEEDED = {
    "pii": _PRESIDIO,
    "prompt_injection": _TRANSFORMERS,
    "moderated": _TRANSFORMERS,
    "semgrep": ("semgrep",),
}
"""What extras.py of the library says, by the names of the package index."""
_VALUES = {
    **dict.fromkeys(("EMAIL_ADDRESS", "LOCATION", "PHONE_NUMBER", "PERSON"), "pii"),
    "MODERATED": "moderated",
}
"""Values in patterns, `tool:x({to: <EMAIL_ADDRESS>})`, and the detectors that find them."""
_MODEL = "en_core_web_lg"
"""What presidio reads texts with, unless it is told otherwise: a package, but in no index."""


@dataclass(frozen=True, slots=True)
class Need:
    """line: from 1; 0 if it is not known. lacks: there is no verdict because of it."""

    line: int
    what: str
    lacks: bool

    def __str__(self) -> str:
        return f"line {self.line}: {self.what}" if self.line else self.what


def is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # one that is half there
        return False


def needs(statement: Node, known: Mapping[Any, Any]) -> list[Need]:
    """Of a `raise ... if`, by line. known: the policy's functions and constants."""
    found = []
    for node in _reached(statement.body, Kinds(known), set()):
        detector = _detector(node)
        if detector and (how := remedy(detector)):
            found.append(Need(line_of(node), f"{detector} {how}", lacks=True))
        if what := _always(node):
            found.append(Need(line_of(node), what, lacks=False))
    return sorted(set(found), key=lambda need: (need.line, need.what))


def _reached(body: Node, kinds: Kinds, seen: set[int]) -> Iterator[Node]:
    """All nodes of the conditions, and of the policy's own predicates that they call."""
    for node in parts(body):
        yield node
        predicate = kinds.predicate(node) if is_a(node, "FunctionCall") else None
        if predicate is not None and id(predicate) not in seen:
            seen.add(id(predicate))
            yield from _reached(predicate.value, kinds, seen)


def _detector(node: Node) -> str:
    if is_a(node, "ValueReference"):
        return _VALUES.get(node.value_type, "")
    if not is_a(node, "FunctionCall"):
        return ""
    module, name = origin(node.name)
    if not module.startswith(_DETECTORS) or _asks_a_service(node):
        return ""
    return name if name in _NEEDED else ""


def _asks_a_service(call: Node) -> bool:
    """moderated(..., model="OpenAI") needs no package (and the network, which rules have not)."""
    models = (entry.value for entry in call.kwargs if entry.key == "model")
    return any(is_a(model, "StringLiteral") and model.value == "OpenAI" for model in models)


def remedy(detector: str, is_installed: Callable[[str], bool] = is_installed) -> str:
    """What is missing and how to install it; "" if all is there."""
    packages = _NEEDED[detector]
    missing = [name for name in packages if not is_installed(name.replace("-", "_"))]
    commands = []
    if missing:
        commands.append(f"{sys.executable} -m pip install {' '.join(missing)}")
    if packages is _PRESIDIO and not is_installed(_MODEL):
        commands.append(f"{sys.executable} -m spacy download {_MODEL}")
    if not commands:
        return ""
    what = " and ".join(missing) or f"spaCy's {_MODEL}"
    return f"needs {what}, not installed here: {' && '.join(commands)}"


def _always(node: Node) -> str:
    """Why this holds for every text that is not empty."""
    if not is_a(node, "FunctionCall") or not is_builtin(node.name, "any") or len(node.args) != 1:
        return ""
    (asked,) = node.args
    if not is_a(asked, "FunctionCall") or origin(asked.name)[1] != "unicode":
        return ""
    named = [*asked.args[1:], *(entry.value for entry in asked.kwargs)]
    if origin(asked.name)[0].startswith(_DETECTORS) and all(is_a(n, "NoneLiteral") for n in named):
        return (
            "any(unicode(...)) without categories finds every character, so it holds for every "
            'text; name them, as in unicode(m, ["Cf", "Co"])'
        )
    return ""
