"""Which program on this machine has a connection: its address -> "pid 123 python agent.py".

Best effort, and on Linux only: /proc/net/tcp says which socket has a port, /proc/PID/fd whose it
is. Of the command line only the names of the program and of its script are told: arguments can be
secrets. The work is done in one thread, so that nobody waits for it, and no more than a share of
the time, for it costs the proxy CPU.
"""

from __future__ import annotations

import ipaddress
import os
import queue
import re
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")
MAX_KNOWN = 4096
"""Connections whose programs are remembered."""
BUSY_SHARE = 10
"""After a look through all processes there is a pause of so many times what it took."""
_SCRIPT = re.compile(r"[\w.+-]{1,60}\.(py|pyz|js|mjs|cjs|ts|mts|rb|php|pl|sh|jar)")
_CODE = frozenset(("-c", "-e", "-E", "-p", "-r", "--eval", "--print"))
"""Options of interpreters that a program's text follows."""
_MODULE = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,60}")
_NAME = 60

type Peer = tuple[str, int]
"""The client's end of a connection: address and port."""


class Programs:
    """Ask `look_up` early, and `name` later. For one thread."""

    def __init__(self, proc: Path = PROC) -> None:
        self._proc = proc
        self._known: OrderedDict[Peer, str] = OrderedDict()
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
            self._known[peer] = ""
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
        return self._known.get(peer, "")

    def _work(self) -> None:
        while True:
            peer = self._todo.get()
            if peer not in self._known:
                continue
            try:
                found = self._find(peer)
            except (OSError, ValueError):  # it ended while we looked, or /proc is not as usual
                continue
            with self._lock:
                if peer in self._known:
                    self._known[peer] = found

    def _find(self, peer: Peer) -> str:
        inode = self._inode(peer)
        if not inode:
            return ""
        socket = f"socket:[{inode}]"
        for pid in reversed(tuple(self._recent)):  # it is mostly the one that called before
            if self._has(pid, socket):
                return self._told(pid)
        time.sleep(max(self._not_before - time.monotonic(), 0.0))
        if peer not in self._known:  # it left meanwhile
            return ""
        began = time.monotonic()
        try:
            for pid in self._pids():
                if pid not in self._recent and self._has(pid, socket):
                    return self._told(pid)
        finally:
            took = time.monotonic() - began
            self._not_before = time.monotonic() + BUSY_SHARE * took
        return ""

    def _inode(self, peer: Peer) -> str:
        address = ipaddress.ip_address(peer[0])
        for name in ("tcp",) if address.version == 4 else ("tcp6",):
            wanted = f"{_in_hex(address)}:{peer[1]:04X}"
            # Its local end is what is the client's end here.
            for line in (self._proc / "net" / name).read_text().splitlines()[1:]:
                if wanted in line and (fields := line.split())[1] == wanted:
                    return fields[9] if fields[9] != "0" else ""
        return ""

    def _pids(self) -> Iterator[int]:
        """The youngest first: they are programs rather than services."""
        found = (int(entry.name) for entry in self._proc.iterdir() if entry.name.isdecimal())
        yield from sorted(found, reverse=True)

    def _has(self, pid: int, socket: str) -> bool:
        folder = self._proc / str(pid) / "fd"
        try:
            with os.scandir(folder) as entries:
                # Half of what Path.readlink takes.
                return any(os.readlink(entry) == socket for entry in entries)  # noqa: PTH115
        except OSError:  # another user's, or gone
            return False

    def _told(self, pid: int) -> str:
        self._recent[pid] = None
        self._recent.move_to_end(pid)
        while len(self._recent) > 8:
            self._recent.popitem(last=False)
        command = (self._proc / str(pid) / "cmdline").read_bytes().split(b"\0")
        words = [word.decode(errors="replace") for word in command]
        return " ".join((f"pid {pid}", *_names(words)))


def _is_here(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _in_hex(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """As the kernel prints it: in words of four bytes, each in this machine's order."""
    packed = address.packed
    words = (packed[n : n + 4] for n in range(0, len(packed), 4))
    return "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words)


def _names(words: list[str]) -> Iterator[str]:
    """The program, and the script or module that it runs, if it is an interpreter."""
    yield _plain(Path(words[0]).name)
    for word, following in zip(words[1:3], [*words[2:], ""], strict=False):
        if word == "-m" and _MODULE.fullmatch(following):
            yield f"-m {following}"
            return
        if word in _CODE:
            return
        if not word.startswith("-"):
            name = Path(word).name
            if _SCRIPT.fullmatch(name):
                yield _plain(name)
            return


def _plain(name: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in name)[:_NAME]
