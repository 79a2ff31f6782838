"""What a policy may say that came with a request, out of a repository or from a service."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from invariant_addon.core.verdict import Guardrail
from invariant_addon.engines import slots
from invariant_addon.engines.shelf import Key, Shelf
from invariant_addon.rules.files import STARTER

from .conftest import assistant, question, rule, user

M = "(m: Message)"
C = "(c: ToolCall)"
TRUST = "invariant_trusted_rules=true"
ROOT = Path(__file__).parents[2]


def imported(what: str, condition: str = "1 == 1") -> str:
    return f"{what}\n" + rule(M, condition)


IMPORTS = [
    *("import os", "import sys as x", "import invariant"),
    *("from os import system", "from os import system as any", "from subprocess import getoutput"),
    *("from builtins import eval", "from builtins import getattr", "from builtins import open"),
    *("from sys import modules", "from importlib import import_module", "from pickle import loads"),
    *("from operator import attrgetter", "from functools import reduce", "from time import sleep"),
    *("from invariant import analyzer", "from invariant import llm", "from invariant import re"),
    *("from invariant import BaseModel", "from invariant import files"),
    *("from invariant.llm import llm", "from invariant.llm import llm_confirm"),
    *("from invariant.files import get_file_content", "from invariant.files import File"),
    *("from invariant.parsers import ocr", "from invariant.parsers.ocr import ocr"),
    *("from invariant.parsers import HTMLParser", "from invariant.parsers.html import re"),
    *("from invariant.detectors import semgrep", "from invariant.detectors import os"),
    *("from invariant.detectors import is_similar", "from invariant.detectors import regex"),
    *("from invariant.detectors import AsyncOpenAI",),
    *("from invariant.detectors.code import tempfile",),
    *("from invariant.detectors.code import SemgrepDetector",),
    *("from invariant.detectors.secrets import re", "from invariant.detectors.code import ast"),
    *("from invariant.detectors.secrets import SecretsAnalyzer",),
    *("from invariant.detectors.pii import _pii_detect",),
    *("from invariant.builtins import py_builtins",),
    *("from invariant.builtins import Interpreter", "from invariant.builtins import re"),
    *("from invariant.analyzer.runtime.evaluation import Interpreter",),
    *("from invariant.analyzer.extras import Extra", "from invariant.nodes import BaseModel"),
    *("from invariant.errors import BaseModel", "from invariant.quantifiers import Quantifier"),
    *("from invariant_addon.engines.detectors import json",),
    *("from invariant_addon.engines.detectors import Interpreter",),
    *("from invariant_addon.engines import worker",),
    *("from invariant_addon.engines.worker import os",),
    *("from invariant.detectors import secrets, os", "from __future__ import annotations"),
    *("from invariant.detectors.secrets import SECRETS_PATTERNS",),
]  # fmt: skip

ESCAPES = [
    *[(imported(what), 1) for what in IMPORTS],
    (rule(M, "from os import system"), 3),
    (rule(M, "import os"), 3),
    ("from invariant.detectors import secrets as _s\n" + rule(M, "1 == 1"), 1),
    # members
    *[
        (rule(M, f"m.{name} == 1"), 3)
        for name in (
            *("__class__", "__dict__", "_tool_call", "__init__", "__fields__", "_abc_impl"),
            *("copy", "parse_file", "parse_raw", "from_orm", "construct", "model_construct"),
            *("model_validate_json", "model_dump", "model_fields", "schema", "json", "dict"),
            *("model_copy", "update_forward_refs", "validate", "root"),
        )
    ],
    *[
        (rule(M, f"m.content.{name} == 1"), 3)
        for name in ("format", "format_map", "encode", "translate", "__add__", "maketrans")
    ],
    (rule(M, "Message.mro == 1"), 3),
    (rule(M, "m.content.format(m) == 1"), 3),
    (rule(M, '"{0.__class__.__init__.__globals__}".format(m) == "x"'), 3),
    (rule(M, '"{a}".format_map(m) == "x"'), 3),
    (rule(M, '"x".encode("rot13") == "x"'), 3),
    (rule(M, 'f := "{0.__class__}".format', 'f(m) == "x"'), 3),
    (rule(M, 'any([f for f in ["{0.__class__}".format]])'), 3),
    (rule(M, 'max(["{0.__class__}"], key=m.content.format) == "x"'), 3),
    (rule(M, 'find("x", m.content).sort() == 1'), 3),
    (rule(M, 'm.content.replace("a", "b") == "x"'), 3),
    (rule(M, "m.tool_calls.append(m) == 1"), 3),
    (rule(C, "c.function.arguments.update(c) == 1"), 3),
    (rule(C, "c.function.arguments.pop(1) == 1"), 3),
    (rule(M, "len.__globals__ == 1"), 3),
    (rule(M, "len.__code__ == 1"), 3),
    (rule(M, "find.__module__ == 1"), 3),
    (rule(M, 'AccessDenied("x").__traceback__ == 1'), 3),
    (rule(M, "AccessDenied.mro() == 1"), 3),
    (rule(M, "LLM.parse_file() == 1"), 3),
    (rule(M, 'Message.parse_raw("x", content_type="pickle") == 1'), 3),
    (rule(M, 'Message.model_construct(role="x") == 1'), 3),
    (rule(M, "Input.parse_input([]) == 1"), 3),
    (rule(M, "input._context == 1"), 3),
    (rule(M, "input.data.__class__ == 1"), 3),
    (rule(M, "input.data.select(m) == 1"), 3),
    (rule(M, 'json_loads("{}").__class__ == 1'), 3),
    (rule(M, "text(m).__iter__ == 1"), 3),
    # keys and names
    (rule(M, 'm["__class__"] == 1'), 3),
    (rule(C, 'c.function.arguments["__class__"] == 1'), 3),
    (rule(C, 'c is tool:x({__class__: "a"})'), 3),
    (rule(M, '{"__class__": 1} == 1'), 3),
    (rule(M, "_x := m", "_x == 1"), 3),
    (rule("(_m: Message)", "_m == 1"), 2),
    (rule(M, "__builtins__ == 1"), 3),
    (rule(M, "__import__ == 1"), 3),
    ("_X := 1\n" + rule(M, "1 == 1"), 1),
    ("_p(m: Message) :=\n    1 == 1\n" + rule(M, "1 == 1"), 1),
    ("p(_m: Message) :=\n    1 == 1\n" + rule(M, "1 == 1"), 1),
    (rule(M, "len(m.content, __class__=1) == 1"), 3),
    (rule(M, 'f"{m.__class__}" == m.content'), 3),
    # calls
    (rule(M, '[len][0]("a") == 1'), 3),
    (rule(M, '{"a": len}["a"]("a") == 1'), 3),
    (rule(M, '(len if 1 else find)("a") == 1'), 3),
    (rule(M, 'm["x"]("a") == 1'), 3),
    (rule(M, 'len("a")("b") == 1'), 3),
    # what is raised is evaluated as well
    ('raise m.copy() if:\n    (m: Message)\n', 1),
    ('raise Violation(m.__class__) if:\n    (m: Message)\n', 1),
    ("from os import system\nraise system(1) if:\n    (m: Message)\n", 1),
    # in every corner
    ("X := \"\".__class__\n" + rule(M, "1 == 1"), 1),
    ('p(m: Message) :=\n    m.__class__ == 1\n' + rule(M, "p(m)"), 2),
    (rule(M, "any([x.__class__ for x in [1]])"), 3),
    (rule(M, "any([1 for x in m.__class__])"), 3),
    (rule(M, "any([1 for x in [1] if x.__class__])"), 3),
    (rule(M, "(1 if m.__class__ else 2) == 1"), 3),
    (rule(M, "not m.__class__"), 3),
    (rule(M, "1 == 1 or (2 == 2 and m.__class__ == 3)"), 3),
    (rule(M, "(t: str) in m.__class__"), 3),
    (rule(M, "x := m.__class__"), 3),
    (rule(M, "len(s=m.__class__) == 1"), 3),
    (rule(M, "[1, [2, m.__class__]] == 1"), 3),
    (rule(M, '{"a": m.__class__} == 1'), 3),
    (rule(M, 'm.content[m.__class__] == "a"'), 3),
    (rule(C, "c is tool:x(c.__class__)"), None),
    (imported("import invariant.files"), None),
    ("from invariant import count\n" + rule("count(min=m.__class__):", "    (m: Message)"), 3),
    (
        "from invariant import count\n"
        + rule("count(min=1):", "    (m: Message)", "    m.__class__ == 1"),
        5,
    ),
    (rule("len:", "    (m: Message)"), 2),
    ("def f(m: Message):\n    raise \"x\" if:\n        (m: Message)\n", None),
    # what a detector loads
    (imported("from invariant.detectors import prompt_injection",
              'prompt_injection(m, model="/tmp/evil")'), 3 + 1),
    (imported("from invariant.detectors import moderated", 'moderated(m, model="OpenAI")'), 4),
    (imported("from invariant.detectors import moderated", "moderated(m, model=m.content)"), 4),
    ("load(f: Message, m: Message) :=\n    f(m, model=\"x/y\")\n"
     "from invariant.detectors import prompt_injection as p\n" + rule(M, "load(p, m)"), 2),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line"), ESCAPES, ids=lambda v: repr(v)[-60:])
def test_a_policy_that_nobody_vouches_for_says_nothing_but_rules(
    bench: Any, text: str, line: int | None
) -> None:
    """It came with a request, and would run in a process that sees every conversation."""
    reason = bench.refusal(text)
    assert reason is not None
    if line is not None:
        assert reason.startswith(f"line {line}: "), reason
    (outcome,) = bench.judge([user("x")], text, trusted=False)
    assert outcome.error == reason and not outcome.violations


@pytest.mark.parametrize("what", IMPORTS)
def test_it_says_who_may(bench: Any, what: str) -> None:
    """Who runs the proxy may well trust a file: then one option is what to look for."""
    assert TRUST in str(bench.refusal(imported(what)))


@pytest.mark.parametrize(
    ("call", "instead"),
    [
        ('m.content.contains("a")', 'write "..." in m.content'),
        ('m.content.startswith("a")', 'write match("...", m.content)'),
        ('m.content.lowercase() == "a"', "write .lower(...)"),
        ('m.content.zfill(3) == "a"', "what may: get, image, items, "),
    ],
)
def test_it_says_what_to_call_instead(bench: Any, call: str, instead: str) -> None:
    """Who knows Python tries its methods first."""
    assert f"(...) may not be called{';' if 'what' in instead else ','} {instead}" in str(
        bench.refusal(rule(M, call))
    )


DETECTORS = "from invariant.detectors import "
ORDINARY = [
    rule(M, '"forbidden" in m.content'),
    rule(M, 'm.role == "user"', '"a" in m.content.lower()', "len(m.content) > 5"),
    rule(M, 'any(["x" in t for t in m.content.strip().upper().split(",")])'),
    rule(M, 'm.content.splitlines()[0] == "a"', '", ".join(["a"]) in m.content'),
    rule("(o: ToolOutput) -> (c: ToolCall)", "o is tool:read_mail", "c is tool:send_mail"),
    rule(C, 'c is tool:bash({cmd: "rm .*"})', 'c.function.arguments["cmd"] == "x"'),
    rule(C, 'c is tool:x({to: <EMAIL_ADDRESS>, n: 1, l: ["a"], any: *})'),
    rule(C, 'c.function.name == "x"', 'c.function.arguments.path == "y"', "c.type == c.id"),
    rule(C, 'c.function.arguments.get("x") == 1', '"a" in c.function.arguments.keys()'),
    rule(C, 'c.function.arguments["title"] == "x"', 'c.function.arguments["format"] == "png"'),
    rule(C, 'any([v == "a" for v in c.function.arguments.values()])'),
    rule("(o: ToolOutput)", 'tool_call(o).function.name == "x"', "o.tool_call_id == o.role"),
    rule(M, 'input.user == "ann"', 'input.limits["x"] > 3', "input.format == 1"),
    rule("(m: Message) in input", '"a" in m.content'),
    rule(M, "(t: str) in text(m.content)", '"green" in t'),
    rule(M, 'match("a.*", m.content) or any(find("b+", m.content))'),
    rule(M, 'x := json_loads(m.content)', 'x["a"]["b"] == 1'),
    rule(M, "max([len(m.content), 3]) + min(4, 5) * 2 ** 2 - 1 / 3 % 2 > -1"),
    rule(M, 'not (m.content == "a")', "m.content is not None", 'm.role in ["user", "system"]'),
    rule(M, 'f"{m.content}" == "a"'),
    rule(M, 'r"\\d+" == "a"'),
    'LIMIT := 5\nWORDS := ["a", "b"]\n' + rule(M, "len(m.content) > LIMIT", "m.content in WORDS"),
    'is_it(c: ToolCall, w: str) :=\n    c.function.name == w\n' + rule(C, 'is_it(c, "x")'),
    "from invariant import count, forall\n"
    + rule("count(min=2, max=4):", "    (c: ToolCall)", "    c is tool:x"),
    "from invariant import forall\n" + rule("forall:", "    (c: ToolCall)", "    c is tool:x"),
    'raise Violation("x", user="y") if:\n    (m: Message)\n    m.content == "a"\n',
    'raise PolicyViolation("x", message=m) if:\n    (m: Message)\n    m.content == "a"\n',
    "from invariant import Message, ToolCall, Violation, PolicyViolation\n" + rule(M, '1 == 2'),
    imported(DETECTORS + "secrets, copyright", "any(secrets(m)) or any(copyright(m.content))"),
    imported(DETECTORS + "pii", 'any(pii(m)) and "EMAIL_ADDRESS" in pii(m, ["EMAIL_ADDRESS"])'),
    imported(DETECTORS + "prompt_injection", "prompt_injection(m.content, threshold=0.5)"),
    imported(
        DETECTORS + "prompt_injection",
        'prompt_injection(m, model="protectai/deberta-v3-base-prompt-injection-v2")',
    ),
    imported(DETECTORS + "moderated", "moderated(m.content, default_threshold=0.3)"),
    imported(DETECTORS + "unicode", 'any(unicode(m, ["Cf"]))'),
    imported(DETECTORS + "fuzzy_contains", 'fuzzy_contains(m.content, "x", 0.8, False)'),
    imported(DETECTORS + "python_code", '"os" in python_code(m.content).imports'),
    imported("from invariant.detectors.code import ipython_code", "ipython_code(m).syntax_error"),
    imported("from invariant.detectors.secrets import secrets as s", "any(s(m))"),
    imported("from invariant.parsers import html_code, links", "any(html_code(m).alt_texts)"),
    imported("from invariant.parsers.html import links", '"http://a" in links(m)'),
    imported(
        "from invariant.access_control import should_allow_rbac",
        'not should_allow_rbac(m.content, "s", "u", {"u": ["r"]}, {"r": {"s": True}})',
    ),
]  # fmt: skip
STARTERS = sorted(STARTER.glob("*/*.inv"))
IN_README = re.findall(r"```(?:python|inv|text)?\n((?:from invariant|raise )[^`]*)```", (
    ROOT / "README.md").read_text())  # fmt: skip
IN_README = [text for text in IN_README if " if:" in text]


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_rules_need_nobody_to_vouch_for_them(bench: Any, text: str) -> None:
    """Else everybody would trust everything."""
    assert refused(bench, text) is None


@pytest.mark.parametrize("path", STARTERS, ids=lambda p: p.name)
def test_the_starter_rules_may_be_copied(bench: Any, path: Path) -> None:
    """A rule file of one's own begins as a copy of one of ours."""
    assert refused(bench, path.read_text()) is None


