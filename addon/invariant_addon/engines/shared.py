"""Two engines that share the work: the starter rules are judged here, all others elsewhere.

The starter rules use detectors of this project, which no guardrails service knows. An engine that
gives no verdict costs those of its own guardrails, and not the other's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from ..core.verdict import Guardrail, Outcome, Verdict
from .base import Defect, Engine, EngineClosedError, EngineError, KeyRejectedError, Question

HERE = "starter"
"""The source of the guardrails that are judged here."""


class SharedEngine:
    """here: judges the starter rules, and is started and closed by the other one, which reads its
    rules with it. there: judges the rest."""

    def __init__(self, here: Engine, there: Engine) -> None:
        self._here = here
        self._there = there

    async def start(self) -> None:
        await self._there.start()

    async def load(
        self, guardrails: Sequence[Guardrail], *, everywhere: bool = True
    ) -> tuple[Defect, ...]:
        await self.start()
        here, there = _parted(guardrails)
        return (
            *await self._here.load(here, everywhere=everywhere),
            *await self._there.load(there, everywhere=everywhere),
        )

    async def check(self, question: Question) -> tuple[Verdict, ...]:
        here, there = _parted(question.guardrails)
        then_here, then_there = _parted(question.then)
        to_here = replace(question, guardrails=here, then=then_here)
        to_there = replace(question, guardrails=there, then=then_there)
        if not here:
            return await self._there.check(to_there)
        if not there:
            return await self._here.check(to_here)
        answers = await asyncio.gather(_ask(self._here, to_here), _ask(self._there, to_there))
        failures = [answer for answer in answers if isinstance(answer, EngineError)]
        if len(failures) == len(answers):
            raise failures[-1]
        verdicts = (
            _failed(answer, question, guardrails) if isinstance(answer, EngineError) else answer
            for answer, guardrails in zip(answers, (here, there), strict=True)
        )
        return tuple(_in_order(question.guardrails, *two) for two in zip(*verdicts, strict=True))

    async def aclose(self) -> None:
        await self._there.aclose()


async def _ask(engine: Engine, question: Question) -> tuple[Verdict, ...] | EngineError:
    """EngineError: there is no verdict. Raises what concerns the guardrails of both."""
    try:
        return await engine.check(question)
    except EngineClosedError:
        raise
    except KeyRejectedError as error:
        if not question.caller.is_owner:  # it is the call that is refused for that
            raise
        return error
    except EngineError as error:
        return error


def _failed(
    error: EngineError, question: Question, guardrails: tuple[Guardrail, ...]
) -> tuple[Verdict, ...]:
    verdict = Verdict(tuple(Outcome(guardrail, error=str(error)) for guardrail in guardrails))
    return tuple(verdict for _ in question.continuations)


def _parted(
    guardrails: Sequence[Guardrail],
) -> tuple[tuple[Guardrail, ...], tuple[Guardrail, ...]]:
    here = tuple(g for g in guardrails if g.source == HERE)
    return here, tuple(g for g in guardrails if g.source != HERE)


def _in_order(guardrails: Sequence[Guardrail], here: Verdict, there: Verdict) -> Verdict:
    """As one engine would have answered: an outcome for each guardrail, in their order."""
    left, right = iter(here.outcomes), iter(there.outcomes)
    return Verdict(tuple(next(left if g.source == HERE else right) for g in guardrails))
