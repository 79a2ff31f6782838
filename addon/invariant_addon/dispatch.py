"""mitmproxy's hook dispatch, without the work for addons that do not listen.

For each hook mitmproxy enters a guard, a generator and a traversal for every one of its three
dozen addons, whether it has such a hook or not: 60 us for each check of a stream, half of the
time of a small request. Skipping those that cannot listen changes nothing else, and neither does
asking but once what an addon of mitmproxy's own listens to (`scripts/bench --only plain-1` shows
the difference).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from mitmproxy import exceptions, hooks, http
from mitmproxy.addonmanager import AddonManager, safecall

_OWN = "mitmproxy."


class LeanAddonManager(AddonManager):
    _seen: tuple[int, ...] = ()
    _kept: tuple[Any, ...] = ()
    _listeners: dict[str, tuple[Any, ...]]

    async def trigger_event(self, event: hooks.Hook) -> None:
        for addon in self._listening(event.name):
            try:
                await self.invoke_addon(addon, event)
            except exceptions.AddonHalt:
                return
            except Exception:  # the edge, as in mitmproxy: an addon's failure is its own
                with safecall():
                    raise

    async def invoke_addon(self, addon: Any, event: hooks.Hook) -> None:
        """As its parent. The name counts: safecall looks for it in tracebacks."""
        arguments = event.args()
        for _, listen in self._iter_hooks(addon, event):
            result = listen(*arguments)
            if result is not None and inspect.isawaitable(result):
                await result

    def _listening(self, name: str) -> tuple[Any, ...]:
        """Those of the chain that may have this hook."""
        seen = tuple(map(id, self.chain))
        if seen != self._seen:  # kept, so that no id is another's meanwhile
            self._seen, self._kept, self._listeners = seen, tuple(self.chain), {}
        if name not in self._listeners:
            self._listeners[name] = tuple(a for a in self.chain if not _is_deaf(a, name))
        return self._listeners[name]


def _is_deaf(addon: Any, name: str) -> bool:
    """Whether it never has this hook. Others' addons may get one, or children, at any time."""
    is_own = type(addon).__module__.startswith(_OWN)
    return is_own and not (hasattr(addon, name) or hasattr(addon, "addons"))


def _once_for_all_of_a_kind(check: Callable[[Any], None]) -> Callable[[Any], None]:
    """A check of the types of an object's fields, done once for each combination of types."""
    passed: set[tuple[type, ...]] = set()

    def lean_check(self: Any) -> None:
        types = (type(self), *map(type, vars(self).values()))
        if types not in passed:
            check(self)
            passed.add(types)

    return lean_check


def relieve(manager: AddonManager) -> None:
    """Done once; an addon manager of somebody else's making is left alone."""
    if type(manager) is AddonManager:
        manager.__class__ = LeanAddonManager
    # What mitmproxy's own parser made takes 5 % of a small call to check, for debugging.
    check = vars(http.MessageData).get("__post_init__")
    if check is not None and check.__module__ == http.MessageData.__module__:
        http.MessageData.__post_init__ = _once_for_all_of_a_kind(check)  # type: ignore[method-assign]  # on purpose
