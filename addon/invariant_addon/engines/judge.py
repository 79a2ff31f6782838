"""Guardrail texts and messages -> violations, with invariant-ai. Lives in the worker only.

Each rule is judged for itself, and in it each binding of its variables: what one raises does not
hide what another finds. Nothing of a conversation gets into an error text.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from invariant.analyzer.extras import set_extras_strategy
from invariant.analyzer.runtime.evaluation import INTERPRETER_STACK
from invariant.analyzer.runtime.rule import Rule
from invariant.analyzer.runtime.runtime_errors import MissingPolicyParameter

from . import corrections
from .base import MAX_HITS
from .frames import Json
from .policies import Judged, Policies, Policy
from .search import Binding, Context, Search
from .shelf import Key
from .slips import is_slip, name_of
from .trace import History, Trace

MAX_FAULTS = 4
"""Errors of one rule after which it is not tried on further bindings."""
MAX_HISTORIES = 16
MAX_REMEMBERED = 16 * 1024 * 1024
"""Bytes of JSON whose events are kept, for the next piece of a reply to the same request."""

MAX_KEYS = 16
"""Sets of policies of which it is remembered which they are."""

MAX_TREES = 8 * 1024 * 1024
"""Characters of trees in one answer; what has none is parsed by each worker."""


class Judge:
    """Answers `load` and `check`. One question at a time, in one thread."""

    def __init__(self) -> None:
        set_extras_strategy(False)  # a missing extra raises; it does not end the worker or ask
        corrections.apply()
        self._policies = Policies()
        self._histories = _Histories()
        self._keys: dict[bytes, list[Key]] = {}
        self._loop = asyncio.new_event_loop()
        # Its texts quote the conversation.
        self._loop.set_exception_handler(lambda *_: None)

    def load(self, keys: list[Key], trees: list[str], *, keep: bool) -> dict[str, list[Any]]:
        """For each policy, why it cannot be used, or None; its tree; and what to know of it.

        trees: those that another worker has parsed, or "". keep: not only for a few questions.
        """
        errors: list[str | None] = []
        parsed: list[str] = []
        remarks: list[list[Json]] = []
        room = MAX_TREES
        for key, tree in zip(keys, trees, strict=True):
            policy = self._policies.get(key, keep=keep, tree=tree)
            errors.append(policy if isinstance(policy, str) else None)
            parsed.append("" if isinstance(policy, str) or len(policy.tree) > room else policy.tree)
            room -= len(parsed[-1])
            told = () if isinstance(policy, str) else policy.needs
            remarks.append([{"text": str(need), "lacks": need.lacks} for need in told])
        return {"errors": errors, "trees": parsed, "remarks": remarks}

    def read(
        self, messages: bytes, continuations: list[list[Json]], parameters: dict[str, Json]
    ) -> list[Trace | str]:
        """For each continuation, what `check` judges, or why it cannot be read.

        messages: the JSON of those before. parameters: what `input` has beside the conversation.
        """
        try:
            history = self._histories.get(messages)
        except BaseException as e:  # noqa: BLE001  # RecursionError and MemoryError, too
            return [_unread(e) for _ in continuations]
        return [_trace(history, then, parameters) for then in continuations]

    def check(self, traces: list[Trace | str], keys: bytes) -> list[list[Json]]:
        """For each trace, for each policy: its violations, its error and its notes.

        keys: the JSON of those policies.
        """
        if (known := self._keys.get(keys)) is None:
            known = [(text, trusted) for text, trusted in json.loads(keys)]
            if len(self._keys) >= MAX_KEYS:
                self._keys.clear()
            self._keys[keys] = known
        return [
            [_Findings(errors=[trace]).as_json() for _ in known]
            if isinstance(trace, str)
            else self._run(_outcomes([self._policies.get(key) for key in known], trace))
            for trace in traces
        ]

    def _run[T](self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return self._loop.run_until_complete(work)
        finally:
            if left := asyncio.all_tasks(self._loop):
                for task in left:
                    task.cancel()
                self._loop.run_until_complete(asyncio.wait(left))


async def _outcomes(policies: list[Policy | str], trace: Trace) -> list[Json]:
    return [await _outcome(policy, trace) for policy in policies]


async def _outcome(policy: Policy | str, trace: Trace) -> Json:
    if isinstance(policy, str):
        return _Findings(errors=[policy]).as_json()
    all_found = _Findings()
    for judged in policy.rules:
        if judged.beginning is not None and judged.beginning.is_barren(trace):
            continue
        found = _Found(judged, trace)
        INTERPRETER_STACK.set([])  # whatever the last one left there
        try:
            await found.collect(policy)
        except BaseException as e:  # noqa: BLE001  # one rule's end is not another's
            found.note(e)
        all_found.add(found)
    return all_found.as_json()


class _Histories:
    """The conversations that were asked about last, read."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, tuple[History, int]] = OrderedDict()
        self._size = 0

    def get(self, messages: bytes) -> History:
        key = blake2b(messages, digest_size=16).digest()
        if key in self._known:
            self._known.move_to_end(key)
            return self._known[key][0]
        known = [history for history, _ in self._known.values()]
        history = History(json.loads(messages), others=known)
        self._known[key] = history, len(messages)
        self._size += len(messages)
        while len(self._known) > MAX_HISTORIES or self._size > MAX_REMEMBERED:
            _, (_, size) = self._known.popitem(last=False)
            self._size -= size
        return history


