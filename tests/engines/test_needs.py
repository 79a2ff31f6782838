"""What a rule's owner is told of a rule that can be used: before it fails, or blocks everything."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from invariant_addon.core.verdict import Guardrail
from invariant_addon.engines.base import Remark
from invariant_addon.engines.needs import remedy

from .conftest import rule, user

M, C, T = "(m: Message)", "(c: ToolCall)", "(o: ToolOutput)"
FROM = "from invariant.detectors import "


def remarks(bench: Any, text: str, *, trusted: bool = False) -> tuple[Remark, ...]:
    guardrail = Guardrail("1", "g", text, trusted=trusted)
    assert bench.run(bench.engine.load([guardrail])) == ()
    found: tuple[Remark, ...] = bench.engine.remarks([guardrail])
    return found


def missing(*packages: str) -> bool:
    return all(importlib.util.find_spec(package) is None for package in packages)


@pytest.mark.skipif(not missing("presidio_analyzer", "transformers"), reason="they are installed")
@pytest.mark.parametrize(
    ("text", "line", "needs"),
    [
        (FROM + "pii\n" + rule(M, "any(pii(m))"), 4, "pii needs presidio-analyzer and spacy, "),
        (FROM + "pii as p\n" + rule(M, '"PERSON" in p(m)'), 4, "pii needs presidio-analyzer"),
        (
            FROM + "moderated\n" + rule(M, 'm.role == "user" and moderated(m)'),
            4,
            "moderated needs transformers and torch, ",
        ),
        (
            "from invariant.detectors.prompt_injection import prompt_injection\n"
            + rule(T, "prompt_injection(o.content)"),
            4,
            "prompt_injection needs transformers and torch, ",
        ),
        (rule(C, "c is tool:mail({to: <EMAIL_ADDRESS>})"), 3, "pii needs "),
        (rule(C, "c is tool:mail({text: [<MODERATED>]})"), 3, "moderated needs "),
        (FROM + "pii\nbad(m: Message) := any(pii(m))\n" + rule(M, "bad(m)"), 2, "pii needs "),
        (
            FROM
            + "pii\nfrom invariant import count\n"
            + rule("count(min=2):", f"    {M}", "    any(pii(m))"),
            6,
            "pii needs ",
        ),
    ],
)
def test_a_rule_without_its_package_says_so_when_it_is_read(
    bench: Any, text: str, line: int, needs: str
) -> None:
    """It loads, and then every call is refused: its owner must not learn it from the calls."""
    (remark,) = remarks(bench, text)
    assert remark.lacks and remark.text.startswith(f"line {line}: {needs}")
    assert " -m pip install " in remark.text
    assert ("spacy download en_core_web_lg" in remark.text) == ("pii" in remark.text)


@pytest.mark.parametrize(
    "text",
    [
        FROM + "secrets\n" + rule(M, "any(secrets(m))"),
        FROM + "pii\nbad(m: Message) := any(pii(m))\n" + rule(M, '"pii" in m.content'),
        FROM + "unicode\n" + rule(M, 'any(unicode(m, ["Cf"]))'),
        FROM + "unicode\n" + rule(M, 'any(unicode(m, categories=["Cf"]))'),
        FROM + "unicode\n" + rule(M, '"Cf" in unicode(m)'),
        FROM + "unicode\n" + rule(M, 'any([c == "Co" for c in unicode(m)])'),
        FROM + "unicode\n" + rule(M, "len(unicode(m)) > 9"),
        rule(M, 'any(find("pii", m.content))'),
    ],
)
def test_of_a_rule_that_is_fine_nothing_is_said(bench: Any, text: str) -> None:
    """A warning that is wrong once is not read again."""
    assert remarks(bench, text) == ()


def test_only_what_is_missing_is_named() -> None:
    """With the packages, but without what presidio reads texts with, a rule fails all the same."""
    assert remedy("pii", lambda _: True) == ""
    assert remedy("prompt_injection", lambda name: name == "torch").endswith(
        " -m pip install transformers"
    )
    only_model = remedy("pii", lambda name: name != "en_core_web_lg")
    assert only_model.startswith("needs spaCy's en_core_web_lg, not installed here: ")
    assert "pip install" not in only_model and "&&" not in only_model


def test_a_model_at_openai_needs_no_package(bench: Any) -> None:
    """It needs the network, which rules have not: another matter."""
    text = FROM + "moderated\n" + rule(M, 'moderated(m, model="OpenAI")')
    assert remarks(bench, text, trusted=True) == ()


@pytest.mark.parametrize("call", ["unicode(m)", "unicode(m.content)", "unicode(m, None)"])
def test_a_rule_that_holds_for_every_text_is_named(bench: Any, call: str) -> None:
    """It would block whatever anybody says."""
    text = FROM + "unicode\n" + rule(M, f"any({call})")
    (remark,) = remarks(bench, text)
    assert not remark.lacks
    assert remark.text.startswith("line 4: any(unicode(...)) without categories ")
    for said in ("a", "1", " "):
        assert bench.judge([user(said)], text)[0].violations


def test_what_another_worker_has_read_is_remarked_on_too(bench: Any) -> None:
    """The second time a tree is loaded, and not the text."""
    text = FROM + "unicode\n" + rule(M, "any(unicode(m))")
    assert len(remarks(bench, text)) == len(remarks(bench, text)) == 1
