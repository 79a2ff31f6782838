"""Traces in a folder that may only be read: all of them are seen, and nothing is written there."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from invariant_addon.core.trace import Trace
from invariant_addon.traces import read_only
from invariant_addon.traces.archive import FILE, ReadOnly, Wanted, kept
from invariant_addon.traces.database import StoreError
from invariant_addon.traces.store import Store

ROOT = Path(__file__).parents[2]
KILLED = """
import os, signal, sqlite3, sys
from pathlib import Path
from invariant_addon.core.trace import Trace
from invariant_addon.traces.store import Store
def trace(name):
    return Trace(name, 1.0, "judged", "chat", "m", False, {}, ({"role": "user", "content": name},))
path = Path(sys.argv[1])
store = Store(path)
store.open()
store.add(trace("inv_in_the_wal"))
locker = sqlite3.connect(path, isolation_level=None)
store.write_behind(lambda: None)
locker.execute("BEGIN IMMEDIATE")
assert store.add(trace("inv_in_the_journal"))
os.kill(os.getpid(), signal.SIGKILL)
"""


def trace(name: str) -> Trace:
    return Trace(name, 1.0, "blocked", "chat", "m", False, {}, ({"role": "user", "content": name},))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One trace in the file, which was closed."""
    store = Store(tmp_path / "data" / FILE)
    store.add(trace("inv_closed"))
    store.close()
    return tmp_path / "data"


def kill_a_proxy(folder: Path) -> None:
    """One trace more in the WAL, and one in the journal."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "addon")}
    command = [sys.executable, "-c", KILLED, str(folder / FILE)]
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL
    assert (folder / f"{FILE}-wal").stat().st_size and list(folder.glob("*.journal.*"))


def content(folder: Path) -> dict[str, bytes]:
    # SQLite may write its read marks into the -shm; only this user can be told from a file system.
    return {p.name: p.read_bytes() for p in folder.iterdir() if not p.name.endswith("-shm")}


def ids(archive: ReadOnly) -> set[str]:
    return {each.id for each in archive.page(10, None, Wanted())}


@pytest.mark.parametrize("has_shm", [True, False])
def test_what_a_killed_proxy_left_is_read(folder: Path, tmp_path: Path, has_shm: bool) -> None:
    """A copied folder has no -shm; a killed proxy's has. Its journal is read in both."""
    kill_a_proxy(folder)
    if not has_shm:
        (folder / f"{FILE}-shm").unlink()
    before = content(folder)
    archive = ReadOnly(folder / FILE)
    assert ids(archive) == {"inv_closed", "inv_in_the_wal", "inv_in_the_journal"}
    assert archive.get("inv_in_the_journal") is not None
    assert archive.stats().traces == 3
    with pytest.raises(StoreError, match="can only be read here"):
        archive.revive("")
    assert content(folder) == before


@pytest.mark.parametrize("is_empty", [True, False])
def test_what_was_killed_before_there_was_a_file_is_read(
    folder: Path, monkeypatch, is_empty: bool
) -> None:
    """A journal is all that there is in the first hundredths of a second, or on a full disk."""
    kill_a_proxy(folder)
    for file in folder.glob(f"{FILE}*"):
        if ".journal." not in file.name:
            file.unlink()
    if is_empty:
        (folder / FILE).touch(0o600)
    before = content(folder)
    access = os.access

    def may(path: Path, mode: int) -> bool:
        return not (path == folder and mode & os.W_OK) and access(path, mode)

    monkeypatch.setattr(os, "access", may)
    archive = kept(folder)
    assert isinstance(archive, ReadOnly)
    assert ids(archive) == {"inv_in_the_journal"} and content(folder) == before
    for file in folder.iterdir():
        file.unlink()
    assert not isinstance(kept(folder), ReadOnly)


