"""The store: what was acknowledged is never lost, and who adds a trace gets no exception."""

from __future__ import annotations

import datetime
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from invariant_addon.core.trace import Finding, Timing, Trace
from invariant_addon.core.verdict import Address
from invariant_addon.traces import outbox, waiting
from invariant_addon.traces.store import Backlog, Filter, Store, StoreError

ADDON = Path(__file__).parents[2] / "addon"
NOTED = Finding({"id": "1", "name": "orders", "source": "starter"}, "odd", "noted", (Address(0),))


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "private" / "traces.db"


@pytest.fixture
def store(path: Path, clock: Clock) -> Iterator[Store]:
    store = Store(path, clock=clock, key=b"k" * 32)
    yield store
    store.close()


def trace(name: str = "1", *messages: Any, **more: Any) -> Trace:
    given: dict[str, Any] = {
        "started": 1_000_000.0,
        "status": "judged",
        "endpoint": "chat.completions",
        "model": "m",
        "stream": False,
        "parameters": {},
        "messages": messages or ({"role": "user", "content": f"hello {name}"},),
        **more,
    }
    return Trace(name, **given)


def ids(store: Store, **wanted: Any) -> list[str]:
    return [one.id for one in store.list(10_000, Filter(**wanted))]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


# -- keeping -------------------------------------------------------------------------------------


def test_what_is_added_is_there(store: Store, path: Path) -> None:
    """Another program, opened later, reads the same trace."""
    first = trace("1", {"role": "user", "content": "\ud800 😀"}, findings=(NOTED,))
    assert store.add(first) and store.add(trace("2"))
    other = Store(path)
    assert other.get("1") == first and other.get("3") is None
    assert ids(other) == ["2", "1"]
    other.close()


def test_the_same_trace_is_kept_once(store: Store) -> None:
    """A hook may run twice for one exchange."""
    assert store.add(trace("1"), ["a"]) and store.add(trace("1", "other"), ["a"])
    assert store.get("1") == trace("1")
    assert store.stats().traces == 1 and len(store.due("a")) == 1


@pytest.mark.skipif(os.name != "posix", reason="Windows' user folders are private by themselves")
def test_nobody_else_can_read_it(store: Store, path: Path) -> None:
    """Traces hold everything that was said."""
    store.add(trace())
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert {p.stat().st_mode & 0o777 for p in path.parent.glob("traces.db*")} == {0o600}


@pytest.mark.skipif(os.name != "posix", reason="permissions")
def test_a_file_that_others_can_read_is_refused(store: Store, path: Path) -> None:
    """Whoever opened it up should know, and not find it filled."""
    store.add(trace())
    store.close()
    path.chmod(0o644)
    assert not store.add(trace("2"))
    with pytest.raises(StoreError, match="chmod"):
        store.open()
    path.chmod(0o600)
    store.tidy()
    assert ids(store) == ["2", "1"]


def test_a_late_hook_still_keeps_its_trace(store: Store) -> None:
    """mitmproxy cuts open streams after `done`; their error hooks come then."""
    store.add(trace("1"))
    store.close()
    assert store.add(trace("2"))
    assert ids(store) == ["2", "1"]


def test_a_newer_versions_file_is_left_alone(store: Store, path: Path) -> None:
    """Whoever goes back a version must not damage what the newer one wrote."""
    store.add(trace())
    store.close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version=99")
    connection.close()
    assert not store.add(trace("2"))
    with pytest.raises(StoreError, match="newer version"):
        store.open()


def test_an_older_versions_file_is_used(store: Store, path: Path) -> None:
    """With what is still to be sent."""
    store.add(trace("1"), ["a"])
    store.close()
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("DROP INDEX deliveries_again")
    connection.execute("ALTER TABLE deliveries DROP COLUMN owner")
    connection.execute("DROP INDEX traces_looking")
    connection.execute("ALTER TABLE traces DROP COLUMN looking")
    connection.execute("PRAGMA user_version=1")
    connection.close()
    assert ids(store) == ["1"] and store.begin("1", "a")
    assert store.add(trace("2"), ["a"]) and [one.id for one in store.due("a")] == ["2"]


def test_another_programs_database_is_left_alone(store: Store, path: Path) -> None:
    """A wrong path in an option must not cost anybody their data."""
    path.parent.mkdir(mode=0o700)
    path.touch(mode=0o600)
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    with pytest.raises(StoreError, match="another program"):
        store.open()


