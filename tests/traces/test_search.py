"""Searching what was said: wherever it stands, however JSON spells it, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from invariant_addon.traces import search
from invariant_addon.traces.codec import write
from invariant_addon.traces.store import Filter, Store

from .test_store import ids, trace

LONG = "so " * 100  # more than the columns hold
TEXTS = st.text(st.characters(exclude_categories=()), min_size=1, max_size=12)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "data" / "traces.db")
    yield store
    store.close()


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


@given(text=TEXTS)
@example(text='a "quoted" \\ and\na line')
@example(text="\ud800 alone")
@example(text="ÄÖ 😀")
def test_a_text_is_found_however_it_is_spelled(text: str) -> None:
    """In JSON, with escapes or without."""
    for content in (text, [{"type": "text", "text": LONG + text}], {"deep": [[text]]}):
        body = write(trace("1", user(content)))
        assert search._says(0, body, text)
        assert search._says(0, body, text.swapcase() if text.isascii() else text)


@given(text=TEXTS, other=TEXTS)
@example(text="\xe9i", other="\xe9\u0130")
@example(text="\xe9k", other="\xe9\u212a")
def test_what_was_not_said_is_not_found(text: str, other: str) -> None:
    """However alike the bytes are."""
    found = search._says(0, write(trace("1", user(other))), text)
    if text.isascii():
        assert found == (search._bytes(text) in search._bytes(other))
    else:
        assert found == (text.lower() in other.lower())


@pytest.mark.parametrize(
    ("said", "sought"),
    [
        ("im GRÜNEN Feld", "grünen"),
        ("Привет, мир", "ПРИВЕТ"),
        ("ΟΔΥΣΣΕΥΣ", "οδυσσευς"),
    ],
)
def test_case_is_no_matter_in_any_alphabet(said: str, sought: str) -> None:
    """Most people in the world write no ASCII."""
    assert search._says(0, write(trace("1", user(LONG + said))), sought)
    escaped = write(trace("1", user("\ud800" + said)))  # as the standard library spells it
    assert search._says(0, escaped, sought)


def test_it_is_looked_for_in_all_of_a_trace(store: Store) -> None:
    """Far behind the beginning, in an old turn, in a tool's arguments, in the reply."""
    arguments = json.dumps({"path": "/etc/shadow"})
    call = {"type": "function", "function": {"name": "read", "arguments": arguments}}
    store.add(trace("far", user(LONG + "far behind")))
    store.add(trace("old", user("an old turn"), *[user(LONG)] * 50))
    store.add(trace("call", user("hi"), choices=({"role": "assistant", "tool_calls": [call]},)))
    store.add(trace("reply", user("hi"), choices=({"role": "assistant", "content": LONG + "Äh"},)))
    store.add(trace("packed", user(LONG * 50 + "in a large one")))
    store.tidy()
    for text, wanted in {
        "far behind": ["far"],
        "AN OLD turn": ["old"],
        "/etc/shadow": ["call"],
        "Äh": ["reply"],
        "a large one": ["packed"],
        "so so": ["packed", "reply", "old", "far"],
    }.items():
        assert ids(store, text=text) == wanted
    assert [one.id for one in store.list(1, Filter(text="so so"))] == ["packed"]


@pytest.mark.parametrize("text", ["content", "messages", "assistant", "function", "chat.comp", "%"])
def test_names_of_fields_are_not_found(store: Store, text: str) -> None:
    """They are in every trace, and nobody said them."""
    call = {"type": "function", "function": {"name": "read", "arguments": "{}"}}
    store.add(trace("1", user("hi"), choices=({"role": "assistant", "tool_calls": [call]},)))
    assert ids(store, text=text) == []


def test_what_was_masked_is_not_found(store: Store) -> None:
    """What its owner keeps for himself is not told to whoever tries texts on the page."""
    store.add(trace("1", user("[masked]"), original=trace("1", user("my sk-1"))))
    assert ids(store, text="sk-1") == [] and ids(store, text="[masked]") == ["1"]


def test_a_damaged_trace_does_not_end_a_search(store: Store) -> None:
    """Those before it are still looked for."""
    for name in ("1", "2", "3"):
        store.add(trace(name, user(LONG + "here")))
    with store._back.writing() as connection:
        connection.execute("UPDATE bodies SET packed = 1 WHERE seq = 2")
    assert ids(store, text="here") == ["3", "1"]
