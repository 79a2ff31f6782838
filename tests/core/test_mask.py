"""Masking: what was found is gone in every spelling, and nothing else has changed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from invariant_addon.core.chat.bodies import parse_request
from invariant_addon.core.conversation import Conversation, Message, Part, ToolCall
from invariant_addon.core.json_strings import leniently_unescaped, read, tokens, value_of
from invariant_addon.core.located import texts_at
from invariant_addon.core.mask import UnmaskableError, mask_request, placeholder_for
from invariant_addon.core.verdict import Action, Address, Guardrail, Violation
from invariant_addon.engines import normalise

MARK = placeholder_for(b"k" * 32)
RULE = Guardrail("1", "keys", "", Action.MASK)
KEY = "sk-1234567890abcdef"


def found(*addresses: Address, guardrail: Guardrail = RULE) -> Violation:
    return Violation(guardrail, "found", addresses)


def find(conversation: Conversation, text: str, guardrail: Guardrail = RULE) -> list[Violation]:
    """What a rule finds that looks for this text everywhere."""
    return [
        found(Address(number, path, start, start + len(text)), guardrail=guardrail)
        for number, path, whole in readable(conversation)
        for start in starts(whole, text)
    ]


def readable(conversation: Conversation) -> list[tuple[int, str, str]]:
    """All texts that rules read, as the engine gets them."""
    digest = normalise.normalise(conversation.messages)
    texts: list[tuple[int, str, str]] = []
    for index, turn in enumerate(digest.messages):
        todo: list[tuple[str, Any]] = [("content", turn["content"])]
        for n, call in enumerate(turn.get("tool_calls") or ()):  # type: ignore[arg-type]  # JSON
            todo.append((f"tool_calls.{n}.function.arguments", call["function"]["arguments"]))  # type: ignore[index,call-overload]  # JSON
        while todo:
            path, value = todo.pop()
            if isinstance(value, str):
                address = normalise.locate(f"{index}.{path}:0-1", digest.places)
                assert address is not None
                texts.append((address.message, address.path, value))
            elif isinstance(value, dict):
                todo += [(f"{path}.{key}", v) for key, v in value.items()]
            elif isinstance(value, list):
                todo += [(f"{path}.{i}", v) for i, v in enumerate(value)]
    return texts


def starts(whole: str, text: str) -> list[int]:
    return [i for i in range(len(whole)) if whole.startswith(text, i)]


def mask(body: bytes, text: str = KEY) -> bytes:
    conversation = parse_request(body).conversation
    violations = find(conversation, text)
    return mask_request(body, conversation, violations, MARK, arguments=normalise.arguments)


def request(*messages: Any, **more: Any) -> bytes:
    return json.dumps({"model": "m", "messages": messages, **more}).encode()


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def calling(arguments: Any, **function: Any) -> dict[str, Any]:
    body = {"name": "f", "arguments": arguments, **function}
    return {"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": body}]}


slowly = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])

# -- random requests ------------------------------------------------------------------------

# A letter spelt as an escape, behind a backslash that is escaped, is beyond what is looked for.
LETTERS = st.sampled_from('abnru/"\\\n\té€😀\ud800 0{[,:')
SECRETS = st.text(LETTERS, min_size=8, max_size=16).filter(
    # Too few letters are not looked for in other spellings.
    lambda text: len(leniently_unescaped(text).text) >= 8
)
FILLERS = st.text(st.sampled_from('xyz \n"é.'), max_size=8)


@st.composite
def spelt(draw: Any, value: Any, free: Callable[[], int]) -> str:
    """The JSON text of a value, its characters written this way or that."""
    if isinstance(value, str):
        before = zip(" " + value, value, strict=False)
        return '"' + "".join(spelling(c, 3 if last == "\\" else free()) for last, c in before) + '"'
    space = " " * (free() % 2)
    if isinstance(value, dict):
        inner = [f"{draw(spelt(k, free))}{space}: {draw(spelt(v, free))}" for k, v in value.items()]
        return "{" + space + f"{space},".join(inner) + "}"
    if isinstance(value, list):
        return "[" + f",{space}".join(draw(spelt(item, free)) for item in value) + space + "]"
    return json.dumps(value)


def spelling(character: str, way: int) -> str:
    plain = json.dumps(character, ensure_ascii=False)[1:-1]
    if "\ud800" <= character <= "\udfff":
        return json.dumps(character)[1:-1]
    if way == 0 or ord(character) > 0xFFFF:
        return json.dumps(character)[1:-1]
    if way == 1:
        return f"\\u{ord(character):04X}"
    return "\\/" if character == "/" and way == 2 else plain


@st.composite
def requests(draw: Any) -> tuple[bytes, str]:
    """A request and a secret in it."""
    secret = draw(SECRETS)
    ways = draw(st.randoms(use_true_random=False))

    def free() -> Any:
        return ways.choice((0, 1, 2, 3, 3, 3, 3, 3))

    def text() -> Any:
        middle = secret if ways.random() < 0.5 else ""
        return draw(FILLERS) + middle + draw(FILLERS)

    def turn() -> Any:
        arguments = {"a": text(), "n": [1.50, text(), {"name": text()}]}
        return ways.choice(
            (
                user(text()),
                user([{"type": "text", "text": text()}, {"type": "text", "text": text()}]),
                {"role": "tool", "tool_call_id": "c", "content": text()},
                calling(draw(spelt(arguments, free))),
                calling(draw(spelt(arguments, free))[:-1]),
                calling(json.dumps(draw(spelt(arguments, free)))),
                calling(arguments),
                {"role": "assistant", "refusal": text(), "reasoning": text(), "extra": [text()]},
                {
                    "role": "assistant",
                    "tool_calls": [{"id": "c", "custom": {"name": "f", "input": text()}}],
                },
            )
        )

    body = {"messages": [turn() for _ in range(ways.randint(1, 4))], "system": text()}
    whole = draw(spelt(body, free))
    return whole.encode("utf-8", "surrogatepass"), secret


@slowly
@given(requests())
def test_a_secret_is_gone_in_every_spelling(drawn: Any) -> None:
    """The model must not get it, however some client wrote it down in an earlier turn."""
    body, secret = drawn
    masked = mask(body, secret)
    if not find(parse_request(body).conversation, secret):
        assert masked == body
        return
    for _, _, text in readable(parse_request(masked).conversation):
        assert secret not in text
        assert leniently_unescaped(secret).text not in leniently_unescaped(text).text


@slowly
@given(requests())
def test_nothing_else_is_changed(drawn: Any) -> None:
    """A proxy that rewrites what it does not understand breaks signatures, caches and clients."""
    body, secret = drawn
    (before, _), (after, _) = read(body), read(mask(body, secret))
    changed = list(tokens(after))
    done_before = done_after = 0
    for old in tokens(before):
        new = changed.pop(0)
        assert before[done_before : old.start] == after[done_after : new.start]
        raw_old, raw_new = before[old.start : old.end], after[new.start : new.end]
        if raw_old != raw_new:
            value = value_of(raw_old)
            assert leniently_unescaped(secret).text in leniently_unescaped(value).text
        done_before, done_after = old.end, new.end
    assert not changed and before[done_before:] == after[done_after:]


@slowly
@given(requests())
def test_a_second_time_changes_nothing(drawn: Any) -> None:
    """A client may send back what it got; a placeholder of a placeholder would lead nowhere."""
    body, secret = drawn
    masked = mask(body, secret)
    conversation = parse_request(body).conversation
    assert mask(masked, secret) == masked
    hits = find(parse_request(masked).conversation, MARK("keys", secret))
    again = mask_request(
        masked, parse_request(masked).conversation, hits, MARK, arguments=normalise.arguments
    )
    assert again == masked
    assert len(conversation.messages) == len(parse_request(masked).conversation.messages)


@slowly
@given(requests())
def test_arguments_stay_what_they_were_but_for_the_mask(drawn: Any) -> None:
    """Upstream and the model read the calls of earlier turns again."""
    body, secret = drawn
    old, new = parse_request(body).conversation, parse_request(mask(body, secret)).conversation
    if not find(old, secret):
        return
    for message, other in zip(old.messages, new.messages, strict=True):
        assert (message.role, message.name) == (other.role, other.name)
        for call, masked in zip(message.tool_calls, other.tool_calls, strict=True):
            assert (call.id, call.name, call.kind) == (masked.id, masked.name, masked.kind)
            try:
                value = json.loads(call.arguments)
            except ValueError:
                continue
            if isinstance(value, dict):
                assert json.loads(masked.arguments) == replaced(value, secret)


def replaced(value: Any, secret: str) -> Any:
    if isinstance(value, dict):
        return {key: replaced(item, secret) for key, item in value.items()}
    if isinstance(value, list):
        return [replaced(item, secret) for item in value]
    if isinstance(value, str):
        if leniently_unescaped(secret).text not in leniently_unescaped(value).text:
            return value
        assume(value.count("\\") == secret.count("\\") * value.count(secret))
        return value.replace(secret, MARK("keys", secret))
    return value


PARTS = st.lists(
    st.builds(
        Part,
        st.sampled_from(["text", "refusal", "transcript", "reasoning", "image", "file", "other"]),
        st.sampled_from(["", "BLUE", "BIRD", " ", "a b"]),
    ),
    max_size=4,
)


@given(PARTS, st.sampled_from(["", '{"a.b": {"c": "x"}, "a": {"b.c": "y", "b": {"c": "z"}}}', "{"]))
def test_texts_are_those_that_the_engine_reads(parts: Any, arguments: str) -> None:
    """A range counts characters: one line end more or less, and something else is masked."""
    call = ToolCall("c", "f", arguments)
    conversation = Conversation((Message("assistant", tuple(parts), (call,)),))
    for _, path, whole in readable(conversation):
        texts = texts_at(conversation.messages[0], path, normalise.arguments)
        assert whole in [text.whole for text in texts]
        for text in texts:
            for at, segment in text.segments:
                assert text.whole.startswith(segment, at)


# -- single cases ---------------------------------------------------------------------------


def test_a_placeholder_says_which_rule_and_nothing_of_the_text() -> None:
    """The same in every turn, so that prompts stay in upstream's cache."""
    mark = MARK("my rule!", KEY)
    assert mark == placeholder_for(b"k" * 32)("my rule!", KEY)
    assert mark.startswith("[masked:my_rule_:") and len(mark) == len("[masked:my_rule_:12345678]")
    assert mark != placeholder_for(b"x" * 32)("my rule!", KEY)