def test_reading_makes_no_file(store: Store, path: Path) -> None:
    """Looking for traces where there are none leaves nothing behind."""
    with pytest.raises(StoreError, match="no traces yet"):
        store.list()
    assert not path.exists()


# -- trouble -------------------------------------------------------------------------------------


def test_a_locked_file_costs_one_warning_and_no_trace(
    store: Store, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody's backup holds the lock: the proxy goes on, and catches up afterwards."""
    store.add(trace("0"))
    locker = sqlite3.connect(path, isolation_level=None)
    locker.execute("BEGIN EXCLUSIVE")
    assert [store.add(trace(str(n))) for n in range(1, 50)] == [False] * 49
    assert len(warnings(caplog)) == 1 and "locked" in warnings(caplog)[0]
    locker.execute("COMMIT")
    locker.close()
    store.tidy()
    assert sorted(ids(store), key=int) == [str(n) for n in range(50)]
    assert store.stats().waiting == store.stats().lost == 0
    assert store.stats().failures and "again" in warnings(caplog)[1]


def test_what_waits_is_written_at_the_end(store: Store, path: Path) -> None:
    """The last chance is the end of the program."""
    store.add(trace("0"))
    locker = sqlite3.connect(path, isolation_level=None)
    locker.execute("BEGIN IMMEDIATE")
    assert not store.add(trace("1"))
    locker.close()
    store.close()
    assert ids(store) == ["1", "0"]


def test_what_waits_is_bounded(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A file that is gone for a day must not fill the memory."""
    monkeypatch.setattr(waiting, "LOOSE_BYTES", 1_000)
    path.parent.mkdir(mode=0o700)
    path.mkdir()  # no file can be made there
    for n in range(100):
        assert not store.add(trace(str(n)))
    assert len(warnings(caplog)) == 2  # that they wait, and that the first one is lost
    path.rmdir()
    store.tidy()
    stats = store.stats()
    assert stats.traces + stats.lost == 100 and 1 < stats.traces < 20


def test_a_read_only_file_is_survived(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """A disk that is remounted read-only after an error."""
    store.add(trace("0"))
    with store._writer.database.using() as connection:
        connection.execute("PRAGMA query_only=ON")
    assert store.begin("0", "a") is None
    assert not store.add(trace("1"))
    assert "read-only" in warnings(caplog)[0]
    store.tidy()  # opens it again
    assert ids(store) == ["1", "0"]


def test_a_full_disk_is_survived(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """Space may come back; what fits in memory until then is not lost."""
    store.add(trace("0"))
    with store._writer.database.using() as connection:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count={pages}")
    added = [store.add(trace(str(n), "x" * 3000)) for n in range(1, 40)]
    assert not all(added) and "full" in warnings(caplog)[0]
    store.tidy()
    assert len(ids(store)) == 40


@pytest.mark.skipif(os.name != "posix", reason="limits")
def test_a_disk_that_takes_no_more_bytes_is_survived(path: Path) -> None:
    """The same with the kernel refusing, as it does on a full disk."""
    out = run(
        path,
        """
        import resource
        store.add(trace("0"))
        store.tidy()
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
        added = [store.add(trace(str(n), "x" * 3000)) for n in range(1, 300)]
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        store.tidy()
        print(all(added), any(added), len(store.list(1000)), store.stats().lost)
        store.close()
        """,
    )
    assert out == "False True 300 0"


@pytest.mark.parametrize("how", ["text", "torn", "header"])
def test_a_damaged_file_is_set_aside(
    how: str, store: Store, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody should have to repair a database so that the proxy keeps its traces."""
    for n in range(50):
        store.add(trace(str(n), "x" * 2000))
    store.tidy()
    store.close()
    data = path.read_bytes()
    path.write_bytes(
        {
            "text": b"this is no database, but a text that is longer than its header " * 100,
            "torn": data[:4096] + os.urandom(len(data) - 4096),
            "header": os.urandom(100) + data[100:],
        }[how]
    )
    assert store.add(trace("new"))
    assert ids(store) == ["new"]
    (aside,) = path.parent.glob("traces.db.damaged-*")
    assert len(warnings(caplog)) == 1 and str(aside) in warnings(caplog)[0]


def test_a_file_that_is_removed_is_begun_anew(store: Store, path: Path) -> None:
    """Somebody cleans up by hand, while the proxy runs."""
    store.add(trace("1"))
    store.list()
    for file in path.parent.glob("traces.db*"):
        file.unlink()
    assert store.add(trace("2"))
    assert ids(store) == ["2"]


def test_a_trace_that_is_no_json_is_counted(store: Store) -> None:
    """Never an exception: the caller is a hook."""
    assert not store.add(trace("1", {"role": {1}}))
    store.add(trace("2"))
    assert store.stats().lost == 1


# -- processes -----------------------------------------------------------------------------------

PROGRAM = """
import sys, time
from pathlib import Path
from invariant_addon.core.trace import Trace
from invariant_addon.traces.store import Store
store = Store(Path(sys.argv[1]))
def trace(name, *messages):
    return Trace(name, 1.0, "judged", "chat", "m", False, {}, messages)
"""


def start(path: Path, body: str, *arguments: str) -> subprocess.Popen[str]:
    program = PROGRAM + textwrap.dedent(body)
    return subprocess.Popen(
        [sys.executable, "-c", program, str(path), *arguments],
        env={**os.environ, "PYTHONPATH": str(ADDON)},
        stdout=subprocess.PIPE,
        text=True,
    )


def run(path: Path, body: str) -> str:
    with start(path, body) as process:
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return out.strip()


ENDLESS = """
for n in range(10**6):
    assert store.add(trace(f"{sys.argv[2]}-{n}", "x" * 2000), ["a"])
    print(f"{sys.argv[2]}-{n}", flush=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_kill_9_costs_nothing_that_was_acknowledged(path: Path) -> None:
    """A crash, or somebody's `kill -9`, in the middle of an INSERT."""
    for attempt in range(3):
        process = start(path, ENDLESS, str(attempt))
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(100 + attempt * 37)]
        process.send_signal(signal.SIGKILL)
        said += process.stdout.readlines()
        process.stdout.close()
        process.wait()
        acknowledged = {line.strip() for line in said if line.endswith("\n")}
        store = Store(path)
        assert acknowledged <= set(ids(store))
        assert acknowledged <= {one.id for one in store.due("a", 10_000)}
        with store._back.using() as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        store.close()


def test_two_programs_may_write_at_once(path: Path) -> None:
    """Two proxies with one folder, which tidies up behind both."""
    writing = """
    for n in range(300):
        store.add(trace(f"{sys.argv[2]}-{n}", "x" * 3000))
        if n % 50 == 0:
            store.tidy()
    for _ in range(100):
        store.tidy()
        if not store.stats().waiting:
            break
    print(store.stats().lost, store.stats().waiting)
    store.close()
    """
    both = [start(path, writing, name) for name in "ab"]
    assert [process.communicate(timeout=60)[0].strip() for process in both] == ["0 0", "0 0"]
    store = Store(path)
    assert len(ids(store)) == 600
    store.close()


def test_two_programs_do_not_send_the_same_trace(path: Path) -> None:
    """The Explorer makes two traces of it."""
    store = Store(path)
    for n in range(100):
        store.add(trace(str(n)), ["a"])
    store.close()
    sending = """
    while found := store.due("a", 10):
        for one in found:
            if store.begin(one.id, "a"):
                print(one.id)
                store.sent(one.id, "a", "r")
    store.close()
    """
    both = [start(path, sending) for _ in range(2)]
    sent = [line for p in both for line in p.communicate(timeout=60)[0].split()]
    assert sorted(sent, key=int) == [str(n) for n in range(100)]


def test_threads_may_share_it(store: Store) -> None:
    """The proxy adds, senders send, somebody tidies up."""
    store.open()

    def add(name: str) -> None:
        for n in range(50):
            store.add(trace(f"{name}-{n}"), ["a"])
            store.due("a")

    threads = [threading.Thread(target=add, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        store.tidy()
    for thread in threads:
        thread.join()
    store.tidy()
    assert len(ids(store)) == 150 and store.stats().lost == 0


# -- bounds --------------------------------------------------------------------------------------


def test_the_oldest_go_first_and_what_is_to_be_sent_never(path: Path) -> None:
    """A store that runs for a year stays as large as it was told to."""
    store = Store(path, max_rows=100)
    for n in range(5):
        store.add(trace(f"pending-{n}"), ["a"])
    for n in range(300):
        assert store.add(trace(str(n)))
    store.tidy()
    kept = ids(store)
    assert len(kept) <= 100
    assert [one for one in kept if one.startswith("pending")] == [
        f"pending-{n}" for n in (4, 3, 2, 1, 0)
    ]
    assert kept[:20] == [str(n) for n in range(299, 279, -1)]
    store.close()


def test_bytes_are_bounded_too(path: Path) -> None:
    """Long agent runs send megabytes with every turn."""
    store = Store(path, max_bytes=2_000_000)
    for n in range(200):
        store.add(trace(str(n), os.urandom(20_000).hex()))
        if n % 20 == 0:
            store.tidy()
    store.tidy()
    assert store.stats().bytes <= 2_000_000 and ids(store)[0] == "199"
    assert path.stat().st_size < 4_000_000
    assert not store.add(trace("huge", "x" * 3_000_000))
    store.close()


def test_what_does_not_fit_is_dropped_with_one_warning(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The sink is gone for weeks: what is kept for it is older, and promised."""
    store = Store(path, max_rows=10)
    added = [store.add(trace(str(n)), ["a"]) for n in range(30)]
    assert added == [True] * 10 + [False] * 20
    assert store.stats().lost == 20
    assert len(warnings(caplog)) == 1 and "full" in warnings(caplog)[0]
    for one in store.due("a"):
        store.dead(one.id, "a", "gave up")
    store.tidy()
    assert store.add(trace("new"), ["a"])
    store.close()


def test_packed_traces_are_read_as_before(store: Store) -> None:
    """Bodies are compressed later, when nobody waits."""
    kept = [trace(str(n), "word " * 5_000) for n in range(40)]
    for one in kept:
        store.add(one)
    before = store.stats().bytes
    while store.tidy():
        pass
    assert store.stats().bytes < before / 4
    assert [store.get(one.id) for one in kept] == kept


def test_what_a_revision_masks_is_overwritten(store: Store, path: Path) -> None:
    """A log rule finds a secret after the trace was written: it must leave the disk."""
    secret = "sk-SECRET-1234567890"
    store.add(trace("1", {"role": "user", "content": secret + "x" * 9000}))
    store.tidy()
    assert store.revise(trace("1", {"role": "user", "content": "[masked:keys:12345678]"}))
    store.tidy()
    files = [p.read_bytes() for p in path.parent.glob("traces.db*")]
    assert len(files) >= 1 and not any(secret.encode() in data for data in files)
    assert [one.asked for one in store.list()] == ["[masked:keys:12345678]"]


# -- late findings -------------------------------------------------------------------------------


def noted(name: str) -> Trace:
    return replace(trace(name), findings=(NOTED,))


def test_late_findings_are_added(store: Store) -> None:
    """Log rules run behind the client's back."""
    store.add(trace("1"))
    assert store.revise(noted("1"))
    found = store.get("1")
    assert found is not None and found.findings == (NOTED,)
    assert ids(store, rule="orders") == ["1"] and store.list()[0].version == 2
    assert not store.revise(noted("unknown"))


def test_a_trace_is_held_until_its_late_findings_came(store: Store, clock: Clock) -> None:
    """Else the sink would get it without them, and perhaps with a secret."""
    for name in ("1", "2", "3"):
        store.add(trace(name), ["a"], hold=30)
    assert not store.due("a")
    store.revise(noted("1"))
    assert store.release("2")
    store.revise(noted("3"), sinks=["b"], hold=30)
    assert [one.id for one in store.due("a")] == ["1", "2"] and not store.due("b")
    clock.now += 31
    assert len(store.due("a")) == 3 and [one.id for one in store.due("b")] == ["3"]


def test_a_sink_that_takes_updates_gets_one(store: Store) -> None:
    """An OTLP backend replaces a span of the same id; the Explorer would make a second trace."""
    store.add(trace("1"), ["explorer", "otlp"])
    for sink in ("explorer", "otlp"):
        store.begin("1", sink)
        store.sent("1", sink, f"{sink}-9")
    store.revise(noted("1"), updates=["otlp"], sinks=["explorer", "new"])
    assert not store.due("explorer") and store.due("new")
    (update,) = store.due("otlp")
    assert update.remote_id == "otlp-9" and update.version == 2 and update.tries == 0


def test_a_revision_during_a_delivery_is_not_forgotten(store: Store) -> None:
    """It was read before the revision, and arrives afterwards."""
    store.add(trace("1"), ["otlp"])
    store.begin("1", "otlp")
    store.revise(noted("1"), updates=["otlp"])
    assert not store.due("otlp")
    store.sent("1", "otlp", "9")
    assert [one.remote_id for one in store.due("otlp")] == ["9"]


# -- outbox --------------------------------------------------------------------------------------


def test_a_delivery_is_tried_until_it_arrives(store: Store, clock: Clock) -> None:
    """The try is counted before anything is sent: who dies meanwhile leaves a trail."""
    store.add(trace("1"), ["a", "b"])
    first = store.begin("1", "a")
    assert first is not None and first.tries == 1 and store.begin("1", "a") is None
    assert store.retry("1", "a", clock.now + 10, "503")
    assert not store.due("a") and store.begin("1", "b") is not None
    clock.now += 11
    (again,) = store.due("a")
    assert again.tries == 1 and again.note == "503"
    assert store.begin("1", "a") and store.sent("1", "a", "remote")
    assert [(d.sink, d.state, d.tries, d.remote_id) for d in store.deliveries("1")] == [
        ("a", "sent", 2, "remote"),
        ("b", "pending", 1, ""),
    ]
    assert not store.due("a")


def test_the_lease_of_a_dead_sender_ends(store: Store, clock: Clock) -> None:
    """Nobody tells the file that a process was killed."""
    store.add(trace("1"), ["a"])
    store.begin("1", "a", lease=60)
    clock.now += 61
    (one,) = store.due("a")
    second = store.begin("1", "a")
    assert one.tries == 1 and second is not None and second.tries == 2
    assert not store.retry("1", "a", clock.now, "late", tries=1)  # the first one wakes up
    assert store.begin("1", "a") is None


def test_what_is_dead_stays_visible(store: Store) -> None:
    """A trace that a sink refuses is not lost, and not tried for ever."""
    store.add(trace("1"), ["a"])
    store.begin("1", "a")
    assert store.dead("1", "a", "400 bad shape") and not store.due("a")
    assert store.stats().deliveries == {("a", "dead"): 1}
    assert store.deliveries("1")[0].note == "400 bad shape" and store.get("1")


def test_what_is_dead_can_be_tried_again(store: Store) -> None:
    """When a person has mended it. It may have arrived: the tries stay counted."""
    for name in ("1", "2"):
        store.add(trace(name), ["a", "b"])
        for sink in ("a", "b"):
            store.begin(name, sink)
    store.dead("1", "a", "400")
    store.dead("1", "b", "400")
    assert store.backlog() == Backlog(pending=2, dead=2, oldest=trace("2").started)
    assert store.revive("a") == 1 and store.revive("a") == 0
    assert [(one.id, one.tries) for one in store.due("a")] == [("1", 1)]
    assert store.revive() == 1 and store.backlog().dead == 0


def test_what_nobody_sends_any_more_makes_room_in_the_end(path: Path, clock: Clock) -> None:
    """Its sink was taken out of the options; new traces are worth more. Not a day too early."""
    small = Store(path, max_rows=40, clock=clock)
    for number in range(40):
        assert small.add(trace(f"old-{number}"), ["gone"])
    clock.now += 6 * 86_400
    assert not small.add(trace("new"), ["a"])
    clock.now += 2 * 86_400
    small.tidy()
    assert small.add(trace("newer"), ["a"]) and small.stats().traces <= 40
    small.close()


@pytest.mark.parametrize("jump", [-10 * 86_400.0, 10 * 86_400.0])
def test_a_clock_that_jumps_stops_nothing(jump: float, store: Store, clock: Clock) -> None:
    """A laptop wakes up, a battery was empty."""
    for name in ("1", "2", "3"):
        store.add(trace(name), ["a"])
    store.begin("1", "a")
    store.retry("2", "a", clock.now + 60, "503")
    clock.now += jump
    assert {one.id for one in store.due("a")} == {"1", "2", "3"}
    assert all(store.begin(name, "a") for name in ("1", "2", "3"))
    store.add(trace("4"))
    assert ids(store) == ["4", "3", "2", "1"]


def test_nothing_waits_longer_than_an_hour(store: Store, clock: Clock) -> None:
    """A server that says "Retry-After: 99999999" is not obeyed."""
    store.add(trace("1"), ["a"])
    store.begin("1", "a")
    store.retry("1", "a", clock.now + 10**9, "429")
    clock.now += outbox.MAX_WAIT + 1
    assert store.due("a")


def test_senders_get_no_exception(store: Store, path: Path) -> None:
    """They run in threads that nobody watches."""
    path.parent.mkdir(mode=0o700)
    path.mkdir()
    assert not store.due("a") and store.begin("1", "a") is None
    assert not store.sent("1", "a") and not store.retry("1", "a", 0.0, "")
    assert not store.dead("1", "a", "")
    assert not store.tidy() and not store.release("1")


# -- questions -----------------------------------------------------------------------------------


def test_a_list_can_be_narrowed_down(store: Store) -> None:
    """Nobody reads 100,000 traces."""
    noon = datetime.datetime(2026, 5, 4, 12).astimezone().timestamp()
    store.add(trace("1", model="a", started=noon))
    store.add(trace("2", {"role": "user", "content": "50% OFF_"}, started=noon + 86_400))
    store.add(trace("3", status="blocked", findings=(NOTED,), client="pid 7 agent", dataset="d"))
    assert ids(store, model="a") == ["1"] and ids(store, status="blocked") == ["3"]
    assert ids(store, rule="orders") == ["3"] and ids(store, rule="order") == []
    assert ids(store, text="50% off_") == ["2"] and ids(store, text="%") == ["2"]
    assert ids(store, text="AGENT") == ["3"] and ids(store, dataset="d") == ["3"]
    assert ids(store, day=datetime.date(2026, 5, 4)) == ["1"]
    assert ids(store, found=False) == ["2", "1"] and ids(store, found=True) == ["3"]
    newest = store.list(1)[0]
    assert newest.rules == ("orders",) and newest.id == "3"
    assert ids(store, before=newest.seq) == ["2", "1"]


def test_the_turns_of_one_run_belong_together(store: Store) -> None:
    """An agent's run is a dozen exchanges; each one alone says little."""
    system = {"role": "system", "content": "be good"}
    first = {"role": "user", "content": "do it"}
    step = {"role": "assistant", "content": "step"}
    store.add(trace("1", system, first))
    store.add(trace("other", system, {"role": "user", "content": "do that"}))
    store.add(trace("2", system, first, step))
    store.add(trace("3", system, first, step, step))
    store.add(trace("again", system, first))
    assert [one.id for one in store.conversation("2")] == ["1", "2", "3"]
    assert [one.id for one in store.conversation("again")] == ["again"]
    assert store.conversation("unknown") == []


def test_an_opening_cannot_be_tried_out(store: Store, path: Path) -> None:
    """The hash of "hello" would tell everybody that it was hello."""
    store.add(trace("1"))
    other = Store(path.with_name("other.db"), key=b"j" * 32)
    other.add(trace("1"))
    openings = []
    for one in (store, other):
        with one._back.using() as connection:
            openings += connection.execute("SELECT opening FROM traces").fetchall()
    assert openings[0] != openings[1]
    other.close()


def test_figures(store: Store) -> None:
    """What a status line shows."""
    store.add(trace("1", timing=Timing(5.0)), ["a"])
    store.add(trace("2", status="blocked", findings=(NOTED, replace(NOTED, words="b"))))
    stats = store.stats()
    assert stats.traces == 2 and stats.bytes > 0 and stats.oldest == stats.newest == 1_000_000.0
    assert stats.by_status == {"judged": 1, "blocked": 1} and stats.by_model == {"m": 2}
    assert stats.by_rule == {"orders": 1} and stats.deliveries == {("a", "pending"): 1}


def test_a_list_and_a_trace_are_found_without_a_look_at_all_others(store: Store) -> None:
    """With 100,000 traces both take a millisecond; by SQLite's own plan, and not by a clock."""
    for number in range(3):
        store.add(trace(f"{number}"), ["a"])
    said: list[str] = []
    with store._back.using() as connection:
        connection.set_trace_callback(said.append)
        store.list(50)
        store.list(50, Filter(before=3))
        store.get("1")
        store.due("a")
        store.begin("1", "a")
        connection.set_trace_callback(None)
        asked = [one for one in said if one.startswith(("SELECT", "UPDATE"))]
        plans = [list(connection.execute(f"EXPLAIN QUERY PLAN {one}")) for one in asked]
    steps = [step for plan in plans for *_, step in plan]
    assert len(asked) >= 5 and not any("TEMP B-TREE" in step for step in steps), steps
    # The first page of a list is a scan from its end, and stops after 50 rows.
    assert [step for step in steps if step.startswith("SCAN")] == ["SCAN traces"], steps
