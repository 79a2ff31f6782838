"""A rule that loads does what it says; what cannot is refused, with its line and a remedy."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from invariant_addon.core.conversation import Message, Part, ToolCall
from invariant_addon.engines.normalise import normalise

from .conftest import assistant, rule, user

README = Path(__file__).parents[2] / "README.md"
COUNT = "from invariant import count, forall\n"
SECRETS = "from invariant.detectors import secrets\n"
M, C, T = "(m: Message)", "(c: ToolCall)", "(o: ToolOutput)"


def call(name: str, number: int = 1, **arguments: Any) -> ToolCall:
    return ToolCall(f"c{number}", name, json.dumps(arguments))


def asks(*calls: ToolCall) -> Message:
    return assistant("", *calls)


def result(text: str, number: int = 1) -> Message:
    return Message("tool", (Part("text", text),), (), f"c{number}")


HELLO = [user("hello"), assistant("hi")]
MAIL = asks(call("send_mail", to="ann@example.com", body="hi", amount=5))
STRANGER = asks(call("send_mail", to="eve@evil.example", amount=5000, force=True))
READ = [asks(call("read_inbox")), result("a letter")]
FOUR = [asks(*[call("bash", i, cmd="ls") for i in range(4)])]

# What newcomers write, a conversation that breaks it, and one that does not.
WORKING: dict[str, tuple[str, list[Message], list[Message]]] = {
    "user says": (
        rule(M, 'm.role == "user"', '"bomb" in m.content.lower()'),
        [user("a Bomb")],
        [user("x"), assistant("bomb")],
    ),
    "one of several words": (
        rule(M, 'any([w in m.content for w in ["bomb", "gun"]])'),
        [user("gun")],
        HELLO,
    ),
    "one of several words, in a list": (
        rule(M, 'any(["bomb", "gun"] in m.content)'),
        [user("gun")],
        HELLO,
    ),
    "two parts": (
        rule(M, '(m.role == "user") and ("bomb" in m.content)'),
        [user("bomb")],
        [assistant("bomb")],
    ),
    "an empty message, and a part": (
        rule(M, 'm.content and "bomb" in m.content'),
        [user("bomb")],
        [user("")],
    ),
    "regular expression": (rule(M, 'match(".*[0-9]{4}", m.content)'), [user("1234")], HELLO),
    "regular expression anywhere": (
        rule(M, 'any(find("[0-9]{4}", m.content))'),
        [user("x\n1234")],
        HELLO,
    ),
    "too long": (
        rule(M, 'm.role == "assistant"', "len(m.content) > 20"),
        [assistant("x" * 21)],
        [user("x" * 21), assistant("x")],
    ),
    "any tool call": (rule(C), [MAIL], HELLO),
    "a certain tool": (rule(C, "c is tool:send_mail"), [MAIL], FOUR),
    "a tool by name": (rule(C, 'c.function.name == "send_mail"'), [MAIL], FOUR),
    "all tools but these": (
        rule(C, 'not (c.function.name in ["bash", "ls"])'),
        [MAIL],
        FOUR,
    ),
    "argument contains": (rule(C, '"ls" in c.function.arguments.cmd'), FOUR, [MAIL]),
    "argument by key": (rule(C, 'c.function.arguments["cmd"] == "ls"'), FOUR, [MAIL]),
    "argument by pattern": (rule(C, 'c is tool:bash({cmd: "l.*"})'), FOUR, [MAIL]),
    "number too large": (rule(C, "c.function.arguments.amount > 1000"), [STRANGER], [MAIL]),
    "a flag": (rule(C, "c.function.arguments.force"), [STRANGER], [MAIL]),
    "not from this domain": (
        rule(C, 'not ("@example.com" in c.function.arguments.to)'),
        [STRANGER],
        [MAIL],
    ),
    "one tool after another": (
        rule("(a: ToolCall) -> (b: ToolCall)", "a is tool:read_inbox", "b is tool:send_mail"),
        [*READ, MAIL],
        [MAIL, *READ],
    ),
    "a chain of three": (
        rule("(a: ToolCall) -> (b: ToolOutput)", "b -> (d: ToolCall)", "d is tool:send_mail"),
        [*READ, MAIL],
        READ,
    ),
    "a tool's output": (rule(T, "o is tool:read_inbox", '"letter" in o.content'), READ, [MAIL]),
    "more than three calls": (COUNT + rule("count(min=4):", f"    {C}"), FOUR, [MAIL, *READ]),
    "more than three of a tool": (
        COUNT + rule("count(min=4):", f"    {C}", "    c is tool:bash"),
        FOUR,
        [MAIL],
    ),
    "no call": (COUNT + rule("count(max=0):", f"    {C}"), HELLO, FOUR),
    "many calls in a message": (rule(M, "len(m.tool_calls) > 3"), FOUR, [MAIL]),
    "a message with calls": (rule(M, f"{C} in m.tool_calls"), [MAIL], HELLO),
    "a predicate": (
        "is_rude(m: Message) :=\n    " + '"damn" in m.content\n' + rule(M, "is_rude(m)"),
        [user("damn")],
        HELLO,
    ),
    "a predicate about what is there": (
        f"acts(m: Message) :=\n    {C} in m.tool_calls\n" + rule(M, "acts(m)"),
        [MAIL],
        HELLO,
    ),
    "secrets": (
        SECRETS + rule(M, "any(secrets(m))"),
        [user("ghp_" + "aB1" * 12)],
        HELLO,
    ),
    "a name for it": (rule(M, "t := m.content.lower()", '"bomb" in t'), [user("BOMB")], HELLO),
}

# What they write as well: conditions, and how the reason starts.
REFUSED: list[tuple[str, str]] = [
    # never true
    (rule(M, "m.content"), "line 3: a text alone is never true"),
    (rule(M, "m.tool_calls"), "line 3: a list alone is never true, write len(m.tool_calls) > 0"),
    (rule(M, "[w for w in m.content.split()]"), "line 3: a list alone is never true, write any("),
    (rule(M, 'find("a", m.content)'), "line 3: find(...) alone is never true, write any(find"),
    (rule(M, '["a", "b"] in m.content'), "line 3: a list alone is never true, write any("),
    (rule(M, "len(m.content)"), "line 3: a number alone is never true"),
    (rule(C, "c.function.arguments"), "line 3: this alone is never true"),
    (rule(M, '"hello"'), "line 3: a text alone is never true"),
    (rule(M, "len(m.content) + 1"), "line 3: a number alone is never true"),
    (rule(M, '"a" or "b" in m.content'), "line 3: a text alone is never true"),
    (rule(M, 'm.role == "user" or "system"'), "line 3: a text alone is never true"),
    (rule(M, '"a" in m.content and m.content'), "line 3: a text alone is never true"),
    (rule(M, 'any([t == "a" for t in m.content.split() if t])'), "line 3: a text alone"),
    (rule(M, 'm.role == "tool"'), "line 3: the results of tools are no messages, write (o:"),
    (rule(M, 'm.role in ["tool", "function"]'), "line 3: the results of tools are no messages"),
    (rule(M, '(m.role == "tool") or (m.role == "function")'), "line 3: the results of tools"),
    (rule(M, 'm.role == ["user"]'), "line 3: a text is never a list"),
    (rule(M, "m.content == None"), 'line 3: a text is never None here, write m.content == ""'),
    (rule(C, 'c.function == "send"'), "line 3: a function is never a text"),
    (rule("(m: Message) in input", '"a" in m.content'), "line 2: nothing is found there, write"),
    (rule(f"not {C}"), "line 2: this is never true, write count(max=0):"),
    (rule(M, "m is tool:send"), "line 3: only a tool call or its output is tool:..."),
    (rule(C, "c.function.name is tool:send"), "line 3: only a tool call or its output"),
    (rule("(t: Tool)", '"a" in t.name'), "line 2: (x: Tool) alone finds nothing"),
    (COUNT + rule("count(min=1):", f"    {M}", '    m.role == "tool"'), "line 5: the results"),
    (rule(M, '"a" in x', "x := m.content"), "line 3: x is used before it is set"),
    (
        COUNT + rule("count(min=2):", f"    {C}", '    w := "a"', "    w in c.id"),
        "line 5: count and forall cannot have a name of its own",
    ),
    (
        COUNT + rule("count(min=2):", f"    {C}", '    any([w in c.id for w in ["a"]])'),
        "line 5: count and forall cannot have a list comprehension",
    ),
    (
        COUNT + rule(M, "x := m.tool_calls", "count(min=1):", f"    {C} in x", "    c is tool:run"),
        "line 6: count does not see x",
    ),
    (
        COUNT + 'raise PolicyViolation("x", c) if:\n    count(min=1):\n        (c: ToolCall)\n',
        "line 2: c is unknown outside of the count",
    ),
    # means something else
    (rule(M, 'm.role is "user"'), "line 3: two values are never the same thing, write =="),
    (rule(M, '"a" in m'), "line 3: a message is not looked into, write ... in m.content"),
    (rule(C, '"a" in c'), "line 3: a tool call is not looked into, write ... in c.function.arg"),
    (rule(M, "1 < len(m.content) < 3"), "line 3: write two comparisons"),
    (rule(C, "c is not tool:send"), "line 3: write not (a is b)"),
    (rule(C, "c == tool:send"), "line 3: tool:... only goes with is"),
    (rule(C, "c is tool:send.mail"), "line 3: write c.function.name =="),
    (rule(C, 'c is tool:send("x")'), "line 3: name the arguments, as in tool:send({"),
    (rule(C, "c is tool:send({force: True})"), "line 3: only texts, numbers, lists and *"),
    (rule(M, 'f"{m.role}" in m.content'), 'line 3: f"..." is not filled in'),
    (SECRETS + rule(C, "any(secrets(c.function.arguments))"), "line 4: secrets(...) sees no text"),
    (rule(C, 'server(c) == "github"'), "line 3: which server a tool is on is not known"),
    # raises
    (rule(M, 'm.contnt == "a"'), "line 3: a message has no .contnt, write m.content"),
    (rule(M, '"a" in m.text'), "line 3: a message has no .text, write m.content"),
    (rule(C, 'c.name == "a"'), "line 3: a tool call has no .name, write c.function.name"),
    (rule(C, '"a" in c.arguments.cmd'), "line 3: a tool call has no .arguments, write c.func"),
    (rule(T, 'o.sender == "a"'), "line 3: a tool output has no .sender, it has .role, .content"),
    (rule(M, 'm.tool_calls.name == "a"'), "line 3: a list has no .name, write (c: ToolCall) in"),
    (rule(M, 'm["content"] == "a"'), "line 3: a message has no keys, write m.content"),
    (rule(M, 'm.content.startswith("a")'), "line 3: there is no .startswith(...), write match("),
    (rule(M, 'm.content.contains("a")'), 'line 3: there is no .contains(...), write "..." in m.c'),
    (rule(C, 'c.function.arguments.cmd.replace("a", "b") == "b"'), "line 3: there is no .replace"),
    (rule(M, '"a" in m.content.lower'), "line 3: .lower is a method, write .lower()"),
    (rule(M, 'm.content() == "a"'), "line 3: .content is no method, write m.content"),
    (rule("(a: Message) -> (b: Message) -> (d: Message)"), "line 2: write two lines"),
    (rule("(f: Function) -> (g: Function)"), "line 2: only messages, tool calls and tool"),
    (rule(M, "m.tool_calls > 3"), "line 3: a list is not a number, write len(m.tool_calls)"),
    (rule(M, "m.content > 100"), "line 3: a text is not a number, write len(m.content)"),
    (rule(M, "5 in m.content"), "line 3: only a text can be in a text, and not a number"),
    (rule(M, "len(m.content + 5) > 1"), "line 3: a text + a number has no result"),
    (rule(M, "len(m.content, 1) > 1"), "line 3: len is called as len(s)"),
    (rule(M, "len(m) > 1"), "line 3: a message has no length"),
    (rule(M, 'any("a" in m.content)'), "line 3: any(...) takes a list, and this is true or false"),
    (rule(M, 'any(find("a", m))'), "line 3: find(...) takes a text, write m.content"),
    (rule(M, 'match("(", m.content)'), "line 3: this is no regular expression"),
    (COUNT + rule(M, "count(m.tool_calls) > 3"), "line 4: write count(...): with a colon"),
    (rule(M, "any:", '    m.content == "a"'), "line 3: only count(...): and forall:"),
    ("says(c: ToolCall) :=\n    " + 'c.name == "a"\n' + rule(C, "says(c)"), "line 2: a tool call"),
    ("says(m: Message, w: str) :=\n    w in m.content\n" + rule(M, "says(m)"), "line 5: says is c"),
]

# What the library refuses itself, and what we add.
UNREADABLE: list[tuple[str, str]] = [
    (rule('"a" in m.content'), "Declare it, as in (m: Message)"),
    (rule("(m: message)"), "Write Message"),
    (
        rule("m: Message", '"a" in m.content'),
        "Write (m: Message) or (c: ToolCall), with parentheses",
    ),
    (rule(M, "any(secrets(m))"), "Write from invariant.detectors import secrets at the top"),
    (rule("count(min=2):", f"    {C}"), "Write from invariant import count at the top"),
    (rule(M, 'all([w in m.content for w in ["a"]])'), "Write not any([not (...)"),
    (rule(M, '"a" not in m.content'), "Write not (a in b)"),
    (rule(M, 'm.role = "user"'), "Write == to compare"),
    (rule(M, '"a" in m.content && "b" in m.content'), "Write and"),
    (rule(M, '"a" in m.content || "b" in m.content'), "Write or"),
    (rule(C, "c is tool:send-mail"), 'write c.function.name == "..."'),
    (rule(M, M), "Variable m already declared in the same rule"),
    (
        '# mine\nraise "x" if\n    (m: Message)\n    "a" in m.content\n',
        'line 2: a colon is missing: raise "x" if:',
    ),
    ('# mine\n\nraise "x" if', 'line 3: a colon is missing: raise "x" if:'),
    ('# mine\n\nraise "x" if:\n', "line 3: "),
    ('if:\n    (m: Message)\n    "a" in m.content\n', "there is no rule in it"),
]


def load(bench: Any, text: str) -> str | None:
    refused: str | None = bench.refusal(text, trusted=True)
    return refused


@pytest.mark.parametrize("name", WORKING)
def test_what_newcomers_write_works(bench: Any, name: str) -> None:
    """A rule that blocks nothing, or everybody, is worse than none."""
    text, bad, good = WORKING[name]
    (broken,), (kept,) = bench.judge(bad, text), bench.judge(good, text)
    assert broken.violations and not broken.error
    assert not kept.violations and not kept.error


@pytest.mark.parametrize(("text", "reason"), REFUSED)
def test_what_cannot_work_is_refused(bench: Any, text: str, reason: str) -> None:
    """Who starts the proxy learns what to write instead, and where."""
    assert str(load(bench, text)).startswith(reason)


@pytest.mark.parametrize(("text", "remedy"), UNREADABLE)
def test_what_cannot_be_read_comes_with_a_remedy(bench: Any, text: str, remedy: str) -> None:
    """The library's parser speaks of terminals."""
    assert remedy in str(load(bench, text))


