"""A rule's conditions and a conversation -> the bindings of its variables for which they hold.

The same as the library's `Interpreter.assignments`, one binding after the other. It makes an
asyncio task for each (3 KB apiece: 1.66 GB for 80 tool calls and three variables), and none of
them sees a condition before all variables are chosen.
One difference: a binding is complete when all variables that are declared have a value. The
library stops as soon as the conditions hold, so that `(c: ToolCall)` alone holds where there is no
call, and a `count` of it ends at one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from itertools import islice
from typing import Any

from invariant.analyzer.runtime.evaluation import (
    EvaluationResult,
    Interpreter,
    VariableDomain,
    select,
)
from invariant.analyzer.runtime.input import Selectable
from invariant.analyzer.runtime.rule import InputEvaluationContext

from .marks import Mark
from .pruning import Test
from .slips import is_slip
from .trace import EVENTS, Passed

type Binding = dict[Any, Any]
type OnError = Callable[[Exception, Binding], None]
"""Takes note of what a binding raised, or raises it."""


class Context(InputEvaluationContext):  # type: ignore[misc]  # the library has no types
    """The library's context of one rule, and who is told of errors.

    on_error: for the rule's own bindings. in_count: whether those of a `count` are evaluated.
    """

    def __init__(self, trace: Any, rule_set: Any, on_error: OnError) -> None:
        super().__init__(trace, rule_set, trace.parameters, rule_set.symbol_table)
        self.on_error = on_error
        self.in_count = False


async def assignments(
    expr_or_list: Any,
    input_data: Any,
    globals: Any,  # noqa: A002  # the library's name for it
    verbose: bool = False,
    extra_check: Callable[[Any, Any], Awaitable[bool]] | None = None,
    evaluation_context: Any = None,
) -> AsyncIterator[Any]:
    """Replaces the library's, for predicates and quantifiers: no condition is tried early."""
    on_error = evaluation_context.on_error if evaluation_context.in_count else _reraise
    search = Search(expr_or_list, input_data, globals, evaluation_context, on_error)
    async for model in search.models(with_misses=True):
        yield model


def _reraise(e: Exception, _: Binding) -> None:
    raise e


class Beginning:
    """What a rule's conditions said while no variable was chosen, if that is always the same.

    domains: the variables that they then ask for; None: not known yet.
    """

    def __init__(self) -> None:
        self.domains: dict[Any, Any] | None = None
        self._types: tuple[Any, ...] = ()

    def note(self, result: Any, domains: dict[Any, Any]) -> None:
        """Only what every conversation has: values that the rule names itself are made anew."""
        if result is not False and domains and all(d.values is None for d in domains.values()):
            self.domains = domains
            types = {Selectable([]).type_name(d.type_ref): d.type_ref for d in domains.values()}
            self._types = tuple(types.values()) if types.keys() <= EVENTS else ()

    def is_barren(self, trace: Any) -> bool:
        """Whether nothing in this conversation can be bound to any of the variables, so that
        nothing will be tried, and nothing found: rules about tools, where there are none."""
        return bool(self._types) and not any(trace.select(wanted) for wanted in self._types)


