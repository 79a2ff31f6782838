"""Turns by their names: kept once, for their owner alone, bounded, and there after a restart."""

from __future__ import annotations

import os
import stat
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invariant_addon.core.conversation import Message, Part, ToolCall
from invariant_addon.core.references import Reference
from invariant_addon.history import codec
from invariant_addon.history.codec import CodecError, Scope
from invariant_addon.history.database import Bounds
from invariant_addon.history.store import Store, Turn

MINE = Scope.of(b"machine", "Bearer sk-mine", "", "")
OTHER = Scope.of(b"machine", "Bearer sk-mine", "org", "")
TEXTS = st.text(st.characters(codec=None, exclude_categories=()), max_size=20)


def said(text: str) -> tuple[Message, ...]:
    return (Message("assistant", (Part("text", text),)),)


def asked(text: str) -> tuple[Message, ...]:
    return (Message("user", (Part("text", text),)),)


type Open = Callable[..., Store]


@pytest.fixture
def opened() -> Iterator[Open]:
    """Opens stores, and closes them."""
    stores: list[Store] = []

    def open_one(path: Path | None, bounds: Bounds | None = None) -> Store:
        stores.append(Store(path, bounds))
        return stores[-1]

    yield open_one
    for store in stores:
        store.close()


def ref(name: str) -> Reference:
    return Reference("response", name)


@given(
    st.lists(
        st.builds(
            Message,
            TEXTS,
            st.lists(st.builds(Part, st.just("text"), TEXTS), max_size=3).map(tuple),
            st.lists(st.builds(ToolCall, st.none() | TEXTS, TEXTS, TEXTS), max_size=2).map(tuple),
            st.none() | TEXTS,
            st.none() | TEXTS,
        ),
        max_size=4,
    ).map(tuple)
)
def test_what_was_written_is_read(messages: tuple[Message, ...]) -> None:
    """Half characters included: they come from outside."""
    assert codec.read(codec.write(messages, MINE), MINE) == messages


@given(st.binary(max_size=200))
def test_other_bytes_are_nothing(body: bytes) -> None:
    """Somebody may write in the file."""
    with pytest.raises(CodecError):
        codec.read(body, MINE)


def test_nobody_else_finds_or_reads_a_turn(tmp_path: Path, opened: Open) -> None:
    """An id that was heard elsewhere is worth nothing under another key or organisation."""
    store = opened(tmp_path / "h.db")
    store.add(MINE, None, asked("the BLUEBIRD"), said("sings"), [ref("r")])
    for each in (store, opened(tmp_path / "h.db")):
        assert each.find(OTHER, ref("r")) is None and each.at_hand(OTHER, ref("r")) is None
        assert each.find(Scope.of(b"else", "Bearer sk-mine", "", ""), ref("r")) is None
        assert each.find(MINE, ref("r")) is not None
        assert each.find(MINE, Reference("item", "r")) is None
    with pytest.raises(CodecError):
        codec.read(codec.write(said("x"), MINE), OTHER)
    store.close()
    data = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"BLUEBIRD" not in data and b"sk-mine" not in data
    assert stat.S_IMODE((tmp_path / "h.db").stat().st_mode) == 0o600


def test_callers_are_not_confused_by_where_their_parts_end() -> None:
    """ "a" + "bc" is not "ab" + "c"."""
    assert Scope.of(b"m", "a", "bc") != Scope.of(b"m", "ab", "c")


def test_a_conversation_is_kept_once_and_found_whole(tmp_path: Path, opened: Open) -> None:
    """Each turn adds what is new; after a restart, too."""
    store, turn = opened(tmp_path / "h.db"), None
    for n in range(50):
        turn = store.add(MINE, turn, asked(f"q{n}"), said(f"a{n}"), [ref(f"r{n}")])
    for each in (store, opened(tmp_path / "h.db")):
        found = each.find(MINE, ref("r30"))
        assert found is not None and found.said == said("a30")
        texts = [message.text for message in found.messages]
        assert texts == [f"{kind}{n}" for n in range(31) for kind in "qa"]


