"""What waits: all of it, in its order, and next to nothing of it in memory."""

from __future__ import annotations

import os
import sys
import tempfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from invariant_addon.traces import journal, journals, waiting
from invariant_addon.traces.entry import Entry, entry_of, record
from invariant_addon.traces.journal import Journal, JournalError
from invariant_addon.traces.tables import Losses
from invariant_addon.traces.waiting import Waiting

pytestmark = pytest.mark.skipif(not journal.IS_POSSIBLE, reason="needs locks on files")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "traces.db"


def begun(path: Path, limit: int = 10**9) -> tuple[Waiting, Losses]:
    losses = Losses()
    queue = Waiting(path, limit, losses)
    queue.begin_journal()
    return queue, losses


def entry(name: object, size: int = 10) -> Entry:
    return Entry(str(name), b"x" * size, 1.0, sinks=())


def drained(queue: Waiting) -> list[str]:
    found: list[str] = []
    while batch := queue.batch():
        found += [each.id for each in batch]
        queue.done(batch)
    return found


def files(path: Path) -> list[Path]:
    return sorted(path.parent.glob("*.journal.*"))


def left(path: Path) -> list[str]:
    """What the next program finds."""
    return [entry_of(data).id for each in journals.abandoned(path) for data, _ in each.records()]


_STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "add", "add", "full", "write", "gone"]), st.integers(1, 90)),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(steps=_STEPS)
def test_all_is_written_in_its_order(steps: list[tuple[str, int]]) -> None:
    """Whatever is in memory, in the journal, or in both; while the disk is full, and when somebody
    has removed the journal."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(waiting, "WINDOW_ENTRIES", 3)
        patch.setattr(waiting, "WINDOW_BYTES", 200)
        patch.setattr(waiting, "BATCH", 4)
        patch.setattr(journal, "PART_BYTES", 500)
        queue, losses = begun(Path(folder) / "data" / "traces.db")
        given: list[str] = []
        written: list[str] = []
        append = Journal.append
        for number, (what, size) in enumerate(steps):
            if what == "write":
                batch = queue.batch()
                written += [each.id for each in batch]
                queue.done(batch)
            elif what == "gone":
                for file in files(Path(folder) / "data" / "traces.db"):
                    file.unlink()
                queue.mend()
            else:
                if what == "full":
                    patch.setattr(Journal, "append", _refuse)
                assert queue.add(entry(number, size)) is (what == "add")
                patch.setattr(Journal, "append", append)
                given.append(str(number))
            assert len(queue) == len(given) - len(written)
        assert written + drained(queue) == given and not losses.count
        assert queue.close() == (0, 0)
        assert not files(Path(folder) / "data" / "traces.db")


@settings(max_examples=60, deadline=None)
@given(steps=_STEPS)
def test_the_next_program_finds_what_was_not_written(steps: list[tuple[str, int]]) -> None:
    """In its order, and perhaps some that was written: that is known by its id."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(waiting, "WINDOW_ENTRIES", 3)
        patch.setattr(journal, "PART_BYTES", 500)
        path = Path(folder) / "data" / "traces.db"
        queue, _ = begun(path)
        given: list[str] = []
        written = 0
        for number, (what, size) in enumerate(steps):
            if what == "write":
                batch = queue.batch()
                written += len(batch)
                queue.done(batch)
            elif what != "gone":
                assert queue.add(entry(number, size))
                given.append(str(number))
        queue.close()
        found = left(path)
        assert found == given[len(given) - len(found) :] and len(found) >= len(given) - written


def _refuse(self: Journal, record: bytes) -> None:
    raise JournalError("no room")


def test_what_is_in_the_journal_needs_no_memory(path: Path) -> None:
    """A file that is locked for hours must not fill the memory."""
    queue, losses = begun(path)
    tracemalloc.start()
    try:
        for number in range(20_000):
            assert queue.add(entry(number, 4_000))
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20  # of 80 MB
        tracemalloc.reset_peak()
        number = 0
        while batch := queue.batch():
            assert [each.id for each in batch] == [str(number + n) for n in range(len(batch))]
            number += len(batch)
            queue.done(batch)
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    finally:
        tracemalloc.stop()
    assert number == 20_000 and not losses.count
    queue.close()