def test_what_was_found_once_is_replaced_in_all_messages() -> None:
    """A rule about tool results finds it there; the model repeats it two turns later."""
    body = request(user("hi"), {"role": "tool", "content": KEY}, user(f"use {KEY}!"))
    asked = parse_request(body).conversation
    masked = mask_request(body, asked, [found(Address(1, "content", 0, len(KEY)))], MARK)
    assert [m["content"] for m in json.loads(masked)["messages"]] == [
        "hi",
        MARK("keys", KEY),
        f"use {MARK('keys', KEY)}!",
    ]


def test_a_short_text_is_replaced_only_where_it_was_found() -> None:
    """A name of three letters is half of some other word elsewhere."""
    body = request(user("Bob is here"), user("Bobbin"))
    asked = parse_request(body).conversation
    masked = mask_request(body, asked, [found(Address(0, "content", 0, 3))], MARK)
    assert json.loads(masked)["messages"][0]["content"] == MARK("keys", "Bob") + " is here"
    assert json.loads(masked)["messages"][1]["content"] == "Bobbin"


def test_spaces_numbers_and_equal_keys_stay() -> None:
    """Whoever signs or caches bodies gets the ones it knows."""
    body = b'{ "messages":[{"role":"user", "x":1.0e+2,"x":1.0e+2,"content":"%s\\u00e9"} ] , "n":1}'
    body %= KEY.encode()
    assert mask(body) == body.replace(KEY.encode(), MARK("keys", KEY).encode())


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
def test_other_encodings_stay_what_they_are(encoding: str) -> None:
    """Python reads them, so they are judged, and so they are masked."""
    text = '{"messages": [{"role": "user", "content": "é %s"}]}'
    masked = mask((text % KEY).encode(encoding))
    assert masked == (text % MARK("keys", KEY)).encode(encoding)


