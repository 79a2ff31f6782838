"""Modules that are imported when somebody uses them, and not before. Standard library only.

invariant-ai imports openai and aiohttp with itself, for what asks a model or a service. Rules that
ask neither need neither, and together they are more than half of a worker's start.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType, ModuleType
from typing import Any

LIBRARY: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "aiohttp": ("ClientResponse",),
        "openai": ("AsyncClient", "AsyncOpenAI"),
        "rich.pretty": ("pprint",),
    }
)
"""What invariant-ai takes from each while it is imported: for an annotation, or for later."""


@contextmanager
def late_imports(modules: Mapping[str, tuple[str, ...]] = LIBRARY) -> Iterator[None]:
    """What is imported in here gets stand-ins of these modules, with these classes. Whoever
    imports them afterwards gets the modules."""
    stands = {n: _Late(n, classes) for n, classes in modules.items() if n not in sys.modules}
    sys.modules.update(stands)
    try:
        yield
    finally:
        for name, stand in stands.items():
            if sys.modules.get(name) is stand:
                del sys.modules[name]


class _Late(ModuleType):
    def __init__(self, name: str, classes: tuple[str, ...]) -> None:
        super().__init__(name)
        self.__dict__.update({c: _late_class(name, c) for c in classes})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # `from x import y` asks whether it is a package
            raise AttributeError(name)
        return _real(self.__name__, name)


def _late_class(module: str, name: str) -> type:
    """A class that makes instances of the real one."""

    def make(_: type, *args: Any, **kwargs: Any) -> Any:
        return _real(module, name)(*args, **kwargs)

    return type(name, (), {"__new__": make, "__module__": module})


def _real(module: str, name: str) -> Any:
    if isinstance(sys.modules.get(module), _Late):
        del sys.modules[module]
    return getattr(importlib.import_module(module), name)
