"""What a worker keeps of rules and conversations for the next check, and what it must not."""

from __future__ import annotations

import random
from typing import Any

import pytest

from invariant_addon.core.conversation import Message, Part, ToolCall

from .conftest import assistant, question, rule, user
from .test_same_verdicts import conversation, policy

RED = [user("red"), assistant("", ToolCall("c", "run", '{"cmd": "x"}'))]
NOBODY: list[Message] = [assistant("")]
COUNT = "from invariant import count\n"
RUNS = "runs() :=\n    (c: ToolCall)\n    c is tool:run\n"


@pytest.mark.parametrize(
    "text",
    [
        rule("(m: Message)", '"red" in m.content'),
        rule("(c: ToolCall)"),
        COUNT + rule("count(min=1):", "    (c: ToolCall)"),
        COUNT + rule("(m: Message)", "count(min=1):", "    (c: ToolCall)"),
        RUNS + rule("runs()"),
        RUNS + rule("(m: Message)", "runs()"),
    ],
)
def test_an_earlier_conversation_changes_nothing(bench: Any, text: str) -> None:
    """What a worker keeps of a rule must not be the verdict on somebody else."""
    for is_hit in (True, False, False, True):
        (outcome,) = bench.judge(RED if is_hit else NOBODY, text)
        assert (bool(outcome.violations), outcome.error) == (is_hit, None)


@pytest.mark.parametrize(
    "text",
    [
        rule('input.word == "red"', "(m: Message)"),
        rule("(t: str) in [input.word]", "(m: Message)", "t in m.content"),
        "W := [input.word]\n" + rule("(m: Message)", "any([w in m.content for w in W])"),
    ],
)
def test_earlier_parameters_change_nothing(bench: Any, text: str) -> None:
    """They are the caller's, and the next caller has others."""
    for word in ("red", "blue", "blue", "red"):
        (outcome,) = bench.judge(RED, text, parameters={"word": word})
        assert (bool(outcome.violations), outcome.error) == (word == "red", None)


def test_what_one_rule_breaks_is_not_the_next_ones(bench: Any) -> None:
    """All rules of a check run one after the other in one task."""
    fine = rule("(m: Message)", '"red" in m.content')
    broken = rule("(m: Message)", "len(m.content) == input.nothing")
    for _ in range(2):
        first, second, third, fourth = bench.judge(RED, fine, broken, broken, fine)
        assert second.error and third.error and not (first.error or fourth.error)
        assert first.violations[0].addresses == fourth.violations[0].addresses


def test_the_next_turn_of_a_conversation_is_judged_as_if_it_were_the_first(bench: Any) -> None:
    """What is known of the turns before it is taken over, but only where they are the same."""

    def called(arguments: str, *, answer: str = "fine") -> list[Message]:
        call = assistant("", ToolCall("c", "run", arguments))
        return [user("go"), call, Message("tool", (Part("text", answer),), (), "c")]

    text = rule("(c: ToolCall) -> (o: ToolOutput)", 'c.function.arguments.n == "1"')
    shown = rule("(o: ToolOutput)", 'o is tool:run({n: "1"})', '"fine" in o.content')
    for arguments, answer, is_hit in (
        ('{"n": 1}', "fine", False),
        ('{"n": "1"}', "fine", True),
        ('{"n": true}', "fine", False),
        ('{"n": "1"}', "bad", False),
        ('{"n": "1"}', "fine", True),
    ):
        for more in ([], [user("next")], [user("next"), assistant("yes")]):
            first, second = bench.judge(called(arguments, answer=answer) + more, text, shown)
            assert bool(first.violations) is (arguments == '{"n": "1"}')
            assert bool(second.violations) is is_hit
            assert not (first.error or second.error)


def test_a_conversation_that_grows_is_judged_as_one_that_nobody_has_seen(bench: Any) -> None:
    """A worker takes over what it knows of the turns before: which of them pass the conditions on
    one variable, and what was noted of those that lack a key."""
    chance = random.Random(SEED)
    hits = notes = 0
    for i in range(CASES):
        texts = (policy(chance), *SLIPPING, *NO_TOOLS)
        turns = [message for _ in range(4) for message in conversation(chance)]
        turns += [assistant("", ToolCall(f"d{i}", "run", '{"other": 1}'))] * chance.randint(0, 1)
        chance.shuffle(turns)
        salt = user(f"seed {i}")
        for end in sorted(chance.sample(range(len(turns) + 1), 3)):
            cut = chance.randint(0, end)
            asked = question([salt, *turns[:cut]], *texts, then=(tuple(turns[cut:end]),))
            (grown,) = bench.run(bench.engine.check(asked))
            fresh = question([user(f"seed {i} {end}")], *texts, then=(tuple(turns[:end]),))
            (expected,) = bench.run(bench.engine.check(fresh))
            assert [(o.violations, o.error, set(o.notes)) for o in grown.outcomes] == [
                (o.violations, o.error, set(o.notes)) for o in expected.outcomes
            ], texts[0]
            hits += bool(grown.violations)
            notes += any(outcome.notes for outcome in grown.outcomes)
    assert hits > CASES * 0.5 and notes > CASES * 0.5


SEED = 4711
CASES = 40
SLIPPING = (
    rule("(c: ToolCall)", '"red" in c.function.arguments["cmd"]'),
    rule(
        "(c: ToolCall)", 'c.function.arguments["cmd"] == "red"', "(m: Message)", "m.role == 'user'"
    ),
)
NO_TOOLS = (rule("(o: ToolOutput)"), rule("(a: ToolCall) -> (b: ToolCall)", "a is tool:send"))
