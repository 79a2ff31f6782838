"""A policy's text -> the library's policy, or why not. Lives in the worker only.

The parser tries all ways to read a text: a condition of forty `and` takes four seconds, and one
of eighty half a minute, and much memory. So there is a limit in time for reading, too.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import BuiltinFunctionType, BuiltinMethodType, MethodType
from typing import Any

from invariant.analyzer.language.parser import parse
from invariant.analyzer.policy import LocalPolicy
from invariant.analyzer.runtime.symbol_table import SymbolTable

from . import language, trees

KEPT_SECONDS = 20.0
PASSING_SECONDS = 3.0
"""Processor time for reading one policy: of those that stay, and of those that come with a
request."""


class RefusedError(ValueError):
    """The policy says what policies of its kind may not say, or is too much to read."""


class _SlowError(BaseException):
    """Not an Exception: the parser would wrap it."""


def read(text: str, *, trusted: bool, seconds: float, tree: str = "") -> tuple[LocalPolicy, str]:
    """The policy, and its tree as text (trees.py).

    Raises RefusedError, and whatever the library raises for a text that is no policy.
    seconds: for parsing. Linking is not interrupted, for it imports. tree: what another worker
    parsed this text to, if one has.
    """
    if trusted:
        with within(seconds):
            root = _parse(text, tree)
        tree = tree or trees.dump(root)
        return LocalPolicy(root), tree
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > language.MAX_BYTES:
        raise RefusedError(f"{size} bytes are too many, at most {language.MAX_BYTES} are read")
    with within(seconds):
        root = _parse(text, tree)
        reason = None if root.errors else language.refusal(root)
    if reason:
        raise RefusedError(reason)
    tree = tree or trees.dump(root)
    return LocalPolicy(root, symbol_table=_Table()), tree


def _parse(text: str, tree: str) -> Any:
    return trees.load(tree) if tree else parse(text, optimize_rules=False)


class _Table(SymbolTable):  # type: ignore[misc]  # the library has no types
    """What the lists say, once more when a policy is linked and judged."""

    def allows_module_interfacing(self) -> bool:
        """Else every attribute of every object could be read that has no interface of its own."""
        return False

    def link_import(self, ref: Any) -> Any:
        if ref.obj not in language.IMPORTS.get(str(ref.module), ()):
            raise ImportError(f"{ref} may not be imported")
        return super().link_import(ref)

    def link(self, function: Any, node: Any) -> Any:
        """Called with each function before it is called."""
        if isinstance(function, MethodType | BuiltinMethodType | BuiltinFunctionType):
            if function.__name__ in language.METHODS and function.__self__ is not None:
                return function
        elif str(getattr(function, "__module__", "")).partition(".")[0] in _LIBRARIES:
            return function
        raise PermissionError


_LIBRARIES = ("invariant", "invariant_addon")


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raises RefusedError after so much processor time. No limit on Windows, which has no such
    timer: there the worker is ended from outside."""
    if not hasattr(signal, "setitimer"):
        yield
        return
    signal.signal(signal.SIGVTALRM, _end)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    except _SlowError:
        raise RefusedError(
            f"reading takes more than {seconds:.0f} s of processor time: write shorter conditions, "
            "or fewer rules"
        ) from None
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def _end(*_: object) -> None:
    raise _SlowError
