"""Which process a connection belongs to, with the kernel's own tables and with planted ones."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invariant_addon.interception.processes import Process, describe, find, sockets

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n"
LINE = "   0: {} {} 01 00000000:00000000 00:00000000 00000000  {}        0 {} 1 0 20 4 30 10 -1\n"
CLIENT = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
connection = socket.socket(family)
connection.connect((sys.argv[1], int(sys.argv[2])))
print("connected", flush=True)
sys.stdin.read()
"""

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
little = pytest.mark.skipif(sys.byteorder != "little", reason="tables are in the machine's order")


@linux
@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_the_process_of_a_real_connection_is_named(tmp_path: Path, address: str) -> None:
    """Java speaks IPv4 through IPv6 sockets, so one table does not do."""
    script = tmp_path / "agent.py"
    script.write_text(CLIENT)
    family = socket.AF_INET6 if address == "::1" else socket.AF_INET
    try:
        listener = socket.create_server(
            ("::1" if address == "::1" else "127.0.0.1", 0), family=family
        )
    except OSError as error:
        pytest.skip(f"{address}: {error}")
    with listener:
        port = listener.getsockname()[1]
        with subprocess.Popen(
            [sys.executable, script, address, str(port), "--key", "sk-not-for-others"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as child:
            assert child.stdout and child.stdout.readline() == b"connected\n"
            accepted, peer = listener.accept()
            with accepted:
                found = find(peer[:2], accepted.getsockname()[:2])
            child.communicate()
    assert found is not None
    assert (found.pid, found.script) == (child.pid, "agent.py")
    assert found.program == Path(sys.executable).resolve().name
    assert "sk-" not in found.label


@linux
def test_nobody_is_named_for_a_connection_that_is_not_there() -> None:
    """It has closed meanwhile, or comes from another machine."""
    assert find(("127.0.0.1", 1), ("127.0.0.1", 2)) is None


@little
def test_the_other_end_of_the_same_connection_is_not_taken(tmp_path: Path) -> None:
    """The proxy's own socket has the same ports, the other way round."""
    here, there = "0100007F:C350", "0100007F:1F90"
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "tcp").write_text(
        HEAD + LINE.format(there, here, os.getuid(), 7) + LINE.format(here, there, os.getuid(), 8)
    )
    for pid, inode, name in ((40, 7, "mitmdump"), (41, 8, "agent")):
        (tmp_path / str(pid) / "fd").mkdir(parents=True)
        (tmp_path / str(pid) / "fd" / "3").symlink_to(f"socket:[{inode}]")
        (tmp_path / str(pid) / "cmdline").write_bytes(f"/opt/{name}\0--flag\0".encode())
    assert find(("127.0.0.1", 50000), ("127.0.0.1", 8080), tmp_path) == Process(41, "agent")
    assert find(("::ffff:127.0.0.1", 50000), ("127.0.0.1", 8080), tmp_path) == Process(41, "agent")
    assert find(("127.0.0.1", 50000), ("127.0.0.1", 8081), tmp_path) is None


def test_a_machine_without_the_tables_has_no_answer(tmp_path: Path) -> None:
    """macOS, a locked-down container: then nobody is named, and nothing fails."""
    assert find(("127.0.0.1", 50000), ("127.0.0.1", 8080), tmp_path) is None


@pytest.mark.parametrize(
    ("arguments", "executable", "label"),
    [
        (["python", "agent.py", "--key=sk-1"], "/usr/bin/python3.13", "python3.13 agent.py"),
        (["python", "-X", "dev", "/srv/agent.py"], "", "python"),
        (["/usr/bin/python3", "-m", "agents.main", "sk-1"], "", "python3 -m agents.main"),
        (["python", "-c", "key = 'sk-1'; call(key)"], "", "python"),
        (["node", "/opt/x/node_modules/.bin/codex", "sk-1"], "", "node codex"),
        (["java", "-cp", "lib", "-jar", "agent.jar"], "", "java"),
        (["curl", "-H", "Authorization: Bearer sk-1", "https://x"], "", "curl"),
        (["curl", "sk-1"], "", "curl"),
        (["node", "-e", "/sk-1/.test(x)"], "", "node"),
        (["claude --key sk-1"], "/usr/bin/node", "node"),
        (["agent"], "/opt/agent (deleted)", "agent"),
        ([], "", "?"),
        (["a\nb\x1b[31m"], "", "a?b?[31m"),
    ],
)
def test_a_label_says_what_runs_and_never_its_arguments(
    arguments: list[str], executable: str, label: str
) -> None:
    """It goes into logs, and keys are given as arguments every day."""
    assert describe(1, arguments, executable).label == label


@given(st.text(max_size=200))
def test_a_table_of_any_kind_is_read(text: str) -> None:
    """Kernels add columns, and /proc may be mounted from elsewhere."""
    list(sockets(text))
    list(sockets(f"{HEAD}{text}"))
