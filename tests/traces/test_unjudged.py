"""What no rule has seen is searched for secrets before it is kept."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from invariant_addon.core.chat.message import read_message
from invariant_addon.core.located import matched
from invariant_addon.core.mask import placeholder_for
from invariant_addon.core.trace import Finding, Trace
from invariant_addon.core.verdict import Address
from invariant_addon.engines.normalise import arguments
from invariant_addon.traces import codec
from invariant_addon.traces.credentials import without_credentials
from invariant_addon.traces.unjudged import without_secrets

MARK = placeholder_for(b"k" * 32)
KEY = "sk-proj-" + "Ab3dEf6hIj9kLm2nOp5q" * 2
PASSWORD = "tr0ub4dor&3-Xy9"


def trace(*messages: Any, **more: Any) -> Trace:
    given: dict[str, Any] = {"parameters": {}, "model": "m", **more}
    return Trace("1", 1.0, "not scanned", "chat", stream=False, messages=messages, **given)


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def calling(text: str) -> dict[str, Any]:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": text}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


PLACES = [
    trace(user(f"use {KEY} please")),
    trace(user([{"type": "text", "text": KEY}, {"type": "odd", "more": {"deep": [KEY]}}])),
    trace(calling(json.dumps({"command": f"curl -H 'X: {KEY}'"}))),
    trace(calling(json.dumps({"inner": json.dumps({"k": KEY})}))),
    trace(calling(json.dumps({"k": KEY}).replace("s", "\\u0073"))),
    trace(calling('{"k": "' + KEY)),
    trace(parameters={"metadata": {"note": KEY}, KEY: 1, "tools": [{"function": KEY}]}),
    trace(choices=(user(KEY),)),
    trace(7, None, KEY, [KEY], {"messages": KEY}),
    trace(reason=f"upstream said {KEY}", model=KEY, usage={"a": KEY}),
    trace(user("\n".join(f"sk-proj-{n:04}{KEY[8:]}" for n in range(100)))),
]


@pytest.mark.parametrize("one", PLACES)
def test_no_key_is_kept_of_what_was_not_judged(one: Trace) -> None:
    """No verdict found it, and the trace may leave this machine."""
    kept = codec.write(without_secrets(one, MARK)).decode()
    assert KEY[8:] not in kept.replace("\\u0073", "s") and "[masked:api_keys:" in kept


def test_a_password_is_masked_where_nothing_names_it_too() -> None:
    """It is known by what stands before it, which is not there when it comes again."""
    one = trace(
        user(f"the login: password = '{PASSWORD}'"),
        user(f"did {PASSWORD} work?"),
        calling(json.dumps({"password": PASSWORD})),
        user(f"https://me:{PASSWORD.replace('&', '-')}@example.com/x"),
    )
    kept = codec.write(without_secrets(one, MARK)).decode()
    assert PASSWORD[:9] not in kept


def test_what_holds_no_secret_stays_as_it_is() -> None:
    """Most of what was not judged is harmless."""
    one = trace(user("what is an API key?"), calling('{ "a" : 1.50 }'), parameters={"n": 2})
    assert without_secrets(one, MARK) is one


def test_what_was_masked_stays_masked_by_the_same_name() -> None:
    """A trace may be kept twice."""
    once = without_secrets(trace(user(f"password: '{PASSWORD}' and {KEY}")), MARK)
    assert without_secrets(once, MARK) == once
    assert MARK("api_keys", KEY) in once.messages[0]["content"]


@pytest.mark.parametrize("text", ["FOX {}", "{} FOX", "FOX {} {}", "{} and FOX and {}"])
def test_other_findings_still_point_at_their_words_or_at_the_message(text: str) -> None:
    """A mark on other words would be a lie."""
    content = text.format(KEY, KEY[:-1] + "Z")
    at = content.index("FOX")
    finding = Finding(
        {"name": "foxes"}, "no foxes", "blocked", (Address(0, "content", at, at + 3),)
    )
    kept = without_secrets(trace(user(content), findings=(finding,)), MARK)
    (address,) = kept.findings[0].addresses
    assert KEY[8:-1] not in kept.messages[0]["content"]
    if address.start is None:
        assert text.startswith("{}") and text.endswith("{}")
    else:
        assert matched(read_message(kept.messages[0]), address, arguments) == ("FOX",)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.just(KEY) | st.just(f'"{KEY}"'),
    lambda of: st.lists(of, max_size=4) | st.dictionaries(st.text() | st.just(KEY), of, max_size=4),
)


@given(messages=st.lists(_JSON, max_size=4), parameters=st.dictionaries(st.text(), _JSON))
@settings(max_examples=200)
def test_any_json_is_searched(messages: list[Any], parameters: dict[str, Any]) -> None:
    """What could not be read is of any form."""
    kept = without_secrets(trace(*messages, parameters=parameters), MARK)
    assert KEY not in repr(kept) and len(kept.messages) == len(messages)


def test_credentials_of_an_mcp_server_are_never_kept() -> None:
    """No rule looks at them, so a call that was judged clean has them too."""
    tool = {
        "type": "mcp",
        "server_label": "docs",
        "authorization": "plain-words",
        "headers": {"X-Key": "other-words", "X-List": ["more-words"]},
    }
    other = {"type": "function", "headers": {"stay": "as they are"}}
    one = replace(trace(user("hi"), parameters={"tools": [tool, other]}), status="judged")
    kept = without_credentials(one, MARK)
    assert not any(word in repr(kept) for word in ("plain-words", "other-words", "more-words"))
    assert kept.parameters["tools"][0]["headers"]["X-Key"] == MARK("credentials", "other-words")
    assert kept.parameters["tools"][1] == other
    assert without_credentials(trace(user("hi")), MARK) == trace(user("hi"))
