"""What a detector said about a text is kept, by the text.

The library's cache keeps by object and by function, both of which are new in each check, so it
never helps; it holds a lock for each text it ever saw (20 KB for each check of 20 KB).
This one is for the library's own detectors only: they say the same about the same. What they
point at in the text is not kept, so an answer that came with places is asked for again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from types import FunctionType
from typing import Any

import invariant.analyzer
from invariant.analyzer.runtime.evaluation import Interpreter
from invariant.analyzer.runtime.function_cache import FunctionCache, call_either_way
from pydantic import BaseModel

MAX_ANSWERS = 8192
MAX_TEXT = 200
"""Characters of a text that is kept itself; of longer ones only a hash."""
MAX_ITEMS = 16

_LIBRARY = str(Path(invariant.analyzer.__file__).resolve().parent)
_OURS = str(Path(__file__).resolve().parent)


class DetectorCache(FunctionCache):  # type: ignore[misc]  # the library has no types
    """Bounded: the answers that were longest not asked for go first."""

    def __init__(self) -> None:
        super().__init__()
        self._answers: OrderedDict[object, Any] = OrderedDict()
        self._is_known: dict[str, bool] = {}

    def clear(self) -> None:
        """Nothing: the library calls this whenever a set of rules is thrown away."""

    async def acall(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        key = self._key(function, args, kwargs)
        if key is None:
            return await call_either_way(function, *args, **kwargs)
        if key in self._answers:
            self._answers.move_to_end(key)
            return _copy(self._answers[key])
        marks = Interpreter.current().ranges
        before = len(marks)
        answer = await call_either_way(function, *args, **kwargs)
        if len(marks) == before and _is_small(answer):
            self._answers[key] = _copy(answer)
            if len(self._answers) > MAX_ANSWERS:
                self._answers.popitem(last=False)
        return answer

    def _key(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> object | None:
        if not hasattr(function, "__invariant_cache__") or not isinstance(function, FunctionType):
            return None
        code = function.__code__
        file = code.co_filename
        if file not in self._is_known:
            self._is_known[file] = str(Path(file).resolve()).startswith((_LIBRARY, _OURS))
        if not self._is_known[file]:
            return None
        try:
            return (file, code.co_firstlineno, _content(list(args)), _content(kwargs))
        except (TypeError, RecursionError):
            return None


def _content(value: Any) -> object:
    """Something hashable that is equal for equal contents. TypeError: what is this?"""
    if value is None or type(value) in (bool, int, float):
        return (type(value), value)
    if type(value) is str:
        if len(value) <= MAX_TEXT:
            return value
        data = value.encode("utf-8", "surrogatepass")
        return (len(data), blake2b(data, digest_size=16).digest())
    if type(value) in (list, tuple):
        return (type(value), *(_content(item) for item in value))
    if type(value) is dict:
        return (dict, *((_content(k), _content(v)) for k, v in value.items()))
    if isinstance(value, BaseModel):
        # Where in the conversation it is (`metadata`) is not what it says.
        fields = (name for name in type(value).model_fields if name != "metadata")
        return (type(value), *(_content(getattr(value, name)) for name in fields))
    raise TypeError(type(value).__name__)


def _is_small(answer: Any) -> bool:
    if type(answer) in (bool, int, float):
        return True
    if type(answer) is str:
        return len(answer) <= MAX_TEXT
    return (
        type(answer) is list
        and len(answer) <= MAX_ITEMS
        and all(type(item) is not list and _is_small(item) for item in answer)
    )


def _copy(answer: Any) -> Any:
    return list(answer) if type(answer) is list else answer
