"""Asks the engine on behalf of one call: which rules, with what parameters, for whom.

The guardrails come in groups: those that nobody but the owner of this machine can change (the
floor), and those that a request brought. Each group is a question of its own, so that a brought
rule that takes for ever costs its own verdict and not the floor's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from .core.conversation import Conversation, Message
from .core.verdict import Action, Guardrail, Outcome, Verdict, Violation, merge
from .engines.base import (
    Caller,
    Engine,
    EngineClosedError,
    EngineError,
    KeyRejectedError,
    Priority,
    Question,
)

logger = logging.getLogger(__name__)

type Continuations = tuple[tuple[Message, ...], ...]
type Group = tuple[Guardrail, ...]

BATCH = 64
"""Continuations that are judged at once; a batch's file has thousands."""
STOPPING = frozenset({Action.BLOCK})
ASKING = frozenset({Action.BLOCK, Action.MASK})
"""What is judged before a request goes upstream."""


@dataclass(frozen=True, slots=True)
class Looked:
    """found: what log rules found. failure: why none of them looked at something of it, or ""."""

    found: tuple[Violation, ...] = ()
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """A verdict on all continuations together; or None, and the reason.

    muted: violations that somebody said to overlook; the verdict is without them.
    must_block: there is no verdict, and the caller's own doing may be the cause: no verdict must
    not be a way past the rules.
    """

    verdict: Verdict | None
    reason: str = ""
    muted: tuple[Violation, ...] = ()
    must_block: bool = False

    @property
    def failure(self) -> str:
        """Why this is no complete verdict; "" if it is one."""
        if self.verdict is None:
            return self.reason
        failures = self.verdict.failures
        if not failures:
            return ""
        names = ", ".join(sorted({outcome.guardrail.name for outcome in failures}))
        reasons = "; ".join(dict.fromkeys(outcome.error or "" for outcome in failures))
        return f"no verdict from {names}: {reasons}"


class Covering(Protocol):
    """on_trial: the rule as a whole is muted, so it is as a shadow rule."""

    @property
    def on_trial(self) -> bool: ...


class Overlooks(Protocol):
    """Who knows what is muted (rules.mutes.Mutes)."""

    def covers(
        self, violation: Violation, conversation: Conversation, messages: tuple[Message, ...]
    ) -> Covering | None: ...


@dataclass(slots=True)
class Outage:
    """One warning for each outage, not for each call. who: gives no verdict."""

    who: str = "the guardrails"
    is_on: bool = False

    def note(self, reason: str) -> None:
        if not self.is_on:
            logger.warning("%s gave no verdict: %s", self.who, reason)
        self.is_on = True

    def end(self) -> None:
        if self.is_on:
            logger.info("%s give verdicts again", self.who)
        self.is_on = False


