"""The local engine with real workers: what it finds."""

from __future__ import annotations

from typing import Any

import pytest

from invariant_addon.core.conversation import Conversation, Message, Part, ToolCall
from invariant_addon.core.verdict import Address, Guardrail
from invariant_addon.engines.base import Question

from .conftest import assistant, question, rule, user, verdict_of

WORD = rule("(m: Message)", '"forbidden" in m.content', says="a forbidden word")
LOWER = rule("(m: Message)", '"forbidden" in m.content.lower()')
FIND = rule("(m: Message)", 'any(find("forb[a-z]+den", m.content))')
SECRETS = "from invariant.detectors import secrets\n" + rule("(m: Message)", "any(secrets(m))")
TOOL = rule("(c: ToolCall)", 'c is tool:bash({cmd: ".*rm -rf.*"})', says="no rm")
FLOW = rule(
    "(o: ToolOutput) -> (c: ToolCall)", "o is tool:read_mail", "c is tool:send_mail", says="leak"
)
EVERYDAY = (WORD, LOWER, FIND, SECRETS, TOOL, FLOW)


def bash(arguments: str) -> ToolCall:
    return ToolCall("c1", "bash", arguments)


def test_a_blocked_word_is_found_where_it_is(bench: Any) -> None:
    """The rule's words and the place are what a person gets to see."""
    (outcome,) = bench.judge([user("hi"), user("a forbidden thing")], WORD)
    (violation,) = outcome.violations
    assert violation.message == "a forbidden word"
    assert violation.addresses == (Address(1), Address(1, "content", 2, 11))
    assert violation.final


def test_a_tool_call_is_found_by_its_arguments(bench: Any) -> None:
    """Agents do harm through calls, not through words."""
    outcomes = bench.judge([assistant("", bash('{"cmd": "sudo rm -rf /"}'))], TOOL, WORD)
    assert [len(o.violations) for o in outcomes] == [1, 0]
    assert outcomes[0].violations[0].addresses == (Address(0, "tool_calls.0"),)


def test_a_text_inside_arguments_has_an_address(bench: Any) -> None:
    """A viewer marks the very characters."""
    text = rule("(c: ToolCall)", '"rm" in c.function.arguments.cmd')
    (outcome,) = bench.judge([user("x"), assistant("", bash('{"cmd": "sudo rm"}'))], text)
    assert (
        Address(1, "tool_calls.0.function.arguments.cmd", 5, 7) in outcome.violations[0].addresses
    )


def test_secrets_are_found(bench: Any) -> None:
    """The detector that most people come for."""
    (outcome,) = bench.judge([user("token ghp_" + "a1" * 18)], SECRETS)
    assert outcome.violations


def test_addresses_do_not_count_the_messages_of_reasoning(bench: Any) -> None:
    """The engine sees one message more than was sent."""
    thinking = Message("assistant", (Part("reasoning", "forbidden"), Part("text", "forbidden")))
    (outcome,) = bench.judge([user("hi"), thinking], WORD)
    found = [v.addresses for v in outcome.violations]
    assert (Address(1, "reasoning"), Address(1, "reasoning", 0, 9)) in found
    assert (Address(1), Address(1, "content", 0, 9)) in found


def test_a_hit_carries_its_own_places_only(bench: Any) -> None:
    """The library mixes up what it finds in several messages at once."""
    (outcome,) = bench.judge([user(f"{i} forbidden") for i in range(8)], FIND)
    assert len(outcome.violations) == 8
    assert all(len({a.message for a in v.addresses}) == 1 for v in outcome.violations)


def test_each_choice_is_judged_for_itself(bench: Any) -> None:
    """With n = 3, only what was chosen can violate, and each is its own reply."""
    choices = tuple((assistant(text),) for text in ("fine", "forbidden", "also fine"))
    asked = question([user("hi")], WORD, then=choices)
    verdicts = bench.run(bench.engine.check(asked))
    assert [v.is_clean for v in verdicts] == [True, False, True]
    assert verdicts[1].violations[0].addresses[0] == Address(1)


