"""Guardrail texts -> rules that can be judged one by one. Lives in the worker only."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from invariant.analyzer.language.ast import FunctionCall, RaisePolicy, StringLiteral
from invariant.analyzer.policy import LocalPolicy
from invariant.analyzer.runtime.rule import Rule, RuleSet
from invariant.analyzer.stdlib.invariant.errors import PolicyLoadingError

from ..core.printable import printable
from .detector_cache import DetectorCache
from .finality import is_final
from .needs import Need, needs
from .pruning import Test, begins_alike, tests
from .reading import KEPT_SECONDS, PASSING_SECONDS, read, within
from .search import Beginning
from .shelf import Key, Shelf
from .traps import Trap, traps

MAX_POLICIES = 1024
MAX_PASSING = 64
MAX_PASSING_CHARACTERS = 512 * 1024
MAX_REASON = 1000
MAX_WORDS = 1000
MAX_NEEDS = 16
"""That are told of one policy."""

_TYPES = ("Message", "ToolCall", "ToolOutput", "Function", "str", "int", "list", "dict")
_TOOL_NAME = re.compile(r"tool:\w+[-./]\w")
_IMPORTS = {
    "invariant": {"count", "forall"},
    "invariant.detectors": {
        *("secrets", "pii", "copyright", "unicode", "prompt_injection", "moderated", "is_similar"),
        *("fuzzy_contains", "python_code", "semgrep"),
    },
    "invariant.parsers.html": {"links", "html_code"},
    "invariant_addon.engines.detectors": {
        *("has_secret", "has_hidden_text", "has_orders", "has_login", "has_private_address"),
        "has_destructive_command",
    },
}
_SIGNS = {
    " not in ": ". Write not (a in b)",
    "||": ". Write or",
    "&&": ". Write and",
    " for ": ". Write a list, as in any([... for ... in ...])",
}
_BARE_NAME = re.compile(r"(?<![(\w])\w+\s*:\s*(?:Message|Tool)")
_BARE_IF = re.compile(r"^raise\b[^\n]*\bif[ \t]*$", re.MULTILINE)
_WHOLE_IF = re.compile(r"raise\b.*\bif[ \t]*:[ \t]*$")
_STATEMENT = re.compile(r"(raise|from|import|def)\b|#|\w+\s*:=|\w+\(.*\)\s*:=")
_INSTEAD = {
    "=": ". Write == to compare",
    "|": ". The conditions stand on lines of their own, below raise ... if:",
    ",": ". Write one condition on a line",
    "!": ". Write not (...)",
    "all": ". Write not any([not (...) for ... in ...])",
    "re": ". Write match(...) or any(find(...))",
    "regex": ". Write match(...) or any(find(...))",
    "contains": '. Write "..." in m.content',
    "true": ". Write True",
    "false": ". Write False",
    "null": ". Write None",
}


@dataclass(frozen=True, slots=True)
class Judged:
    """A rule, the line it starts on (from 1), its words, whether its hits are final, which of its
    conditions may be tried early, and where it begins if that is always the same.

    words: what it raises, as it stands in the rule. What is put together when it is raised could
    quote the very text that is blocked, so it is not said.
    """

    rule: Rule
    line: int
    words: str
    final: bool
    tests: tuple[Test, ...]
    beginning: Beginning | None


@dataclass(frozen=True, slots=True)
class Policy:
    """tree: what it was parsed to, for other workers (trees.py). needs: what to know of it."""

    rules: tuple[Judged, ...]
    rule_set: RuleSet
    tree: str
    needs: tuple[Need, ...]


class TrapError(ValueError):
    """A rule that does not do what it says."""

    def __init__(self, trap: Trap) -> None:
        super().__init__(str(trap))


class Policies:
    """Policies by their text and trust: each is parsed once, and held to its language."""

    def __init__(self) -> None:
        self._known: Shelf[Policy | str] = Shelf(
            kept=MAX_POLICIES, passing=MAX_PASSING, characters=MAX_PASSING_CHARACTERS
        )
        self._cache = DetectorCache()

    def get(self, key: Key, *, keep: bool = False, tree: str = "") -> Policy | str:
        """The policy, or why it cannot be used. keep: it is there to stay. tree: what another
        worker parsed it to."""
        policy = self._known.get(key)
        if policy is None:
            try:
                policy = self._parse(key, KEPT_SECONDS if keep else PASSING_SECONDS, tree)
            except BaseException as e:  # noqa: BLE001  # a policy may raise all there is, SystemExit included
                policy = _defect(e, key[0])
            self._known.put(key, policy, keep=keep)
        elif keep:
            self._known.put(key, policy, keep=True)
        return policy

    def _parse(self, key: Key, seconds: float, tree: str) -> Policy:
        text, trusted = key
        policy, tree = read(text, trusted=trusted, seconds=seconds, tree=tree)
        with within(seconds):
            return self._policy(policy, tree)

    def _policy(self, policy: LocalPolicy, tree: str) -> Policy:
        statements = [s for s in policy.policy_root.statements if type(s) is RaisePolicy]
        if not statements:
            raise ValueError('there is no rule in it: raise "..." if: and conditions below it')
        rules = list(zip(policy.rule_set.rules, statements, strict=True))
        if found := [trap for rule, s in rules for trap in traps(s, rule.globals)]:
            raise TrapError(min(found, key=lambda trap: trap.line))
        return Policy(
            tuple(
                Judged(
                    rule,
                    s.location.line + 1,
                    _words(s),
                    is_final(s),
                    tests(s.body, rule.globals),
                    Beginning() if begins_alike(s.body, rule.globals) else None,
                )
                for rule, s in rules
            ),
            policy.rule_set.instance(cache=self._cache),
            tree,
            tuple(need for rule, s in rules for need in needs(s, rule.globals))[:MAX_NEEDS],
        )


def _words(statement: Any) -> str:
    raised = statement.exception_or_constructor
    if type(raised) is FunctionCall and raised.args:
        raised = raised.args[0]
    if type(raised) is StringLiteral and raised.modifier != "f":
        return str(raised.value)[:MAX_WORDS]
    return f"the rule at line {statement.location.line + 1} does not hold"


def _defect(e: BaseException, text: str) -> str:
    if isinstance(e, PolicyLoadingError) and e.errors:
        first = min(e.errors, key=_line)
        location = getattr(getattr(first, "node", None), "location", None)
        read = location.code.code if location and location.code else ""
        # The parser says where it no longer understood: further down.
        if "No terminal" in _first_line(first) and (bare := _bare_if(read)):
            return bare
        where = f"line {_line(first)}: " if _line(first) else ""
        return where + _first_line(first).partition(", at line")[0] + _remedy(first)
    if isinstance(e, ValueError):
        return _first_line(e) + _remedy(e)
    if type(e).__name__ == "UnexpectedEOF":
        last = text.rstrip().count("\n") + 1
        return _bare_if(text) or f"line {last}: the text ends here, in the middle of a rule"
    return f"{type(e).__name__}: {_first_line(e).partition(' Expected one of')[0]}"


def _bare_if(text: str) -> str:
    if (found := _BARE_IF.search(text)) is None:
        return ""
    number = text.count("\n", 0, found.start()) + 1
    return printable(f"line {number}: a colon is missing: {found[0].strip()[:MAX_REASON]}:")


def _remedy(e: BaseException) -> str:
    """What to write instead, after the library's own words."""
    said = _first_line(e)
    location = getattr(getattr(e, "node", None), "location", None)
    source = location.code.code.split("\n")[location.line] if location and location.code else ""
    if _TOOL_NAME.search(source):
        return '. For such a tool, write c.function.name == "..."'
    for sign, instead in _SIGNS.items():
        if sign in source and "No terminal" in said:
            return instead
    if _BARE_NAME.search(source):
        return ". Write (m: Message) or (c: ToolCall), with parentheses"
    if match := re.search(r"No terminal matches '(.)'", said):
        return _INSTEAD.get(match[1]) or _form(source, location.code.code if location else "")
    if match := re.search(r"Failed to resolve type (\w+)", said):
        near = get_close_matches(match[1].lower(), [t.lower() for t in _TYPES], 1)
        return f". Write {next(t for t in _TYPES if t.lower() == near[0])}" if near else ""
    if match := re.search(r"Failed to resolve identifier (\w+)", said):
        name = match[1]
        module = next((m for m, names in _IMPORTS.items() if name in names), None)
        if module:
            return f". Write from {module} import {name} at the top"
        return _INSTEAD.get(name, ". Declare it, as in (m: Message), or import it")
    if said.endswith("already declared"):
        return " in the same rule. Give the second one another name"
    return ""


def _form(source: str, policy: str) -> str:
    """What a line of the policy should look like at which the parser knew no further."""
    if _WHOLE_IF.match(source):
        return ". The conditions stand below it, indented"
    is_inside = source[:1] in (" ", "\t", "") or _STATEMENT.match(source)
    if "raise" not in policy or not is_inside:
        return '. A rule begins with raise "..." if:, and its conditions stand below it, indented'
    if source.count('"') % 2:
        return '. A text ends on its line, with "'
    return ""


def _line(e: BaseException) -> int:
    """Of a policy's error, from 1; 0 if it is not known."""
    node: Any = getattr(e, "node", None)
    return max(node.location.line + 1, 0) if hasattr(node, "location") else 0


def _first_line(e: BaseException) -> str:
    """It may quote the policy, which may be a stranger's."""
    return printable((str(e).strip().splitlines() or [type(e).__name__])[0][:MAX_REASON])
