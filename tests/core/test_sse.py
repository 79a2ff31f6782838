"""Server-sent events are read as any client reads them, wherever the network cuts."""

import itertools
import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invariant_addon.core import sse

LIMIT = 2**20

# (why, bytes, the data of the events that have any)
VECTORS = [
    ("LF", b"data: a\n\ndata: b\n\n", ["a", "b"]),
    ("CRLF", b"data: a\r\n\r\ndata: b\r\n\r\n", ["a", "b"]),
    ("CR", b"data: a\r\rdata: b\r\r", ["a", "b"]),
    (
        "mixed line ends",
        b"data: a\r\n\ndata: b\n\rdata: c\r\r\ndata: d\r\n\r",
        ["a", "b", "c", "d"],
    ),
    ("CRLF is one line end", b"data: a\r\ndata: b\r\n\r\n", ["a\nb"]),
    ("BOM", b"\xef\xbb\xbfdata: a\n\n", ["a"]),
    ("BOM before a blank line", b"\xef\xbb\xbf\ndata: a\n\n", ["a"]),
    ("only one BOM", b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n", []),
    ("BOM only at the start", b"data: a\n\n\xef\xbb\xbfdata: b\n\n", ["a"]),
    ("several data lines", b"data: a\ndata:\ndata: b\n\n", ["a\n\nb"]),
    ("one space is dropped", b"data:  a\n\ndata:\tb\n\n", [" a", "\tb"]),
    ("no space", b"data:a\n\n", ["a"]),
    ("field without a colon", b"data\n\ndata\ndata\n\n", ["", "\n"]),
    ("empty data", b"data:\n\ndata: \n\n", ["", ""]),
    ("comments", b": ping\n\n:\n:data: x\ndata: a\n: b\n\n", ["a"]),
    ("id and retry alone", b"id: 1\nretry: 10\n\ndata: a\n\n", ["a"]),
    ("fields around data", b"id: 1\nevent: e\ndata: a\nid: 2\n\n", ["a"]),
    ("unknown field", b"foo: x\ndata: a\nbar\n\n", ["a"]),
    ("stray blank lines", b"\n\r\n\r\n\ndata: a\n\n\n\n", ["a"]),
    ("colons in the value", b"data: a: b:c\n\n", ["a: b:c"]),
    ("data: in the value", b"data: the data: prefix\n\n", ["the data: prefix"]),
    ("bad UTF-8", b"data: a\xff\xc3\n\ndata: \xed\xa0\x80\n\n", ["a\ufffd\ufffd", "\ufffd" * 3]),
    ("U+2028, U+0085, VT, FF", "data: a\u2028b\u0085c\v\fd\n\n".encode(), ["a\u2028b\u0085c\v\fd"]),
    ("NUL", b"data: a\0b\n\n", ["a\0b"]),
    ("unterminated event", b"data: a\n\ndata: b\n", ["a", "b"]),
    ("unterminated line", b"data: a\n\ndata: b", ["a", "b"]),
    ("ends in CR", b"data: a\r\rdata: b\r", ["a", "b"]),
    ("after [DONE]", b"data: [DONE]\n\ndata: a\n\n", ["[DONE]", "a"]),
    ("not data", b"DATA: a\n\n data: b\n\ndata : c\n\ndatab: d\n\n", []),
    ("nothing", b"", []),
]


def decode(pieces: list[bytes], limit: int = LIMIT) -> list[sse.Event]:
    decoder = sse.Decoder(limit)
    events = [event for piece in pieces for event in decoder.feed(piece)]
    events += decoder.end()
    assert decoder.pending == 0
    return events


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@pytest.mark.parametrize(("why", "data", "expected"), VECTORS, ids=[v[0] for v in VECTORS])
def test_an_event_is_what_any_client_takes_for_one(why, data, expected):
    """What one client reads and the proxy does not is a way around the guardrails."""
    assert [event.data for event in decode([data]) if event.data is not None] == expected, why


@pytest.mark.parametrize(("why", "data", "expected"), VECTORS, ids=[v[0] for v in VECTORS])
def test_no_cut_in_two_and_no_single_bytes_change_an_event(why, data, expected):
    """A packet boundary is not an event boundary."""
    whole = decode([data])
    assert b"".join(event.raw for event in whole) == data
    for cut in range(len(data) + 1):
        assert decode(split(data, [cut])) == whole
    assert decode([data[i : i + 1] for i in range(len(data))]) == whole


def test_the_name_of_an_event_is_kept():
    """Responses streams and error events carry their type in it; the last one counts."""
    [event] = decode([b"event: a\nevent:error\ndata: x\n\n"])
    assert (event.name, event.data) == ("error", "x")


def test_a_comment_is_an_event_without_data():
    """It is passed on in its place; no client dispatches it, and whoever reads along sees it."""
    assert decode([b": ping\n\n"]) == [sse.Event(b": ping\n\n", None, words="ping")]
    assert decode([b":\n\n: \n\n"]) == [sse.Event(b":\n\n", None), sse.Event(b": \n\n", None)]


@pytest.mark.parametrize(
    ("block", "words"),
    [
        (b": one\n:two\ndata: x\n\n", "one\ntwo"),
        (b"id: 17\nretry: 3000\ndata: x\n\n", ""),
        (b"id: a word\nretry: soon\ndata: x\n\n", "a word\nsoon"),
        (b"id: 4111111111111111\ndata: x\n\n", "4111111111111111"),
        (b": 17\ndata: x\n\n", "17"),
        (b"event: a\ndata: x\nid\n:\n\n", ""),
    ],
)
def test_what_lines_beside_the_data_say_is_told(block: bytes, words: str):
    """A rule can read it: somebody between OpenAI and here could write it."""
    [event] = decode([block])
    assert event.words == words and event.raw == block


def test_a_complete_event_does_not_wait_for_the_next():
    """Text must flow: LF framing is decided by the blank line itself."""
    decoder = sse.Decoder(LIMIT)
    assert [e.data for e in decoder.feed(b"data: a\r\n\r\n")] == ["a"]
    assert [e.data for e in decoder.feed(b"data: b\n\n")] == ["b"]
    assert decoder.pending == 0


def test_a_cr_waits_for_the_byte_after_it():
    """It may be half of a CRLF, and the raw bytes must not depend on the cut."""
    decoder = sse.Decoder(LIMIT)
    assert decoder.feed(b"data: a\r\n\r") == []
    assert decoder.feed(b"\ndata") == [sse.Event(b"data: a\r\n\r\n", "a")]
    assert decoder.pending == len(b"data")


@pytest.mark.parametrize("framing", [b"\n", b"\r\n", b"\r"])
def test_an_event_over_the_limit_is_refused_wherever_it_is_cut(framing):
    """Memory is bounded by what the user set, and not by what upstream sends."""
    data = b"data: " + b"x" * 50 + framing * 2
    assert decode([data, b": end"], len(data))[0].raw == data
    for cut in range(len(data)):
        decoder = sse.Decoder(len(data) - 1)
        with pytest.raises(sse.EventTooLargeError):
            # A CR at the end is decided by what follows.
            [decoder.feed(piece) for piece in [*split(data, [cut]), b": end\n\n"]]


def test_what_was_held_before_a_too_large_event_can_be_had():
    """Failing open means that not a byte is lost."""
    decoder = sse.Decoder(20)
    decoder.feed(b"data: a\n\ndata: b")
    with pytest.raises(sse.EventTooLargeError):
        decoder.feed(b"x" * 30 + b"\n\n")
    assert decoder.pending == len(b"data: b")
    assert decoder.drain() == b"data: b"
    assert decoder.pending == 0


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=8))
def test_any_bytes_are_read_and_none_is_lost(data, cuts):
    """The sum of what goes on is byte for byte what upstream sent."""
    whole = decode([data])
    assert b"".join(event.raw for event in whole) == data
    assert decode(split(data, [min(cut, len(data)) for cut in cuts])) == whole