@dataclass(frozen=True, slots=True)
class Judge:
    """The guardrails of one call, and the engine that knows them.

    floor: what the owner of this machine wants. brought: what the request brought along. outage,
    log_outage: of what somebody waits for, and of the rest.
    """

    engine: Engine
    floor: Group
    brought: Group = ()
    parameters: Mapping[str, object] = field(default_factory=dict)
    caller: Caller = field(default_factory=Caller)
    mutes: Overlooks | None = None
    outage: Outage = field(default_factory=Outage)
    log_outage: Outage = field(default_factory=lambda: Outage("log rules"))

    @property
    def guardrails(self) -> Group:
        return (*self.floor, *self.brought)

    @property
    def blocking(self) -> Group:
        return tuple(g for g in self.guardrails if g.action is Action.BLOCK)

    @property
    def masking(self) -> Group:
        return tuple(g for g in self.guardrails if g.action is Action.MASK)

    @property
    def noting(self) -> Group:
        """Those that nobody waits for; a mask rule is one of them once a reply is there."""
        return tuple(g for g in self.guardrails if g.action is not Action.BLOCK)

    def for_call(self, **changes: object) -> Judge:
        return replace(self, **changes)  # type: ignore[arg-type]  # the fields, by their names

    async def ask_request(
        self, conversation: Conversation, continuations: Continuations = ((),)
    ) -> Answer:
        """What is wrong with this request: what blocks it, and what has to be masked in it."""
        return await self._in_batches(conversation, continuations, ASKING, Priority.WHOLE)

    async def ask(
        self,
        conversation: Conversation,
        continuations: Continuations = ((),),
        priority: Priority = Priority.WHOLE,
        *,
        is_last: bool = False,
    ) -> Answer:
        """Do the blocking guardrails hold? Never raises EngineError: see Answer.failure.

        is_last: if they do, `look` will be asked about the same."""
        then = self.noting if is_last and not self.brought and len(continuations) <= BATCH else ()
        return await self._in_batches(conversation, continuations, STOPPING, priority, then)

    async def _in_batches(
        self,
        conversation: Conversation,
        continuations: Continuations,
        actions: frozenset[Action],
        priority: Priority,
        then: Group = (),
    ) -> Answer:
        """Each batch has a deadline of its own. What is found in one need not be looked for in the
        next, and where one got no verdict there is none."""
        if len(continuations) <= BATCH:
            return await self._ask(conversation, continuations, actions, priority, then)
        muted: tuple[Violation, ...] = ()
        outcomes: tuple[Outcome, ...] = ()
        for start in range(0, len(continuations), BATCH):
            batch = continuations[start : start + BATCH]
            answer = await self._ask(conversation, batch, actions, priority)
            muted += answer.muted
            if answer.verdict is None or answer.failure or answer.verdict.violations:
                return replace(answer, muted=muted)
            outcomes = answer.verdict.outcomes
        return Answer(Verdict(outcomes), muted=muted)

    async def look(self, conversation: Conversation, continuations: Continuations) -> Looked:
        """What the other guardrails find, behind the client's back.

        Raises EngineClosedError: the proxy ended first."""
        if not self.noting:
            return Looked()
        looked = Looked()
        for start in range(0, max(1, len(continuations)), BATCH):
            more = await self._look(conversation, continuations[start : start + BATCH] or ((),))
            looked = Looked((*looked.found, *more.found), looked.failure or more.failure)
        return looked

    async def _look(self, conversation: Conversation, continuations: Continuations) -> Looked:
        question = Question(
            conversation,
            continuations,
            self.noting,
            Priority.LOG,
            self.parameters,
            caller=self.caller,
        )
        try:
            found = merge(await self.engine.check(question))
        except EngineClosedError:
            raise
        except EngineError as error:
            self.log_outage.note(str(error))
            return Looked(failure=str(error))
        failures = [outcome.error for outcome in found.outcomes if outcome.error is not None]
        if failures:
            self.log_outage.note("; ".join(dict.fromkeys(failures)))
        else:
            self.log_outage.end()
        return Looked(found.violations)

    async def _ask(
        self,
        conversation: Conversation,
        continuations: Continuations,
        actions: frozenset[Action],
        priority: Priority,
        then: Group = (),
    ) -> Answer:
        groups = [
            chosen
            for group in (self.floor, self.brought)
            if (chosen := tuple(g for g in group if g.action in actions))
        ]
        if not groups or not continuations:
            return Answer(Verdict())
        questions = [
            Question(
                conversation,
                continuations,
                group,
                priority,
                self.parameters,
                is_brought=any(guardrail in self.brought for guardrail in group),
                then=then,
                caller=self.caller,
            )
            for group in groups
        ]
        if len(questions) == 1:
            answer = await self._check(questions[0])
        else:
            answer = _together(
                groups, await asyncio.gather(*(self._check(question) for question in questions))
            )
        if answer.must_block:
            pass  # the call itself is at fault: others are judged
        elif answer.failure:
            self.outage.note(answer.failure)
        elif answer.verdict is not None:
            self.outage.end()
        return answer

    async def _check(self, question: Question) -> Answer:
        try:
            verdicts = await self.engine.check(question)
        except EngineClosedError as error:
            return Answer(None, str(error))
        except KeyRejectedError as error:
            return Answer(None, str(error), must_block=not question.caller.is_owner)
        except EngineError as error:
            return Answer(None, str(error))
        return self._without_muted(question, verdicts)

    def _without_muted(self, question: Question, verdicts: tuple[Verdict, ...]) -> Answer:
        if self.mutes is None or not any(verdict.violations for verdict in verdicts):
            return Answer(merge(verdicts))
        muted: list[Violation] = []
        outcomes: list[Outcome] = []
        for verdict, continuation in zip(verdicts, question.continuations, strict=True):
            messages = (*question.conversation.messages, *continuation)
            for outcome in verdict.outcomes:
                left: list[Violation] = []
                for violation in outcome.violations:
                    covered = self.mutes.covers(violation, question.conversation, messages)
                    if covered is None:
                        left.append(violation)
                    else:
                        muted.append(_on_trial(violation) if covered.on_trial else violation)
                outcomes.append(replace(outcome, violations=tuple(left)))
        return Answer(Verdict(tuple(outcomes)), muted=tuple(muted))


def _on_trial(violation: Violation) -> Violation:
    return replace(violation, guardrail=replace(violation.guardrail, action=Action.SHADOW))


def _together(groups: list[Group], answers: list[Answer]) -> Answer:
    """One answer for several groups of guardrails. A group without a verdict is one that failed."""
    if all(answer.verdict is None for answer in answers):
        reasons = dict.fromkeys(answer.reason for answer in answers)
        return Answer(
            None, "; ".join(reasons), must_block=any(answer.must_block for answer in answers)
        )
    outcomes: list[Outcome] = []
    for group, answer in zip(groups, answers, strict=True):
        if answer.verdict is None:
            outcomes += [Outcome(guardrail, error=answer.reason) for guardrail in group]
        else:
            outcomes += answer.verdict.outcomes
    return Answer(
        Verdict(tuple(outcomes)),
        muted=tuple(violation for answer in answers for violation in answer.muted),
        must_block=any(answer.must_block for answer in answers),
    )