def test_a_conversation_is_reused_for_its_continuations(bench: Any) -> None:
    """A stream asks dozens of times about one request."""
    conversation = Conversation((user("hi"),))
    guardrails = (Guardrail("1", "g", WORD),)
    for text, clean in (("fine", True), ("fine forbidden", False), ("other", True)):
        asked = Question(conversation, ((assistant(text),),), guardrails)
        assert bench.run(bench.engine.check(asked))[0].is_clean is clean


def test_a_rule_that_raises_does_not_hide_the_others(bench: Any) -> None:
    """One bad rule must not switch off the good ones, not even in its own policy."""
    bad = rule("(m: Message)", "1 / 0 > 1")
    both = bad + rule("(m: Message)", '"forbidden" in m.content')
    failed, found, mixed = bench.judge([user("forbidden s3cret")], bad, WORD, both)
    assert failed.error == "ZeroDivisionError in the rule at line 1"
    assert failed.violations == () and len(found.violations) == 1
    assert mixed.error and len(mixed.violations) == 1


def test_a_missing_key_is_no_match_and_hides_no_other_call(bench: Any) -> None:
    """Every agent has tools without `cmd`: neither may they be blocked, nor may they be a cover."""
    calls = [bash('{"path": "s3cret"}'), bash('{"cmd": 5}'), bash('{"cmd": "rm"}')]
    text = rule("(c: ToolCall)", '"rm" in c.function.arguments["cmd"].lower()')
    (outcome,) = bench.judge([assistant("", *calls)], text)
    assert [v.addresses[0].path for v in outcome.violations] == ["tool_calls.2"]
    assert outcome.error is None
    assert set(outcome.notes) == {
        "KeyError in the rule at line 1",
        "AttributeError in the rule at line 1",
    }
    assert not verdict_of(outcome).failures


def test_what_fails_in_every_binding_is_no_note(bench: Any) -> None:
    """A rule that only took notes would never fire, and nobody would know."""
    (outcome,) = bench.judge([user("s3cret")], rule("(m: Message)", "1 / 0 > 1"))
    assert outcome.error and outcome.error.endswith("at line 1")
    assert "s3cret" not in str(outcome.error) and outcome.notes == ()


def test_a_flow_between_things_without_an_order_is_an_error(bench: Any) -> None:
    """The library raises a KeyError for it, as for a missing key; but no binding is any better."""
    text = rule("(f: Function) -> (g: Function)", 'f.name == "bash"')
    (outcome,) = bench.judge([assistant("", bash("{}"))], text)
    assert outcome.error == "line 2: only messages, tool calls and tool outputs have an order (->)"


def test_a_count_does_not_count_calls_without_the_key(bench: Any) -> None:
    """Rate limits look at one kind of call among many."""
    text = "from invariant import count\n" + rule(
        "count(min=2):", "    (c: ToolCall)", '    c.function.arguments.cmd == "x"'
    )
    once = assistant("", bash('{"cmd": "x"}'), bash('{"path": "x"}'))
    assert bench.judge([once], text)[0].violations == ()
    (outcome,) = bench.judge([once, assistant("", bash('{"cmd": "x"}'))], text)
    assert outcome.violations and outcome.notes and not outcome.error


def test_a_predicate_that_lacks_a_key_is_not_false(bench: Any) -> None:
    """`not is_safe(call)` would block every call of another kind."""
    text = 'is_safe(c: ToolCall) :=\n    c.function.arguments.cmd == "ls"\n' + rule(
        "(c: ToolCall)", "not is_safe(c)"
    )
    (outcome,) = bench.judge([assistant("", bash('{"path": "x"}'), bash('{"cmd": "rm"}'))], text)
    assert len(outcome.violations) == 1 and outcome.notes


