"""Guardrail texts -> rules that can be judged one by one. Lives in the worker only."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from invariant.analyzer.language.ast import Declaration, FunctionCall, RaisePolicy, StringLiteral
from invariant.analyzer.policy import LocalPolicy
from invariant.analyzer.runtime.rule import Rule, RuleSet
from invariant.analyzer.stdlib.invariant.errors import PolicyLoadingError

from .detector_cache import DetectorCache
from .finality import is_final
from .pruning import Test, tests
from .traps import trap

MAX_POLICIES = 1024
MAX_REASON = 1000
MAX_WORDS = 1000


@dataclass(frozen=True, slots=True)
class Judged:
    """A rule, the line it starts on (from 1), its words, whether its hits are final, and which
    of its conditions may be tried early.

    words: what it raises, as it stands in the rule. What is put together when it is raised could
    quote the very text that is blocked, so it is not said.
    """

    rule: Rule
    line: int
    words: str
    final: bool
    tests: tuple[Test, ...]


@dataclass(frozen=True, slots=True)
class Policy:
    rules: tuple[Judged, ...]
    rule_set: RuleSet


class Policies:
    """Policies by their text: each is parsed once."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, Policy | str] = OrderedDict()
        self._cache = DetectorCache()

    def get(self, text: str) -> Policy | str:
        """The policy, or why it cannot be used."""
        policy = self._known.pop(text, None)
        if policy is None:
            try:
                policy = self._parse(text)
            except BaseException as e:  # noqa: BLE001  # a policy may raise all there is, SystemExit included
                policy = _defect(e)
        self._known[text] = policy
        while len(self._known) > MAX_POLICIES:
            self._known.popitem(last=False)
        return policy

    def _parse(self, text: str) -> Policy:
        policy = LocalPolicy.from_string(text)
        statements = [s for s in policy.policy_root.statements if type(s) is RaisePolicy]
        rules = zip(policy.rule_set.rules, statements, strict=True)
        predicates = [s for s in policy.policy_root.statements if _is_predicate(s)]
        for conditions in (*(s.body for s in statements), *(p.value for p in predicates)):
            if reason := trap(conditions):
                raise ValueError(reason)
        return Policy(
            tuple(
                Judged(
                    rule,
                    s.location.line + 1,
                    _words(s),
                    is_final(s),
                    tests(s.body, rule.globals),
                )
                for rule, s in rules
            ),
            policy.rule_set.instance(cache=self._cache),
        )


def _words(statement: Any) -> str:
    raised = statement.exception_or_constructor
    if type(raised) is FunctionCall and raised.args:
        raised = raised.args[0]
    if type(raised) is StringLiteral and raised.modifier != "f":
        return str(raised.value)[:MAX_WORDS]
    return f"the rule at line {statement.location.line + 1} does not hold"


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
    return (str(e).strip().splitlines() or [type(e).__name__])[0][:MAX_REASON]
