"""Writing behind the caller's back: he does not wait for the file, and nothing is lost for that."""

from __future__ import annotations

import logging
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from invariant_addon.traces import codec, journal, journals, waiting, writer
from invariant_addon.traces.entry import Entry, record
from invariant_addon.traces.journal import Journal, JournalError
from invariant_addon.traces.store import Filter, Store

from .test_store import ids, start, trace, warnings

pytestmark = pytest.mark.skipif(not journal.IS_POSSIBLE, reason="needs locks on files")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "private" / "traces.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    store = Store(path, key=b"k" * 32)
    store.open()
    store.write_behind(lambda: None)
    yield store
    store.close()


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def as_others_see(path: Path) -> list[str]:
    """What is in the file, for another program."""
    if not path.exists():
        return []
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return [name for (name,) in connection.execute("SELECT id FROM traces ORDER BY seq")]


def locked(path: Path) -> sqlite3.Connection:
    locker = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    locker.execute("BEGIN IMMEDIATE")
    return locker


def test_the_caller_does_not_wait_for_the_file(store: Store, path: Path) -> None:
    """The file is locked for good, and the answer is: it is kept."""
    locker = locked(path)
    assert store.add(trace("1"))
    assert as_others_see(path) == []
    locker.close()
    until(lambda: as_others_see(path) == ["1"])


def test_who_asks_the_same_store_sees_it_at_once(store: Store) -> None:
    """A page that shows an old state would be taken for a lost trace."""
    for n in range(20):
        store.add(trace(str(n)))
        assert store.get(str(n)) is not None and len(ids(store)) == n + 1
    assert store.stats().waiting == 0


def test_senders_are_told_when_it_is_in_the_file(path: Path) -> None:
    """Before that there is nothing to be sent."""
    seen: list[int] = []
    is_told = threading.Event()
    store = Store(path)

    def told() -> None:
        seen.append(len(store.due("a")))
        is_told.set()

    store.write_behind(told)
    store.add(trace("1"), ["a"])
    assert is_told.wait(20) and seen == [1]
    store.close()


def test_revisions_come_after_what_they_revise(store: Store) -> None:
    """In the order in which they were given, though several are written at once."""
    for n in range(30):
        store.add(trace(str(n), "first"), ["a"], hold=60.0)
        store.revise(trace(str(n), "second"))
        store.release(str(n))
    assert [(found := store.get(str(n))) and found.messages for n in range(30)] == [
        ("second",)
    ] * 30
    assert len(store.due("a")) == 30


