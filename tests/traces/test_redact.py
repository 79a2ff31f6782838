"""Redaction: the secret is nowhere in the stored bytes, and all other findings stay true."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from invariant_addon.core.chat.bodies import parse_request
from invariant_addon.core.chat.message import read_message
from invariant_addon.core.json_strings import leniently_unescaped
from invariant_addon.core.located import matched
from invariant_addon.core.mask import placeholder_for
from invariant_addon.core.trace import Effect, Finding, Trace
from invariant_addon.core.verdict import Address
from invariant_addon.engines.normalise import arguments
from invariant_addon.rules.files import STARTER
from invariant_addon.traces import codec
from invariant_addon.traces.redact import SECRET_RULES, redact

MARK = placeholder_for(b"k" * 32)
KEY = "sk-1234567890abcdef"
ARGUMENTS = "tool_calls.0.function.arguments"


def finding(
    *addresses: Address, name: str = "api_keys", effect: Effect = "blocked", words: str = "a key"
) -> Finding:
    return Finding({"id": "1", "name": name, "source": "starter"}, words, effect, addresses)


def trace(*messages: Any, findings: tuple[Finding, ...] = (), **more: Any) -> Trace:
    given: dict[str, Any] = {"parameters": {}, **more}
    return Trace(
        "1", 1.0, "blocked", "chat", "m", False, messages=messages, findings=findings, **given
    )


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def calling(text: str) -> dict[str, Any]:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": text}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def texts(of: Trace, one: Finding) -> set[str]:
    """What a finding points at."""
    messages = [*of.messages, *of.choices]
    return {
        text
        for address in one.addresses
        for text in matched(read_message(messages[address.message]), address, arguments)
    }


def is_in(secret: str, of: Trace) -> bool:
    data = codec.write(of)
    spellings = {secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]}
    spellings |= {json.dumps(spelling)[1:-1] for spelling in spellings}
    return any(s.encode("utf-8", "surrogatepass") in data for s in spellings)


def occurrences(text: str, part: str) -> int:
    return sum(text.startswith(part, place) for place in range(len(text)))


def bare(text: str) -> str:
    return leniently_unescaped(text).text


WORDS = st.text(st.characters(exclude_categories=()), max_size=12)
SECRETS = st.text(
    st.characters(codec="ascii", categories=("L", "N", "P", "S")), min_size=8, max_size=20
)


@settings(deadline=None)
@given(WORDS, SECRETS, WORDS, WORDS.filter(len), WORDS, st.sampled_from(("text", "parts", "call")))
@example("", "sk-\"quo\\ted'", "é", "b😀b", "", "call")
def test_the_secret_is_gone_and_other_findings_stay(
    before: str, secret: str, between: str, other: str, after: str, shape: str
) -> None:
    """A trace that leaks is harmful; one that lies about places is useless."""
    text = f"{before}{secret}{between}{other}{after}"
    start, place = len(before), len(before) + len(secret) + len(between)
    assume("masked:" not in text and any(map(str.isalnum, secret)))
    # A backslash beside it is taken for a part of it.
    assume("\\" not in (before[-1:], f"{between}{other}"[0]))
    assume(occurrences(text, secret) == occurrences(bare(text), bare(secret)) == 1)
    assume(not is_in(secret, trace(user(""), calling("{}"), findings=(finding(Address(0)),))))
    message, path, shift = {
        "text": (user(text), "content", 0),
        "parts": (user([{"type": "text", "text": t} for t in ("first", text)]), "content", 6),
        "call": (calling(json.dumps({"a": ["x", {"to": text}]})), f"{ARGUMENTS}.a.1.to", 0),
    }[shape]
    found = Address(0, path, shift + start, shift + start + len(secret))
    beside = Address(0, path, shift + place, shift + place + len(other))
    kept = trace(
        message,
        user(f"again {secret}"),
        calling(json.dumps({secret: f"{secret}"})),
        choices=(user(json.dumps({"said": secret})),),
        parameters={"metadata": {"note": secret}},
        findings=(finding(found), finding(beside, name="others")),
    )
    redacted = redact(kept, MARK)
    assert not is_in(secret, redacted)
    assert texts(redacted, redacted.findings[1]) == {other}
    assert texts(redacted, redacted.findings[0]) == {MARK("api_keys", secret)}


def test_what_overlaps_a_secret_points_at_the_placeholder() -> None:
    """Half of a placeholder says nothing to anybody."""
    kept = trace(
        user(f"key {KEY} end"),
        findings=(
            finding(Address(0, "content", 4, 23)),
            finding(Address(0, "content", 0, 8), name="o"),
        ),
    )
    redacted = redact(kept, MARK)
    assert texts(redacted, redacted.findings[1]) == {f"key {MARK('api_keys', KEY)}"}


def test_a_short_secret_goes_from_its_own_message_only() -> None:
    """ "abc" elsewhere is most likely just a word."""
    kept = trace(user("pw abc"), user("abc"), findings=(finding(Address(0, "content", 3, 6)),))
    redacted = redact(kept, MARK)
    assert [m["content"] for m in redacted.messages] == [f"pw {MARK('api_keys', 'abc')}", "abc"]


def test_all_alternatives_of_a_reply_are_looked_at() -> None:
    """An address of a reply does not say which choice it means."""
    kept = trace(
        user("hi"),
        choices=(user("no"), user(f"it is {KEY}")),
        findings=(finding(Address(1, "content", 6, 25)),),
    )
    assert not is_in(KEY, redact(kept, MARK))


@pytest.mark.parametrize("addresses", [(), (Address(0),), (Address(0, "content"),)])
def test_a_finding_without_characters_costs_the_whole_message(
    addresses: tuple[Address, ...],
) -> None:
    """Nobody said where the secret is; so it may be anywhere there."""
    kept = trace(user(f"it is {KEY}"), findings=(finding(*addresses), finding(Address(0))))
    redacted = redact(kept, MARK)
    assert not is_in(KEY, redacted)
    assert redacted.messages[0]["role"] == "user"
    assert redacted.findings[1].addresses == (Address(0),)


def test_an_address_that_points_nowhere_costs_the_whole_message() -> None:
    """A wrong address is no reason to keep the secret."""
    kept = trace(user(f"it is {KEY}"), findings=(finding(Address(0, "content", 90, 99)),))
    assert not is_in(KEY, redact(kept, MARK))


def test_a_secret_over_two_parts_is_gone() -> None:
    """Clients split texts where they like."""
    parts = [{"type": "text", "text": "it is sk-12345678"}, {"type": "text", "text": "90abcdef!"}]
    kept = trace(user(parts), findings=(finding(Address(0, "other", 6, 25)),))
    redacted = redact(kept, MARK)
    assert "sk-12345678" not in str(redacted) and "90abcdef" not in str(redacted)


def test_a_predicted_output_counts_as_a_message() -> None:
    """Addresses count it between the request and the reply, as the judged conversation does."""
    kept = trace(
        user("hi"),
        parameters={"prediction": {"type": "content", "content": f"x {KEY}"}, "n": 1},
        choices=(user("fine and well, thank you"),),
        findings=(finding(Address(1, "content", 2, 21)), finding(Address(2, "content", 0, 4))),
        beside=1,
    )
    redacted = redact(kept, MARK, secret=lambda one: one.addresses[0].message == 1)
    assert not is_in(KEY, redacted)
    assert redacted.findings[0].addresses == (Address(2),)
    assert redacted.findings[1].addresses == (Address(1, "content", 0, 4),)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("metadata", {"k": f"x {KEY}"}),
        ("tools", [{"type": "function", "function": {"name": "f", "description": f"x {KEY}"}}]),
        ("user", f"x {KEY}"),
    ],
)
def test_other_fields_count_as_messages_too(key: str, value: Any) -> None:
    """In the order in which they were judged; whoever reads the trace finds the reply behind the
    messages."""
    body = {"messages": [user("hi")], "prediction": "later", key: value, "a": "first"}
    asked = parse_request(json.dumps(body).encode()).conversation
    number = next(n for n, m in enumerate(asked.messages) if KEY in m.text)
    start = asked.messages[number].text.index(KEY)
    reply = len(asked.messages)
    kept = trace(
        user("hi"),
        parameters={name: item for name, item in body.items() if name != "messages"},
        choices=(user("fine and well, thank you"),),
        findings=(
            finding(Address(number, "content", start, start + len(KEY))),
            finding(Address(reply, "content", 0, 4), name="other"),
            finding(Address(0, "content", 0, 2), name="other"),
        ),
        beside=asked.beside,
    )
    redacted = redact(kept, MARK)
    assert not is_in(KEY, redacted)
    assert [f.addresses for f in redacted.findings] == [
        (Address(2),),
        (Address(1, "content", 0, 4),),
        (Address(0, "content", 0, 2),),
    ]
    assert redact(redacted, MARK) == redacted


def test_old_findings_count_although_they_are_not_told_again() -> None:
    """A log rule's finding is told once; the message is sent with every turn."""
    kept = trace(user(f"it is {KEY}"))
    old = finding(Address(0, "content", 6, 25), name="passwords", effect="noted")
    redacted = redact(kept, MARK, also=(old,))
    assert not is_in(KEY, redacted) and redacted.findings == ()


