"""Whether what is known of a conversation is all of it."""

from __future__ import annotations

import pytest

from invariant_addon.history.codec import Scope
from invariant_addon.history.followed import Followed
from invariant_addon.history.store import Turn

MINE, OTHER = Scope.of(b"m", "mine"), Scope.of(b"m", "other")
TURN = Turn((), ())


def test_a_conversation_is_known_until_something_is_written() -> None:
    """And by its caller alone."""
    followed = Followed()
    assert followed.find(MINE, "c") is None
    followed.follow(MINE, "c", TURN, followed.stir("c"))
    assert followed.find(MINE, "c") is TURN and followed.find(OTHER, "c") is None
    followed.stir("c")
    assert followed.find(MINE, "c") is None


def test_of_two_replies_at_once_neither_is_all() -> None:
    """Each began without the other's."""
    followed = Followed()
    first, second = followed.stir("c"), followed.stir("c")
    followed.follow(MINE, "c", TURN, first)
    assert followed.find(MINE, "c") is None
    followed.follow(MINE, "c", TURN, second)
    assert followed.find(MINE, "c") is None
    first, second = followed.stir("c"), followed.stir("c")
    followed.follow(MINE, "c", TURN, second)
    followed.follow(MINE, "c", TURN, first)
    assert followed.find(MINE, "c") is None


@pytest.mark.parametrize(
    ("method", "path", "is_written"),
    [
        ("POST", "/v1/conversations/c/items", True),
        ("POST", "/v1/conversations/c", True),
        ("DELETE", "/V1/Conversations/c/items/i", True),
        ("GET", "/v1/conversations/c/items", False),
        ("POST", "/v1/conversations", False),
        ("POST", "/v1/conversations/d/items", False),
    ],
)
def test_its_endpoints_write_to_it(method: str, path: str, is_written: bool) -> None:
    """With whatever key."""
    followed = Followed()
    followed.follow(MINE, "c", TURN, followed.stir("c"))
    followed.note(method, path)
    assert (followed.find(MINE, "c") is None) is is_written


def test_what_is_followed_is_bounded() -> None:
    """Names are the caller's to choose."""
    followed = Followed()
    for n in range(10_000):
        followed.follow(MINE, str(n), TURN, followed.stir(str(n)))
    assert followed.find(MINE, "9999") is TURN and followed.find(MINE, "0") is None
    assert len(followed._turns) <= 2_000 and len(followed._epochs) <= 4_000