def test_of_many_bad_rules_the_first_is_named(bench: Any) -> None:
    """People mend a file from top to bottom."""
    good, bad, worse = rule(M, '"a" in m.content'), rule(M, "m.content"), rule(M, "m.x == 1")
    assert str(load(bench, good + bad + worse)).startswith("line 6: a text alone")
    assert str(load(bench, good + worse + bad)).startswith("line 6: a message has no .x")
    unresolved = rule(M, "b(m)") + rule("(x: nothing)") + rule(M, "d(m)")
    assert str(load(bench, unresolved)).startswith("line 3: Failed to resolve identifier b")


@pytest.mark.parametrize(
    "conditions",
    [
        (M, "m.content is not None", '"a" in m.content'),
        (M, 'm.content == None or not ("a" in m.content)'),
        (M, 'not m.content or "a" in m.content'),
        (M, 'm.role == "tool" or "a" in m.content'),
        (M, "m.content.cmd"),
        (C, "c.function.arguments.items.cmd"),
        (C, "c.function.arguments.get('cmd').lower() == 'ls'"),
        (C, 'c.function.arguments["to"][0] == "x"'),
        (M, "x := m.tool_calls[0].function.name", 'x == "bash"'),
        ("(f: Function) in input.data", 'f.name == "x"'),
        (M, "m.metadata.trace_idx > 3"),
        (M, 'input.user == "ann"'),
        (T, 'tool_call(o).function.arguments.cmd == "ls"'),
    ],
)
def test_what_may_work_is_let_be(bench: Any, conditions: tuple[str, ...]) -> None:
    """Nobody's working rule may stop the proxy from starting."""
    assert load(bench, rule(*conditions)) is None