def test_many_large_ones_at_once_are_all_kept(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests with pictures: together they are more than may wait at all."""
    monkeypatch.setattr(waiting, "LOOSE_BYTES", 100_000)
    monkeypatch.setattr(waiting, "WINDOW_BYTES", 10_000)
    store = Store(path)
    store._writer._waiting.limit = 200_000
    store.write_behind(lambda: None)
    with ThreadPoolExecutor(8) as pool:
        added = pool.map(lambda n: store.add(trace(str(n), "x" * 60_000)), range(40))
        assert all(added)
    assert len(ids(store)) == 40 and store.stats().lost == 0
    store.close()


def test_a_record_of_other_types_is_not_in_the_way(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A newer version left it. It is lost, and told; all others are kept."""
    body = codec.write(trace("odd")).replace(b'"id":"odd"', b'"id":"odd","client":[null]')
    left = Journal(path)
    for entry in (
        Entry("odd", body, 0.0, sinks=()),
        Entry("1", codec.write(trace("1")), 0.0, sinks=()),
    ):
        left.append(record(entry))
    left.close(keep=True)
    store = Store(path)
    store.catch_up()
    assert ids(store) == ["1"]
    assert len(warnings(caplog)) == 1 and "lost a trace" in warnings(caplog)[0]
    store.close()


def test_a_torn_end_is_told(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What was behind it, if there was anything, is gone."""
    left = Journal(path)
    left.append(record(Entry("1", codec.write(trace("1")), 0.0, sinks=())))
    left.close(keep=True)
    (file,) = path.parent.glob("*.journal.*")
    with file.open("ab") as end:
        end.write(b"half of")
    store = Store(path)
    store.catch_up()
    assert ids(store) == ["1"]
    assert [said.partition(": ")[2] for said in warnings(caplog)] == ["7 bytes at its end are torn"]
    store.close()


def test_what_comes_after_the_end_is_kept_though_the_file_is_locked(path: Path) -> None:
    """A client that is cut off when the proxy ends; before, its trace was in memory alone."""
    store = Store(path)
    store.open()
    store.write_behind(lambda: None)
    locker = locked(path)
    store.add(trace("1", "begun"), ["a"], hold=60.0)
    store.close()
    assert store.revise(trace("1", "cut off"), (), ["a"])
    assert store.add(trace("2"))
    locker.close()
    other = Store(path)  # as the next program: nothing was written by the first
    assert as_others_see(path) == []
    other.catch_up()
    assert sorted(ids(other)) == ["1", "2"]
    found = other.get("1")
    assert found is not None and found.messages == ("cut off",)
    assert not list(path.parent.glob("*.journal.*"))
    other.close()
    store.close()


def test_the_end_says_what_is_lost_and_what_is_not(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On a full disk there is no room for the journal either."""
    store = Store(path)
    store.open()
    store.write_behind(lambda: None)
    locker = locked(path)
    assert store.add(trace("1"))
    with monkeypatch.context() as full:

        def refuse(self: Journal, record: bytes) -> None:
            raise JournalError("no room")

        full.setattr(Journal, "append", refuse)
        assert not store.add(trace("2")) and not store.add(trace("3"))
        store.close()
    locker.close()
    assert warnings(caplog)[-1] == (
        "3 traces could not be written; the next start tries again"
        " (but 2 are lost: they are not in the journal)"
    )
    other = Store(path)
    other.catch_up()
    assert ids(other) == ["1"]
    other.close()


ENDLESS = """
store.open()
store.write_behind(lambda: None)
for n in range(10**6):
    assert store.add(trace(f"{sys.argv[2]}-{n}", "x" * 2000), ["a"])
    print(f"{sys.argv[2]}-{n}", flush=True)
"""


@pytest.mark.parametrize("is_locked", [False, True])
def test_kill_9_costs_nothing_that_was_acknowledged(is_locked: bool, path: Path) -> None:
    """At any moment, also while the file could not be written at all."""
    first = Store(path)
    first.open()
    first.close()
    for attempt in range(3):
        locker = locked(path) if is_locked else None
        process = start(path, ENDLESS, str(attempt))
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(100 + attempt * 137)]
        process.send_signal(signal.SIGKILL)
        said += process.stdout.readlines()
        process.stdout.close()
        process.wait()
        acknowledged = {line.strip() for line in said if line.endswith("\n")}
        if locker is not None:
            assert not acknowledged & set(as_others_see(path))
            locker.close()
        store = Store(path)
        store.catch_up()
        assert acknowledged <= set(ids(store))
        assert acknowledged <= {one.id for one in store.due("a", 10_000)}
        assert not list(path.parent.glob("*.journal.*"))
        store.close()


def test_the_next_proxy_takes_in_what_a_killed_one_left(path: Path) -> None:
    """By itself, and once: what was sent meanwhile is not sent again."""
    left = journal.Journal(path)
    dying = Store(path)
    dying._writer._waiting._journal = left
    assert dying.add(trace("1"), ["a"])
    dying.settle()
    assert dying.begin("1", "a") and dying.sent("1", "a", "remote")
    left.append(b"not one of ours")
    dying.add(trace("2"), ["a"])
    left.close(keep=True)
    (file,) = path.parent.glob("*.journal.*")
    dying._writer._waiting._journal = None
    next_one = Store(path)
    next_one.write_behind(lambda: None)
    until(lambda: as_others_see(path) == ["1", "2"] and not file.exists())
    assert [one.id for one in next_one.due("a")] == ["2"]
    assert next_one.stats().lost == 1
    next_one.close()
    dying.close()


DYING = """
import threading
store.open()
store.write_behind(lambda: None)
store.add(trace("sending"), ["a"])
store.settle()
assert store.begin("sending", "a", lease=600)
store.add(trace("held"), ["a"], hold=600)
store.settle()
store.add(trace("noted"), ["a"], hold=600)
print(flush=True)
threading.Event().wait(60)
"""


@pytest.mark.parametrize("is_alone", [True, False])
def test_what_a_killed_proxy_was_sending_is_sent_at_once(is_alone: bool, path: Path) -> None:
    """It will not end that itself. What another one is sending stays its own."""
    other = Store(path)
    if not is_alone:
        other.write_behind(lambda: None)
        other.add(trace("own"), ["a"])
        other.settle()
        assert other.begin("own", "a", lease=600)
    process = start(path, DYING)
    assert process.stdout is not None
    process.stdout.readline()
    assert not other.due("a")
    process.kill()
    process.stdout.close()
    process.wait()
    next_one = Store(path)
    next_one.write_behind(lambda: None)
    # They are set free when all that was noted is taken in.
    until(lambda: sorted(one.id for one in next_one.due("a")) == ["held", "noted", "sending"])
    assert [one.tries for one in next_one.due("a") if one.id == "sending"] == [1]
    next_one.close()
    other.close()


def test_a_journal_is_kept_as_long_as_the_file_cannot_be_written(
    store: Store, path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proxy ends while somebody's backup holds the lock: the next start goes on."""
    monkeypatch.setattr(writer, "CLOSE_WAIT", 0.05)
    locker = locked(path)
    store.add(trace("1"))
    store.close()
    assert any("the next start tries again" in one for one in warnings(caplog))
    other = Store(path)
    other.catch_up(0.0)  # it is locked still
    locker.close()
    until(lambda: other.tidy() or as_others_see(path) == ["1"])
    assert not list(path.parent.glob("*.journal.*"))
    other.close()


def test_without_a_journal_each_is_written_at_once(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slower, and as safe. One warning."""

    def fail(*_: object) -> None:
        raise journal.JournalError("no room")

    monkeypatch.setattr(journal.Journal, "append", fail)
    store = Store(path)
    store.write_behind(lambda: None)
    for n in range(5):
        assert store.add(trace(str(n)))
        assert len(as_others_see(path)) == n + 1
    assert len(warnings(caplog)) == 1
    store.close()


def test_who_comes_faster_than_the_file_waits(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits is bounded, and nothing is dropped for that."""
    monkeypatch.setattr(writer, "BEHIND_SECONDS", 60.0)
    store = Store(path)
    store._writer._waiting.limit = 20_000
    store.write_behind(lambda: None)
    for n in range(500):
        assert store.add(trace(str(n), "x" * 500))
    (file,) = path.parent.glob("*.journal.*")
    assert file.stat().st_size < 20_000
    assert len(ids(store)) == 500 and store.stats().lost == 0
    store.close()


def test_a_journal_ends_though_more_comes_all_the_time(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads that never pause: between two transactions something is always waiting."""
    monkeypatch.setattr(journal, "PART_BYTES", 50_000)
    monkeypatch.setattr(writer, "BEHIND_SECONDS", 0.001)
    store = Store(path)
    store._writer._waiting.limit = 300_000
    store.write_behind(lambda: None)
    largest = 0

    def add(name: str) -> None:
        nonlocal largest
        for n in range(400):
            assert store.add(trace(f"{name}-{n}", "x" * 2000))
            sizes = [journals._size(file) for file in path.parent.glob("*.journal.*")]
            largest = max(largest, sum(sizes))

    threads = [threading.Thread(target=add, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.list(10_000, Filter())) == 1200
    assert largest < 700_000  # of 2,700,000
    store.close()


def test_nothing_is_left_behind_at_the_end(store: Store, path: Path) -> None:
    """Whoever looks into the folder finds one file, as before."""
    store.add(trace("1"))
    store.close()
    assert as_others_see(path) == ["1"]
    assert not list(path.parent.glob("*journal*"))
    assert store.add(trace("2"))  # a late hook
    assert as_others_see(path) == ["1", "2"]


@pytest.mark.skipif(os.name != "posix", reason="permissions")
def test_nobody_else_can_read_the_journal(store: Store, path: Path) -> None:
    """It has the same texts as the store."""
    locker = locked(path)
    store.add(trace("1"))
    (file,) = path.parent.glob("*.journal.*")
    assert file.stat().st_mode & 0o777 == 0o600
    locker.close()


def test_a_thread_that_fails_goes_on(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever `told` does: traces are written."""
    store = Store(path)

    def told() -> None:
        raise ValueError("of a sender")

    store.open()
    store.write_behind(told)
    store.add(trace("1"))
    until(lambda: as_others_see(path) == ["1"])
    store.add(trace("2"))
    until(lambda: as_others_see(path) == ["1", "2"])
    assert [r.levelno for r in caplog.records].count(logging.ERROR) >= 1
    store.close()


def test_a_file_that_is_locked_for_long_costs_no_trace(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """More than is kept in memory; in the middle of it somebody removes the journal. One warning
    of the lock, one of the journal."""
    monkeypatch.setattr(waiting, "WINDOW_ENTRIES", 20)
    monkeypatch.setattr(waiting, "LOOSE_ENTRIES", 1)
    monkeypatch.setattr(journal, "PART_BYTES", 50_000)
    locker = locked(path)
    for n in range(300):
        assert store.add(trace(str(n), "x" * 1000), ["a"], hold=60.0)
        assert store.revise(trace(str(n), "looked at"))
    (newest,) = (f for f in path.parent.glob("*.journal.*") if f.stat().st_size < 40_000)
    newest.unlink()
    until(lambda: any("removed" in one for one in warnings(caplog)))
    for n in range(300, 600):
        assert store.add(trace(str(n), "looked at"), ["a"])
    stats = store.stats()
    assert stats.waiting == 900 and stats.lost == 0 and stats.noted > 300_000
    locker.close()
    until(lambda: len(as_others_see(path)) == 600 and not store.stats().waiting)
    assert as_others_see(path) == [str(n) for n in range(600)]
    assert {store.get(str(n)).messages for n in range(600)} == {("looked at",)}  # type: ignore[union-attr]
    assert len(store.due("a", 1000)) == 600
    said = [one for one in warnings(caplog) if "again" not in one]
    assert len(said) == 2 and "locked" in said[0]
    assert store.stats().noted == 0 and len(list(path.parent.glob("*.journal.*"))) == 1
