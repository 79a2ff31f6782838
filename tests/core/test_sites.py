"""Who may ask this proxy itself: by our own name, and for nobody else's web page."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invariant_addon.core.sites import Names, bare, host_of, is_loopback

NAMES = Names(
    ("api.openai.com",), ("gateway.lan", "https://app.example/", "chrome-extension://abc")
)
US = "127.0.0.1:8005"


def status(authority: str, origin: str | None = None, site: str | None = None) -> int:
    refused = NAMES.check(authority, origin, site)
    return refused.status if refused else 200


@pytest.mark.parametrize(
    "authority",
    ["", US, "localhost:8005", "LOCALHOST", "me.localhost:1", "[::1]:8005", "0.0.0.0:8005",
     "172.17.0.1:8005", "api.openai.com", "api.openai.com.:443", "Gateway.LAN:8005"],
)  # fmt: skip
def test_we_answer_to_names_that_lead_here_and_nowhere_else(authority: str) -> None:
    """An address is no name that somebody could lead here."""
    assert status(authority) == 200


@pytest.mark.parametrize(
    "authority",
    ["evil.example:8005", "127.0.0.1.evil.example", "localhost.evil.example", "app.example",
     "127.0.0.1:8005, evil.example", "user@127.0.0.1", "127.0.0.1:8005/", "evil.example@localhost",
     "api.openai.com.evil.example", "xlocalhost", "[evil]", "127.0.0.1:port", " ", "2130706433",
     "gateway.lan.evil.example"],
)  # fmt: skip
def test_another_name_gets_no_answer(authority: str) -> None:
    """A site's own name can be made to lead to 127.0.0.1, and then its page could read all."""
    assert status(authority) == 421


@pytest.mark.parametrize(
    "origin",
    ["http://localhost:3000", "http://127.0.0.1:8005", "https://[::1]:9", "tauri://localhost",
     "https://api.openai.com", "http://gateway.lan:3000", "https://app.example",
     "chrome-extension://abc"],
)  # fmt: skip
def test_pages_of_this_machine_and_those_that_are_named_may_ask(origin: str) -> None:
    """A program in a browser is a program, too."""
    assert status(US, origin, "cross-site") == 200


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "file://", "", "http://app.example", "https://app.example:444",
     "https://app.example.evil.example", "chrome-extension://abd", "http://172.17.0.1:8005",
     "https://localhost.evil.example", "http://evil.example@localhost", "localhost"],
)  # fmt: skip
def test_pages_of_others_may_not(origin: str) -> None:
    """Whatever they could read of the answer: a WebSocket asks no permission."""
    for site in (None, "cross-site", "same-site", "same-origin", "none"):
        assert status(US, origin, site) == 403


def test_a_page_may_ask_where_it_comes_from() -> None:
    """A page that we serve ourselves, at an address of this machine."""
    assert status("172.17.0.1:8005", "http://172.17.0.1:8005") == 200
    assert status("172.17.0.1:8005", "http://172.17.0.1:8006") == 403


def test_a_picture_on_a_foreign_page_gets_no_answer() -> None:
    """It says no origin; browsers say the site by themselves."""
    assert status(US, None, "cross-site") == 403
    assert status(US, None, "same-site") == status(US, None, "none") == 200


@pytest.mark.parametrize("origin", ["null", "file://"])
def test_an_origin_without_a_host_may_be_named(origin: str) -> None:
    """For those who know what they do: a page in a file, or one that an app brings along."""
    assert bare(f" {origin.upper()} ") == origin
    assert Names((), (origin,)).check(US, origin, "cross-site") is None
    assert Names((), (origin,)).check("file", None, None)  # and is the name of nothing


@given(st.text(max_size=60))
def test_any_text_is_a_name_or_none(text: str) -> None:
    """It comes from outside. Only what says so leads here."""
    for refused in (NAMES.check(text, None, None), NAMES.check(US, text, text)):
        assert refused is None or refused.status in (403, 421)
    host = host_of(text)
    assert "/" not in host and "@" not in host
    assert not is_loopback(f"{host}.evil.example")
