"""What a policy can do in a worker beside judging: nothing."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from .conftest import assistant, rule, user

linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there are limits only")


@linux
@pytest.mark.parametrize(
    ("imported", "condition"),
    [
        ("from subprocess import getoutput", 'getoutput("id") == "x"'),
        ("from os import system", 'system("id") == 256'),
        ("from os import fork", "fork() == 1"),
        ("from socket import socket", "socket() == 1"),
        ("from os import open", 'open("/tmp/invariant-test", 65) == 1'),
        ("from os import remove", 'remove("/tmp/invariant-test") == 1'),
        ("from os import kill", "kill(1, 0) == 1"),
    ],
)
def test_a_policy_reaches_nothing_outside(bench: Any, imported: str, condition: str) -> None:
    """Policies are code, and whoever may write a rule may not run programs."""
    pids = set(bench.engine.pids)
    (outcome,) = bench.judge([user("hi")], f"{imported}\n" + rule("(m: Message)", condition))
    assert outcome.violations == ()
    if "system" in condition:  # it says only that it failed
        assert outcome.error is None
    else:
        assert outcome.error == "PermissionError in the rule at line 2"
    assert pids <= set(bench.engine.pids)


@pytest.mark.parametrize(
    ("detector", "condition", "bad"),
    [
        ("secrets", "any(secrets(m))", "ghp_" + "a1" * 18),
        ("copyright", "not empty(copyright(m.content))", "Copyright (c) 2024 ACME Apache License"),
        ("python_code", '"os" in python_code(m.content).imports', "import os\nos.remove('x')"),
    ],
)
def test_detectors_work_in_it(bench: Any, detector: str, condition: str, bad: str) -> None:
    """A sandbox that breaks what it protects is switched off."""
    text = f"from invariant.detectors import {detector}\n" + rule("(m: Message)", condition)
    for messages, hits in (([user("fine")], 0), ([user(bad)], 1), ([user(bad), user("fine")], 1)):
        (outcome,) = bench.judge(messages, text)
        assert (len(outcome.violations), outcome.error) == (hits, None)


def test_parsers_work_in_it(bench: Any) -> None:
    """The same for what reads HTML."""
    text = "from invariant.parsers import html_code, links\n" + rule(
        "(m: Message)", '"http://evil.com" in links(m)', "any(html_code(m).links)"
    )
    outcomes = bench.judge([user('<a href="http://evil.com">x</a>'), assistant("fine")], text)
    assert (len(outcomes[0].violations), outcomes[0].error) == (1, None)
