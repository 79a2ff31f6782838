"""Pieces of a text: together they are the text, and each says what was found in it."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from invariant_addon.page.marking import LONGEST, Range, pieces

TEXTS = st.text(st.characters(codec=None), max_size=60)
RANGES = st.lists(
    st.builds(Range, st.integers(-3, 70), st.integers(-3, 70), st.sampled_from("abc"))
)


@given(TEXTS, RANGES, st.none() | st.integers(-1, 70))
def test_pieces_are_the_text_and_marks_are_the_ranges(
    text: str, ranges: list[Range], withheld: int | None
) -> None:
    """Whatever overlaps, lies outside or is empty; half characters are characters here, too."""
    found = pieces(text, ranges, withheld_from=withheld)
    assert "".join(piece["t"] for piece in found) == text
    at = 0
    for piece in found:
        for place in range(at, at + len(piece["t"])):
            sure = [r for r in ranges if 0 <= r.start < r.end <= len(text)]
            about = {r.finding for r in sure if r.start <= place < r.end}
            assert set(piece.get("m", ())) == about
            assert piece.get("w", False) == (withheld is not None and place >= withheld)
        at += len(piece["t"])


@given(st.lists(st.tuples(st.integers(0, 49_990), st.integers(1, 10)), max_size=5))
@settings(max_examples=30)
def test_of_a_long_text_what_was_found_is_there(places: list[tuple[int, int]]) -> None:
    """A finding in the middle of a megabyte is what one came for."""
    text = "".join(chr(0x4E00 + n % 5000) for n in range(50_000))
    ranges = [Range(start, start + length, str(n)) for n, (start, length) in enumerate(places)]
    found = pieces(text, ranges)
    at, marked = 0, dict.fromkeys((r.finding for r in ranges), "")
    for piece in found:
        if "cut" in piece:
            at += piece["cut"]
            continue
        assert text[at : at + len(piece["t"])] == piece["t"]
        for finding in piece.get("m", ()):
            marked[finding] += piece["t"]
        at += len(piece["t"])
    assert at == len(text)
    assert marked == {r.finding: text[r.start : r.end] for r in ranges}
    assert sum(len(piece.get("t", "")) for piece in found) < LONGEST
    assert pieces(text, ranges, longest=None) == [
        p for p in pieces(text, ranges, longest=None) if "t" in p
    ]


def test_emoji_are_one_character() -> None:
    """The rule counts them so; a browser would count two."""
    assert pieces("my 😀 SECRET", [Range(5, 11, "x")]) == [
        {"t": "my 😀 "},
        {"t": "SECRET", "m": ["x"]},
    ]


def test_a_placeholder_is_one_only_if_something_was_masked() -> None:
    """Anybody can write one."""
    text = "a [masked:keys:0a1b2c3d] b"
    assert pieces(text) == [{"t": text}]
    assert pieces(text, masked=frozenset(("keys",)))[1] == {
        "t": "[masked:keys:0a1b2c3d]",
        "k": "keys",
    }
