"""Who gets an answer from the page: the person who started it, and nobody else."""

from __future__ import annotations

import pytest

from invariant_addon.page.doors import HEADERS, Doors

DOORS = Doors(8087, "the-key")
GOOD = {"Host": "127.0.0.1:8087", "Authorization": "Bearer the-key"}
POST = GOOD | {"Origin": "http://127.0.0.1:8087", "Content-Type": "application/json"}


def status(method: str, headers: dict[str, str], *, is_data: bool = True) -> int:
    refused = DOORS.check(method, headers, is_data=is_data)
    return refused.status if refused else 200


def test_whoever_has_the_key_may_look_and_change() -> None:
    """By either name of this machine."""
    assert status("GET", GOOD) == 200
    assert status("POST", POST) == 200
    assert status("GET", GOOD | {"Host": "LOCALHOST:8087"}) == 200
    assert (
        status("POST", POST | {"Host": "localhost:8087", "Origin": "http://localhost:8087"}) == 200
    )


@pytest.mark.parametrize(
    "host",
    ["", "evil.example:8087", "127.0.0.1", "127.0.0.1:80", "127.0.0.1.evil.example:8087",
     "[::1]:8087", "127.0.0.1:8087, evil.example", "user@127.0.0.1:8087", "127.0.0.1:8087/"],
)  # fmt: skip
def test_another_name_of_this_machine_gets_no_answer(host: str) -> None:
    """A site's own name can be made to lead to 127.0.0.1 (DNS rebinding), and then the browser
    takes the answers for that site's own."""
    assert status("GET", GOOD | {"Host": host}) == 421
    assert status("GET", {"Host": host}, is_data=False) == 421


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "https://127.0.0.1:8087", "http://127.0.0.1:9999",
     "http://localhost:8087", "file://", ""],
)  # fmt: skip
def test_another_origin_gets_no_answer(origin: str) -> None:
    """Other ports of this machine are other people's, too."""
    for method, headers in (("GET", GOOD), ("POST", POST)):
        assert status(method, headers | {"Origin": origin}) == 403


def test_another_site_gets_no_answer_though_it_says_no_origin() -> None:
    """Browsers say so by themselves; a link to the shell is harmless."""
    for site in ("cross-site", "same-site"):
        assert status("GET", GOOD | {"Sec-Fetch-Site": site}) == 403
        headers = {"Host": GOOD["Host"], "Sec-Fetch-Site": site}
        assert status("GET", headers | {"Sec-Fetch-Mode": "no-cors"}, is_data=False) == 403
        assert status("GET", headers | {"Sec-Fetch-Mode": "navigate"}, is_data=False) == 200


@pytest.mark.parametrize(
    "told", ["", "Bearer", "Bearer ", "Bearer the-ke", "Bearer the-key ", "bearer the-key",
             "the-key", "Bearer thé-key", "Basic dGhlLWtleQ=="]
)  # fmt: skip
def test_without_the_key_there_is_nothing(told: str) -> None:
    """Other users of this machine can reach the port as well."""
    assert status("GET", GOOD | {"Authorization": told}) == 401
    assert status("POST", POST | {"Authorization": told}) == 401


def test_a_change_comes_from_the_page_itself() -> None:
    """A form can send neither JSON nor the key; both are asked for."""
    assert status("POST", {k: v for k, v in POST.items() if k != "Origin"}) == 403
    assert status("POST", POST | {"Content-Type": "text/plain"}) == 415


def test_each_start_has_another_key() -> None:
    """One that was seen once is worth nothing later."""
    keys = {Doors(1).key for _ in range(20)}
    assert len(keys) == 20 and all(len(key) >= 43 for key in keys)


def test_the_policy_allows_no_script_but_ours() -> None:
    """Not even one that got into the page."""
    policy = HEADERS["Content-Security-Policy"]
    assert policy.startswith("default-src 'none';") and "require-trusted-types-for" in policy
    assert "unsafe" not in policy and "http" not in policy and "data:" not in policy
