"""The journal: bytes in, the same bytes out after a crash, and nothing from strangers."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invariant_addon.traces import journal, journals, records
from invariant_addon.traces.entry import Entry, EntryError, entry_of, record
from invariant_addon.traces.journal import Journal, JournalError
from invariant_addon.traces.journals import abandoned

pytestmark = pytest.mark.skipif(not journal.IS_POSSIBLE, reason="needs locks on files")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "data" / "traces.db"


def left_by_a_killed_one(store: Path, *given: bytes) -> Path:
    """What is there after a `kill -9`: the lock is gone, the file is not."""
    mine = Journal(store)
    for one in given:
        mine.append(one)
    mine.close(keep=True)
    (path,) = store.parent.glob("traces.db.journal.*")
    return path


def found(store: Path) -> list[bytes]:
    return [one for left in abandoned(store) for one, _ in left.records()]


@given(given=st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=5))
def test_what_was_appended_is_found_after_a_crash(given: list[bytes]) -> None:
    """Any bytes at all: a trace may hold whatever a model says."""
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "data" / "traces.db"
        left_by_a_killed_one(store, *given)
        assert found(store) == given


@given(given=st.lists(st.binary(min_size=1, max_size=50), min_size=1, max_size=4), data=st.data())
def test_a_torn_journal_gives_what_was_whole(given: list[bytes], data: st.DataObject) -> None:
    """Killed in the middle of a write, or a disk that lost the end."""
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "data" / "traces.db"
        path = left_by_a_killed_one(store, *given)
        whole = path.read_bytes()
        end = data.draw(st.integers(0, len(whole)))
        junk = data.draw(st.binary(max_size=20))
        path.write_bytes(whole[:end] + junk)
        got = found(store)
        assert got[: len(given)] == given[: len(got)]
        if end == len(whole):
            assert got[: len(given)] == given


def test_zeros_are_no_records(store: Path) -> None:
    """A power failure can leave them where something was to be; eight would be an empty record."""
    path = left_by_a_killed_one(store, b"1")
    with path.open("ab") as file:
        file.write(bytes(8 * 1000))
    for left in abandoned(store):
        ((one, end),) = left.records()
        assert one == b"1" and left.size - end == 8000


@given(noise=st.binary(max_size=200))
def test_noise_is_no_record(noise: bytes) -> None:
    """Whatever is in a file of that name: no exception."""
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "traces.db"
        path = store.with_name("traces.db.journal.00000000")
        path.touch(0o600)
        path.write_bytes(noise)
        list(abandoned(store))
        path.touch(0o600)
        path.write_bytes(records.MAGIC + noise)
        for one in found(store):
            assert one in noise


@given(data=st.binary(max_size=100))
def test_a_record_is_an_entry_or_an_error(data: bytes) -> None:
    """Bytes with a right check sum may still be of another version."""
    try:
        entry = entry_of(data)
    except EntryError:
        return
    assert entry_of(record(entry)) == entry


@pytest.mark.parametrize(
    "entry",
    [
        Entry("a", b'{"a": "\\n"}\n\n', 1.5, sinks=("explorer", "otlp")),
        Entry("a", b"{}", 1.5, sinks=()),
        Entry("b", b"{}", 0.0, updates=("otlp",), also=("explorer",), is_held=True),
        Entry("c", None, 0.0),
    ],
)
def test_an_entry_comes_back_as_it_was(entry: Entry) -> None:
    """A revision must not become a new trace, nor a release a revision."""
    assert entry_of(record(entry)) == entry


def test_a_journal_in_use_is_left_alone(store: Path) -> None:
    """Its program is alive, and writes it into the store itself."""
    mine = Journal(store)
    mine.append(b"x")
    assert found(store) == []
    assert journals.has_records(store)
    mine.close(keep=True)
    assert found(store) == [b"x"]


def test_what_was_never_finished_is_removed(store: Path) -> None:
    """Killed between the making of a journal and its naming. Another may just be making one."""
    store.parent.mkdir(mode=0o700)
    old, new = (store.with_name(f".traces.db.journal.{name}-0") for name in ("old", "new"))
    for path in (old, new):
        path.touch(0o600)
        path.write_bytes(records.MAGIC)
    os.utime(old, (1.0, 1.0))
    assert found(store) == []
    assert not old.exists() and new.exists()


def test_a_killed_program_holds_no_lock(store: Path) -> None:
    """A real one, really killed."""
    program = (
        "import sys, time; from pathlib import Path\n"
        "from invariant_addon.traces.journal import Journal\n"
        "mine = Journal(Path(sys.argv[1])); mine.append(b'last words'); print(flush=True)\n"
        "time.sleep(60)"
    )
    addon = str(Path(__file__).parents[2] / "addon")
    with subprocess.Popen(
        [sys.executable, "-c", program, str(store)],
        env={**os.environ, "PYTHONPATH": addon},
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert found(store) == []
        process.kill()
        process.wait()
    assert found(store) == [b"last words"]


def test_what_is_cleared_is_gone_and_it_goes_on(store: Path) -> None:
    """It must not grow for ever, nor be taken in twice."""
    mine = Journal(store)
    mine.append(b"1")
    mine.clear()
    assert not journals.has_records(store)
    mine.append(b"2")
    mine.close(keep=True)
    assert found(store) == [b"2"]


def test_nothing_is_left_at_the_end(store: Path) -> None:
    """A folder full of empty files would be a nuisance."""
    mine = Journal(store)
    mine.append(b"1")
    mine.clear()
    mine.close(keep=True)
    Journal(store).close()
    assert list(store.parent.iterdir()) == []


def test_a_journal_that_was_removed_is_begun_anew(store: Path) -> None:
    """Somebody cleans up by hand, while the proxy runs."""
    mine = Journal(store)
    mine.append(b"1")
    (path,) = store.parent.glob("traces.db.journal.*")
    path.unlink()
    mine.clear()
    mine.append(b"2")
    mine.close(keep=True)
    assert found(store) == [b"2"]


def test_a_journal_that_was_emptied_is_begun_anew(store: Path) -> None:
    """Made longer again it would begin with zeros, and nobody would read what comes behind them."""
    mine = Journal(store)
    mine.append(b"1")
    (path,) = store.parent.glob("traces.db.journal.*")
    path.write_bytes(b"")
    mine.append(b"2")
    mine.clear()
    mine.append(b"3")
    mine.close(keep=True)
    assert found(store) == [b"3"] and len(list(store.parent.iterdir())) == 1


def test_the_oldest_is_taken_in_first(store: Path) -> None:
    """A revision that is in the second one needs what is in the first."""
    for n in range(8):
        mine = Journal(store)
        mine.append(b"%d" % n)
        mine.close(keep=True)
        time.sleep(0.02)  # longer than the clock of a file system ticks
    assert found(store) == [b"%d" % n for n in range(8)]


@pytest.mark.skipif(os.name != "posix", reason="permissions")
def test_what_somebody_else_could_have_written_is_not_read(store: Path) -> None:
    """Else another user of the machine could put traces into the store."""
    path = left_by_a_killed_one(store, b"1")
    path.chmod(0o622)
    assert found(store) == [] and path.exists()
    path.chmod(0o600)
    moved = path.rename(path.with_name("elsewhere"))
    path.symlink_to(moved)
    assert found(store) == []


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_an_error(store: Path) -> None:
    """The caller then writes into the store itself."""
    store.parent.mkdir(mode=0o500)
    with pytest.raises(JournalError):
        Journal(store).append(b"1")


@pytest.mark.parametrize("kind", ["folder", "pipe", "link", "noise", "newer"])
def test_nobody_waits_for_what_is_no_journal(store: Path, kind: str) -> None:
    """It would never be cleared, so each look at the traces would take longer, for ever."""
    mine = Journal(store)
    mine.open()
    path = store.with_name("traces.db.journal.00000000")
    noise = path.with_name("noise")
    noise.touch(0o600)
    noise.write_bytes(b"invariant journal 2\n" if kind == "newer" else b"-" * 100_000)
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path, 0o600)
    elif kind == "link":
        path.symlink_to(noise)
    else:
        noise.rename(path)
    assert journals.await_cleared(store, 0.0)
    assert found(store) == [] and path.exists()
    assert journals.living(store) == {mine.owner}
    mine.close()


def test_a_program_is_known_as_alive_while_it_is(store: Path) -> None:
    """By one name, also when somebody has removed its journal and it has begun another."""
    mine, other = Journal(store), Journal(store)
    assert mine.owner == "" and journals.living(store) == set()
    mine.append(b"1")
    other.open()
    owner = mine.owner
    assert journals.living(store) == {owner, other.owner} and owner != other.owner
    for path in store.parent.glob(f"*.journal.{owner}-*"):
        path.unlink()
    mine.clear()
    mine.append(b"2")
    assert mine.owner == owner and owner in journals.living(store)
    mine.close(keep=True)
    assert journals.living(store) == {other.owner}
    other.close()


def test_where_nothing_can_be_locked_nobody_is_known(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other programs cannot be seen there: what they are sending is nobody's that could be dead."""
    path = left_by_a_killed_one(store, b"1")

    def refuse(number: int, how: int) -> None:
        raise OSError(errno.ENOTSUP, "no locks")

    monkeypatch.setattr("invariant_addon.rules.private.fcntl.flock", refuse)
    mine = Journal(store)
    with pytest.raises(JournalError):
        mine.open()
    assert mine.owner == ""
    assert found(store) == [] and path.exists() and len(list(store.parent.iterdir())) == 1


