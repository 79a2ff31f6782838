"""The hosts file: two lines in, two lines out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invariant_addon.interception.hosts_file import lead_away, lead_here, led_here, ours

HOSTS = ("api.openai.com", "eu.api.openai.com")
LINES = st.lists(
    st.sampled_from(["127.0.0.1 localhost", "::1 a # b", "", "# invariants", "10.0.0.1 x\r", "\t"])
    | st.text(st.characters(codec="utf-8"), max_size=20)
)


@given(LINES, st.booleans())
def test_the_file_is_as_it_was_to_the_byte(lines: list[str], ended: bool) -> None:
    """It is not ours: no line is mended, sorted or lost."""
    text = "\n".join(lines) + ("\n" if ended else "")
    if ours(text):
        return
    once = lead_here(text, HOSTS)
    assert once.startswith(text)
    assert len(ours(once)) == 2
    assert lead_here(once, HOSTS) == once
    assert lead_away(once) == text


def test_both_kinds_of_address_are_led_here() -> None:
    """With 127.0.0.1 alone a program would ask the network for an IPv6 address, and go past."""
    text = lead_here("127.0.0.1 localhost", HOSTS)
    assert text == (
        "127.0.0.1 localhost\n"
        "127.0.0.1 api.openai.com eu.api.openai.com # invariant, and the end of the line above\n"
        "::1 api.openai.com eu.api.openai.com # invariant\n"
    )
    assert led_here(text) == {"localhost", *HOSTS}


def test_what_somebody_wrote_below_stays_whole() -> None:
    """Taking out the end of a line must not join two others."""
    text = lead_here("127.0.0.1 localhost", HOSTS) + "10.0.0.1 mine\n"
    assert lead_away(text) == "127.0.0.1 localhost\n10.0.0.1 mine\n"


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("127.0.0.1 API.OpenAI.com.", {"api.openai.com"}),
        ("::1\tapi.openai.com x", {"api.openai.com", "x"}),
        ("# 127.0.0.1 api.openai.com", set()),
        ("10.0.0.1 api.openai.com", set()),
        ("127.0.0.1", set()),
        ("nonsense api.openai.com", set()),
    ],
)
def test_who_is_led_here_is_read_as_a_resolver_does(line: str, names: set[str]) -> None:
    """Also if it was written by hand: the proxy would call itself all the same."""
    assert led_here(line) == names
