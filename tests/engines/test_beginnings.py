"""Where a rule begins is found out once, and only where it is always the same."""

from __future__ import annotations

from typing import Any

import pytest

from invariant_addon.core.conversation import Message, ToolCall

from .conftest import assistant, rule, user

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
