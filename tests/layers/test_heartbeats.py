"""Pings and pongs: who asks is answered, and nobody's words reach the other side."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from invariant_addon.layers.heartbeats import MAX_OPEN, Heartbeats

STEPS = st.lists(
    st.tuples(
        st.booleans(),  # by the client
        st.booleans(),  # a ping
        st.one_of(st.binary(max_size=125), st.integers(0, 20).map(lambda n: b"%d" % n)),
    ),
    max_size=40,
)


@given(steps=STEPS)
def test_nobodys_words_reach_the_other_side(steps: list[tuple[bool, bool, bytes]]) -> None:
    """Neither in pings nor in pongs, whatever both sides make up."""
    heartbeats = Heartbeats()
    own: dict[bool, list[bytes]] = {True: [], False: []}
    for number, (by_client, is_ping, payload) in enumerate(steps):
        if is_ping:
            own[by_client].append(payload)
            on = heartbeats.ping(payload, to_server=by_client)
            assert on.isdigit() and int(on) <= number + 1
        else:
            on = heartbeats.pong(payload, to_server=by_client)
            assert on == b"" or on in own[not by_client]


@given(pings=st.lists(st.binary(max_size=125), min_size=1, max_size=MAX_OPEN))
def test_every_answer_is_the_askers_own(pings: list[bytes]) -> None:
    """Clients compare: an answer with other bytes would be none, and the connection counts as
    dead."""
    heartbeats = Heartbeats()
    sent = [heartbeats.ping(one, to_server=True) for one in pings]
    assert [heartbeats.pong(one, to_server=False) for one in sent] == pings
    assert heartbeats.pong(sent[0], to_server=False) == b""  # once


def test_the_newest_ping_alone_may_be_answered() -> None:
    """A busy server does so, and it counts for those before. What was never asked is empty."""
    heartbeats = Heartbeats()
    first, second = (heartbeats.ping(one, to_server=False) for one in (b"a", b"b"))
    assert heartbeats.pong(b"BLUEBIRD", to_server=True) == b""
    assert heartbeats.pong(second, to_server=True) == b"b"
    assert heartbeats.pong(first, to_server=True) == b""
    for _ in range(1000):
        heartbeats.ping(b"", to_server=True)
    assert sum(map(len, heartbeats._open.values())) == MAX_OPEN