def test_the_first_part_of_a_condition_guards_the_second(bench: Any) -> None:
    """`"cmd" in args and ...` is how people write it."""
    arguments = "c.function.arguments"
    text = rule("(c: ToolCall)", f'not ("cmd" in {arguments} and {arguments}.cmd == "ls")')
    (outcome,) = bench.judge([assistant("", bash('{"path": "x"}'), bash('{"cmd": "ls"}'))], text)
    assert len(outcome.violations) == 1 and not outcome.notes


@pytest.mark.parametrize(
    "conditions",
    [
        ("(m: Message)", "(t: str) in [m.content]", '"red" in t'),
        ("(c: ToolCall)", "(n: int) in [c.function.arguments.n]", "n > 2"),
        ("(c: ToolCall)", "(d: dict) in [c.function.arguments.d]", 'd["a"] == 1'),
        ("(m: Message)", "(t: str) in [m.role, m.content]", "m.content in [t]"),
        ("(m: Message)", "(t: str) in text(m)", '{a: t}["a"] == m.content'),
        ("(m: Message)", "(t: str) in text(m)", 'm.content in [t for w in ["x"]]'),
    ],
    ids=str,
)
def test_a_list_is_not_known_before_all_in_it_is(bench: Any, conditions: tuple[str, ...]) -> None:
    """Such rules never fired, and nobody was told."""
    call = ToolCall("c", "run", '{"n": 3, "d": {"a": 1}}')
    (outcome,) = bench.judge([user("red"), assistant("red", call)], rule(*conditions))
    assert outcome.violations and outcome.error is None


def test_a_short_text_is_found_where_it_is(bench: Any) -> None:
    """Python keeps one object for all texts of one letter: the place was the first of them."""
    text = rule("(m: Message)", 'm.role == "user"', 'any(find("x", m.content))')
    (outcome,) = bench.judge([assistant("x"), user("y"), user("x")], text)
    assert [a.message for a in outcome.violations[0].addresses] == [2, 2]


def test_a_missing_extra_is_an_error_of_its_guardrail(bench: Any) -> None:
    """By default the library ends the process, or asks a question at the terminal."""
    text = "from invariant.detectors import prompt_injection\n" + rule(
        "(m: Message)", "prompt_injection(m.content)"
    )
    pii = "from invariant.detectors import pii\n" + rule("(m: Message)", "any(pii(m))")
    failed, other, found = bench.judge([user("forbidden")], text, pii, WORD)
    for error in (failed.error, other.error):  # a person has to learn what to install
        assert error.startswith("a missing package (pii needs presidio-analyzer ")
        assert "scripts/rules check" in error
        assert error.endswith(" in the rule at line 2")
    assert found.violations


def test_a_policy_that_exits_does_not_end_the_worker(bench: Any) -> None:
    """Policies are code."""
    pids = bench.engine.pids
    text = "from sys import exit\n" + rule("(m: Message)", "exit(1)")
    failed, found = bench.judge([user("forbidden")], text, WORD)
    assert failed.error == "SystemExit in the rule at line 2"
    assert found.violations and bench.engine.pids == pids


def test_a_policy_that_prints_does_not_garble_the_protocol(bench: Any) -> None:
    """The library prints, too."""
    text = "from os import write\n" + rule("(m: Message)", 'print("x" + m.content)', "write(1, 2)")
    failed, found = bench.judge([user("forbidden")], text, WORD)
    assert failed.error and found.violations


def test_a_long_flow_needs_no_limit(bench: Any) -> None:
    """The library tries all pairs and gives up at 100 of them: after ten tool calls."""
    text = rule("(a: Message) -> (b: Message)", '"x" in a.content', '"x" in b.content')
    (outcome,) = bench.judge([user("y")] * 600, text)
    assert (outcome.error, outcome.violations) == (None, ())
    (outcome,) = bench.judge([user("x"), *[user("y")] * 600, user("x")], text)
    assert {a.message for a in outcome.violations[0].addresses} == {0, 601}


