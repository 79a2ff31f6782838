"""Keys are parted before a request goes on: OpenAI's go to OpenAI, Invariant's never do."""

from __future__ import annotations

import time

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from mitmproxy import http

from invariant_addon.rules.authorization import AuthorizationError, Keys, split

OPENAI = "sk-openai-0123"
KEY = "inv-secret-4567"
TOGETHER = f"Bearer {OPENAI};invariant-auth={KEY}"

tokens = st.text(st.sampled_from("abcXYZ0189-._~+/="), min_size=1, max_size=30)


def test_a_request_without_an_invariant_key_is_left_alone() -> None:
    """Most requests: nothing is rewritten and nothing is made up."""
    keys = split({"Authorization": f"Bearer {OPENAI}", "Content-Type": "application/json"})
    assert keys == Keys()


def test_an_appended_key_is_taken_off_for_openai() -> None:
    """Some clients can set one header only; OpenAI must see its own key and nothing else."""
    keys = split({"Authorization": TOGETHER})
    assert keys.explorer == keys.guardrails == f"Bearer {KEY}"
    assert keys.upstream == {"authorization": f"Bearer {OPENAI}"}


@pytest.mark.parametrize("name", ["api-key", "X-Api-Key"])
def test_azure_clients_append_it_to_their_own_header(name: str) -> None:
    """They send no Authorization at all, and no scheme."""
    keys = split({name: f"{OPENAI};invariant-auth={KEY}"})
    assert keys.explorer == f"Bearer {KEY}"
    assert keys.upstream == {name.lower(): OPENAI}


def test_the_suffix_goes_whatever_else_is_configured() -> None:
    """The header of its own wins, and still the appended key must not reach OpenAI."""
    headers = {"Authorization": TOGETHER, "Invariant-Authorization": "Bearer other"}
    keys = split(headers, fallback="third")
    assert keys.explorer == keys.guardrails == "Bearer other"
    assert keys.upstream == {"authorization": f"Bearer {OPENAI}"}


def test_the_guardrails_service_may_have_a_key_of_its_own() -> None:
    """Traces go to one account, checks are paid by another."""
    headers = {"Invariant-Authorization": f"Bearer {KEY}"}
    headers["Invariant-Guardrails-Authorization"] = "Bearer judge"
    keys = split(headers)
    assert (keys.explorer, keys.guardrails) == (f"Bearer {KEY}", "Bearer judge")


def test_the_environment_is_the_last_resort() -> None:
    """Who runs the proxy for himself sets it once."""
    assert split({}, fallback=KEY).explorer == f"Bearer {KEY}"
    assert split({}, fallback=KEY).guardrails == f"Bearer {KEY}"
    assert split({"authorization": TOGETHER}, fallback="other").explorer == f"Bearer {KEY}"
    assert split({}, fallback="  ") == Keys()


@pytest.mark.parametrize(
    "value", [f"Bearer {KEY}", f"bearer {KEY}", f" BEARER   {KEY} ", KEY, f"\t{KEY}"]
)
def test_the_scheme_is_written_as_the_explorer_wants_it(value: str) -> None:
    """It answers 401 to a small b."""
    assert split({"INVARIANT-authorization": value}).explorer == f"Bearer {KEY}"
    assert split({}, fallback=value).explorer == f"Bearer {KEY}"


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"{TOGETHER};invariant-auth={KEY}"},
        {"authorization": f"Bearer {OPENAI};invariant-auth="},
        {"authorization": f"Bearer {OPENAI};invariant-auth=  "},
        {"authorization": f"Bearer {OPENAI};invariant-auth=Bearer"},
        {"authorization": f"Bearer ;invariant-auth={KEY}"},
        {"authorization": f";invariant-auth={KEY}"},
        {"authorization": f"Bearer {OPENAI};invariant-auth {KEY}"},
        {"authorization": f"Bearer {OPENAI};invariant-authorization={KEY}"},
        {"authorization": f"{TOGETHER}, Bearer sk-second"},
        {"authorization": TOGETHER, "Authorization": TOGETHER},
        {"api-key": f"{OPENAI};invariant-auth="},
        {"authorization": TOGETHER, "invariant-authorization": ""},
        {"invariant-authorization": "Bearer "},
        {"invariant-authorization": f"Basic {KEY}"},
        {"invariant-authorization": f"Bearer {KEY}, Bearer {KEY}"},
        {"invariant-authorization": f"Bearer {KEY};invariant-auth={KEY}"},
        {"invariant-authorization": f"Bearer {KEY}\udce9"},
        {"invariant-authorization": f"Bearer {KEY}\r\nX-Other: 1"},
        {"invariant-guardrails-authorization": "Bearer"},
    ],
)
def test_what_cannot_be_parted_is_an_error_without_the_key(headers: dict[str, str]) -> None:
    """To guess would send one key to the wrong place; to quote it would write it into a log."""
    with pytest.raises(AuthorizationError, match="Invalid API Key format") as caught:
        split(headers)
    assert KEY not in repr(caught.value) and OPENAI not in repr(caught.value)
    assert caught.value.where in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_fallback_of_another_form_names_the_variable() -> None:
    """The person who can mend it is not the one who sent the request."""
    with pytest.raises(AuthorizationError, match="INVARIANT_API_KEY"):
        split({}, fallback="two words")


