"""What no honest client sends in a request's head."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invariant_addon.core.printable import printable
from invariant_addon.core.request_head import flaw

HEADERS = ((b"authorization", b"Bearer sk-a"), (b"x-tab", b"a\tb"), (b"x-name", "é".encode()))


@pytest.mark.parametrize("method", ["POST", "get", "M-SEARCH"])
@pytest.mark.parametrize("path", ["/v1/models?a=b%20c", "*", "https://h/x", "/v1/\u00e9"])
def test_what_clients_send_is_fine(method: str, path: str) -> None:
    """Nothing that works today stops working."""
    assert flaw(method, path, HEADERS) == ""


@given(st.text(max_size=8), st.text(max_size=12), st.binary(max_size=8))
def test_what_passes_is_one_line_of_three_words(method: str, path: str, value: bytes) -> None:
    """A server that reads HTTP/1.1 must read the method and the path that were judged."""
    if flaw(method, path, ((b"x", value),)):
        return
    line = f"{method} {path} HTTP/1.1"
    assert method.isascii() and (line.split() == [*line.split(" ")] or not path)
    assert len((b"x: " + value).splitlines()) <= 1 or not set(value) & set(b"\r\n")


@given(st.text())
def test_a_line_of_a_log_stays_one(text: str) -> None:
    """Nor does a terminal obey it."""
    assert printable(text).isprintable()


def test_a_long_text_is_cut() -> None:
    """Nobody fills the log with one call."""
    assert len(printable("x" * 100_000)) < 2100