def test_what_a_rule_makes_is_not_taken_for_what_it_made_before(bench: Any) -> None:
    """Answers are kept by object, and a text that nobody holds leaves its number to the next."""
    text = rule("(m: Message)", '(w: str) in m.content.split(" ")', '"bad" in w')
    messages = [user(" ".join(f"word{i}x{j}" for j in range(40))) for i in range(20)]
    assert not bench.judge(messages, text)[0].violations
    (outcome,) = bench.judge([*messages, user("some very bad1 word")], text)
    assert len(outcome.violations) == 1


def test_hits_are_limited(bench: Any) -> None:
    """Each costs a walk through all messages: many hits must not be a way to the deadline."""
    (outcome,) = bench.judge([user("forbidden " * 500)] * 100, WORD)
    assert len(outcome.violations) == 16
    assert all(len(v.addresses) <= 65 for v in outcome.violations)


def test_what_a_rule_raises_is_said_only_as_it_stands_in_the_rule(bench: Any) -> None:
    """What is put together when it is raised can hold the very text that was blocked."""
    text = (
        'raise PolicyViolation("leak", c=m) if:\n    (m: Message)\n    "forbidden" in m.content\n'
    )
    quoting = [
        f'raise {raised} if:\n    (m: Message)\n    "forbidden" in m.content\n'
        for raised in (
            "PolicyViolation(m.content)",
            'PolicyViolation("no: " + m.content)',
            'f"no {m.content}"',
        )
    ]
    said, *others = bench.judge([user("forbidden s3cret")], text, *quoting)
    assert said.violations[0].message == "leak"
    assert {o.violations[0].message for o in others} == {"the rule at line 1 does not hold"}


def test_a_needle_is_not_a_pattern(bench: Any) -> None:
    """`"rm -rf (" in x` raised, because the library compiles it."""
    text = rule("(m: Message)", '"rm -rf (" in m.content')
    (outcome,) = bench.judge([user("run rm -rf (now)")], text)
    assert outcome.violations[0].addresses[1] == Address(0, "content", 4, 12)


UNREAD = "line {}: No terminal matches '{}' in the current parser context"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (rule("(m Message)"), "line 2: No terminal matches"),
        (rule("(m: Message)", "nothing(m)"), "line 3: Failed to resolve identifier nothing"),
        (
            rule("(m: Message)", '"a in m.content'),
            f"{UNREAD.format(3, '"')}. A text ends on its line",
        ),
        (
            'raise "x" if:\n(m: Message)\n',
            f"{UNREAD.format(1, ':')}. The conditions stand below it",
        ),
        ('print("a")\n', f"{UNREAD.format(1, '"')}. A rule begins with raise"),
        ("rules:\n  - block: all\n", f"{UNREAD.format(2, ':')}. A rule begins"),
        ("hello", "line 1: the text ends here, in the middle of a rule"),
        ("from nowhere import x\n" + rule("x"), "ImportError"),
        (rule("(m: Message)", 'find("a", m.content)'), "line 3: find(...) alone is never true"),
        (rule("(m: Message)", 'not m.role == "user"'), "line 3: write not (a == b)"),
        (
            rule("(m: Message)", '"a" in m.content or "b" in m.content or "c" in m.content'),
            "line 3: put parentheses",
        ),
    ],
)
def test_a_guardrail_that_cannot_be_used_is_a_defect(bench: Any, text: str, reason: str) -> None:
    """Whoever writes rules learns it when they are loaded, not when they are needed."""
    good, bad = Guardrail("1", "good", WORD), Guardrail("2", "bad", text, trusted=True)
    (defect,) = bench.run(bench.engine.load([good, bad]))
    assert defect.guardrail is bad
    assert defect.reason.startswith(reason)
    assert bench.judge([user("x")], text)[0].error == defect.reason


def test_no_guardrails_are_no_question(bench: Any) -> None:
    """Nothing to judge by is a verdict, and no reason to ask a worker."""
    assert bench.judge([user("x")]) == ()


