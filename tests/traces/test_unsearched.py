"""What is a secret by its form alone is in no trace, whatever the rules were."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from invariant_addon.core.mask import placeholder_for
from invariant_addon.core.trace import Finding, Trace
from invariant_addon.core.verdict import Address
from invariant_addon.traces import codec
from invariant_addon.traces.store import Store
from invariant_addon.traces.unsearched import without_certain_secrets

from .test_unjudged import _JSON, KEY, PASSWORD, PLACES, calling, trace, user

MARK = placeholder_for(b"k" * 32)
LOGIN = "https://ada:plainword7@db.acme.dev/x"


def judged(one: Trace) -> Trace:
    return replace(one, status="judged")


def kept(one: Trace, **options: Any) -> Trace:
    return codec.read(without_certain_secrets(codec.write(one), MARK, **options))


@pytest.mark.parametrize("one", PLACES)
def test_no_key_is_kept_wherever_it_is(one: Trace) -> None:
    """There may be no rule about keys at all."""
    body = without_certain_secrets(codec.write(judged(one)), MARK).decode()
    assert KEY[8:] not in body.replace("\\u0073", "s") and "[masked:api_keys:" in body


@pytest.mark.parametrize(
    "one",
    [
        trace(user(f"clone {LOGIN} please")),
        trace(calling(json.dumps({"url": LOGIN}))),
        trace(calling(json.dumps({"url": LOGIN}).replace("/", "\\/"))),
        trace(calling(json.dumps({"url": LOGIN}).replace("a", "\\u0061"))),
        trace(choices=(user(f"see {LOGIN}"),)),
        trace(user(f"\ud800 {LOGIN}")),
    ],
)
def test_no_login_of_an_address_is_kept(one: Trace) -> None:
    """The rule that notes it looks when the call is over, and a killed proxy's never does."""
    body = without_certain_secrets(codec.write(judged(one)), MARK).decode()
    assert "plainword7" not in body.replace("\\\\u0061", "a") and "[masked:addresses:" in body


def test_it_has_the_name_that_the_rule_gives_it() -> None:
    """Whoever looks for it finds the same placeholder, however it was found."""
    (message,) = kept(judged(trace(user(f"clone {LOGIN} please")))).messages
    assert (
        message["content"]
        == f"clone https{MARK('addresses', '://ada:plainword7@')}db.acme.dev/x please"
    )


def test_what_only_its_name_gives_away_is_for_the_rules() -> None:
    """A trace of code would be full of marks: rules know who said it, and where."""
    one = judged(trace(user(f"password = '{PASSWORD}'")))
    body = codec.write(one)
    assert without_certain_secrets(body, MARK) is body


def test_what_was_there_is_kept_beside_it_if_the_owner_wants() -> None:
    """For `scripts/traces show ID --secrets` alone; and what was there before stays."""
    one = judged(trace(user(KEY)))
    assert kept(one).original is None and kept(one, keeps=True).original == one
    earlier = judged(trace(user("before")))
    assert kept(replace(one, original=earlier), keeps=True).original == earlier


def test_findings_still_point_at_their_words() -> None:
    """A mark on other words would be a lie."""
    content = f"{KEY} and FOX"
    at = content.index("FOX")
    finding = Finding({"name": "foxes"}, "no", "noted", (Address(0, "content", at, at + 3),))
    one = kept(judged(trace(user(content), findings=(finding,))))
    (address,) = one.findings[0].addresses
    assert one.messages[0]["content"][address.start : address.end] == "FOX"


@given(messages=st.lists(_JSON, max_size=4), parameters=st.dictionaries(st.text(), _JSON))
@settings(max_examples=100)
def test_any_json_is_searched(messages: list[Any], parameters: dict[str, Any]) -> None:
    """A model says whatever it likes."""
    one = judged(trace(*messages, parameters=parameters))
    assert KEY.encode() not in without_certain_secrets(codec.write(one), MARK)


@pytest.mark.parametrize("is_behind", [False, True])
def test_the_store_keeps_none(is_behind: bool, tmp_path: Path) -> None:
    """New or revised, by whichever way it comes into the file."""
    store = Store(tmp_path / "private" / "traces.db", key=b"k" * 32)
    if is_behind:
        store.write_behind(lambda: None)
    store.add(judged(trace(user(KEY), model="new")))
    store.revise(replace(judged(trace(user("ok"), user(LOGIN), model="revised"))))
    store.settle()
    found = store.get("1")
    assert found is not None and found.model == "revised"
    assert "plainword7" not in repr(found) and found.original is None
    store.close()
    left = b"".join(file.read_bytes() for file in (tmp_path / "private").iterdir())
    assert KEY[8:].encode() not in left and b"plainword7" not in left


def test_the_store_keeps_them_beside_it_if_the_owner_wants(tmp_path: Path) -> None:
    """Also of what another program takes in: the wish stands in the journal."""
    store = Store(tmp_path / "private" / "traces.db", key=b"k" * 32, keeps_secrets=True)
    store.add(judged(trace(user(KEY))))
    found = store.get("1")
    assert found is not None and KEY not in repr(found.messages)
    assert found.original is not None and KEY in repr(found.original)
    store.close()
