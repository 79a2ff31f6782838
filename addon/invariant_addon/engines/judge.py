"""Guardrail texts and messages -> violations, with invariant-ai. Lives in the worker only.

A policy is parsed once and kept by its text. Each of its rules is judged for itself: what one
raises does not hide what another finds. Nothing of a conversation gets into an error text.
"""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from invariant.analyzer.extras import set_extras_strategy
from invariant.analyzer.language.ast import Declaration, RaisePolicy
from invariant.analyzer.policy import LocalPolicy
from invariant.analyzer.runtime.evaluation import Interpreter
from invariant.analyzer.runtime.function_cache import FunctionCache
from invariant.analyzer.runtime.input import Input
from invariant.analyzer.runtime.rule import InputEvaluationContext, Rule, RuleSet
from invariant.analyzer.stdlib.invariant.errors import ErrorInformation, PolicyLoadingError

from . import corrections
from .finality import is_final
from .frames import Json
from .traps import trap

MAX_POLICIES = 1024
MAX_HITS = 16
"""Hits that are kept of one rule: each one costs a walk through the whole conversation."""
MAX_RANGES = 64
MAX_MESSAGE = 1000


@dataclass(frozen=True, slots=True)
class _Judged:
    """A rule, the line it starts on (from 1), and whether its hits are final."""

    rule: Rule
    line: int
    final: bool


@dataclass(frozen=True, slots=True)
class _Policy:
    rules: tuple[_Judged, ...]
    rule_set: RuleSet


class Judge:
    """Answers `load` and `check`. One question at a time, in one thread."""

    def __init__(self) -> None:
        set_extras_strategy(False)  # a missing extra raises; it does not end the worker or ask
        corrections.apply()
        self._policies: OrderedDict[str, _Policy | str] = OrderedDict()
        self._loop = asyncio.new_event_loop()
        # Its texts quote the conversation.
        self._loop.set_exception_handler(lambda *_: None)

    def load(self, texts: list[str]) -> list[Json]:
        """For each policy, why it cannot be used, or None."""
        policies = [self._policy(text) for text in texts]
        return [policy if isinstance(policy, str) else None for policy in policies]

    def check(
        self,
        messages: list[Json],
        continuations: list[list[Json]],
        texts: list[str],
    ) -> list[Json]:
        """For each continuation, for each policy: its violations and its error."""
        return [self._judge(messages + continuation, texts) for continuation in continuations]

    def _policy(self, text: str) -> _Policy | str:
        policy = self._policies.pop(text, None)
        if policy is None:
            try:
                policy = _parse(text)
            except BaseException as e:  # noqa: BLE001  # a policy may raise all there is, SystemExit included
                policy = _defect(e)
        self._policies[text] = policy
        while len(self._policies) > MAX_POLICIES:
            self._policies.popitem(last=False)
        return policy

    def _judge(self, messages: list[Json], texts: list[str]) -> list[Json]:
        try:
            conversation = Input(messages)
        except BaseException as e:  # noqa: BLE001  # RecursionError and MemoryError, too
            error = f"{type(e).__name__} while reading the conversation"
            return [_outcome([], error) for _ in texts]
        return [self._outcome(self._policy(text), conversation) for text in texts]

    def _outcome(self, policy: _Policy | str, conversation: Input) -> Json:
        if isinstance(policy, str):
            return _outcome([], policy)
        violations: list[Json] = []
        errors = []
        # A cache for this conversation only: its keys are ids, and it never lets go of texts.
        rule_set = policy.rule_set.instance(cache=FunctionCache())
        for judged in policy.rules:
            try:
                self._run(_collect(judged, rule_set, conversation, violations))
            except BaseException as e:  # noqa: BLE001  # one rule's end is not another's
                errors.append(_error(e, judged.line))
        return _outcome(violations, "; ".join(errors) or None)

    def _run(self, work: Any) -> None:
        try:
            self._loop.run_until_complete(work)
        finally:
            if left := asyncio.all_tasks(self._loop):
                for task in left:
                    task.cancel()
                self._loop.run_until_complete(asyncio.wait(left))


