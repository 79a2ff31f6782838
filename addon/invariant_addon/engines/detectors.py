"""What the starter rules ask, for any rule:

    from invariant_addon.engines.detectors import has_secret

Each function says true or false (so no any() around it) and marks what it found, which is how the
address of a violation gets its range. A policy's import runs this file once more for each policy:
nothing is kept here.

has_secret, has_hidden_text, has_orders, has_login and has_private_address only ever look at what
is complete: text that is added at the end takes no finding away (engines/finality.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from invariant.analyzer.runtime.evaluation import Interpreter
from invariant.analyzer.runtime.nodes import ToolCall
from invariant.analyzer.stdlib.invariant.builtins import text as texts_of

from ..starter import calls, secrets, texts
from ..starter.known_keys import Span

type Data = Any  # a message, a tool's output, a tool call, or what is in one
type Search = Callable[[str], Iterable[Span]]

_MAX_DEPTH = 100
_MAX_JSON = 4
"""Levels of JSON in texts in JSON that are read."""


def _remembered[F: Callable[..., bool]](detector: F) -> F:
    """Lets the engine keep what this said about the same data; a cache asks again where it hit."""
    detector.__dict__["__invariant_cache__"] = True
    return detector


@_remembered
def has_secret(data: Data, kinds: list[str]) -> bool:
    """Whether a secret of one of these kinds is in it (starter/secrets.py has them all).

    In tool calls: in all names and values, in JSON inside of texts, and values by their names.
    """

    def search(text: str) -> Iterator[Span]:
        return secrets.find(text, kinds)

    if not isinstance(data, ToolCall | dict):
        return _find(data, search)
    arguments = data.function.arguments if isinstance(data, ToolCall) else data
    named = "named" in kinds
    found = [_walk(arguments, None, search, named)]
    if isinstance(data, ToolCall) and any(True for _ in search(data.function.name)):
        found.append(_mark(data.function))
    return any(found)


@_remembered
def has_destructive_command(call: Data, kinds: list[str]) -> bool:
    """Whether a tool call is a command that does one of these (starter/calls.py).

    Looked at: all texts of a tool that is called like a shell, and arguments that are.
    """
    name, arguments = call.function.name, call.function.arguments
    found = [_mark(part) for part in calls.find(name, arguments, kinds)]
    return any(found)


@_remembered
def has_hidden_text(data: Data) -> bool:
    """Whether it holds characters that a reader does not see, but a model reads: tags, changes of
    direction, or many of no width in a row."""
    return _find(data, texts.hidden)


@_remembered
def has_orders(data: Data) -> bool:
    """Whether it says "ignore all previous instructions", or nearly so."""
    return _find(data, texts.orders)


@_remembered
def has_login(data: Data) -> bool:
    """Whether an address in it has a name and a password (https://name:word@host)."""
    return _find(data, texts.logins)


@_remembered
def has_private_address(data: Data) -> bool:
    """Whether an address in it points into a private network, or at this machine."""
    return _find(data, texts.private_addresses)


# where it is


def _find(data: Data, search: Search) -> bool:
    if isinstance(data, ToolCall):
        return _walk(data.function.arguments, None, search, named=False)
    if isinstance(data, dict):
        return _walk(data, None, search, named=False)
    found = [_mark_all(text, search) for text in texts_of(data)]
    return any(found)


def _mark_all(text: str, search: Search) -> bool:
    spans = [span for _, span in zip(range(secrets.MAX_SPANS), search(text), strict=False)]
    for start, end in spans:
        Interpreter.current().mark(text, start, min(end, len(text)))
    return bool(spans)


def _mark(thing: object) -> bool:
    Interpreter.current().mark(thing)
    return True


def _walk(value: Data, name: str | None, search: Search, named: bool, depth: int = 0) -> bool:
    """All texts below, and the names of what is there."""
    if isinstance(value, str):
        if named and name is not None and secrets.is_named_secret(name, value):
            Interpreter.current().mark(value, 0, len(value))
            return True
        return _mark_all(value, search) or (_is_in_json(value, search, named) and _mark(value))
    if depth > _MAX_DEPTH:
        return False
    if isinstance(value, list):
        found = [_walk(v, name, search, named, depth + 1) for v in value]
        return any(found)
    if isinstance(value, dict):
        found = [_walk(v, k, search, named, depth + 1) for k, v in value.items()]
        if any(any(True for _ in search(k)) for k in value):
            found.append(_mark(value))
        return any(found)
    return False


def _is_in_json(text: str, search: Search, named: bool, level: int = 0) -> bool:
    """Whether JSON hides it from a look at the text, by escapes or in a name and its value."""
    if level > _MAX_JSON or text[:64].lstrip()[:1] not in ("{", "["):
        return False
    try:
        held = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return any(
        (named and name is not None and secrets.is_named_secret(name, t))
        or any(True for _ in search(t))
        or _is_in_json(t, search, named, level + 1)
        for name, t in _strings(held, None)
    )


def _strings(value: Data, name: str | None, depth: int = 0) -> Iterator[tuple[str | None, str]]:
    if isinstance(value, str):
        yield name, value
    elif depth <= _MAX_DEPTH and isinstance(value, list):
        for v in value:
            yield from _strings(v, name, depth + 1)
    elif depth <= _MAX_DEPTH and isinstance(value, dict):
        for k, v in value.items():
            yield None, k
            yield from _strings(v, k, depth + 1)