def test_half_a_record_that_stays_is_not_written_behind(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system that is full may not even make a file shorter."""
    mine = Journal(store)
    mine.append(b"1")
    write = os.write

    def refuse(number: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as full:
        full.setattr(os, "write", lambda number, data: write(number, data[:-1]))
        full.setattr(os, "ftruncate", refuse)
        with pytest.raises(JournalError):
            mine.append(b"2")
    mine.append(b"3")
    mine.close(keep=True)
    assert sorted(found(store)) == [b"1", b"3"]


def test_a_full_disk_is_an_error_and_leaves_the_rest(store: Path) -> None:
    """A short write must not be in front of what comes when there is room again."""
    program = (
        "import resource, sys; from pathlib import Path\n"
        "from invariant_addon.traces.journal import Journal, JournalError\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]\n"
        "mine = Journal(Path(sys.argv[1])); mine.append(b'1')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))\n"
        "for _ in range(2):\n"
        "    try: mine.append(b'x' * 2000)\n"
        "    except JournalError: print('no room')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))\n"
        "mine.append(b'2'); mine.close(keep=True)"
    )
    addon = str(Path(__file__).parents[2] / "addon")
    done = subprocess.run(
        [sys.executable, "-c", program, str(store)],
        env={**os.environ, "PYTHONPATH": addon},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.split("\n")[:2] == ["no room", "no room"]
    assert found(store) == [b"1", b"2"]


def test_a_reader_waits_until_what_is_there_is_written(store: Path) -> None:
    """And not for ever, where more comes all the time."""
    mine = Journal(store)
    mine.append(b"1")
    before = time.monotonic()
    assert not journals.await_cleared(store, 0.05)
    assert time.monotonic() - before >= 0.05
    mine.clear()
    assert journals.await_cleared(store, 0.0)
    mine.close()
    assert journals.await_cleared(store, 0.0)


def test_a_program_s_journals_are_taken_in_in_their_order(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By one program at a time: a revision in the second needs what is in the first."""
    monkeypatch.setattr(journal, "PART_BYTES", 100)
    mine = Journal(store)
    for number in range(60):
        mine.append(b"%d" % number * 20)
    mine.close(keep=True)
    files = list(store.parent.iterdir())
    assert len(files) > 10
    for file in files:  # a clock that was set back
        os.utime(file, (1.0, 1.0))
    taken = []
    for left in abandoned(store):
        taken += [one for one, _ in left.records()]
        assert not found(store)  # by somebody else, meanwhile
        left.remove()
    assert taken == [b"%d" % number * 20 for number in range(60)]
    assert not list(store.parent.iterdir())


def test_a_program_is_alive_whichever_of_its_files_are_done(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else another one would send what this one is sending."""
    monkeypatch.setattr(journal, "PART_BYTES", 100)
    mine = Journal(store)
    parts = [mine.append(b"x" * 50)[0] for _ in range(10)]
    assert len(set(map(id, parts))) == 10 and mine.size == 580
    for part in parts:
        assert journals.living(store) == {mine.owner} == journals.present(store)
        mine.done(part)
    assert mine.size == 0 and len(list(store.parent.iterdir())) == 1
    assert journals.living(store) == {mine.owner}
    mine.close()


def test_a_file_that_cannot_be_begun_leaves_the_one_that_is_there(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more descriptors: the journal grows beyond its size, and nothing is lost."""
    monkeypatch.setattr(journal, "PART_BYTES", 100)
    mine = Journal(store)
    mine.append(b"1" * 90)

    def refuse(self: Journal) -> None:
        raise OSError(errno.EMFILE, "too many")

    with monkeypatch.context() as short:
        short.setattr(Journal, "_make", refuse)
        mine.append(b"2" * 90)
    mine.append(b"3" * 90)
    mine.close(keep=True)
    assert found(store) == [b"1" * 90, b"2" * 90, b"3" * 90]


def test_a_journal_that_was_removed_is_seen_before_it_is_cleared(store: Path) -> None:
    """While the store is locked nothing is cleared, perhaps for hours."""
    mine = Journal(store)
    mine.append(b"1")
    assert not mine.mend()
    (path,) = store.parent.glob("traces.db.journal.*")
    path.unlink()
    assert mine.mend() and not mine.mend()
    mine.append(b"2")
    assert journals.living(store) == {mine.owner}
    mine.close(keep=True)
    assert found(store) == [b"2"]
