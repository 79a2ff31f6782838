"""Mutes: a person lets a finding pass for a while; a program that is guarded cannot."""

from __future__ import annotations

import json
import logging
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from invariant_addon.core.conversation import Conversation, Message, Part, ToolCall
from invariant_addon.core.verdict import Address, Guardrail, Violation
from invariant_addon.rules.fingerprints import load_key
from invariant_addon.rules.mutes import MuteError, Mutes

KEYS = Guardrail("1", "keys", "")
SHELL = Guardrail("2", "shell", "")
SECRET = "sk-1234567890"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def says(role: str, text: str) -> Message:
    return Message(role, (Part("text", text),))


def talk(*texts: str, opening: str = "hello") -> Conversation:
    later = [says("assistant" if n % 2 == 0 else "user", text) for n, text in enumerate(texts)]
    return Conversation((says("system", "be kind"), says("user", opening), *later))


def finding(message: int, start: int | None, end: int | None, rule: Guardrail = KEYS) -> Violation:
    return Violation(rule, "a key", (Address(message), Address(message, "content", start, end)))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def proxy(tmp_path: Path, clock: Clock) -> Mutes:
    folder = tmp_path / "data"
    return Mutes(folder, load_key(folder), clock)


@pytest.fixture
def person(tmp_path: Path, clock: Clock) -> Mutes:
    """At the command line: another process, without the key."""
    return Mutes(tmp_path / "data", b"", clock)


def refuse(proxy: Mutes, asked: Conversation, *found: Violation, name: str = "inv_1") -> None:
    proxy.record(name, "request", asked, asked.messages, found)


def covered(proxy: Mutes, asked: Conversation, found: Violation) -> bool:
    return proxy.covers(found, asked, asked.messages) is not None


def test_a_rule_can_be_put_on_trial(proxy: Mutes, person: Mutes, clock: Clock) -> None:
    """As a whole, for a while: it was written too wide, and the day has to go on."""
    asked = talk(f"it is {SECRET}.")
    refuse(proxy, asked, finding(2, 6, 19))
    (mute,) = person.mute("inv_1", scope="rule", seconds=60)
    assert mute.on_trial and mute.fingerprint == KEYS.id
    covering = proxy.covers(finding(2, 0, 5), talk("", "else", opening="other"), ())
    assert covering is not None and covering.on_trial
    assert not covered(proxy, asked, finding(2, 6, 19, SHELL))
    clock.now += 61
    assert not covered(proxy, asked, finding(2, 6, 19))


def test_a_muted_finding_passes_wherever_it_is(proxy: Mutes, person: Mutes) -> None:
    """A key that documentation shows stays harmless in the next conversation."""
    asked = talk(f"it is {SECRET}.")
    found = finding(2, 6, 19)
    assert not covered(proxy, asked, found)
    refuse(proxy, asked, found)
    (mute,) = person.mute("inv_1", scope="finding", seconds=60)
    assert covered(proxy, asked, found)
    assert covered(proxy, talk("", SECRET, opening="other"), finding(3, 0, 13))
    assert not covered(proxy, talk("", SECRET + "x"), finding(3, 0, 14))
    assert not covered(proxy, asked, finding(2, 6, 19, SHELL))
    assert mute.guardrail == "keys" and mute.until == 1060.0


def test_a_muted_conversation_passes_in_all_its_turns(proxy: Mutes, person: Mutes) -> None:
    """It is known by its opening, which every later turn sends again."""
    asked = talk("yes")
    refuse(proxy, asked, finding(2, 0, 3))
    person.mute("inv_1", scope="conversation", seconds=60)
    later = talk("yes", "and now?", SECRET)
    assert covered(proxy, later, finding(4, 0, 13))
    assert not covered(proxy, later, finding(4, 0, 13, SHELL))
    assert not covered(proxy, talk("yes", opening="hello!"), finding(2, 0, 3))


def test_only_the_named_rule_is_muted(proxy: Mutes, person: Mutes) -> None:
    """Two rules refused it, and one of them was right."""
    asked = talk(SECRET)
    refuse(proxy, asked, finding(2, 0, 13), finding(2, 0, 13, SHELL))
    person.mute("inv_1", scope="finding", seconds=60, guardrail="shell")
    assert covered(proxy, asked, finding(2, 0, 13, SHELL))
    assert not covered(proxy, asked, finding(2, 0, 13))
    with pytest.raises(MuteError, match="not refused by mail, but by keys, shell"):
        person.mute("inv_1", scope="finding", seconds=60, guardrail="mail")