def test_two_may_go_on_from_one_turn(tmp_path: Path, opened: Open) -> None:
    """Conversations branch."""
    store = opened(tmp_path / "h.db")
    first = store.add(MINE, None, asked("q"), said("a"), [ref("r")])
    store.add(MINE, first, asked("left"), (), [ref("left")])
    store.add(MINE, first, asked("right"), (), [ref("right")])
    again = opened(tmp_path / "h.db")
    for name in ("left", "right"):
        found = again.find(MINE, ref(name))
        assert found is not None and [m.text for m in found.messages] == ["q", "a", name]


def test_old_conversations_go_whole(tmp_path: Path, opened: Open) -> None:
    """A conversation that is cut would be judged as if its beginning had not been."""
    store = opened(tmp_path / "h.db", Bounds(conversations=100))
    for n in range(300):
        first = store.add(MINE, None, asked(f"q{n}"), said("a"), [ref(f"{n}.1")])
        store.add(MINE, first, asked("more"), said("b"), [ref(f"{n}.2")])
    again = opened(tmp_path / "h.db")
    left = [n for n in range(300) if again.find(MINE, ref(f"{n}.1"))]
    assert left[-1] == 299 and left[0] > 100
    for n in range(300):
        found = again.find(MINE, ref(f"{n}.2"))
        assert (found is not None) == (n in left)
        assert found is None or len(found.messages) == 4


def test_what_lies_behind_a_removed_turn_is_kept_anew(tmp_path: Path, opened: Open) -> None:
    """The conversation in memory is whole, whatever became of the file."""
    store = opened(tmp_path / "h.db")
    first = store.add(MINE, None, asked("q"), said("a"), [ref("1")])
    gone = Turn(first.messages, first.said, 999, first.size)
    store.add(MINE, gone, asked("q2"), said("a2"), [ref("2")])
    found = opened(tmp_path / "h.db").find(MINE, ref("2"))
    assert found is not None and len(found.messages) == 4


def test_a_damaged_file_is_begun_anew(tmp_path: Path, opened: Open) -> None:
    """It is a cache."""
    (tmp_path / "h.db").write_bytes(b"not a database" * 100)
    (tmp_path / "h.db").chmod(0o600)
    store = opened(tmp_path / "h.db")
    store.add(MINE, None, asked("q"), said("a"), [ref("r")])
    assert opened(tmp_path / "h.db").find(MINE, ref("r")) is not None


@pytest.mark.skipif(os.name != "posix", reason="modes")
def test_a_file_that_others_can_read_is_not_used(tmp_path: Path, opened: Open) -> None:
    """What is in memory counts all the same."""
    (tmp_path / "h.db").write_bytes(b"")
    (tmp_path / "h.db").chmod(0o644)
    store = opened(tmp_path / "h.db")
    store.add(MINE, None, asked("q"), said("a"), [ref("r")])
    assert store.find(MINE, ref("r")) is not None
    assert (tmp_path / "h.db").read_bytes() == b""


def test_memory_is_bounded_by_what_turns_add(opened: Open) -> None:
    """Without a file, as a connection's own memory."""
    store = opened(None)
    for n in range(200):
        store.add(MINE, None, asked("x" * 2**20), (), [ref(str(n))])
    assert store.at_hand(MINE, ref("199")) is not None
    assert store.at_hand(MINE, ref("0")) is None


@pytest.mark.parametrize("character", ["x", "\u4e2d", "\U0001f600"])
def test_memory_is_bounded_in_bytes(character: str, tmp_path: Path, opened: Open) -> None:
    """What is on disk need not be there as well: most are never asked for again. A character may
    take four bytes."""
    store = opened(tmp_path / "h.db")
    text = character * 2**18
    tracemalloc.start()
    try:
        for n in range(100):
            store.add(MINE, None, asked(f"{n}{text}"), (), [ref(str(n))])
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 20 * 2**20
    assert store.at_hand(MINE, ref("99")) is not None
    assert store.at_hand(MINE, ref("0")) is None
    found = store.find(MINE, ref("0"))
    assert found is not None and found.messages == asked(f"0{text}")
