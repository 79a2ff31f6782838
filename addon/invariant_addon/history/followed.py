"""Conversations whose every change came by here, so that they need not be asked for each time.

A conversation can be written to in many ways: by replies, several at once, and by its own
endpoints, with any key that may. Each of them begins a new epoch of it. What was known of it counts
only if nothing has begun since; else it is asked for again. In memory alone, for after a restart
nobody knows what came by meanwhile.
"""

from __future__ import annotations

import re
from collections import OrderedDict

from .codec import Scope
from .store import Turn

_MOST = 2_000
_WRITTEN = re.compile(r"/v1/conversations/([^/]+)(?:/.*)?", re.IGNORECASE)


class Followed:
    def __init__(self) -> None:
        self._epochs: OrderedDict[str, int] = OrderedDict()
        self._turns: OrderedDict[bytes, tuple[int, Turn]] = OrderedDict()
        self._epoch = 0

    def find(self, scope: Scope, name: str) -> Turn | None:
        found = self._turns.get(scope.name("conversation", name))
        return found[1] if found is not None and found[0] == self._epochs.get(name) else None

    def stir(self, name: str) -> int:
        """Something is written to it from now on. The epoch that begins."""
        self._epoch += 1
        self._epochs[name] = self._epoch
        self._epochs.move_to_end(name)
        while len(self._epochs) > 2 * _MOST:
            self._epochs.popitem(last=False)
        return self._epoch

    def follow(self, scope: Scope, name: str, turn: Turn, epoch: int | None) -> None:
        """This is all of it, if nothing else has begun since this epoch did."""
        if epoch is None or self._epochs.get(name) != epoch:
            self.stir(name)  # what has begun since does not know of this
            return
        key = scope.name("conversation", name)
        self._turns[key] = (epoch, turn)
        self._turns.move_to_end(key)
        while len(self._turns) > _MOST:
            self._turns.popitem(last=False)

    def note(self, method: str, path: str) -> None:
        """A call to one of its own endpoints. path: see core.endpoints.normal_path."""
        written = _WRITTEN.fullmatch(path)
        if written and method.upper() not in ("GET", "HEAD", "OPTIONS"):
            self.stir(written[1])