def test_no_copy_outlives_the_question(folder: Path, tmp_path: Path, monkeypatch) -> None:
    """It holds what people said. It is in nobody else's reach, and gone before the answer."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    kill_a_proxy(folder)
    seen: list[int] = []
    real = read_only._copy

    def copy(source: Path, target: Path) -> None:
        real(source, target)
        seen.extend(p.stat().st_mode & 0o077 for p in (target, target.parent))

    monkeypatch.setattr(read_only, "_copy", copy)
    assert len(ids(ReadOnly(folder / FILE))) == 3
    assert seen and not any(seen)
    assert not list((tmp_path / "temporary").iterdir())


def test_a_running_proxy_is_read_beside(folder: Path) -> None:
    """Its traces stand in the WAL; somebody else reads them by a mount, say."""
    proxy = Store(folder / FILE)
    proxy.add(trace("inv_new"))
    archive = ReadOnly(folder / FILE)
    assert ids(archive) == {"inv_closed", "inv_new"}
    proxy.add(trace("inv_newer"))
    assert "inv_newer" in ids(archive)
    proxy.close()


def test_the_usual_way_is_taken_where_it_can_be(folder: Path, monkeypatch) -> None:
    """And where there are no traces yet, that is what is said."""
    assert not isinstance(kept(folder), ReadOnly)
    real = os.access
    monkeypatch.setattr(os, "access", lambda p, mode: not mode & os.W_OK and real(p, mode))
    assert isinstance(kept(folder), ReadOnly)
    assert not isinstance(kept(folder / "nothing"), ReadOnly)


@pytest.mark.parametrize("data", [b"", b"no database" * 999])
def test_a_file_of_something_else_is_refused(tmp_path: Path, data: bytes) -> None:
    """With a sentence, and not a traceback."""
    (tmp_path / FILE).write_bytes(data)
    with pytest.raises(StoreError, match=FILE):
        ReadOnly(tmp_path / FILE).stats()
    (tmp_path / FILE).unlink()
    with sqlite3.connect(tmp_path / FILE) as other:
        other.execute("CREATE TABLE x (y)")
    other.close()
    with pytest.raises(StoreError, match="not a file of traces"):
        ReadOnly(tmp_path / FILE).stats()


def test_who_may_not_read_it_is_told_so(folder: Path, monkeypatch) -> None:
    """SQLite says: unable to open database file."""
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(StoreError, match="you may not read it"):
        ReadOnly(folder / FILE).stats()


def can_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    done = subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False)
    return done.returncode == 0


@pytest.mark.skipif(not can_mount(), reason="needs a mount namespace (unshare -rm)")
@pytest.mark.parametrize("is_killed", [True, False])
def test_the_command_reads_a_read_only_file_system(folder: Path, is_killed: bool) -> None:
    """A backup, a snapshot, a volume that a container has with :ro."""
    if is_killed:
        kill_a_proxy(folder)
    mount = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && shift && exec "$@"'

    def run(*arguments: str) -> tuple[str, str]:
        command = [str(ROOT / "scripts" / "traces"), *arguments, "--data", str(folder)]
        done = subprocess.run(
            ["unshare", "-rm", "sh", "-c", mount, "sh", str(folder), *command],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout, done.stderr

    count = 3 if is_killed else 1
    listed, said = run("list", "--json")
    assert len(listed.splitlines()) == count
    assert "can only be read here" in said and said.count("\n") == 1
    assert "inv_closed" in run("show", "inv_closed")[0]
    assert json.loads(run("stats", "--json")[0])["traces"] == count
    assert len(run("export")[0].splitlines()) == count


def test_it_is_not_said_of_a_running_proxy_that_its_rules_never_looked(folder: Path) -> None:
    """They are looking. Whoever reads a copy of its journal cannot tell it from a killed one's."""
    proxy = Store(folder / FILE)
    proxy.write_behind(lambda: None)
    proxy.add(replace(trace("inv_new"), status="judged"), hold=60.0)
    proxy.settle()
    with sqlite3.connect(folder / FILE) as locker:
        locker.execute("BEGIN IMMEDIATE")
        proxy.add(replace(trace("inv_newer"), status="judged"), hold=60.0)
        archive = ReadOnly(folder / FILE)
        assert ids(archive) == {"inv_closed", "inv_new", "inv_newer"}
        assert archive.stats().unlooked == 0
    locker.close()
    proxy.close()