def test_nothing_of_a_key_is_in_a_repr() -> None:
    """Objects end up in logs and in assertion messages."""
    keys = split({"authorization": TOGETHER})
    assert KEY not in f"{keys} {keys!r}" and OPENAI not in f"{keys} {keys!r}"


def test_it_reads_the_headers_that_mitmproxy_gives() -> None:
    """Several of one name are one value there, so a second header hides no key."""
    raw = [(b"Authorization", b"Bearer sk-a"), (b"authorization", TOGETHER.encode())]
    keys = split(http.Headers(raw))
    assert keys.upstream == {"authorization": f"Bearer sk-a, Bearer {OPENAI}"}
    assert keys.explorer == f"Bearer {KEY}"


@pytest.mark.parametrize("name", ["Cookie", "Proxy-Authorization", "OpenAI-Api-Key"])
def test_a_key_in_another_header_goes_nowhere(name: str) -> None:
    """Nobody reads it there, and OpenAI would get it."""
    with pytest.raises(AuthorizationError, match=f"the {name.lower()} header"):
        split({"authorization": f"Bearer {OPENAI}", name: f"a=b;invariant-auth={KEY}"})


def test_a_preflight_may_name_our_headers() -> None:
    """A browser asks for them by their names, which are no keys."""
    asked = {"Access-Control-Request-Headers": "authorization, invariant-authorization"}
    assert split(asked) == Keys()


def test_what_is_left_of_a_folded_header_ends_no_head() -> None:
    """What stood behind it would have been a request of its own, that nobody judged."""
    with pytest.raises(AuthorizationError):
        split({"authorization": f"Bearer {OPENAI};\r\n invariant-auth={KEY}"})


@given(
    openai=tokens,
    key=tokens,
    separator=st.sampled_from(
        [";invariant-auth=", "; invariant-auth=", ";Invariant-Auth = ", ",invariant-auth=", ";;"]
    ),
    own=st.none() | tokens,
    name=st.sampled_from(["Authorization", "api-key", "x-api-key"]),
)
def test_an_invariant_key_never_goes_upstream(
    openai: str, key: str, separator: str, own: str | None, name: str
) -> None:
    """Whatever is sent: it is parted, refused, or nobody would call it an Invariant key."""
    assume(key not in openai and key not in f"Bearer invariant-auth{separator}")
    value = f"Bearer {openai}{separator}{key}"
    headers = {name: value} | ({"Invariant-Authorization": own} if own else {})
    try:
        keys = split(headers)
    except AuthorizationError as error:
        assert separator != ";invariant-auth=" or "bearer" in (key + openai).lower()
        assert error.where  # noqa: PT017  # what is refused goes nowhere: that is all there is to see
        return
    sent = {name.lower(): value} | dict(keys.upstream)
    if "invariant" in separator.lower():
        assert key not in sent[name.lower()]
        assert keys.explorer == f"Bearer {own or key}"
    else:
        assert sent == {name.lower(): value}


def test_a_header_made_of_blanks_costs_no_time() -> None:
    """All connections share one loop."""
    began = time.perf_counter()
    for value in (" " * 60_000 + "invariant-auth", "invariant-auth" + " " * 60_000 + ";"):
        with pytest.raises(AuthorizationError):
            split({"authorization": value})
    assert time.perf_counter() - began < 1
