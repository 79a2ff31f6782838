"""Which program on this machine has a connection: its address -> "pid 123 python agent.py".

The look-up is interception/processes.py's. Here it is done in one thread, and no more than a share
of the time, for it costs the proxy CPU. Nobody waits for it but a call that was refused, and that
for a moment. Best effort, Linux alone.
"""

from __future__ import annotations

import asyncio
import ipaddress
import queue
import threading
import time
from collections import OrderedDict
from pathlib import Path

from ..interception import processes

MAX_KNOWN = 4096
"""Connections whose programs are remembered."""
MAX_RECENT = 8
BUSY_SHARE = 10
"""After a look through all processes there is a pause of so many times what it took."""

type Peer = tuple[str, int]
"""The client's end of a connection: address and port."""


class Programs:
    """Ask `look_up` early, and `name` or `found` later. For one thread."""

    def __init__(self, proc: Path = processes.PROC) -> None:
        self._proc = proc
        self._known: OrderedDict[Peer, str | None] = OrderedDict()  # None: not looked for yet
        self._todo: queue.SimpleQueue[Peer] = queue.SimpleQueue()
        self._has_proc = (proc / "net").is_dir()
        self._recent: OrderedDict[int, None] = OrderedDict()  # pids; the worker's alone
        self._not_before = 0.0
        self._lock = threading.Lock()  # of `known`
        self._worker: threading.Thread | None = None

    def look_up(self, peer: Peer) -> None:
        """Find out who this is, unless it is not on this machine. Returns at once."""
        with self._lock:
            if peer in self._known or not _is_here(peer[0]):
                return
            self._known[peer] = None if self._has_proc else ""
            while len(self._known) > MAX_KNOWN:
                self._known.popitem(last=False)
        if not self._has_proc:
            return
        if self._worker is None:
            self._worker = threading.Thread(
                target=self._work, name="invariant: programs", daemon=True
            )
            self._worker.start()
        self._todo.put(peer)

    def forget(self, peer: Peer) -> None:
        """The connection is over: the next one from there may be another program's."""
        with self._lock:
            self._known.pop(peer, None)

    def name(self, peer: Peer) -> str:
        """ "" if it is not known (yet)."""
        return self._known.get(peer) or ""

    async def found(self, peer: Peer, seconds: float) -> str:
        """The name, as soon as it is known; or what is known after so long."""
        pause, end = 0.001, time.monotonic() + seconds
        while self._known.get(peer, "") is None and time.monotonic() < end:
            await asyncio.sleep(pause)
            pause = min(2 * pause, 0.02)
        return self.name(peer)

    def _work(self) -> None:
        while True:
            peer = self._todo.get()
            if peer not in self._known:
                continue
            found = self._find(peer)
            with self._lock:
                if peer in self._known:
                    self._known[peer] = f"pid {found.pid} {found.label}" if found else ""

    def _find(self, peer: Peer) -> processes.Process | None:
        socket = processes.socket_of(peer, proc=self._proc)
        if socket is None:
            return None
        for pid in reversed(tuple(self._recent)):  # it is mostly the one that called before
            if processes.holds(pid, socket, self._proc):
                return self._remembered(processes.process(pid, self._proc))
        time.sleep(max(self._not_before - time.monotonic(), 0.0))
        if peer not in self._known:  # it left meanwhile
            return None
        began = time.monotonic()
        found = processes.owner(socket, self._proc)
        now = time.monotonic()
        self._not_before = now + BUSY_SHARE * (now - began)
        return self._remembered(found) if found else None

    def _remembered(self, found: processes.Process) -> processes.Process:
        self._recent[found.pid] = None
        self._recent.move_to_end(found.pid)
        while len(self._recent) > MAX_RECENT:
            self._recent.popitem(last=False)
        return found


def _is_here(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
