"""What a rule raised -> whether it is about one binding, or about the rule.

A slip is a missing key or a value of another type than the rule expects, in one binding of its
variables: a call without `cmd`, a number where a text was expected. That binding is no match, and
the others are judged. Everything else is a fault: the guardrail gave no full verdict.

What would be the same in every binding is a fault, too, although the library raises a KeyError or
TypeError for it: an attribute that messages do not have, a wrong number of arguments, a misspelt
method. Taken for a slip, such a rule would never fire and never fail.
"""

from __future__ import annotations

from types import FunctionType
from typing import Any

from invariant.analyzer.runtime.function_cache import call_either_way
from invariant.analyzer.runtime.nodes import Event
from invariant.analyzer.runtime.runtime_errors import (
    InvariantAttributeError,
    MissingPolicyParameter,
)

_SLIPS = (LookupError, TypeError, AttributeError)
_NEVER = (MissingPolicyParameter, InvariantAttributeError)


_LACKS = "policy execution failed due to missing dependencies"
MISSING = (
    "a missing package (pii needs presidio-analyzer and spacy, prompt_injection and moderated need "
    "transformers and torch; scripts/rules check has the command)"
)
"""What the library says of a detector without its package, and what we say."""


class FaultError(Exception):
    """What a function raised that is no slip. name: the type's, for people."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class NoMemberError(KeyError):
    """`.name` on a text or an object that has no such member. node: where the rule says it."""

    def __init__(self, node: Any) -> None:
        super().__init__("no such member")
        self.node = node


def is_slip(e: BaseException) -> bool:
    return isinstance(e, _SLIPS) and not isinstance(e, _NEVER)


def name_of(e: BaseException) -> str:
    """For people: what kind of error it was. Never its text, which quotes the conversation."""
    if isinstance(e, FaultError):
        return e.name
    if isinstance(e, RuntimeError) and str(e).startswith(_LACKS):
        return MISSING
    return "KeyError" if isinstance(e, NoMemberError) else type(e).__name__


def fault_of_call(function: Any, arguments: list[Any], e: Exception) -> Exception:
    """What a call raised, told apart: a detector may not fail in silence, whatever it raises."""
    if isinstance(e, FaultError) or _is_misused(function, e):
        return FaultError(name_of(e))
    if any(isinstance(argument, Event) for argument in arguments):
        return FaultError(name_of(e))  # find("x", m) would never find anything: say so
    if _is_builtin(function):
        # json_loads means to raise JSONDecodeError and does not know that name.
        return TypeError() if isinstance(e, NameError) else e
    if arguments and isinstance(arguments[0], int | float | None):
        return e  # not a text: the rule asks about another kind of call
    return FaultError(name_of(e))


def _is_builtin(function: Any) -> bool:
    if not isinstance(function, FunctionType):
        return True  # a method of a text, list or dict
    return function.__module__ in ("invariant.builtins", "invariant.analyzer.runtime.nodes")


def _is_misused(function: Any, e: Exception) -> bool:
    """Whether the call itself failed: too few arguments, an unknown keyword."""
    last = e.__traceback__
    while last and last.tb_next:
        last = last.tb_next
    return (
        isinstance(e, TypeError)
        and isinstance(function, FunctionType)
        and last is not None
        and last.tb_frame.f_code is call_either_way.__code__
    )
