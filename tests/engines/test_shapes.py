"""What clients send x the rules that people write: nothing is skipped, nothing benign is blocked.

From the bytes of a request to the verdict. The shapes are those on which the bare library fails in
three of seven cells. In each of them the word BAD, or a bad call, is found if it is put there.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from invariant_addon.core.chat.bodies import parse_request

from .conftest import rule

DETECTORS = "from invariant.detectors import {}\n"
COMMAND = "c.function.arguments"
RULES = {
    "word": rule("(m: Message)", '"BAD" in m.content'),
    "lower": rule("(m: Message)", '"bad" in m.content.lower()'),
    "find": rule("(m: Message)", 'any(find("B[A-Z]D", m.content))'),
    "match": rule("(m: Message)", 'match(".*BAD", m.content)'),
    "text": rule("(m: Message)", "(t: str) in text(m)", '"BAD" in t'),
    "secrets": DETECTORS.format("secrets") + rule("(m: Message)", "any(secrets(m))"),
    "call": rule("(c: ToolCall)", 'c is tool:run({cmd: ".*BAD.*"})'),
    "argument": rule("(c: ToolCall)", f'"BAD" in {COMMAND}["cmd"]'),
    "output": rule("(o: ToolOutput)", "o is tool:run", '"BAD" in o.content'),
    "flow": rule("(a: ToolCall) -> (o: ToolOutput)", "a is tool:run", '"BAD" in o.content'),
}
SECRET = "ghp_" + "aB1" * 12
WORDS = {"word", "lower", "find", "match", "text"}


def user(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": content, **more}


def calls(arguments: Any, **more: Any) -> dict[str, Any]:
    call = {"id": "c", "type": "function", "function": {"name": "run", "arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [call | more]}


def result(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": "c", "content": content, **more}


def part(kind: str, value: Any) -> dict[str, Any]:
    return {"type": kind, kind: value}


LS = '{"cmd": "ls"}'
CALL = calls(LS)

# Each: messages with $ where text may be, and the rules that see a bad word there.
TEXT_SHAPES: dict[str, tuple[list[Any], set[str]]] = {
    "user": ([user("$")], WORDS),
    "system": ([{"role": "system", "content": "$"}], WORDS),
    "developer": ([{"role": "developer", "content": "$"}], WORDS),
    "assistant": ([{"role": "assistant", "content": "$"}], WORDS),
    "unknown role": ([{"role": "critic", "content": "$"}], WORDS),
    "no role": ([{"content": "$"}], WORDS),
    "null role": ([{"role": None, "content": "$"}], WORDS),
    "number role": ([{"role": 5, "content": "$"}], WORDS),
    "name": ([user("$", name="Ann")], WORDS),
    "text part": ([user([part("text", "$")])], WORDS),
    "two text parts": ([user([part("text", "hello"), part("text", "$")])], WORDS),
    "list of strings": ([user(["$", "hello"])], WORDS),
    "part without type": ([user([{"text": "$"}])], WORDS),
    "text and image": ([user([part("text", "$"), part("image_url", {"url": "x"})])], WORDS),
    "image with detail": (
        [user([part("image_url", {"url": "x", "detail": "low"}), part("text", "$")])],
        WORDS,
    ),
    "text and audio": (
        [user([part("input_audio", {"data": "AA==", "format": "wav"}), part("text", "$")])],
        WORDS,
    ),
    "text and file": ([user([part("file", {"file_id": "f"}), part("text", "$")])], WORDS),
    "refusal part": ([{"role": "assistant", "content": [part("refusal", "$")]}], WORDS),
    "refusal field": ([{"role": "assistant", "content": None, "refusal": "$"}], WORDS),
    "transcript": (
        [{"role": "assistant", "content": None, "audio": {"id": "a", "transcript": "$"}}],
        WORDS,
    ),
    "reasoning": ([{"role": "assistant", "content": "ok", "reasoning_content": "$"}], WORDS),
    "unknown part": ([user([part("poem", "$")])], WORDS),
    "content object": ([user({"note": "$"})], WORDS),
    "null content beside": ([user("$"), {"role": "assistant", "content": None}], WORDS),
    "missing content beside": ([user("$"), {"role": "assistant"}], WORDS),
    "empty content beside": ([user("$"), user(""), user([])], WORDS),
    "number content beside": ([user(42), user("$")], WORDS),
    "message is a text": (["$"], WORDS),
    "message is a number": ([5, user("$")], WORDS),
    "message is null": ([None, user("$")], WORDS),
    "message is a list": ([[user("hi")], user("$")], WORDS),
    "JSON number": ([user("42"), user("$")], WORDS),
    "JSON null": ([user("null"), user("$")], WORDS),
    "JSON object": ([user("{}"), user('{"lower": "$"}')], WORDS),
    "JSON text": ([user('"$"')], WORDS),
    "JSON list": ([user("[1]"), user('["$"]')], WORDS),
    "lone surrogate": ([user("\ud800 $")], WORDS),
    "NUL": ([user("\0 $")], WORDS),
    "emoji": ([user("👩‍👩‍👧 ﷽ $")], WORDS),
    "after a newline": ([user("hello\n$")], WORDS - {"match"}),
    "long": ([user("x" * 300_000 + "$")], WORDS),
    "metadata": ([user("$", metadata="x", server=5)], WORDS),
    "null metadata": ([user("$", metadata=None)], WORDS),
    "unknown fields": ([user("$", cache_control={"type": "e"}, x=[1])], WORDS),
    "tool_calls null": ([{"role": "assistant", "content": "$", "tool_calls": None}], WORDS),
    "tool_calls empty": ([{"role": "assistant", "content": "$", "tool_calls": []}], WORDS),
    "text and a call": ([CALL | {"content": "$"}], WORDS),
    "result": ([CALL, result("$")], {"output", "flow"}),
    "result in parts": ([CALL, result([part("text", "$")])], {"output", "flow"}),
    "result null beside": ([CALL, result(None), result("$")], {"output", "flow"}),
    "result of nothing": ([CALL, result("$", tool_call_id="unknown")], {"flow"}),
    "result without id": (
        [CALL, {"role": "tool", "content": "$"}],
        {"flow"},
    ),
    "result with null id": ([CALL, result("$", tool_call_id=None)], {"flow"}),
    "result before its call": ([result("$"), CALL], set()),
    "legacy result": (
        [
            {
                "role": "assistant",
                "content": None,
                "function_call": {"name": "run", "arguments": LS},
            },
            {"role": "function", "name": "run", "content": "$"},
        ],
        {"output", "flow"},
    ),
}
IN_CALLS = {"call", "argument"}
BAD_COMMAND = '{"cmd": "$"}'
CALL_SHAPES: dict[str, tuple[list[Any], set[str]]] = {
    "call": ([calls(BAD_COMMAND)], IN_CALLS),
    "call without content": (
        [{k: v for k, v in calls(BAD_COMMAND).items() if k != "content"}],
        IN_CALLS,
    ),
    "parallel calls": (
        [CALL | {"tool_calls": CALL["tool_calls"] + calls(BAD_COMMAND)["tool_calls"]}],
        IN_CALLS,
    ),
    "call without type": (
        [
            {
                "role": "assistant",
                "tool_calls": [{"id": "c", "function": {"name": "run", "arguments": BAD_COMMAND}}],
            }
        ],
        IN_CALLS,
    ),
    "call with null id": ([calls(BAD_COMMAND, id=None)], IN_CALLS),
    "legacy call": (
        [{"role": "assistant", "function_call": {"name": "run", "arguments": BAD_COMMAND}}],
        IN_CALLS,
    ),
    "arguments are an object": ([calls({"cmd": "$"})], IN_CALLS),
    "malformed arguments": ([calls('{"cmd": "'), calls(BAD_COMMAND)], IN_CALLS),
    "empty arguments": ([calls(""), calls("  "), calls(BAD_COMMAND)], IN_CALLS),
    "list and null arguments": (
        [calls("[1]"), calls("null"), calls('"x"'), calls(BAD_COMMAND)],
        IN_CALLS,
    ),
    "missing arguments": (
        [
            {"role": "assistant", "tool_calls": [{"id": "x", "function": {"name": "run"}}]},
            calls(BAD_COMMAND),
        ],
        IN_CALLS,
    ),
    "number for a text": ([calls('{"cmd": 5}'), calls(BAD_COMMAND)], IN_CALLS),
    "other key": ([calls('{"path": "x"}'), calls(BAD_COMMAND)], IN_CALLS),
    "deep arguments": (
        [calls('{"a": ' + "[" * 900 + "]" * 900 + ', "cmd": "$"}')],
        IN_CALLS,
    ),
    "huge integer": ([calls('{"n": ' + "9" * 5000 + ', "cmd": "$"}')], IN_CALLS),
    "duplicate keys": ([calls('{"cmd": "ls", "cmd": "$"}')], IN_CALLS),
    "custom tool": (
        [
            {
                "role": "assistant",
                "tool_calls": [
                    {"id": "x", "type": "custom", "custom": {"name": "run", "input": "free"}}
                ],
            },
            calls(BAD_COMMAND),
        ],
        IN_CALLS,
    ),
}
SHAPES = TEXT_SHAPES | CALL_SHAPES


def filled(messages: list[Any], text: str) -> list[Any]:
    """The messages with this text in their place. As JSON, for arguments are JSON in JSON."""
    found: list[Any] = json.loads(json.dumps(messages).replace("$", text))
    return found


def judge(bench: Any, messages: list[Any]) -> dict[str, Any]:
    body = json.dumps({"model": "m", "messages": messages}).encode()
    conversation = parse_request(body).conversation
    outcomes = bench.judge(list(conversation.messages), *RULES.values())
    return dict(zip(RULES, outcomes, strict=True))


def test_there_are_as_many_shapes_as_were_measured() -> None:
    """A table is worth what is in it."""
    assert len(SHAPES) >= 70 and len(RULES) == 10


@pytest.mark.parametrize("shape", SHAPES)
def test_a_benign_message_of_this_shape_is_clean(bench: Any, shape: str) -> None:
    """A rule that raises blocks honest people, or is no rule."""
    outcomes = judge(bench, filled(SHAPES[shape][0], "fine"))
    assert {n: (o.violations, o.error) for n, o in outcomes.items()} == dict.fromkeys(
        RULES, ((), None)
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_a_bad_word_in_this_shape_is_found(bench: Any, shape: str) -> None:
    """Whatever the client's SDK made of it: where a rule can look, it sees."""
    messages, seen_by = SHAPES[shape]
    outcomes = judge(bench, filled(messages, "BAD"))
    assert {n for n, o in outcomes.items() if o.violations} == seen_by
    assert not any(o.error for o in outcomes.values())


@pytest.mark.parametrize("shape", [s for s, (_, seen) in TEXT_SHAPES.items() if "text" in seen])
def test_a_secret_in_this_shape_is_found(bench: Any, shape: str) -> None:
    """Detectors take the message, and not its content: they must find the same texts in it."""
    outcomes = judge(bench, filled(SHAPES[shape][0], f" {SECRET} "))
    assert outcomes["secrets"].violations
