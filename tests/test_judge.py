"""What becomes of an engine's answers, and of those that it does not give."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

import pytest

from invariant_addon.core.conversation import Conversation
from invariant_addon.core.verdict import Action, Guardrail, Outcome, Verdict, Violation
from invariant_addon.engines.base import (
    Caller,
    Defect,
    EngineClosedError,
    EngineError,
    KeyRejectedError,
    Question,
)
from invariant_addon.judge import Answer, Judge

MINE = Guardrail("1", "mine", "mine")
THEIRS = Guardrail("2", "theirs", "theirs", source="header")


class Engine:
    """Answers as it is told to."""

    def __init__(self, answer: Callable[[Question], tuple[Verdict, ...]]) -> None:
        self.check_now = answer

    async def start(self) -> None: ...

    async def load(
        self, guardrails: Sequence[Guardrail], *, everywhere: bool = True
    ) -> tuple[Defect, ...]:
        return ()

    async def check(self, question: Question) -> tuple[Verdict, ...]:
        return self.check_now(question)

    async def aclose(self) -> None: ...


def clean(question: Question) -> tuple[Verdict, ...]:
    outcomes = tuple(Outcome(guardrail) for guardrail in question.guardrails)
    return tuple(Verdict(outcomes) for _ in question.continuations)


def refuse_key(question: Question) -> tuple[Verdict, ...]:
    raise KeyRejectedError("the key was not accepted")


def ask(judge: Judge) -> Answer:
    return asyncio.run(judge.ask_request(Conversation(())))


@pytest.mark.parametrize("is_owner", [True, False])
def test_a_key_of_the_program_is_no_way_past_the_rules(is_owner: bool) -> None:
    """Else a program sends a bad one, and passes under invariant_on_failure=pass. The owner's key
    that has run out is an outage like any other."""
    caller = Caller("Bearer x", is_owner=is_owner)
    answer = ask(Judge(Engine(refuse_key), (MINE,), caller=caller))
    assert answer.verdict is None and answer.failure == "the key was not accepted"
    assert answer.must_block is not is_owner


def test_nor_is_it_beside_rules_that_were_judged() -> None:
    """The floor's question may fail while that of a brought rule does not."""

    def some(question: Question) -> tuple[Verdict, ...]:
        return refuse_key(question) if MINE in question.guardrails else clean(question)

    judge = Judge(Engine(some), (MINE,), (THEIRS,), caller=Caller(is_owner=False))
    answer = ask(judge)
    assert answer.must_block
    assert answer.failure == "no verdict from mine: the key was not accepted"


def fail(question: Question) -> tuple[Verdict, ...]:
    raise EngineError("it is down")


def fail_each(question: Question) -> tuple[Verdict, ...]:
    outcomes = tuple(Outcome(guardrail, error="it is down") for guardrail in question.guardrails)
    return tuple(Verdict(outcomes) for _ in question.continuations)


@pytest.mark.parametrize("failing", [fail, fail_each])
def test_an_outage_is_said_once_and_so_is_its_end(
    caplog: pytest.LogCaptureFixture, failing: Callable[[Question], tuple[Verdict, ...]]
) -> None:
    """A line for each call hides what else there is to read. Log rules have an outage of their
    own: nobody waits for them, so they may be late where the others are not."""
    caplog.set_level(logging.INFO)
    note = Guardrail("3", "note", "note", Action.LOG)
    engine = Engine(failing)
    judge = Judge(engine, (MINE, note))
    for _ in range(3):
        ask(judge)
        asyncio.run(judge.look(Conversation(()), ()))
    engine.check_now = clean
    for _ in range(3):
        ask(judge)
        asyncio.run(judge.look(Conversation(()), ()))
    first, *others = [record.getMessage() for record in caplog.records]
    assert first.startswith("the guardrails gave no verdict: ") and "it is down" in first
    assert others == [
        "log rules gave no verdict: it is down",
        "the guardrails give verdicts again",
        "log rules give verdicts again",
    ]


def test_a_bad_key_of_one_program_is_no_outage(caplog: pytest.LogCaptureFixture) -> None:
    """Its calls are refused, each with a line of its own; those of others are judged."""
    caplog.set_level(logging.INFO)
    judge = Judge(Engine(refuse_key), (MINE,), caller=Caller(is_owner=False))
    assert ask(judge).must_block
    assert not caplog.records


def test_what_is_left_of_the_log_rules_is_noted() -> None:
    """Some of them may be judged elsewhere, by an engine that is down."""

    def some(question: Question) -> tuple[Verdict, ...]:
        first, second = question.guardrails
        return (Verdict((Outcome(first, (Violation(first, "no"),)), Outcome(second, error="x"))),)

    notes = tuple(Guardrail(name, name, name, Action.LOG) for name in ("a", "b"))
    found = asyncio.run(Judge(Engine(some), notes).look(Conversation(()), ()))
    assert [violation.guardrail.name for violation in found.found] == ["a"]
    assert found.failure == ""


def test_log_rules_say_that_they_could_not_look() -> None:
    """Or a trace would pass for one in which they found nothing."""
    note = Guardrail("3", "note", "note", Action.LOG)
    looked = asyncio.run(Judge(Engine(fail), (note,)).look(Conversation(()), ()))
    assert (looked.found, looked.failure) == ((), "it is down")

    def end(_: Question) -> tuple[Verdict, ...]:
        raise EngineClosedError

    with pytest.raises(EngineClosedError):
        asyncio.run(Judge(Engine(end), (note,)).look(Conversation(()), ()))


@pytest.mark.parametrize(
    ("is_last", "brought", "then"),
    [(True, (), ["noting"]), (False, (), []), (True, (THEIRS,), [])],
)
def test_the_last_question_about_a_reply_names_what_follows(
    is_last: bool, brought: tuple[Guardrail, ...], then: list[str]
) -> None:
    """So that an engine can look for both at once; not on behalf of rules that a request brought,
    which are judged apart from the others."""
    seen: list[Question] = []

    def note(question: Question) -> tuple[Verdict, ...]:
        seen.append(question)
        return clean(question)

    noting = Guardrail("3", "noting", "noting", Action.LOG)
    judge = Judge(Engine(note), (MINE, noting), brought)
    answer = asyncio.run(judge.ask(Conversation(()), is_last=is_last))
    assert not answer.failure
    assert all([g.name for g in question.then] == then for question in seen)
