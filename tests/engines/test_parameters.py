"""What rules read as `input.<key>`."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from invariant_addon.core.conversation import Conversation
from invariant_addon.core.verdict import Guardrail
from invariant_addon.engines.base import EngineError, Priority, Question

from .conftest import assistant, question, rule, user

ROLE = rule("(m: Message)", '"delete" in m.content', 'not (input.role == "admin")')
DELETE = [user("delete it")]


def test_a_rule_reads_what_came_with_the_question(bench: Any) -> None:
    """One proxy serves many programs, and each says who its user is."""
    (outcome,) = bench.judge(DELETE, ROLE, parameters={"role": "guest"})
    assert outcome.violations and outcome.error is None
    (outcome,) = bench.judge(DELETE, ROLE, parameters={"role": "admin"})
    assert (outcome.violations, outcome.error) == ((), None)


@pytest.mark.parametrize(
    "text",
    [
        ROLE,
        rule("(m: Message)", "m.content == input.role"),
        rule("(m: Message)", "input.role in m.content"),
        rule("(m: Message)", "not (m.content in input.role)"),
        rule("(m: Message)", "(t: str) in input.role", "t in m.content"),
        rule("(m: Message)", "any([r in m.content for r in input.role])"),
        "from invariant import count\n"
        + rule("count(min=1):", "    (m: Message)", "    m.content == input.role"),
        "is_it(m: Message) :=\n    m.content == input.role\n"
        + rule("(m: Message)", "not is_it(m)"),
        "ROLE := input.role\n" + rule("(m: Message)", "ROLE in m.content"),
    ],
)
def test_a_key_that_is_not_set_is_an_error(bench: Any, text: str) -> None:
    """The program forgot to say who asks: then nobody may conclude that all is well."""
    (outcome,) = bench.judge(DELETE, text, parameters={"rule": "x"})
    line = text[: text.index("raise")].count("\n") + 1
    assert outcome.violations == ()
    assert outcome.error == f"the rule at line {line} reads input.role, which is not set"


def test_it_does_not_matter_what_cannot_decide(bench: Any) -> None:
    """What `and` and `or` have decided without it needs no parameter."""
    text = rule("(m: Message)", '("x" in m.content) and input.role == "guest"')
    (outcome,) = bench.judge(DELETE, text)
    assert outcome.error == "the rule at line 1 reads input.role, which is not set"
    (outcome,) = bench.judge(DELETE, text, parameters={"role": "guest"})
    assert (outcome.violations, outcome.error) == ((), None)


FORMS = {
    "plain": rule("(m: Message)", "input.word in m.content"),
    "early": rule("(m: Message) -> (n: Message)", "input.word in m.content", '"it" in n.content'),
    "constant": "WORD := input.word\n" + rule("(m: Message)", "WORD in m.content"),
    "set": rule("(m: Message)", "w := input.word", "w in m.content"),
    "predicate": "has(m: Message) :=\n    input.word in m.content\n"
    + rule("(m: Message)", "has(m)"),
    "detector": "from invariant.detectors import fuzzy_contains\n"
    + rule("(m: Message)", "fuzzy_contains(m.content, input.word, 1.0, False)"),
    "count": "from invariant import count\n"
    + rule("count(min=1):", "    (m: Message)", "    input.word in m.content"),
    "find": rule("(m: Message)", "any(find(input.word, m.content))"),
    "object": rule("(m: Message)", 'input.words["first"] in m.content'),
}


@pytest.mark.parametrize("form", FORMS)
def test_what_was_remembered_of_one_is_not_said_to_another(bench: Any, form: str) -> None:
    """Much is kept of a conversation between the pieces of its reply."""
    conversation = Conversation((user("delete it"), assistant("it is gone")))
    guardrails = (Guardrail("1", "g", FORMS[form]),)

    def hits(word: str) -> bool:
        given = {"word": word, "words": {"first": word}}
        asked = Question(conversation, ((user("it"),),), guardrails, parameters=given)
        (outcome,) = bench.run(bench.engine.check(asked))[0].outcomes
        assert outcome.error is None
        return bool(outcome.violations)

    assert [hits(w) for w in ("delete", "create", "delete", "create")] == [True, False] * 2


def test_pieces_with_other_parameters_wait_for_themselves(bench: Any) -> None:
    """Of one reply only the newest piece waits, but not if it is another question."""
    conversation = Conversation((user("hi"),))
    guardrails = (Guardrail("1", "g", FORMS["plain"]),)
    answers: dict[str, bool] = {}

    async def ask(word: str) -> None:
        then = ((assistant("forbidden"),),)
        asked = Question(conversation, then, guardrails, Priority.PREFIX, parameters={"word": word})
        answers[word] = (await bench.engine.check(asked))[0].is_clean

    async def scene() -> None:
        async with asyncio.TaskGroup() as group:
            for word in ("a", "forbidden", "b", "bid", "c", "den", "d") * 2:
                group.create_task(ask(word))

    bench.run(scene())
    assert {w for w, clean in answers.items() if clean} == {"a", "c"}


def test_the_conversation_is_not_to_be_replaced(bench: Any) -> None:
    """Else a program could hand in another conversation than the one it has."""
    all_of_it = rule("(m: Message) in input.data", '"delete" in m.content')
    other = rule("(m: Message)", '"delete" in m.content')
    read, unread = bench.judge(DELETE, all_of_it, other, parameters={"data": "harmless"})
    assert read.error == "the rule at line 1 reads input.data, which is not set"
    assert unread.violations and unread.error is None


def test_input_is_still_what_rules_choose_from(bench: Any) -> None:
    """The library's documents use it so."""
    text = rule("(m: Message) in input", '"delete" in m.content')
    with_it = bench.judge(DELETE, text, parameters={"role": "x"})[0]
    without = bench.judge(DELETE, text)[0]
    assert (with_it.violations, with_it.error) == (without.violations, without.error)


@pytest.mark.parametrize(
    ("value", "condition"),
    [
        (3, "input.x == 3"),
        (2**70, "input.x > 5"),
        (True, "input.x == True"),
        (None, "input.x == None"),
        ("ü\ud800", "input.x == input.x"),
        (["a", "delete it"], "m.content in input.x"),
        ({"a": {"b": "c"}}, 'input.x.a.b == "c"'),
        ({"a b": 1}, 'input.x["a b"] == 1'),
        ("$(" * 10, 'input.x == "$($($($($($($($($($("'),
    ],
)
def test_any_json_value_arrives(bench: Any, value: object, condition: str) -> None:
    """Numbers, lists and objects, as the program wrote them."""
    (outcome,) = bench.judge(DELETE, rule("(m: Message)", condition), parameters={"x": value})
    assert outcome.violations and outcome.error is None


def test_what_is_no_json_is_refused(bench: Any) -> None:
    """A mistake of ours must not end the proxy."""
    asked = replace(question(DELETE, ROLE), parameters={"role": {1, 2}})
    with pytest.raises(EngineError, match="no plain JSON: TypeError"):
        bench.run(bench.engine.check(asked))