async def _collect(
    judged: _Judged, rule_set: RuleSet, conversation: Input, violations: list[Json]
) -> None:
    rule = judged.rule
    context = InputEvaluationContext(
        conversation, rule_set, {"data": conversation}, rule_set.symbol_table
    )
    models = Interpreter.assignments(
        rule.condition,
        conversation,
        globals=rule.globals,
        extra_check=_can_speak(rule),
        evaluation_context=context,
    )
    hits = 0
    async for model in models:
        if model.result is not True:
            continue
        hits += 1
        found: list[Json] = list(_addresses(conversation, model))
        message = await _message(judged, model, context)
        violations.append({"message": message, "ranges": found, "final": judged.final})
        if hits == MAX_HITS:
            break


def _can_speak(rule: Rule) -> Callable[[Any, Any], Awaitable[bool]]:
    """Whether all variables that the rule's words need are known."""

    async def check(variables: Any, context: Any) -> bool:
        try:
            return bool(await rule.action_can_eval(variables, context))
        except Exception:  # noqa: BLE001  # its words fail: `_message` finds others, a hit is a hit
            return True

    return check


def _addresses(conversation: Input, model: Any) -> list[str]:
    ranges = conversation.locate(model.ranges[: 4 * MAX_RANGES])
    # The path comes with its characters: "0.content:0-2".
    return list(dict.fromkeys(r.json_path for r in ranges))[:MAX_RANGES]


async def _message(judged: _Judged, model: Any, context: InputEvaluationContext) -> str:
    """The rule's own words: its text, or the first argument of what it raises."""
    words: object = None
    try:
        raised = await judged.rule.action(model, context)
        if isinstance(raised, ErrorInformation | BaseException):
            words = raised.args[0] if raised.args else type(raised).__name__
    except Exception:  # noqa: BLE001  # the rule holds nobody's fault: its words are what failed
        words = None
    if not isinstance(words, str | int | float):
        words = f"the rule at line {judged.line} does not hold"
    return str(words)[:MAX_MESSAGE]


def _parse(text: str) -> _Policy:
    policy = LocalPolicy.from_string(text)
    statements = [s for s in policy.policy_root.statements if type(s) is RaisePolicy]
    rules = zip(policy.rule_set.rules, statements, strict=True)
    predicates = [s for s in policy.policy_root.statements if _is_predicate(s)]
    for conditions in (*(s.body for s in statements), *(p.value for p in predicates)):
        if reason := trap(conditions):
            raise ValueError(reason)
    return _Policy(
        tuple(_Judged(rule, s.location.line + 1, is_final(s)) for rule, s in rules),
        policy.rule_set,
    )


def _is_predicate(statement: Any) -> bool:
    return type(statement) is Declaration and not statement.is_constant


def _defect(e: BaseException) -> str:
    if isinstance(e, PolicyLoadingError) and e.errors:
        node = getattr(e.errors[0], "node", None)
        where = f"line {node.location.line + 1}: " if node and node.location.line >= 0 else ""
        return where + _first_line(e.errors[0]).partition(", at line")[0]
    if isinstance(e, ValueError):
        return _first_line(e)
    return f"{type(e).__name__}: {_first_line(e).partition(' Expected one of')[0]}"


def _first_line(e: BaseException) -> str:
    return (str(e).strip().splitlines() or [type(e).__name__])[0][:MAX_MESSAGE]


def _error(e: BaseException, line: int) -> str:
    """Never the exception's text: it quotes the conversation."""
    if isinstance(e, RuntimeError) and str(e).startswith("Maximum checking cycles"):
        limit = os.environ.get("INVARIANT_MAX_ITERATIONS", "100")
        return f"more than {limit} combinations in the rule at line {line}"
    return f"{type(e).__name__} in the rule at line {line}"


def _outcome(violations: list[Json], error: str | None) -> Json:
    return {"violations": violations, "error": error}