def test_the_rules_of_the_readme_load(bench: Any) -> None:
    """They are what people copy."""
    blocks = README.read_text(encoding="utf-8").split("```")[1::2]
    texts = [block for block in blocks if block.startswith('\nraise "')]
    assert len(texts) >= 2
    assert [load(bench, text.strip("\n") + "\n") for text in texts] == [None] * len(texts)


ATOMS = [
    *("m.content", "m.role", "m.tool_calls", "m.metadata", "m", "c", "o", "c.id", "c.function"),
    *("c.function.name", "c.function.arguments", "c.function.arguments.cmd", "o.content"),
    *('"red"', '"user"', '"tool"', "3", "None", "True", '["red", "x"]', "len(m.content)"),
    *("m.text", "c.name", "m.content.lower", "m.content.lower()", "m.tool_calls[0]", "input"),
    *('find("r", m.content)', "text(m)", "[t for t in m.content.split()]", "tool_call(o)"),
    *("c is tool:run", "m is tool:run", '"red" in m.content', 'm["role"]', "empty(m.tool_calls)"),
]
CONVERSATIONS = [
    [user("red"), asks(call("run", cmd="red")), result("red user tool"), assistant("x")],
    [user("user"), asks(call("x", 1, cmd=True), call("run", 2, cmd=["red"])), result("", 2)],
    [user('{"cmd": 3, "lower": true}'), user(""), asks(call("red", cmd=3)), result("red")],
]