@pytest.mark.parametrize("text", IN_README)
def test_what_the_readme_shows_is_allowed(bench: Any, text: str) -> None:
    """The first thing that people try."""
    assert refused(bench, text) is None


def refused(bench: Any, text: str) -> str | None:
    """Why, if it is for lack of trust; a rule that does not do what it says is another matter."""
    reason: str | None = bench.refusal(text)
    return reason if reason != bench.refusal(text, trusted=True) else None


def test_trust_is_not_lent(bench: Any) -> None:
    """The same text came once from a file of ours and once with a request."""
    text = imported("from time import sleep", "sleep(0) == None")
    for _ in range(2):
        trusted, other = (bench.judge([user("x")], text, trusted=t)[0] for t in (True, False))
        assert trusted.error is None and trusted.violations
        assert TRUST in str(other.error) and not other.violations


def test_both_may_be_asked_at_once(bench: Any) -> None:
    """A request's own rules are judged beside those of the proxy."""
    text = imported("from time import sleep", "sleep(0) == None")
    asked = question([user("x")], text)
    other = Guardrail("2", "other", text)
    (verdict,) = bench.run(bench.engine.check(replace_guardrails(asked, other)))
    assert [bool(o.violations) for o in verdict.outcomes] == [True, False]


def replace_guardrails(asked: Any, other: Guardrail) -> Any:
    return replace(asked, guardrails=(*asked.guardrails, other))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("# " + "x" * 70_000 + "\n" + rule(M, "1 == 2"), "bytes are too many, at most 65536"),
        ("raise \"x\" if:\n    (m: Message)\n" * 201, "rules are too many|processor time"),
        (
            "from invariant.builtins import " + ", ".join(f"len as l{i}" for i in range(65)) + "\n"
            + rule(M, "1 == 2"),
            "at most 64 names",
        ),
        (rule(M, " and ".join(["1 == 1"] * 60)), "processor time"),
        ('raise "x" if:\n a:\n' + " " * 30_000 + "b\n", ""),
    ],
    ids=["bytes", "rules", "names", "conditions", "indents"],
)  # fmt: skip
def test_what_is_too_much_to_read_is_refused(
    bench: Any, text: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parser takes a minute for eighty conditions in a line; a worker has others waiting. (It
    is the worker that gives up, by its processor time, however busy the machine is.)"""
    monkeypatch.setattr(slots, "PASSING_SECONDS", 120.0)
    pids = set(bench.engine.pids)
    assert re.search(reason, str(bench.refusal(text) or "-")) and bench.refusal(text)
    assert pids <= set(bench.engine.pids)
    (outcome,) = bench.judge([user("forbidden")], rule(M, '"forbidden" in m.content'))
    assert outcome.violations


def test_no_dot_and_no_index_leads_anywhere() -> None:
    """Not a list of ideas: all names of all values that a rule can hold."""
    done = subprocess.run(
        [sys.executable, "-P", str(Path(__file__).with_name("probe.py"))],
        env={**os.environ, "LOCAL_POLICY": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["bad"] == [] and found["modules"] == []
    assert found["names"] > 500 and found["values"] > 50 and found["passed"] > 100


# what comes with requests, and what stays


KEYS = st.tuples(st.text(max_size=40), st.booleans())


@settings(deadline=None)
@given(st.lists(st.tuples(KEYS, st.booleans(), st.booleans()), max_size=60))
def test_what_passes_never_takes_the_place_of_what_stays(
    steps: list[tuple[Key, bool, bool]],
) -> None:
    """A client that sends another text with each request makes nobody else wait."""
    shelf: Shelf[Key] = Shelf(kept=1000, passing=5, characters=60)
    stays: set[Key] = set()
    for key, keep, put in steps:
        if put:
            shelf.put(key, key, keep=keep)
            stays |= {key} if keep else set()
        assert shelf.get(key) in (key, None)
        assert stays == set(shelf.kept()) and len(shelf) <= len(stays) + 5
    assert all(shelf.get(key) == key for key in stays)


def test_a_flood_of_new_texts_leaves_the_old_ones_ready(bench: Any) -> None:
    """More than any cache holds of them; the proxy's own rule is not read again."""
    own = Guardrail("own", "own", rule(M, '"forbidden" in m.content'))
    bench.run(bench.engine.load([own]))
    kept = bench.engine._pool.known.kept()
    for i in range(40):
        assert bench.refusal(f"# {i}\n" + rule(M, f'"{i}" in m.content')) is None
    assert bench.engine._pool.known.kept() == kept
    for slot in bench.engine._pool._slots:
        staying = slot.known.kept()  # also what other tests loaded
        assert (own.text, False) in staying and len(slot.known) < 40 + len(staying)
    asked = question([user("x")], own.text, then=((assistant("forbidden"),),), trusted=False)
    assert bench.run(bench.engine.check(asked))[0].violations
