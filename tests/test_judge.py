"""What becomes of an engine's answers, and of those that it does not give."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from invariant_addon.core.conversation import Conversation
from invariant_addon.core.verdict import Guardrail, Outcome, Verdict
from invariant_addon.engines.base import (
    Caller,
    Defect,
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