@pytest.mark.parametrize(
    "found",
    [
        Violation(KEYS, "x", ()),
        Violation(KEYS, "x", (Address(2),)),
        Violation(KEYS, "x", (Address(2, "content", 0, 999),)),
        Violation(KEYS, "x", (Address(99),)),
        Violation(KEYS, "x", (Address(2, "tool_calls.0.function.arguments.cmd", 0, 2),)),
    ],
)
def test_a_finding_without_a_range_is_its_message(
    proxy: Mutes, person: Mutes, found: Violation
) -> None:
    """Or the opening, if there is not even a message."""
    call = ToolCall("c", "bash", '{"cmd": "ls"}')
    asked = Conversation((says("user", "a"), says("assistant", "b"), Message("x", (), (call,))))
    refuse(proxy, asked, found)
    person.mute("inv_1", scope="finding", seconds=60)
    assert covered(proxy, asked, found)
    other = Conversation((says("user", "c"), says("assistant", "b"), says("x", "d")))
    assert not covered(proxy, other, found)


def test_a_mute_expires(proxy: Mutes, person: Mutes, clock: Clock) -> None:
    """What is muted for ever is a rule that nobody knows is off."""
    asked, found = talk(SECRET), finding(2, 0, 13)
    refuse(proxy, asked, found)
    person.mute("inv_1", scope="finding", seconds=60)
    clock.now += 59
    assert covered(proxy, asked, found)
    clock.now += 1
    assert not covered(proxy, asked, found)
    assert person.list() == ()
    for seconds in (0, -1, 1e9, float("nan")):
        with pytest.raises(MuteError):
            person.mute("inv_1", scope="finding", seconds=seconds)


def test_a_mute_is_taken_back(proxy: Mutes, person: Mutes) -> None:
    """By its own id, or by that of the refusal."""
    asked, found = talk(SECRET), finding(2, 0, 13)
    refuse(proxy, asked, found)
    (mute,) = person.mute("inv_1", scope="finding", seconds=60)
    assert person.list() == (mute,)
    assert covered(proxy, asked, found)
    assert person.unmute(mute.id) == (mute,)
    assert not covered(proxy, asked, found)
    person.mute("inv_1", scope="finding", seconds=60)
    assert person.mute("inv_1", scope="finding", seconds=90)[0].until == 1090.0
    assert len(person.unmute("inv_1")) == 1
    with pytest.raises(MuteError, match="inv_1"):
        person.unmute("inv_1")


def test_the_beginning_of_an_id_is_enough(proxy: Mutes, person: Mutes) -> None:
    """The log and `scripts/traces list` show no more; but it must be one refusal's alone."""
    asked, found = talk(SECRET), finding(2, 0, 13)
    refuse(proxy, asked, found, name="inv_0123456789abcdef")
    refuse(proxy, asked, found, name="inv_0123456700000000")
    (mute,) = person.mute("inv_0123456789", scope="finding", seconds=60)
    assert mute.request_id == "inv_0123456789abcdef"
    assert covered(proxy, asked, found)
    for unclear, why in (
        ("inv_01234567", "is not among"),  # it is two refusals'
        ("inv_0123456", "too short; give at least 12 characters"),
        ("inv_", "too short"),
    ):
        with pytest.raises(MuteError, match=why):
            person.mute(unclear, scope="finding", seconds=60)
    with pytest.raises(MuteError, match="too short; give at least 12 characters"):
        person.unmute("inv_0123456")
    assert person.unmute("inv_0123456789") == (mute,)


def test_an_unknown_request_id_is_said(proxy: Mutes, person: Mutes) -> None:
    """And where the id is to be found."""
    refuse(proxy, talk(), name="inv_2")
    with pytest.raises(MuteError, match=r"inv_11111111 is not among .* details\.request_id"):
        person.mute("inv_11111111", scope="finding", seconds=60)
    with pytest.raises(MuteError, match="want of a verdict"):
        person.mute("inv_2", scope="finding", seconds=60)


def test_no_file_holds_a_text(proxy: Mutes, person: Mutes, tmp_path: Path) -> None:
    """These files outlive the conversation, and are copied with backups."""
    refuse(proxy, talk(SECRET, opening="my opening"), finding(2, 0, 13))
    person.mute("inv_1", scope="finding", seconds=60)
    for path in (tmp_path / "data").iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
        assert SECRET.encode() not in path.read_bytes()
        assert b"opening" not in path.read_bytes()
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700