def anything(chance: random.Random) -> str:
    def one() -> str:
        a, b = chance.choice(ATOMS), chance.choice(ATOMS)
        op = chance.choice(["==", "!=", "in", "<", ">", "+", "and", "or", "is"])
        forms = (a, f"not ({a})", f"({a}) {op} ({b})", f"({a}) {op} ({b})", f"any({a})")
        return chance.choice(forms)

    condition = chance.choice([one(), f"({one()}) and ({one()})"])
    declared = [d for d in (M, C, T) if f"{d[1]}." in condition or f"({d[1]})" in condition]
    more = [d for d in (M, C, T) if f"{d[1]}[" in condition or f" {d[1]} " in f" {condition} "]
    return rule(*dict.fromkeys([*declared, *more, M]), condition)


def test_what_is_refused_never_held(bench: Any) -> None:
    """The proof of the tables above, by trying: what they refuse, the bare library never finds."""
    chance = random.Random(20261)
    tried = [anything(chance) for _ in range(40)] + [text for text, _ in REFUSED]
    reasons = [(text, load(bench, text)) for text in tried]
    refused = [text for text, reason in reasons if reason and not is_other(text, reason)]
    cases = [(normalise(messages).messages, text) for text in refused for messages in CONVERSATIONS]
    done = subprocess.run(
        [sys.executable, "-P", str(Path(__file__).with_name("original.py"))],
        input="\n".join(map(json.dumps, cases)),
        env={**os.environ, "LOCAL_POLICY": "1", "INVARIANT_MAX_ITERATIONS": "1000000"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    fired = [case[1] for case, answer in zip(cases, answers, strict=True) if answer]
    assert len(refused) > 70 and not fired, "\n".join(fired)


def is_other(text: str, reason: str) -> bool:
    """Refused because it means something else, and may fire on everything; or because one side of
    an `or` cannot hold; or it was not read."""
    others = ("looked into", "two comparisons", "same thing", "is a method")
    unread = ("resolve", "No terminal", "Unexpected", "may be built", "may not")
    return " or " in text or any(words in reason for words in others + unread)
