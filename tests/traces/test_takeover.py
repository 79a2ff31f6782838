"""What killed proxies left: taken in whole before anything of it is sent, and honest about rules
that never looked."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from invariant_addon.core.trace import Trace
from invariant_addon.rules.fingerprints import load_key
from invariant_addon.traces import archive, journal, takeover
from invariant_addon.traces.store import Store
from invariant_addon.traces.tables import UNLOOKED

from .test_behind import as_others_see, locked, until
from .test_store import ids, start, trace

pytestmark = pytest.mark.skipif(not journal.IS_POSSIBLE, reason="needs locks on files")

LOGIN = "https://ada:plainword7@db.acme.dev/x"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "private" / "traces.db"


@pytest.fixture
def next_one(path: Path) -> Iterator[Store]:
    """The proxy that comes after the killed one; it begins when it is told."""
    store = Store(path, key=b"k" * 32)
    yield store
    store.close()


def killed_after(path: Path, body: str, *arguments: str) -> None:
    """A program that did this, and was killed with SIGKILL."""
    ends = "\nprint(flush=True)\nimport threading; threading.Event().wait(60)\n"
    process = start(path, "store.open()\nstore.write_behind(lambda: None)\n" + body + ends)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.stdout.close()
    process.wait()


def outcome(found: Trace | None) -> tuple[str, str]:
    assert found is not None
    return found.status, found.reason


@pytest.mark.parametrize("is_in_the_file", [True, False])
@pytest.mark.parametrize(
    ("then", "expected"),
    [
        ("", ("partial", UNLOOKED)),
        ("store.release('1')\n", ("judged", "")),
        ("store.revise(trace('1', 'looked at'))\n", ("judged", "")),
        ("store.revise(trace('1', 'more'), hold=600)\n", ("partial", UNLOOKED)),
    ],
)
def test_a_trace_says_whether_log_rules_had_looked(
    then: str, expected: tuple[str, str], is_in_the_file: bool, path: Path, next_one: Store
) -> None:
    """Without findings it would look as clean as any other."""
    settles = "store.settle()\n" if is_in_the_file else ""
    killed_after(
        path,
        f"store.add(trace('1', 'hello {LOGIN}'), ['a'], hold=600)\n{settles}{then}"
        "store.add(trace('2'), ['a'])\n",
    )
    next_one.write_behind(lambda: None)
    until(lambda: {one.id for one in next_one.due("a")} == {"1", "2"})
    assert outcome(next_one.get("1")) == expected
    assert outcome(next_one.get("2")) == ("judged", "")
    assert next_one.stats().unlooked == (expected[0] == "partial")
    assert "plainword7" not in repr(next_one.get("1"))


def test_who_reads_is_told_too(path: Path) -> None:
    """No other proxy has started since."""
    load_key(path.parent)
    killed_after(path, f"store.add(trace('1', '{LOGIN}'), hold=600)\nstore.settle()\n")
    reader = archive._Kept(path.parent)
    assert outcome(reader.get("1")) == ("partial", UNLOOKED)
    assert reader.stats().unlooked == 1
    reader._store.close()
    assert not list(path.parent.glob("*.journal.*"))


def test_the_end_of_a_proxy_is_told_as_well(path: Path, next_one: Store) -> None:
    """It waits for log rules for half a second, and not for ever."""
    first = Store(path)
    first.write_behind(lambda: None)
    first.add(trace("1"), hold=600)
    first.add(trace("2", status="blocked", reason="why"), hold=600)
    first.close()
    assert outcome(next_one.get("1")) == ("judged", "")
    next_one.catch_up()
    assert outcome(next_one.get("1")) == ("partial", UNLOOKED)
    assert outcome(next_one.get("2")) == ("blocked", "why")  # it says that already
    assert next_one.stats().unlooked == 1
    next_one.catch_up()
    assert next_one.stats().unlooked == 1


def test_a_living_one_is_waited_for(path: Path, next_one: Store) -> None:
    """Its log rules are still looking."""
    living = Store(path)
    living.write_behind(lambda: None)
    living.add(trace("1"), ["a"], hold=600)
    living.settle()
    next_one.catch_up()
    assert outcome(next_one.get("1")) == ("judged", "") and not next_one.due("a")
    living.release("1")
    living.settle()
    assert [one.id for one in next_one.due("a")] == ["1"]
    living.close()
    next_one.catch_up()
    assert outcome(next_one.get("1")) == ("judged", "")


def test_nothing_is_sent_before_all_is_taken_in(path: Path, next_one: Store) -> None:
    """What masks a secret may be the last that a killed proxy has noted."""
    killed_after(
        path,
        "store.add(trace('1', 'SECRET'), ['a'], hold=600)\nstore.settle()\n"
        "import sqlite3\n"
        "locker = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "locker.execute('BEGIN IMMEDIATE')\n"
        "assert store.revise(trace('1', '[masked]'))\n",
    )
    assert not next_one._writer._takeover.set_free() and not next_one.due("a")
    assert next_one._writer.take_over()
    found = next_one.get("1")
    assert found is not None and found.messages == ("[masked]",)
    assert [one.id for one in next_one.due("a")] == ["1"]


def test_a_large_journal_is_taken_in_some_at_a_time(
    path: Path, next_one: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be as large as the store. Killed in the middle of that, the next one begins again."""
    monkeypatch.setattr(takeover, "_BATCH", 7)
    killed_after(
        path,
        "import sqlite3\n"
        "from invariant_addon.traces import journal, waiting\n"
        "journal.PART_BYTES = 10_000\n"
        "locker = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "locker.execute('BEGIN IMMEDIATE')\n"
        "for n in range(100): assert store.add(trace(str(n), 'x' * 500), ['a'])\n"
        "for n in range(100): assert store.revise(trace(str(n), 'y'))\n",
    )
    assert len(list(path.parent.glob("*.journal.*"))) > 5
    first = Store(path)
    write = first._writer._tables.write
    count = 0

    def fail(*given: object) -> bool:
        nonlocal count
        count += 1
        if count == 150:
            raise sqlite3.OperationalError("disk I/O error")
        return write(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(first._writer._tables, "write", fail)
    assert first._writer.take_over()
    assert len(as_others_see(path)) == 100 and list(path.parent.glob("*.journal.*"))
    first.close()
    next_one.catch_up()
    assert ids(next_one) == [str(n) for n in range(99, -1, -1)]
    assert all((one := next_one.get(str(n))) and one.messages == ("y",) for n in range(100))
    assert not list(path.parent.glob("*.journal.*")) and next_one.stats().lost == 0


ENDLESS = f"""
from invariant_addon.traces import journal, waiting
journal.PART_BYTES = 60_000
waiting.WINDOW_ENTRIES = 50
store.open()
store.write_behind(lambda: None)
for n in range(10**6):
    name = f"{{sys.argv[2]}}-{{n}}"
    assert store.add(trace(name, "{LOGIN} " + "x" * 2000), ["a"], hold=600)
    if n % 3 == 0:
        assert store.revise(trace(name, "revised"))
    elif n % 3 == 1:
        assert store.release(name)
    print(name, flush=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_kill_9_in_the_middle_of_everything(path: Path) -> None:
    """Locked and free again, again and again killed: nothing that was acknowledged is lost, no
    revision, and no secret is kept."""
    first = Store(path)
    first.open()
    first.close()
    for attempt in range(4):
        locker = locked(path) if attempt % 2 else None
        process = start(path, ENDLESS, str(attempt))
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(150 + attempt * 137)]
        if locker is not None and attempt == 3:
            locker.close()  # killed while it catches up
            said += [process.stdout.readline() for _ in range(50)]
        process.send_signal(signal.SIGKILL)
        said += process.stdout.readlines()
        process.stdout.close()
        process.wait()
        acknowledged = [line.strip() for line in said if line.endswith("\n")]
        if locker is not None:
            locker.close()
        store = Store(path)
        store.catch_up()
        assert set(acknowledged) <= set(ids(store))
        assert set(acknowledged) <= {one.id for one in store.due("a", 10_000)}
        for name in acknowledged:
            found = store.get(name)
            assert found is not None and "plainword7" not in repr(found)
            which = int(name.partition("-")[2]) % 3
            assert (found.messages == ("revised",)) == (which == 0)
            assert (found.status == "partial") == (which == 2)
        assert not list(path.parent.glob("*.journal.*"))
        store.close()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