class Search:
    """tests: conditions that may be tried early. can_speak: whether a binding says enough."""

    def __init__(
        self,
        conditions: Any,
        trace: Any,
        known: Any,
        context: Context,
        on_error: OnError,
        *,
        tests: Sequence[Test] = (),
        can_speak: Callable[[Any, Any], Awaitable[bool]] | None = None,
    ) -> None:
        self._conditions = conditions
        self._trace = trace
        self._known = known
        self._context = context
        self._on_error = on_error
        self._tests = tests
        self._can_speak = can_speak
        self._beginning: Beginning | None = None
        self._with_misses = False
        self._noted = 0  # errors of tests

    async def models(
        self, *, with_misses: bool = False, beginning: Beginning | None = None
    ) -> AsyncIterator[Any]:
        """Bindings that hold; with_misses: those that certainly do not, too. beginning: of these
        conditions, if it is always the same."""
        self._with_misses, self._beginning = with_misses, beginning
        known = self._beginning.domains if self._beginning else None
        if known is None:
            start = self._explore({}, frozenset())
        else:
            self._context.increment_evaluation_counter()
            start = self._explore(known, frozenset())
        async for model in start:
            yield model

    async def _explore(self, domains: dict[Any, Any], old: frozenset[Any]) -> AsyncIterator[Any]:
        choices = {}
        for variable, domain in domains.items():
            values = self._values(domain)
            choices[variable] = (
                values if variable in old else await self._filtered(variable, domain, values)
            )
        async for binding in self._bindings(choices, old):
            self._context.increment_evaluation_counter()
            try:
                result, new, ranges = await self._evaluate(binding)
                ends = result is False or (
                    result is True and not new and await self._may_end(binding)
                )
            except Exception as e:  # noqa: BLE001  # what follows is the caller's to say
                self._on_error(e, binding)
                continue
            if self._beginning and not binding:
                self._beginning.note(result, new)
            if ends:
                if result or self._with_misses:
                    ranges.extend(Mark(id(value)) for value in binding.values())
                    yield EvaluationResult(result, binding, self._trace, ranges)
            elif new:
                chosen = {v: VariableDomain(d.type_ref, [binding[v]]) for v, d in domains.items()}
                async for model in self._explore({**chosen, **new}, frozenset(chosen)):
                    yield model

    async def _evaluate(self, binding: Binding) -> Any:
        return await Interpreter.eval(
            self._conditions,
            binding,
            self._known,
            evaluation_context=self._context,
            return_variable_domains=True,
            assume_bool=True,
            return_ranges=True,
        )

    async def _may_end(self, binding: Binding) -> bool:
        return self._can_speak is None or await self._can_speak(binding, self._context)

    def _values(self, domain: Any) -> Any:
        values = domain.values
        if values is None:
            return self._trace.select(domain.type_ref)
        if type(values) is list and len(values) == 1:
            name = Selectable([]).type_name(domain.type_ref)
            if type(values[0]).__name__ == name and name not in ("list", "Input"):
                return values
        return select(domain, self._trace)

    # what can be said before all variables are chosen

    async def _filtered(self, variable: Any, domain: Any, values: Iterable[Any]) -> list[Any]:
        tests = [test for test in self._tests if test.needs == {variable}]
        if not tests:
            return list(values)
        before = self._trace.before(domain.type_ref) if domain.values is None else None
        if before is None or not all(test.is_local and test.arrow is None for test in tests):
            return await self._passing(variable, tests, values)
        known: Passed = self._trace.history.after.passed
        key = tests[0]  # it is of this rule and variable, and so are the others
        tried, passed = known.get(key, (0, []))
        if tried < len(before):
            noted = self._noted
            passed = passed + await self._passing(variable, tests, before[tried:])
            if self._noted == noted:  # else it has to be noted each time
                known[key] = len(before), passed
        return passed + await self._passing(variable, tests, islice(values, len(before), None))

    async def _passing(
        self, variable: Any, tests: Sequence[Test], values: Iterable[Any]
    ) -> list[Any]:
        return [v for v in values if not await self._excludes(tests, {variable: v}, v)]

    async def _bindings(
        self, choices: dict[Any, list[Any]], old: frozenset[Any]
    ) -> AsyncIterator[Binding]:
        """All combinations, but for those that a test excludes."""
        if not choices:
            yield {}
            return
        variables = list(choices)
        tests: list[list[Test]] = []
        for i, variable in enumerate(variables):
            seen = frozenset(variables[: i + 1])
            tests.append(
                [
                    test
                    for test in self._tests
                    if len(test.needs) > 1
                    and variable in test.needs
                    and test.needs <= seen
                    and not test.needs <= old
                ]
            )
        chosen: Binding = {}
        pending = [iter(choices[variables[0]])]
        while pending:
            depth = len(pending) - 1
            for value in pending[depth]:
                chosen[variables[depth]] = value
                if tests[depth] and await self._excludes(tests[depth], chosen):
                    continue
                if depth + 1 == len(variables):
                    yield {v: chosen[v] for v in variables}  # the evaluation adds to it
                else:
                    pending.append(iter(choices[variables[depth + 1]]))
                    break
            else:
                pending.pop()
                chosen.pop(variables[depth], None)

    async def _excludes(self, tests: Iterable[Test], binding: Binding, value: Any = None) -> bool:
        for test in tests:
            said = await self._said(test, binding, value)
            if isinstance(said, Exception):
                if not is_slip(said):
                    return False  # the evaluation of the whole says so
                self._noted += 1
                self._on_error(said, binding)
                return True
            if said is False:
                return True
        return False

    async def _said(self, test: Test, binding: Binding, value: Any) -> Any:
        if test.arrow is not None:
            left, right = (binding[variable] for variable in test.arrow)
            if test.condition.op == "->":
                return self._trace.has_flow(left, right)
            return self._trace.is_parent(left, right)
        facts = self._trace.history.facts_of(value) if test.is_local else None
        if facts is None:
            return await self._try(test, binding)
        key = (test, id(value))
        if key not in facts:
            facts[key] = await self._try(test, binding)
        return facts[key]

    async def _try(self, test: Test, binding: Binding) -> Any:
        store = dict(binding)
        try:
            with Interpreter(store, self._known, self._context) as interpreter:
                for assignment in test.before:
                    await interpreter.visit(assignment)
                said = await interpreter.visit(test.condition)
        except Exception as e:  # noqa: BLE001  # it is the answer
            return e.with_traceback(None)
        return said is not False
