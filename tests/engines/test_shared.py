"""Two engines that share the work: what becomes of one's verdict when the other has none."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from invariant_addon.core.conversation import Conversation
from invariant_addon.core.verdict import Guardrail, Outcome, Verdict, Violation
from invariant_addon.engines.base import (
    Caller,
    DeadlineError,
    Defect,
    EngineClosedError,
    EngineError,
    KeyRejectedError,
    Question,
)
from invariant_addon.engines.shared import SharedEngine

STARTER = Guardrail("s", "starter", "s", source="starter")
FILE = Guardrail("f", "file", "f")
TWICE = Question(Conversation(()), ((), ()), (FILE, STARTER, replace(FILE, name="other")))


class Half:
    """Finds a violation of every guardrail, or raises what it was given."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    async def start(self) -> None: ...

    async def load(
        self, guardrails: Sequence[Guardrail], *, everywhere: bool = True
    ) -> tuple[Defect, ...]:
        return ()

    async def check(self, question: Question) -> tuple[Verdict, ...]:
        if self.error is not None:
            raise self.error
        found = (Outcome(g, (Violation(g, "no"),)) for g in question.guardrails)
        verdict = Verdict(tuple(found))
        return tuple(verdict for _ in question.continuations)

    async def aclose(self) -> None: ...


def check(here: Half, there: Half, question: Question = TWICE) -> tuple[Verdict, ...]:
    return asyncio.run(SharedEngine(here, there).check(question))


def names(verdict: Verdict) -> tuple[list[str], list[str]]:
    """Of the guardrails that were violated, and of those that failed."""
    return (
        [violation.guardrail.name for violation in verdict.violations],
        [outcome.guardrail.name for outcome in verdict.failures],
    )


@pytest.mark.parametrize(
    "error",
    [EngineError("down"), DeadlineError("slow"), KeyRejectedError("bad key")],
    ids=["down", "slow", "key"],
)
def test_a_service_that_fails_does_not_switch_the_starter_rules_off(error: EngineError) -> None:
    """They need no service; under invariant_on_failure=pass they are what is left."""
    for verdict in check(Half(), Half(error)):
        assert names(verdict) == (["starter"], ["file", "other"])
        assert {outcome.error for outcome in verdict.failures} == {str(error)}


def test_nor_the_other_way_round() -> None:
    """A worker that is stuck says nothing about the service."""
    for verdict in check(Half(DeadlineError("slow")), Half()):
        assert names(verdict) == (["file", "other"], ["starter"])


@pytest.mark.parametrize(
    ("here", "there"),
    [
        (EngineError("stuck"), EngineError("down")),
        (None, EngineClosedError()),
        (None, RuntimeError("a bug of ours")),
    ],
)
def test_no_verdict_at_all_is_an_error(here: Exception | None, there: Exception) -> None:
    """What ends the proxy, or is a bug, is not passed off as one guardrail's failure."""
    with pytest.raises(type(there)) as caught:
        check(Half(here), Half(there))
    assert caught.value is there


def test_a_key_that_the_program_brought_fails_the_call() -> None:
    """Whose key it was must not get lost among the outcomes."""
    brought = replace(TWICE, caller=Caller("Bearer x", is_owner=False))
    with pytest.raises(KeyRejectedError):
        check(Half(), Half(KeyRejectedError("bad key")), brought)


def test_the_answers_stand_in_the_order_of_the_guardrails() -> None:
    """Whoever reads them does not see that there are two engines."""
    (first, _) = check(Half(), Half())
    assert [outcome.guardrail for outcome in first.outcomes] == list(TWICE.guardrails)


def test_each_engine_looks_ahead_for_its_own_guardrails() -> None:
    """A worker knows nothing of what a service judges, and the service nothing of our detectors."""

    class Noting(Half):
        async def check(self, question: Question) -> tuple[Verdict, ...]:
            seen.append((self, question.guardrails, question.then))
            return await super().check(question)

    seen: list[tuple[Half, tuple[Guardrail, ...], tuple[Guardrail, ...]]] = []
    here, there = Noting(), Noting()
    check(here, there, replace(TWICE, guardrails=(FILE, STARTER), then=(STARTER, FILE)))
    check(here, there, replace(TWICE, guardrails=(STARTER,), then=(FILE,)))
    check(here, there, replace(TWICE, guardrails=(FILE,), then=(STARTER,)))
    assert sorted(seen, key=lambda each: each[0] is there) == [
        (here, (STARTER,), (STARTER,)),
        (here, (STARTER,), ()),
        (there, (FILE,), (FILE,)),
        (there, (FILE,), ()),
    ]
