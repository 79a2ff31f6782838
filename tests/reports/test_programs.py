"""Who calls: the program behind a connection, without its arguments."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from invariant_addon.interception import processes
from invariant_addon.reports.programs import Peer, Programs

SECRET = "sk-secret-argument"
CALLER = (
    "import socket, sys, time; s = socket.create_connection(('{host}', {port}));"
    "print('in', flush=True); sys.stdin.read()"
)

pytestmark = pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="not Linux")


def eventually(is_so: Callable[[], bool]) -> bool:
    until = time.monotonic() + 10
    while not is_so():
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


@contextlib.contextmanager
def listening(host: str) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as server:
        try:
            server.bind((host, 0))
        except OSError:
            pytest.skip(f"no {host} here")
        server.listen()
        yield server


@contextlib.contextmanager
def calling(command: list[str], server: socket.socket) -> Iterator[tuple[int, Peer]]:
    """A program that is connected: its pid, and its end."""
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    connection, address = server.accept()
    with connection:
        yield child.pid, (address[0], address[1])
    child.communicate()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_program_is_told_by_its_name_and_script(tmp_path: Path, host: str) -> None:
    """Not by its arguments: some are keys."""
    with listening(host) as server:
        script = tmp_path / "agent.py"
        script.write_text(CALLER.format(host=host, port=server.getsockname()[1]))
        command = [sys.executable, "-I", str(script), "--key", SECRET]
        with calling(command, server) as (pid, peer):
            programs = Programs()
            programs.look_up(peer)
            assert eventually(lambda: bool(programs.name(peer))), "it was not found"
            name = Path(sys.executable).resolve().name
            assert programs.name(peer) == f"pid {pid} {name} agent.py"
            programs.forget(peer)
            assert programs.name(peer) == ""


def test_code_on_the_command_line_is_not_told() -> None:
    """`python -c` has it all there."""
    with listening("127.0.0.1") as server:
        code = CALLER.format(host="127.0.0.1", port=server.getsockname()[1]) + f"  # /{SECRET}.py"
        with calling([sys.executable, "-c", code], server) as (pid, peer):
            programs = Programs()
            programs.look_up(peer)
            assert eventually(lambda: bool(programs.name(peer))), "it was not found"
            assert programs.name(peer) == f"pid {pid} {Path(sys.executable).resolve().name}"


def test_who_waits_gets_the_name(tmp_path: Path) -> None:
    """A call is refused sooner than its program is found, and of all calls it is asked of these."""
    with listening("127.0.0.1") as server:
        script = tmp_path / "agent.py"
        script.write_text(CALLER.format(host="127.0.0.1", port=server.getsockname()[1]))
        with calling([sys.executable, "-I", str(script)], server) as (pid, peer):
            programs = Programs()
            programs.look_up(peer)
            assert asyncio.run(programs.found(peer, 30)).startswith(f"pid {pid} ")


def test_nobody_waits_for_whom_nobody_finds(tmp_path: Path) -> None:
    """It is over before the time is, or this test does not end."""
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "tcp").write_text("head\n")
    programs = Programs(tmp_path)
    for peer in (("127.0.0.1", 80), ("192.0.2.1", 80)):
        programs.look_up(peer)
        assert asyncio.run(programs.found(peer, 1e9)) == ""
    programs.look_up(("127.0.0.1", 81))
    programs.forget(("127.0.0.1", 81))
    assert asyncio.run(programs.found(("127.0.0.1", 81), 1e9)) == ""


def test_nobody_waits_for_longer_than_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The refusal goes out, and the trace is kept, without a name."""
    (tmp_path / "net").mkdir()
    may_look = threading.Event()
    monkeypatch.setattr(processes, "socket_of", lambda *_, **__: may_look.wait(60) and None)
    programs = Programs(tmp_path)
    programs.look_up(("127.0.0.1", 80))
    assert asyncio.run(programs.found(("127.0.0.1", 80), 0.01)) == ""
    may_look.set()


def test_who_is_not_here_is_not_looked_for(tmp_path: Path) -> None:
    """Its port means nothing on this machine; and elsewhere there is no /proc."""
    programs = Programs(tmp_path / "proc")
    for peer in (("192.0.2.1", 80), ("", 0), ("no address", 1), ("127.0.0.1", 1)):
        programs.look_up(peer)
        assert programs.name(peer) == ""


def test_a_proc_that_is_not_as_usual_is_no_trouble(tmp_path: Path) -> None:
    """It is another kernel's, or a sandbox's; the next one is looked for all the same."""
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "tcp").write_text("head\n 0: 0100007F:0050 garbage\n")
    programs = Programs(tmp_path)
    programs.look_up(("127.0.0.1", 80))
    (tmp_path / "123" / "fd").mkdir(parents=True)
    (tmp_path / "123" / "cmdline").write_bytes(b"/usr/bin/node\0-x\0/home/a b/run.mjs\0")
    (tmp_path / "123" / "fd" / "5").symlink_to("socket:[77]")
    line = " 1: 0100007F:0051 0100007F:1F90 01 00000000:00000000 00:00000000 00000000 0 0 77 1\n"
    (tmp_path / "net" / "tcp").write_text("head\n" + line)
    programs.look_up(("127.0.0.1", 81))
    assert eventually(lambda: programs.name(("127.0.0.1", 81)) == "pid 123 node run.mjs")
