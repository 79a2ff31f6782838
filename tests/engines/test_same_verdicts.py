"""What we corrected in the library changes how fast it is, and not what it finds."""

from __future__ import annotations

import ast
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

from invariant_addon.core.conversation import Message, Part, ToolCall
from invariant_addon.engines.normalise import normalise

from .conftest import question

POLICIES = 40
CASES = 80
SEED = 20260
WORDS = ["red", "green", "blue", "red green", "x", ""]
EACH = {
    "Message": ['"red" in {v}.content', '{v}.role == "user"', 'any(find("gr.*", {v}.content))'],
    "ToolCall": [
        "{v} is tool:run",
        '{v} is tool:run({{cmd: ".*red.*"}})',
        '"blue" in {v}.function.arguments["cmd"]',
        'is_red({v}) or {v}.function.name == "send"',
    ],
    "ToolOutput": ["{v} is tool:run", '"red" in {v}.content', "not ({v} is tool:send)"],
}
BOTH = {
    ("Message", "Message"): ["{a}.content == {b}.content", "{a}.role in [{b}.role]"],
    ("ToolCall", "ToolCall"): ["{a}.function.name == {b}.function.name"],
    ("ToolCall", "ToolOutput"): ['{a}.function.arguments["cmd"] in {b}.content'],
}
HEAD = """from invariant import count
is_red(c: ToolCall) :=
    "red" in c.function.arguments["cmd"]
"""
MORE = [
    "count(min=2):\n        (k{v}: ToolCall)\n        k{v} is tool:run",
    'w{v} := "red"\n    w{v} in {v}.content',
    'any([w in {v}.content for w in ["red", "blue"]])',
    '(t{v}: str) in text({v})\n    "green" in t{v}',
]


def policy(chance: random.Random) -> str:
    types = [chance.choice(list(EACH)) for _ in range(chance.choice([1, 1, 2, 2, 2, 3]))]
    names = [f"v{i}" for i in range(len(types))]
    lines = [f"({names[0]}: {types[0]})"]
    for i in range(1, len(types)):
        arrow = chance.choice(["->", "->", "~>"])
        left = lines.pop() if i == 1 else names[i - 1]
        lines.append(f"{left} {arrow} ({names[i]}: {types[i]})")
    conditions = []
    for name, kind in zip(names, types, strict=True):
        chosen = chance.sample(EACH[kind], chance.randint(0, 2))
        conditions += [condition.format(v=name) for condition in chosen]
        if kind != "ToolCall" and chance.random() < 0.3:
            conditions.append(chance.choice(MORE).format(v=name))
    for (a, kind_a), (b, kind_b) in zip(
        zip(names, types, strict=True), list(zip(names, types, strict=True))[1:], strict=False
    ):
        if chance.random() < 0.5:
            conditions += [c.format(a=a, b=b) for c in BOTH.get((kind_a, kind_b), [])]
    chance.shuffle(conditions)
    return HEAD + 'raise "x" if:\n' + "".join(f"    {line}\n" for line in [*lines, *conditions])


def conversation(chance: random.Random) -> list[Message]:
    messages: list[Message] = []
    for i in range(chance.randint(1, 3)):
        text = (Part("text", chance.choice(WORDS)),)
        if chance.random() < 0.5:
            messages.append(Message(chance.choice(["user", "assistant"]), text))
            continue
        made = [
            ToolCall(
                f"c{i}{j}",
                chance.choice(["run", "send"]),
                json.dumps({"cmd": chance.choice(WORDS)}),
            )
            for j in range(chance.randint(1, 2))
        ]
        messages.append(Message("assistant", text, tuple(made)))
        messages += [Message("tool", (Part("text", chance.choice(WORDS)),), (), c.id) for c in made]
    return messages


def bound(key: str) -> list[int]:
    """The messages that a hit of the library binds, from its key "(rule, (index, ...))"."""
    return sorted({index for index in ast.literal_eval(key)[1] if index >= 0})


def test_verdicts_are_those_of_the_bare_library(bench: Any) -> None:
    """Somebody tried a rule in Invariant's playground: here it must find the same."""
    chance = random.Random(SEED)
    policies = [policy(chance) for _ in range(POLICIES)]
    cases = [(conversation(chance), policies[i % POLICIES]) for i in range(CASES)]
    lines = "\n".join(json.dumps([normalise(m).messages, text]) for m, text in cases)
    program = Path(__file__).with_name("original.py")
    done = subprocess.run(
        [sys.executable, "-P", str(program)],
        input=lines,
        env={**os.environ, "LOCAL_POLICY": "1", "INVARIANT_MAX_ITERATIONS": "1000000"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    compared = hits = 0
    for (messages, text), line in zip(cases, done.stdout.splitlines(), strict=True):
        expected = json.loads(line)
        cut = chance.randint(0, len(messages))  # what was read before must make no difference
        asked = question(messages[:cut], text, then=(tuple(messages[cut:]),))
        (outcome,) = bench.run(bench.engine.check(asked))[0].outcomes
        if expected is None:
            continue
        compared += 1
        found = [
            sorted({a.message for a in v.addresses if a.path in ("", *CALLS)})
            for v in outcome.violations
        ]
        wanted = [bound(key) for key in expected]
        if [] in wanted:
            continue  # the library stops before it has chosen: it would fire on anything
        if len(wanted) > 16:
            assert len(found) == 16
            continue
        assert outcome.error is None and sorted(found) == sorted(wanted), text
        hits += bool(found)
    assert compared > CASES * 0.8 and hits > CASES * 0.1


CALLS = tuple(f"tool_calls.{i}" for i in range(3))
