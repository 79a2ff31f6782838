"""The two ends of a connection on this machine -> the process that made it. Linux alone.

The kernel's table of TCP sockets names each by a number, and each process has links to the numbers
it holds. Both are read from /proc, and nothing else is known here. The look-up takes milliseconds
(10 with 100 processes), so it belongs into a thread; and the connection has to be open still.
Elsewhere, or where /proc does not tell, the answer is None.

What is said of a process is its program and its script, never its arguments: they hold keys.
"""

from __future__ import annotations

import ipaddress
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

PROC = Path("/proc")

type Address = tuple[str, int]

_SCRIPT = re.compile(r"\.(py|pyw|pyz|js|cjs|mjs|ts|mts|cts|tsx|jsx|jar|rb|php|pl|sh)$")
_MODULE = re.compile(r"[A-Za-z_][\w.]*", re.ASCII)
_CODE = frozenset(("-c", "-e", "-E", "-p", "-r", "--eval", "--print"))
"""Options of interpreters that a program's text follows."""
_MOST_BYTES = 1_048_576  # of a file in /proc


@dataclass(frozen=True, slots=True)
class Process:
    """program: the base name of what runs. script: that of what it interprets, or ""."""

    pid: int
    program: str
    script: str = ""

    @property
    def label(self) -> str:
        """For people: `python3.13 agent.py`."""
        return f"{self.program} {self.script}".strip()


@dataclass(frozen=True, slots=True)
class Socket:
    """A line of the kernel's table. inode: its number. uid: whose it is."""

    local: Address
    remote: Address
    inode: int
    uid: int


def find(client: Address, proxy: Address, proc: Path = PROC) -> Process | None:
    """Whose connection it is that comes from `client` to `proxy`, as the proxy sees both."""
    socket = socket_of(client, proxy, proc)
    return owner(socket, proc) if socket else None


def socket_of(client: Address, proxy: Address | None = None, proc: Path = PROC) -> Socket | None:
    """The client's end of its connection to `proxy`, or to anybody."""
    if proc is PROC and not sys.platform.startswith("linux"):
        return None
    local, remote = _plain(client), _plain(proxy) if proxy else None
    port = f":{client[1]:04X} "  # of thousands of lines, a few are worth reading
    for table in ("tcp", "tcp6"):
        head, *lines = _read(proc / "net" / table).splitlines() or [""]
        for socket in sockets("\n".join((head, *(line for line in lines if port in line)))):
            if socket.inode and socket.local == local and remote in (None, socket.remote):
                return socket
    return None


def sockets(table: str) -> Iterator[Socket]:
    """The sockets in a table of /proc/net; lines that are none are passed over."""
    for line in table.splitlines()[1:]:
        fields = line.split()
        try:
            local, remote = _address(fields[1]), _address(fields[2])
            yield Socket(local, remote, inode=int(fields[9]), uid=int(fields[7]))
        except (ValueError, IndexError):
            continue


def is_listening(port: int, proc: Path = PROC) -> bool:
    """Whether something on this machine waits for connections to this port."""
    both = (sockets(_read(proc / "net" / table)) for table in ("tcp", "tcp6"))
    return any(s.local[1] == port and s.remote[1] == 0 for table in both for s in table)


def describe(pid: int, arguments: Sequence[str], executable: str = "") -> Process:
    """What may be said of a process with this command line.

    executable: what the kernel says that runs; it goes before what the process calls itself.
    """
    named = arguments[0] if arguments else ""
    own = executable.removesuffix(" (deleted)")
    program = PurePath(own or named).name or "?"
    return Process(pid, _shown(program), _shown(_script(arguments[1:])))


def _script(arguments: Iterable[str]) -> str:
    rest = iter(arguments)
    for argument in rest:
        if argument == "-m" and _MODULE.fullmatch(module := next(rest, "")):
            return f"-m {module}"
        if argument in _CODE:
            return ""
        if _SCRIPT.search(argument) and "=" not in argument:
            return PurePath(argument).name
        if not argument.startswith("-"):
            # `node cli`, a program that is a script without an ending; or any other argument.
            return PurePath(argument).name if argument.startswith("/") else ""
    return ""


def _shown(text: str) -> str:
    """One line of at most 80 characters: a program may call itself what it likes."""
    return "".join(c if c.isprintable() else "?" for c in text)[:80]


def owner(socket: Socket, proc: Path = PROC) -> Process | None:
    """The process that holds this socket: a look through all that may be looked at."""
    try:
        pids = [int(name) for name in os.listdir(proc) if name.isdigit()]  # noqa: PTH208 - faster
    except OSError:
        return None
    # Those of its user first, the youngest first: the others could not be read, as a rule.
    pids.sort(key=lambda pid: (_uid(proc / str(pid)) != socket.uid, -pid))
    for pid in pids:
        if holds(pid, socket, proc):
            return process(pid, proc)
    return None


def process(pid: int, proc: Path = PROC) -> Process:
    return describe(pid, _command_line(proc / str(pid)), _executable(proc / str(pid)))


def holds(pid: int, socket: Socket, proc: Path = PROC) -> bool:
    folder, link = proc / str(pid) / "fd", f"socket:[{socket.inode}]"
    try:
        entries = os.listdir(folder)  # noqa: PTH208 - as above
    except OSError:
        return False
    for entry in entries:
        try:
            if os.readlink(f"{folder}/{entry}") == link:  # noqa: PTH115 - as above
                return True
        except OSError:
            continue  # closed while we looked
    return False


def _command_line(process: Path) -> list[str]:
    # Some programs write their title over it: then it is one text, with spaces.
    return [part for part in _read(process / "cmdline").split("\0") if part]


def _executable(process: Path) -> str:
    try:
        return str((process / "exe").readlink())
    except OSError:
        return ""


def _uid(process: Path) -> int:
    try:
        return process.stat().st_uid
    except OSError:
        return -1


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_MOST_BYTES).decode(errors="replace")
    except OSError:
        return ""


def _address(text: str) -> Address:
    """`0100007F:1F90` -> ("127.0.0.1", 8080). Words of the address are in the machine's order."""
    number, port = text.split(":")
    raw = bytes.fromhex(number)
    if sys.byteorder == "little":
        raw = b"".join(raw[at : at + 4][::-1] for at in range(0, len(raw), 4))
    return _plain((str(ipaddress.ip_address(raw)), int(port, 16)))


def _plain(address: Address) -> Address:
    """An IPv4 address, also where an IPv6 socket holds it; without the name of an interface."""
    try:
        parsed = ipaddress.ip_address(address[0].partition("%")[0])
    except ValueError:
        return address
    mapped = getattr(parsed, "ipv4_mapped", None)
    return str(mapped or parsed), address[1]
