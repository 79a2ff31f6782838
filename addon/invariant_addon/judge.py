"""Asks the engine, and keeps count: one judge serves all calls until the settings change."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass

from .core.conversation import Conversation, Message
from .core.verdict import Action, Guardrail, Verdict, Violation, merge
from .engines.base import Engine, EngineClosedError, EngineError, Priority, Question

logger = logging.getLogger(__name__)


@dataclass
class Counters:
    """Calls to guarded hosts since the start.

    seen: all of them. judged: those whose request and reply got their verdict. blocked: refused.
    not_scanned: passed without a verdict. failed: refused because there was no verdict.
    """

    seen: int = 0
    judged: int = 0
    blocked: int = 0
    not_scanned: int = 0
    failed: int = 0

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Answer:
    """A verdict on all continuations together; or None, and the reason."""

    verdict: Verdict | None
    reason: str = ""

    @property
    def failure(self) -> str:
        """Why this is no complete verdict; "" if it is one."""
        if self.verdict is None:
            return self.reason
        if self.verdict.failures:
            names = ", ".join(sorted({o.guardrail.name for o in self.verdict.failures}))
            return f"no verdict from {names}"
        return ""


class Judge:
    """Guardrails as they are now, and the engine that knows them."""

    def __init__(self, engine: Engine, guardrails: tuple[Guardrail, ...]) -> None:
        self.guardrails = guardrails
        self.blocking = tuple(g for g in guardrails if g.action is Action.BLOCK)
        self.logging = tuple(g for g in guardrails if g.action is Action.LOG)
        self._engine = engine
        self._outage = False

    async def ask(
        self,
        conversation: Conversation,
        continuations: tuple[tuple[Message, ...], ...] = ((),),
        priority: Priority = Priority.WHOLE,
    ) -> Answer:
        """Do the blocking guardrails hold? Never raises EngineError: see Answer.failure."""
        if not self.blocking or not continuations:
            return Answer(Verdict())
        question = Question(conversation, continuations, self.blocking, priority)
        try:
            verdicts = await self._engine.check(question)
        except EngineClosedError as error:
            return Answer(None, str(error))
        except EngineError as error:
            self._note_outage(str(error))
            return Answer(None, str(error))
        answer = Answer(merge(verdicts))
        if answer.failure:
            self._note_outage("; ".join({o.error or "" for o in merge(verdicts).failures}))
        else:
            self._outage = False
        return answer

    async def look(
        self, conversation: Conversation, continuations: tuple[tuple[Message, ...], ...]
    ) -> tuple[Violation, ...]:
        """What the other guardrails find, behind the client's back. Raises EngineError."""
        if not self.logging:
            return ()
        question = Question(conversation, continuations or ((),), self.logging, Priority.LOG)
        return merge(await self._engine.check(question)).violations

    def _note_outage(self, reason: str) -> None:
        """One warning for each outage, not for each call."""
        if not self._outage:
            logger.warning("the guardrails gave no verdict: %s", reason)
        self._outage = True