def shapes() -> dict[str, list[Message]]:
    def result(text: str, call_id: str | None = "c1", name: str | None = None) -> Message:
        return Message("tool", (Part("text", text),), (), call_id, name)

    def parts(*kinds: Any) -> Message:
        return Message("user", tuple(Part(kind, "some text") for kind in kinds))

    call = bash('{"cmd": "ls"}')
    return {
        "text": [user("hello")],
        "nothing": [],
        "empty": [user("")],
        "system": [Message("system", (Part("text", "be kind"),)), user("hi")],
        "developer": [Message("developer", (Part("text", "be kind"),)), user("hi")],
        "null content and a call": [assistant("", call)],
        "text and a call": [assistant("ok", call)],
        "two calls": [assistant("", call, ToolCall("c2", "bash", '{"cmd": "pwd"}'))],
        "call and result": [assistant("", call), result("file")],
        "empty result": [assistant("", call), result("")],
        "result before its call": [result("file"), assistant("", call)],
        "result of nothing": [result("file", "unknown")],
        "result without id": [assistant("", call), result("file", None)],
        "legacy call": [assistant("", ToolCall(None, "bash", "{}")), result("x", None, "bash")],
        "custom tool": [assistant("", ToolCall("c", "bash", "free text", "custom"))],
        "malformed arguments": [assistant("", bash('{"cmd": "l'))],
        "empty arguments": [assistant("", bash(""))],
        "list arguments": [assistant("", bash("[1, 2]"))],
        "null arguments": [assistant("", bash("null"))],
        "deep arguments": [assistant("", bash("[" * 900 + "]" * 900))],
        "huge integer": [assistant("", bash('{"n": ' + "9" * 5000 + "}"))],
        "big integer": [assistant("", bash('{"n": 99999999999999999999999}'))],
        "lone surrogate": [user("\ud800"), assistant("", bash('{"a": "\\ud800"}'))],
        "parts": [parts("text", "text")],
        "image": [parts("text", "image")],
        "audio and file": [parts("audio", "file", "other")],
        "refusal": [Message("assistant", (Part("refusal", "I cannot"),))],
        "transcript": [Message("assistant", (Part("transcript", "spoken"),))],
        "reasoning": [Message("assistant", (Part("reasoning", "hm"), Part("text", "yes")))],
        "only reasoning": [Message("assistant", (Part("reasoning", "hm"),))],
        "JSON number": [user("42")],
        "JSON null": [user("null")],
        "JSON object": [user('{"lower": 1}')],
        "JSON list": [user("[1]")],
        "emoji and NUL": [user("👩‍👩‍👧 \0 ﷽")],
        "no role": [Message("unknown", (Part("text", "x"),))],
        "name": [Message("user", (Part("text", "x"),), name="Ann")],
        "long": [user("x" * 200_000)],
    }


@pytest.mark.parametrize("shape", shapes())
def test_everyday_traffic_is_clean(bench: Any, shape: str) -> None:
    """Raw, the engine raises on four of ten such cells; each would block an honest user."""
    outcomes = bench.judge(shapes()[shape], *EVERYDAY)
    assert [(o.violations, o.error) for o in outcomes] == [((), None)] * len(EVERYDAY)


def test_a_flow_is_found(bench: Any) -> None:
    """What the table above calls clean is not clean because nothing works."""
    mail = assistant("", ToolCall("c1", "read_mail", "{}"))
    result = Message("tool", (Part("text", "x"),), tool_call_id="c1")
    send = assistant("", ToolCall("c2", "send_mail", "{}"))
    assert bench.judge([mail, result, send], FLOW)[0].violations
    assert not bench.judge([send, mail, result], FLOW)[0].violations


@pytest.mark.parametrize("condition", ['any(find("x", m))', 'match("x", m)'])
def test_a_pattern_is_for_texts_and_a_message_is_none(bench: Any, condition: str) -> None:
    """It would never find anything: that must be said, not taken for a missing key."""
    text = f'raise "no" if:\n    (m: Message)\n    {condition}\n'
    (outcome,) = bench.judge([user("x")], text)
    assert outcome.error and not outcome.violations
