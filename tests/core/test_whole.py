"""Replies that are there as a whole."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from invariant_addon.core import whole
from invariant_addon.core.dialects import CHAT
from invariant_addon.core.errors import NotUnderstoodError
from invariant_addon.core.whole import read_error, read_reply

DATA = Path(__file__).parents[1] / "data"
JSON = b'{"choices":[{"index":0,"message":{"role":"assistant","content":"hi"}}]}'
STREAM = b'data: {"choices":[{"index":0,"delta":{"content":"hi"}}]}\n\ndata: [DONE]\n\n'


@pytest.mark.parametrize("body", [JSON, b" \n" + JSON, STREAM, b"\xef\xbb\xbf" + STREAM])
def test_both_forms_are_read(body: bytes) -> None:
    """Clients go by what they asked for and not by the content type."""
    assert read_reply(body, CHAT).choices[0].text == "hi"


@pytest.mark.parametrize("body", [b"<html>", b"{}", b"[1]", b"data: {x\n\n", b'{"x":1}\n\n'])
def test_anything_else_is_not_understood(body: bytes) -> None:
    """What was not read was not judged."""
    with pytest.raises(NotUnderstoodError):
        read_reply(body, CHAT)


def test_an_empty_body_says_nothing() -> None:
    """There is nothing to judge in it."""
    assert read_reply(b"", CHAT).choices == ()


def test_an_error_is_nobodys_turn_but_its_words_are_read() -> None:
    """A rule that every reply ends with END must not swallow a 429, which clients retry."""
    (message,) = read_error(b'{"error":{"message":"slow down"}}', CHAT).choices
    assert message.role == "error" and "slow down" in message.text
    assert read_error(b"", CHAT).choices == ()
    assert "\ufffd" in read_error(b"\xff", CHAT).choices[0].text


def test_a_reply_under_an_error_status_is_still_a_reply() -> None:
    """A status is no way around the rules."""
    assert read_error(JSON, CHAT).choices[0].role == "assistant"
    assert read_error(STREAM, CHAT).choices[0].text == "hi"


@pytest.mark.parametrize("name", ["chat_plain", "chat_n2", "chat_parallel_tools"])
def test_a_completion_is_the_same_as_json_and_as_a_stream(name: str) -> None:
    """A trace holds it in one form, however it came."""
    stream = (DATA / f"{name}.sse").read_bytes()
    merged = whole.completion(stream, CHAT)
    assert merged["choices"] and whole.completion(orjson.dumps(merged), CHAT) == merged


def test_a_completion_may_hold_half_a_character() -> None:
    """A strict reader would lose the whole reply for it."""
    assert whole.completion(b'{"id":"\\ud800"}', CHAT) == {"id": "\ud800"}
    with pytest.raises(NotUnderstoodError):
        whole.completion(b"neither", CHAT)