def test_what_is_no_secret_or_is_muted_stays() -> None:
    """A trace is there to be read."""
    place = Address(0, "content", 0, 5)
    kept = trace(
        user("rm -rf /"),
        findings=(
            finding(place, name="destructive_commands"),
            finding(place, effect="muted"),
            finding(place, name="addresses", words="a private network"),
        ),
    )
    assert redact(kept, MARK) is kept
    assert redact(kept, MARK, secret=lambda one: "destructive" in one.guardrail["name"]) != kept
    assert redact(kept, MARK, secret=lambda _: False) is kept


def test_the_named_rules_exist() -> None:
    """Somebody may rename a starter rule; then its secrets would be kept."""
    names = {path.stem for path in STARTER.glob("*/*.inv")}
    assert names >= SECRET_RULES
    rules = (STARTER / "log" / "addresses.inv").read_text(encoding="utf-8")
    said = [line for line in rules.splitlines() if line.startswith("raise")]
    assert sum("password" in line for line in said) == len(said) - 1


def test_redacting_again_changes_nothing() -> None:
    """A revision starts from what is kept."""
    kept = trace(user(f"it is {KEY} ok"), findings=(finding(Address(0, "content", 6, 25)),))
    once = redact(kept, MARK)
    assert redact(once, MARK) == once
