"""What an engine is: it answers questions about conversations, or says that it could not.

An engine that gives no verdict raises EngineError; what follows from that (block or pass) is
decided by `invariant_on_failure` and not here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol

from ..core.conversation import Conversation, Message
from ..core.errors import InvariantError
from ..core.verdict import Guardrail, Verdict


class EngineError(InvariantError):
    """The engine gave no verdict. This is not a violation: the traffic was not judged."""


class DeadlineError(EngineError):
    """Judging took longer than the deadline."""


class EngineClosedError(EngineError):
    """The engine was closed while the question waited: the proxy ends."""

    def __init__(self) -> None:
        super().__init__("the proxy is shutting down")


class KeyRejectedError(EngineError):
    """The service that judges does not accept the key that it was given, or that there is none.

    An outage if the key is the owner's. Where the guarded program chose it (Caller.is_owner), this
    must not be a way to get past the rules.
    """


@dataclass(frozen=True, slots=True)
class Defect:
    """A guardrail whose text the engine cannot read: what it is called and why."""

    guardrail: Guardrail
    reason: str


@dataclass(frozen=True, slots=True)
class Remark:
    """What to know of a guardrail although it can be used. lacks: what it needs is not installed
    where it runs, so that it gives no verdict."""

    guardrail: Guardrail
    text: str
    lacks: bool


MAX_HITS = 16
"""Hits that are kept of one rule: nobody reads more of them."""
MAX_ADDRESSES = 64
"""Places that are kept of one hit."""

RESERVED_PARAMETER = "data"
"""`input.data` is the conversation itself."""


class Priority(IntEnum):
    """Which question goes first when all workers are busy: the lower one."""

    WHOLE = 0  # a request, or the end of a reply: somebody waits for exactly this
    PREFIX = 1  # the reply so far: a later one makes it superfluous
    LOG = 2  # nobody waits


@dataclass(frozen=True, slots=True)
class Caller:
    """On whose behalf a question is asked: for engines that live elsewhere.

    authorization: the value of the `Authorization` header for the guardrails service ("Bearer
    ..."), None if there is none. It is a secret: never in a log, a trace or an error.
    dataset: the Explorer dataset that the call belongs to. is_owner: the key is the owner's, not
    one that the request brought, or failed to bring.
    """

    authorization: str | None = field(default=None, repr=False)
    dataset: str | None = None
    is_owner: bool = True


@dataclass(frozen=True, slots=True)
class Question:
    """Do these guardrails hold for each continuation of this conversation?

    continuations: what follows the conversation: ((),) asks about the request itself; one tuple
    of messages for each choice of a reply. parameters: what a rule reads as `input.<key>`; plain
    JSON values. RESERVED_PARAMETER is not handed on: a rule that reads it then fails.
    is_brought: a request brought these guardrails, so what they cost or break tells nothing about
    the engine, or about the conversation. then: of these the same will be asked next, and nobody
    will wait for the answer; an engine may look already, if that delays nobody either.
    """

    conversation: Conversation
    continuations: tuple[tuple[Message, ...], ...]
    guardrails: tuple[Guardrail, ...]
    priority: Priority = Priority.WHOLE
    parameters: Mapping[str, object] = field(default_factory=dict)
    is_brought: bool = False
    then: tuple[Guardrail, ...] = ()
    caller: Caller = Caller()  # frozen


class Engine(Protocol):
    """Judges. One engine serves all connections; it must never block the event loop."""

    async def start(self) -> None:
        """Get ready. Raises EngineError if that is impossible."""

    async def load(
        self, guardrails: Sequence[Guardrail], *, everywhere: bool = True
    ) -> tuple[Defect, ...]:
        """Make the guardrails ready for questions, and say which cannot be used and why.

        everywhere: for all questions from now on. False: for the next ones of a client that
        brought its own; they are read once, and kept as long as there is room.
        """

    async def check(self, question: Question) -> tuple[Verdict, ...]:
        """A verdict for each continuation, in order.

        A guardrail that fails for itself is an Outcome with an error; EngineError means that
        there is no verdict at all (deadline, no worker, a worker that died). A caller that goes
        away cancels the task.
        """

    async def aclose(self) -> None:
        """End what was started: no worker outlives the engine."""
