"""Real workers for these tests, and short words for messages and rules.

`import invariant` would find addon/invariant.py here, so nothing of the engine's library is
imported: everything goes through a worker, as in the proxy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import pytest

from invariant_addon.core.conversation import Conversation, Message, Part, ToolCall
from invariant_addon.core.verdict import Guardrail, Outcome, Verdict
from invariant_addon.engines.base import Question
from invariant_addon.engines.local import LocalEngine

NOTHING: Mapping[str, object] = MappingProxyType({})


class Bench:
    """An engine with a loop of its own, and the questions that tests ask."""

    def __init__(self, engine: LocalEngine) -> None:
        self.engine = engine
        self.loop = asyncio.new_event_loop()
        self.run(engine.start())

    def run[T](self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def judge(
        self,
        messages: list[Message],
        *texts: str,
        trusted: bool = True,
        parameters: Mapping[str, object] = NOTHING,
    ) -> tuple[Outcome, ...]:
        asked = question(messages, *texts, trusted=trusted, parameters=parameters)
        return self.run(self.engine.check(asked))[0].outcomes

    def refusal(self, text: str, *, trusted: bool = False) -> str | None:
        """Why one worker will not have this policy."""
        guardrail = Guardrail("1", "g", text, trusted=trusted)
        defects = self.run(self.engine.load([guardrail], everywhere=False))
        return defects[0].reason if defects else None

    def close(self) -> None:
        self.run(self.engine.aclose())
        self.loop.close()


def question(
    messages: list[Message],
    *texts: str,
    then: tuple[tuple[Message, ...], ...] = ((),),
    trusted: bool = True,
    parameters: Mapping[str, object] = NOTHING,
) -> Question:
    guardrails = tuple(
        Guardrail(str(i), f"g{i}", text, trusted=trusted) for i, text in enumerate(texts)
    )
    return Question(Conversation(tuple(messages)), then, guardrails, parameters=parameters)


def rule(*conditions: str, says: str = "no") -> str:
    return f'raise "{says}" if:\n' + "".join(f"    {c}\n" for c in conditions)


def user(text: str) -> Message:
    return Message("user", (Part("text", text),))


def assistant(text: str = "", *calls: ToolCall) -> Message:
    return Message("assistant", (Part("text", text),) if text else (), calls)


def verdict_of(outcome: Outcome) -> Verdict:
    return Verdict((outcome,))


@pytest.fixture(scope="package")
def bench() -> Iterator[Bench]:
    bench = Bench(LocalEngine(workers=2, deadline_ms=20_000))
    yield bench
    bench.close()