_PIECES = st.sampled_from(
    (
        *(b"\n", b"\r", b"\r\n", b"data:", b"data: ", b"data", b":", b"event: x", b"id: 1"),
        *(b"a", b" ", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\xff"),
    )
)


@given(st.lists(_PIECES, max_size=30).map(b"".join), st.lists(st.integers(0, 90), max_size=5))
def test_no_frame_depends_on_where_the_network_cuts(data, cuts):
    """The same, with bytes that look like a stream."""
    whole = decode([data])
    assert b"".join(event.raw for event in whole) == data
    assert all(event.raw for event in whole)
    assert decode(split(data, [min(cut, len(data)) for cut in cuts])) == whole


@given(st.binary(max_size=100), st.integers(1, 20), st.integers(1, 30))
def test_any_bytes_raise_nothing_but_too_large(data, limit, step):
    """Nobody can crash the proxy by what they stream."""
    decoder = sse.Decoder(limit)
    read = held = b""
    try:
        for i in range(0, len(data), step):
            held = data[i:]
            read += b"".join(e.raw for e in decoder.feed(data[i : i + step]))
            held = data[i + step :]
        read += b"".join(e.raw for e in decoder.end())
    except sse.EventTooLargeError:
        # Only events of the read that failed are missing, and they are in what was fed.
        assert read + decoder.drain() + held == data
    else:
        assert read == data


@pytest.mark.parametrize("line", [b"x" * 64, b"x\r", b"x\ndata: "], ids=["long", "cr", "lines"])
@pytest.mark.parametrize("step", [1, 1024])
def test_a_large_event_takes_time_in_proportion_to_its_size(line, step):
    """A parser that reads again what it has read stalls all streams (11.8 s for 8 MB: assel)."""

    def seconds(size: int) -> float:
        data = b"data: " + line * (size // len(line)) + b"\n\n"
        pieces = [data[i : i + step] for i in range(0, len(data), step)]
        best = 1e9
        for _ in range(3):
            start = time.thread_time()
            decode(pieces, 2**30)
            best = min(best, time.thread_time() - start)
        return best

    small = 2**14 if step == 1 else 2**18
    # Of work, not of waiting. Eight times the size: quadratic would be 64 times.
    assert seconds(8 * small) < 24 * seconds(small) + 0.05


def test_many_random_cuts_of_a_long_stream_change_nothing():
    """Real networks cut everywhere at once."""
    data = b"".join(vector for _, vector, _ in VECTORS if not vector.startswith(b"\xef"))
    whole = decode([data])
    rng = random.Random(1)
    for _ in range(300):
        cuts = [rng.randrange(len(data) + 1) for _ in range(rng.randrange(40))]
        assert decode(split(data, cuts)) == whole
