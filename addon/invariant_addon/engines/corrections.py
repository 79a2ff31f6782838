"""What invariant-ai 0.3.5 gets wrong on everyday traffic, put right in memory.

Only the worker imports this. Each correction has its reason; none touches site-packages.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

from invariant.analyzer.runtime import evaluation
from invariant.analyzer.runtime.evaluation import INTERPRETER_STACK, Interpreter, Unknown
from invariant.analyzer.runtime.evaluation_context import PolicyParameters
from invariant.analyzer.runtime.interface.primitives import DictValue, StringValue
from invariant.analyzer.runtime.nodes import ToolOutput
from invariant.analyzer.runtime.runtime_errors import MissingPolicyParameter
from invariant.analyzer.runtime.utils.invariant_attributes import (
    invariant_attr,
    is_safe_invariant_value,
)

MAX_MARKS = 64
"""Places of one needle in one text that are remembered: a user can send a million of them."""


def apply() -> None:
    """Put all corrections in place. May be called again."""
    # A result that answers no call has no `_tool_call` at all: `o is tool:x` raises.
    ToolOutput.__private_attributes__["_tool_call"].default = None
    Interpreter.visit_MemberAccess = _member_access
    Interpreter.__enter__ = _enter
    Interpreter.__exit__ = _exit
    # `in` is the only user of `re` there.
    evaluation.re = _Literal


class _Literal:
    """Stands for `re` in the evaluation of `in`.

    Its left side was compiled as a pattern to find the places: `"rm -rf (" in x` raised, and
    `"[system]" in x` gave wrong places.
    """

    @staticmethod
    def finditer(needle: str, text: str) -> Iterator[re.Match[str]]:
        return islice(re.finditer(re.escape(needle), text), MAX_MARKS)


async def _member_access(self: Any, node: Any) -> Any:
    """As in the library, but for texts: methods first, then the JSON object that it may hold.

    The other way round, `.lower()` raises on content such as `42`, `null` or `{"lower": 1}`.
    """
    value = await self.visit(node.expr)
    member = node.member
    if value is Unknown:
        return Unknown
    if type(value) is str:
        return _text_member(value, member)
    if type(value) is PolicyParameters:
        if not value.has_policy_parameter(member):
            raise MissingPolicyParameter(member)
        return value.get(member)
    if type(value) is dict:
        return value[member] if member in value else invariant_attr(DictValue(value), member)
    if is_safe_invariant_value(value):
        return invariant_attr(value, member)
    if self.evaluation_context.symbol_table.allows_module_interfacing():
        return getattr(value, member)
    raise TypeError(f"no member access on {type(value).__name__}")


def _text_member(text: str, member: str) -> Any:
    if member not in StringValue.ALLOWED:
        try:
            held = json.loads(text)
        except (ValueError, RecursionError):
            held = None
        if isinstance(held, dict) and member in held:
            return held[member]
    return invariant_attr(StringValue(text), member)


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