def test_files_go_as_soon_as_they_are_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though more comes all the time: the disk is not filled with what is somewhere else."""
    monkeypatch.setattr(journal, "PART_BYTES", 10_000)
    queue, _ = begun(path)
    for number in range(100):
        queue.add(entry(number, 1_000))
    most = len(files(path))
    assert most > 10
    for number in range(90):
        queue.add(entry(100 + number, 1_000))
        queue.done(queue.batch()[:2])
    assert len(files(path)) < most
    assert drained(queue) and len(files(path)) == 1
    queue.close()
    assert not files(path)


def test_what_does_not_fit_is_not_taken_but_what_amends_a_trace_is(path: Path) -> None:
    """The oldest are kept. A finding about one of them is worth more than another one."""
    queue, _ = begun(path, limit=100_000)
    taken = 0
    while queue.add(entry(taken, 1_000)):
        taken += 1
    assert 90 < taken < 100 and queue.add(entry("more", 1_000)) is None
    assert queue.add(Entry("0", b"y" * 1_000, 1.0)) and queue.add(Entry("1", None, 1.0))
    assert queue.add(entry("loose"), loose=True) is False
    assert drained(queue) == [*map(str, range(taken)), "0", "1", "loose"]
    assert queue.add(entry("again"))
    queue.close()


def test_the_journal_leaves_room_for_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it fills the disk while the file is locked, and then there is no way to write it."""
    disk = 15 * 2**20
    monkeypatch.setattr(Journal, "free", property(lambda self: disk - self.size))
    queue, _ = begun(path)
    taken = 0
    while queue.add(entry(taken, 10_000)):
        taken += 1
    used = sum(file.stat().st_size for file in files(path))
    assert disk / 3 - 2**20 < used < disk / 3 + 2**20
    assert queue.add(Entry("0", b"y" * 1_000, 1.0))  # what amends a trace may have more
    queue.done(queue.batch())
    assert len(drained(queue)) > 400 and queue.add(entry("again"))
    queue.close()


def test_what_cannot_be_noted_is_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is in memory alone."""
    monkeypatch.setattr(waiting, "LOOSE_BYTES", 10_000)
    queue = Waiting(path, 10**9, Losses())
    assert [queue.add(entry(number, 1_000)) for number in range(12)] == [False] * 10 + [None] * 2
    assert len(drained(queue)) == 10
    assert queue.add(entry("large", 1_000_000)) is False  # alone, it may be of any size


def test_the_end_notes_what_was_loose_if_there_is_room_by_now(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk was full for a while, and the file is locked still."""
    queue, _ = begun(path)
    queue.add(entry("1"))
    with monkeypatch.context() as full:
        full.setattr(Journal, "append", _refuse)
        assert queue.add(entry("2")) is False
    assert queue.close() == (2, 0)
    assert left(path) == ["1", "2"]


@pytest.mark.parametrize("how", ["emptied", "noise", "cut"])
def test_a_journal_that_somebody_spoiled_is_told_and_not_in_the_way(
    how: str, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What was in memory, and what comes later, is kept; the rest is counted."""
    monkeypatch.setattr(waiting, "WINDOW_ENTRIES", 5)
    queue, losses = begun(path)
    for number in range(100):
        queue.add(entry(number, 100))
    (file,) = files(path)
    data = file.read_bytes()
    if how == "emptied":
        file.write_bytes(b"")
    elif how == "noise":
        file.write_bytes(data[: len(data) // 2] + os.urandom(len(data) - len(data) // 2))
    else:
        os.truncate(file, len(data) - 10)
    queue.mend()
    found: list[str] = []
    while how == "noise" and not losses.count:  # nobody sees it before it is read
        batch = queue.batch()
        found += [each.id for each in batch]
        queue.done(batch)
    for number in range(100, 120):
        assert queue.add(entry(number, 100))
    found += drained(queue)
    expected = {"emptied": 5, "noise": 50, "cut": 99}[how]
    old = [int(n) for n in found if int(n) < 100]
    assert old == list(range(len(old))) and abs(len(old) - expected) <= 2
    assert found[len(old) :] == [str(number) for number in range(100, 120)]
    assert losses.count == 120 - len(found)
    assert sum("lost a trace" in r.getMessage() for r in caplog.records) == 1
    queue.close()
    assert left(path) == []


def test_a_poisoned_record_costs_itself_only(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that are right, and no entry."""
    monkeypatch.setattr(waiting, "WINDOW_ENTRIES", 1)
    queue, losses = begun(path)
    for number in range(200):
        with monkeypatch.context() as odd:
            if number and number != 150:
                odd.setattr(waiting, "record", lambda e: b"odd" if int(e.id) < 140 else record(e))
            queue.add(entry(number))
    assert drained(queue) == ["0", *map(str, range(140, 200))]
    assert losses.count == 139 and len(queue) == 0
    queue.close()


def test_a_full_disk_leaves_what_is_there(path: Path) -> None:
    """The kernel refuses, as it does on a full disk; and then there is room again."""
    import subprocess  # a process of its own, for its limits

    program = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from invariant_addon.traces.entry import Entry\n"
        "from invariant_addon.traces.tables import Losses\n"
        "from invariant_addon.traces.waiting import Waiting\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]\n"
        "queue = Waiting(Path(sys.argv[1]), 10**9, Losses()); queue.begin_journal()\n"
        "def add(n): return queue.add(Entry(str(n), b'x' * 5_000, 1.0, sinks=()))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, hard))\n"
        "noted = [add(n) for n in range(1_000)]\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))\n"
        "noted += [add(n) for n in range(1_000, 1_100)]\n"
        "found = []\n"
        "while batch := queue.batch():\n"
        "    found += [each.id for each in batch]; queue.done(batch)\n"
        "print(found == [str(n) for n in range(1_100)], noted.count(False), noted[-1])\n"
        "queue.close()"
    )
    addon = str(Path(__file__).parents[2] / "addon")
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        env={**os.environ, "PYTHONPATH": addon},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    in_order, loose, is_noted = done.stdout.split()
    assert (in_order, is_noted) == ("True", "True") and 350 < int(loose) < 450
