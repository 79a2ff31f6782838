"""Two engines that share the work: the starter rules are judged here, all others elsewhere.

The starter rules use detectors of this project, which no guardrails service knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from ..core.verdict import Guardrail, Verdict
from .base import Defect, Engine, Question

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
        if not here:
            return await self._there.check(question)
        if not there:
            return await self._here.check(question)
        answers = await asyncio.gather(
            self._here.check(replace(question, guardrails=here)),
            self._there.check(replace(question, guardrails=there)),
        )
        return tuple(
            _in_order(question.guardrails, *verdicts) for verdicts in zip(*answers, strict=True)
        )

    async def aclose(self) -> None:
        await self._there.aclose()


def _parted(
    guardrails: Sequence[Guardrail],
) -> tuple[tuple[Guardrail, ...], tuple[Guardrail, ...]]:
    here = tuple(g for g in guardrails if g.source == HERE)
    return here, tuple(g for g in guardrails if g.source != HERE)


def _in_order(guardrails: Sequence[Guardrail], here: Verdict, there: Verdict) -> Verdict:
    """As one engine would have answered: an outcome for each guardrail, in their order."""
    left, right = iter(here.outcomes), iter(there.outcomes)
    return Verdict(tuple(next(left if g.source == HERE else right) for g in guardrails))