@dataclass(slots=True)
class _Findings:
    violations: list[Json] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, other: _Findings) -> None:
        self.violations += other.violations
        self.errors += other.errors
        self.notes += other.notes

    def as_json(self) -> Json:
        return {
            "violations": self.violations,
            "error": "; ".join(self.errors) or None,
            "notes": [*self.notes],
        }


class _Found(_Findings):
    """What one rule finds."""

    def __init__(self, judged: Judged, trace: Trace) -> None:
        super().__init__()
        self._judged = judged
        self._trace = trace
        self._faults = 0

    async def collect(self, policy: Policy) -> None:
        rule = self._judged.rule
        context = Context(self._trace, policy.rule_set, self._on_error)
        search = Search(
            rule.condition,
            self._trace,
            rule.globals,
            context,
            self._on_error,
            tests=self._judged.tests,
            can_speak=_can_speak(rule),
        )
        async for model in search.models(beginning=self._judged.beginning):
            if model.result is not True:
                continue
            bound = model.variable_assignments.values()
            addresses: list[Json] = [*self._trace.places.addresses(model.ranges, bound)]
            self.violations.append(
                {"message": self._judged.words, "ranges": addresses, "final": self._judged.final}
            )
            if len(self.violations) == MAX_HITS:
                break

    def note(self, e: BaseException) -> None:
        _add(self.errors, _error(e, self._judged.line))

    def _on_error(self, e: Exception, binding: Binding) -> None:
        if binding and is_slip(e):
            _add(self.notes, _error(e, self._judged.line))
            return
        self.note(e)
        self._faults += 1
        if self._faults >= MAX_FAULTS:
            raise e


def _can_speak(rule: Rule) -> Callable[[Any, Any], Awaitable[bool]]:
    """Whether all variables that the rule's words need are known."""

    async def check(variables: Any, context: Any) -> bool:
        try:
            return bool(await rule.action_can_eval(variables, context))
        except Exception:  # noqa: BLE001  # its words fail: `_message` finds others, a hit is a hit
            return True

    return check


def _error(e: BaseException, line: int) -> str:
    """Never the exception's text: it quotes the conversation."""
    if isinstance(e, RuntimeError) and str(e).startswith("Maximum checking cycles"):
        limit = os.environ.get("INVARIANT_MAX_ITERATIONS", "100")
        return f"more than {limit} combinations in the rule at line {line}"
    if isinstance(e, MissingPolicyParameter):
        # The name is the rule's own: corrections.py raises it so.
        return f"the rule at line {line} reads input.{e.message}, which is not set"
    return f"{name_of(e)} in the rule at line {line}"


def _add(texts: list[str], text: str) -> None:
    if text not in texts:
        texts.append(text)


def _trace(history: History, continuation: list[Json], parameters: dict[str, Json]) -> Trace | str:
    try:
        return Trace(History(continuation, history), parameters)
    except BaseException as e:  # noqa: BLE001  # the same
        return _unread(e)


def _unread(e: BaseException) -> str:
    return f"{type(e).__name__} while reading the conversation"