def test_a_lone_surrogate_beside_it_stays_an_escape() -> None:
    """Written out it would be no UTF-8 any more."""
    body = b'{"messages":[{"role":"user","content":"\\ud83d%s\\ude00 \\u00e9"}]}' % KEY.encode()
    assert mask(body) == body.replace(KEY.encode(), MARK("keys", KEY).encode())


def test_names_ids_roles_and_types_stay() -> None:
    """Upstream refuses a request whose ids or names are none."""
    message = {"role": "user", "name": KEY, "content": [{"type": "text", "text": KEY, "id": KEY}]}
    call = {"id": KEY, "type": "function", "function": {"name": KEY, "arguments": "{}"}}
    body = request(
        message, {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": KEY}
    )
    asked = parse_request(body).conversation
    place = Address(0, "content", 0, len(KEY))
    masked = json.loads(mask_request(body, asked, [found(place)], MARK))["messages"]
    assert masked[0]["content"][0] == {"type": "text", "text": MARK("keys", KEY), "id": KEY}
    assert masked[0]["name"] == KEY
    assert masked[1]["tool_calls"] == [call]
    assert masked[2]["tool_call_id"] == KEY


def test_keys_and_numbers_in_arguments_are_the_models_text() -> None:
    """A card number is one with quotes and without."""
    body = request(calling('{"4111111111111111": 4111111111111111, "a": "4111111111111111"}'))
    mark = MARK("keys", "4111111111111111")
    masked = json.loads(mask(body, "4111111111111111"))
    arguments = masked["messages"][0]["tool_calls"][0]["function"]["arguments"]
    assert arguments == f'{{"{mark}": "{mark}", "a": "{mark}"}}'


@pytest.mark.parametrize(
    "parts",
    [["the BLUE", "BIRD flies"], ["the BL", "UEBI", "RD flies"], ["sk-123456", "7890abcdef!"]],
)
def test_what_spans_two_parts_is_replaced_in_each(parts: list[str]) -> None:
    """Some models read parts without a line end between them, and so do rules."""
    secret = "BLUEBIRD" if "BL" in "".join(parts) else KEY
    body = request(user([{"type": "text", "text": text} for text in parts]), user(f"{secret} BL"))
    masked = mask(body, secret)
    first, second = (m["content"] for m in json.loads(masked)["messages"])
    mark = MARK("keys", secret)
    assert all(mark in part["text"] for part in first)
    start, end = "".join(parts).split(secret)
    assert "".join(part["text"] for part in first) == start + mark * len(parts) + end
    assert second == f"{mark} BL"


def test_what_overlaps_is_replaced_together() -> None:
    """Half a key left beside a placeholder is half a key too many."""
    body = request(user("abcdefghijklmnop"))
    asked = parse_request(body).conversation
    masked = mask_request(
        body,
        asked,
        [found(Address(0, "content", 0, 10)), found(Address(0, "content", 5, 16))],
        MARK,
    )
    assert json.loads(masked)["messages"][0]["content"] == MARK("keys", "fghijklmnop")


def test_a_placeholder_is_left_alone() -> None:
    """A rule for hexadecimal digits, or for the word "masked", finds them in each."""
    mark = MARK("keys", KEY)
    body = request(user(f"token {mark}, masked: {mark[-9:-1]}"))
    asked = parse_request(body).conversation
    for text in ("masked", mark[-9:-1], mark):
        violations = find(asked, text)
        masked = json.loads(mask_request(body, asked, violations, MARK))
        assert masked["messages"][0]["content"].startswith(f"token {mark}, ")
    other = Guardrail("2", "hex", "", Action.MASK)
    masked = json.loads(
        mask_request(body, asked, find(asked, mark[-9:-1], other), MARK, masking=["keys"])
    )
    assert masked["messages"][0]["content"] == f"token {mark}, masked: {MARK('hex', mark[-9:-1])}"


def test_what_only_looks_like_a_placeholder_hides_nothing() -> None:
    """Else a program could write anything between these brackets."""
    body = request(user(f"[masked:{KEY}:00000000] [masked:keys:{KEY}]"))
    assert KEY not in mask(body).decode()


def test_what_stands_around_a_placeholder_is_masked() -> None:
    """A rule for whole lines finds a line with a placeholder in it, and a key behind it."""
    mark = MARK("keys", "else")
    body = request(user(f"key {mark} {KEY}"))
    asked = parse_request(body).conversation
    length = len(asked.messages[0].text)
    masked = mask_request(body, asked, [found(Address(0, "content", 0, length))], MARK).decode()
    assert KEY not in masked and mark in masked


@pytest.mark.parametrize(
    ("why", "addresses"),
    [
        ("which characters", ()),
        ("which characters", (Address(0),)),
        ("which characters", (Address(0, "content", 2, 2),)),
        ("not in the request", (Address(9, "content", 0, 3),)),
        ("in no text", (Address(0, "content", 0, 99),)),
        ("in no text", (Address(0, "role", 0, 3),)),
        ("in no text", (Address(1, "tool_calls.0.function.name", 0, 1),)),
        ("in no text", (Address(1, "tool_calls.7.function.arguments.a", 0, 1),)),
        ("in no text", (Address(1, "tool_calls.0.function.arguments.n", 0, 1),)),
        ("two parts", (Address(0, "content", 2, 3),)),
        ("part of a name, a key or an id", (Address(0, "other", 0, 9),)),
        ("part of a name, a key or an id", (Address(2, "content", 0, 2),)),
    ],
)
def test_what_cannot_be_masked_is_an_error(why: str, addresses: tuple[Address, ...]) -> None:
    """It names the rule, and never the text."""
    parts = [{"type": "text", "text": "hi"}, {"type": "text", "text": "ho", "secretkey": "x"}]
    body = request(user(parts), calling('{"a": "x", "n": 12345678}'), user(42))
    with pytest.raises(UnmaskableError, match=why) as error:
        mask_request(body, parse_request(body).conversation, [found(*addresses)], MARK)
    assert error.value.guardrail == "keys"
    assert "secretkey" not in str(error.value)


def test_predictions_and_system_texts_are_masked() -> None:
    """They go to the model as well, and they are judged."""
    body = request(user("hi"), prediction={"type": "content", "content": KEY}, system=f"x {KEY}")
    masked = json.loads(mask(body))
    assert masked["prediction"]["content"] == MARK("keys", KEY)
    assert masked["system"] == f"x {MARK('keys', KEY)}"


def test_hostile_nesting_and_size_take_no_time() -> None:
    """The sender chooses both."""
    deep = "[" * 1000 + f'"{KEY}"' + "]" * 1000
    body = b'{"messages":[{"role":"user","content":"%s","x":%s,"y":[%s0]}]}' % (
        f"{KEY} \\\\\\n".encode() * 50_000,
        deep.encode(),
        b"0,[],{}," * 100_000,
    )
    conversation = parse_request(body).conversation
    violation = found(Address(0, "content", 0, len(KEY)))
    start = time.process_time()
    masked = mask_request(body, conversation, [violation], MARK)
    assert time.process_time() - start < 20
    assert KEY.encode() not in masked


def test_endless_backslashes_take_no_time() -> None:
    """What looks for escapes must not start over at each of them."""
    body = request(user("\\" * 100_000 + KEY), calling(json.dumps({"a": "\\" * 100_000})))
    start = time.process_time()
    assert KEY.encode() not in mask(body)
    assert time.process_time() - start < 20
