"""Where each trace goes, and the sender that brings it there.

An Explorer gets a trace if it has a dataset, and by push_rule.py; an OTLP receiver gets all.

A call may bring an Explorer key of its own. Its trace then waits for a sink of its own,
`explorer:<hash of the key>`: the key is kept in memory alone. After a restart such traces wait
until the program calls again.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ..core.trace import Trace
from . import explorer, otlp
from .explorer import ExplorerSink
from .otlp import OtlpSink
from .push_rule import PushRule, is_pushed
from .sender import Sender
from .sink import Sink
from .store import Store
from .stored import StoredOutbox

logger = logging.getLogger(__name__)

UPDATED = (otlp.OtlpSink.name,)
"""Sinks that take a trace once more when findings come late: those that know it by its id."""
HOLD_SECONDS = 60.0
"""What log rules find is waited for, if they are to look: an Explorer takes no updates."""
CALLERS = 64
"""Programs with keys of their own that are served at once."""


@dataclass(frozen=True, slots=True)
class Destinations:
    """explorer, otlp: addresses, "" for none. authorization: the owner's key for the Explorer
    ("Bearer KEY"), None if there is none. otlp_content: also what was said. server: the host that
    the calls are for."""

    explorer: str = ""
    authorization: str | None = field(default=None, repr=False)
    rule: PushRule | Literal["none"] = "none"
    otlp: str = ""
    otlp_headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    otlp_content: bool = False
    server: str = ""


class Shipping:
    """Raises ValueError for what cannot be an address, a header or a key, and
    otlp.MissingPackageError.

    key: of this machine, for the hashes of keys.
    """

    def __init__(self, store: Store, destinations: Destinations, key: bytes) -> None:
        self._to = destinations
        self._key = key
        self._callers: OrderedDict[str, None] = OrderedDict()
        self._adding = threading.Lock()
        sinks: list[Sink] = []
        self._pushes = destinations.rule != "none" and bool(destinations.explorer)
        if self._pushes and destinations.authorization:
            sinks.append(ExplorerSink(destinations.explorer, destinations.authorization))
        if destinations.otlp:
            sinks.append(
                OtlpSink(
                    destinations.otlp,
                    headers=destinations.otlp_headers,
                    content=destinations.otlp_content,
                    server=destinations.server,
                )
            )
        self._sender = Sender(StoredOutbox(store), sinks)
        self._is_used = bool(sinks) or self._pushes

    def start(self) -> None:
        """Send what is due, from earlier times as well. Once."""
        if self._is_used:
            self._sender.start()

    def sinks(self, trace: Trace, callers_key: str | None = None) -> tuple[str, ...]:
        """Those that this trace is to be sent to, as it is now. From any thread.

        callers_key: "Bearer KEY" of the call, if its trace belongs to whoever has it.
        """
        found = []
        to = self._to
        if self._pushes and to.rule != "none" and trace.dataset and is_pushed(trace, to.rule):
            if callers_key is not None and callers_key != to.authorization:
                found.append(self._callers_sink(callers_key))
            elif to.authorization is not None:
                found.append(explorer.NAME)
        if to.otlp:
            found.append(otlp.OtlpSink.name)
        return tuple(found)

    def wake(self) -> None:
        if self._is_used:
            self._sender.wake()

    def stop(self, grace: float) -> None:
        """See Sender.stop."""
        self._sender.stop(grace)

    def _callers_sink(self, authorization: str) -> str:
        """Its name; it is there then."""
        digest = hashlib.blake2b(authorization.encode(), key=self._key[:64], digest_size=6)
        name = f"{explorer.NAME}:{digest.hexdigest()}"
        with self._adding:
            if name in self._callers:
                self._callers.move_to_end(name)
                return name
            self._sender.add(
                ExplorerSink(self._to.explorer, authorization, name=name, is_callers=True)
            )
            self._callers[name] = None
            while len(self._callers) > CALLERS:
                self._sender.remove(self._callers.popitem(last=False)[0])
        return name