def test_only_the_last_refusals_are_kept(proxy: Mutes, person: Mutes, tmp_path: Path) -> None:
    """An agent that is refused all night must not fill the disk."""
    for n in range(3000):
        refuse(proxy, talk(), finding(1, 0, 2), name=f"inv_{n:032}")
    size = sum(p.stat().st_size for p in (tmp_path / "data").glob("refusals*"))
    assert size < 600_000
    person.mute(f"inv_{2999:032}", scope="finding", seconds=1)
    person.mute(f"inv_{2500:032}", scope="finding", seconds=1)
    with pytest.raises(MuteError):
        person.mute(f"inv_{0:032}", scope="finding", seconds=1)


def test_proxies_that_share_a_folder_lose_nothing(tmp_path: Path) -> None:
    """Two of them refuse at once, and a person mutes meanwhile."""
    key = load_key(tmp_path)

    def work(name: str) -> None:
        mutes = Mutes(tmp_path, key)
        for n in range(100):
            refuse(mutes, talk(name), finding(2, 0, 1), name=f"inv_{name}{n}")
            if n % 10 == 0:
                mutes.mute(f"inv_{name}{n}", scope="conversation", seconds=60)
                mutes.mute(f"inv_{name}{n}", scope="finding", seconds=60)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = (tmp_path / "refusals.jsonl").read_bytes().splitlines()
    assert len({json.loads(line)["request_id"] for line in lines}) == 400
    assert len(Mutes(tmp_path, key).list()) == 5  # one opening, four findings


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_text("{"),
        lambda path: path.write_text('{"mutes": [{}]}'),
        lambda path: path.write_text('{"mutes": [' * 3000),
        lambda path: path.write_text(path.read_text().replace('"until": ', '"until": "')),
        lambda path: path.write_bytes(b"\xff\xfe\x00"),
        lambda path: path.chmod(0o666),
        lambda path: path.parent.chmod(0o777),
        lambda path: (path.rename(path.with_name("x")), path.symlink_to("x")),
        lambda path: (path.unlink(), path.mkdir()),
        lambda path: [path.unlink(), *map(os.mkfifo, [path])],
    ],
)
def test_what_others_could_have_written_mutes_nothing(
    proxy: Mutes, person: Mutes, tmp_path: Path, caplog: Any, spoil: Any
) -> None:
    """Fail closed, with one warning: this file switches rules off."""
    asked, found = talk(SECRET), finding(2, 0, 13)
    refuse(proxy, asked, found)
    person.mute("inv_1", scope="finding", seconds=60)
    path = tmp_path / "data" / "mutes.json"
    spoil(path)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert not covered(proxy, asked, found)
            if path.is_file():
                os.utime(path)
    assert [r.getMessage().partition(":")[0] for r in caplog.records] == ["nothing is muted"]
    if path.parent.stat().st_mode & 0o002 == 0:
        with pytest.raises(MuteError):
            person.list()


def test_a_file_of_somebody_else_mutes_nothing(
    proxy: Mutes, person: Mutes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder in /tmp that another user made first."""
    asked, found = talk(SECRET), finding(2, 0, 13)
    refuse(proxy, asked, found)
    person.mute("inv_1", scope="finding", seconds=60)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert not covered(proxy, asked, found)


def test_links_are_not_written_through(proxy: Mutes, tmp_path: Path, caplog: Any) -> None:
    """Whoever plants one would have the proxy write into any file of its user."""
    precious = tmp_path / "precious"
    precious.write_text("x")
    (tmp_path / "data" / "refusals.jsonl").symlink_to(precious)
    (tmp_path / "data" / "mutes.json").symlink_to(precious)
    refuse(proxy, talk(), finding(1, 0, 2))
    refuse(proxy, talk(), finding(1, 0, 2))
    assert precious.read_text() == "x"
    assert len(caplog.records) == 1


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path: Path, caplog: Any) -> None:
    """A proxy in a read-only container still guards."""
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "data"
    mutes = Mutes(folder, load_key(folder))
    refuse(mutes, talk(), finding(1, 0, 2))
    refuse(mutes, talk(), finding(1, 0, 2))
    assert not covered(mutes, talk(), finding(1, 0, 2))
    assert len(caplog.records) == 2


def test_a_mute_is_logged_once_by_the_proxy(proxy: Mutes, person: Mutes, caplog: Any) -> None:
    """Whoever watches the proxy sees that a rule is off, for how long, and why."""
    asked, found = talk(SECRET), finding(2, 0, 13)
    refuse(proxy, asked, found)
    person.mute("inv_1", scope="finding", seconds=60)
    for _ in range(3):
        assert covered(proxy, asked, found)
    (record,) = caplog.records
    assert "muted keys for one finding, for 1 minutes" in record.getMessage()
    assert "inv_1" in record.getMessage()
