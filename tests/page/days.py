"""A store as a day with agents leaves it: harmless calls, blocked ones, late notes, odd ones."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from invariant_addon.core.trace import Finding, Timing, Trace
from invariant_addon.core.verdict import Address
from invariant_addon.traces.archive import FILE
from invariant_addon.traces.store import Store

NOW = time.time()
SYSTEM = {
    "role": "system",
    "content": "You are a careful assistant on a small company's server. Use the tools that you "
    "have, say what you do, and ask before anything that cannot be undone. " * 6,
}
DELETE = Finding(
    {"id": "rule-files", "name": "files", "action": "block", "source": "file"},
    "agents do not delete files",
    "blocked",
    (
        Address(4, "tool_calls.0.function.name"),
        Address(4, "tool_calls.0.function.arguments.name", 0, 12),
    ),
)


def call(name: str, arguments: str, number: int = 1) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"id": f"call_{number}", "type": "function", "function": function}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def said(text: str | None, *calls: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": text} | ({"tool_calls": list(calls)} if calls else {})


def found(rule: str, words: str, effect: Any, *places: Address, source: str = "file") -> Finding:
    action = {"shadow": "shadow", "noted": "log", "masked": "mask"}.get(effect, "block")
    told = {"id": f"rule-{rule}", "name": rule, "action": action, "source": source}
    return Finding(told, words, effect, places)


def trace(number: int, messages: Sequence[Any], **more: Any) -> Trace:
    values: dict[str, Any] = {
        "id": f"inv_{number:032x}",
        "started": NOW - 86_400 + number,
        "status": "judged",
        "endpoint": "chat.completions",
        "model": "gpt-4o-mini",
        "stream": True,
        "parameters": {"model": "gpt-4o-mini", "stream": True, "temperature": 0.2},
        "messages": tuple(messages),
        "timing": Timing(1240.0, 310.0, 46.0, 31.0, 3),
        "http_status": 200,
        "finishes": ("stop",),
        "usage": {"prompt_tokens": 412, "completion_tokens": 96, "total_tokens": 508},
        "client": "pid 4211 python agent.py",
    }
    return Trace(**values | more)


def file_agent(start: int) -> Iterator[Trace]:
    """An agent that makes room: it looks, and is kept from deleting."""
    asked = [SYSTEM, user("My disk is full. Make some room, but keep what the shop needs.")]
    look = said(
        "Let me see what there is.", call("list_files", '{"folder":"/srv/data","limit":50}')
    )
    listed = {
        "role": "tool",
        "tool_call_id": "call_1",
        "content": "customers.db (18341120 bytes)\ninvoices-2019.tar (9120000 bytes)\n"
        "notes.txt (812 bytes)",
    }
    yield trace(start, asked, choices=(look,), finishes=("tool_calls",), started=NOW - 5400)
    text = "The largest file is customers.db, so I will delete that one."
    delete = said(text, call("delete_file", '{"name":"customers.db","force":true}', 2))
    yield trace(
        start + 1,
        [*asked, look, listed],
        choices=(delete,),
        finishes=("tool_calls",),
        status="blocked",
        findings=(DELETE,),
        delivered=len(text),
        withheld_calls=1,
        started=NOW - 5391,
    )
    next_ = user("Then tell me which files are old, and touch nothing.")
    yield trace(
        start + 2,
        [*asked, look, listed, next_],
        choices=(said("invoices-2019.tar is the oldest; it has not been read for six years."),),
        started=NOW - 5320,
    )


def others(start: int) -> Iterator[Trace]:
    secret = "Write a press release: PROJECT-BLUEBIRD starts on Monday. 🚀"
    at = secret.index("PROJECT")
    yield trace(
        start,
        [user(secret)],
        status="blocked",
        http_status=400,
        finishes=(),
        usage={},
        findings=(
            found(
                "secrets",
                "PROJECT-BLUEBIRD is not for outsiders",
                "blocked",
                Address(0, "content", at, at + 16),
            ),
        ),
        started=NOW - 4200,
    )
    answer = (
        "An index fund holds a little of everything, so no single company can sink it. In fact, "
        "your profit is guaranteed, and you should borrow whatever the bank will lend you."
    )
    here = answer.index("guaranteed")
    yield trace(
        start + 1,
        [user("Should I buy an index fund?")],
        choices=(said(answer),),
        status="blocked",
        delivered=here,
        withheld=len(answer) - here,
        findings=(
            found(
                "promises",
                "no promises of profit",
                "blocked",
                Address(1, "content", here, here + 10),
            ),
        ),
        started=NOW - 3600,
    )
    yield trace(
        start + 2,
        [user("Summarise the tickets of this week.")],
        choices=(
            said("Three tickets: a late parcel, a wrong size, and a refund that is still open."),
        ),
        status="not scanned",
        reason="the guardrails service did not answer within 2000 ms",
        model="gpt-4o",
        started=NOW - 3000,
    )
    key = "Deploy with [masked:keys:1f3a9c02], and tell me when it is up."
    yield trace(
        start + 3,
        [user(key)],
        choices=(said("It is up: the deployment took 41 seconds."),),
        findings=(found("keys", "a key was replaced", "masked"),),
        started=NOW - 1800,
    )
    history = "I will rewrite the history with git push --force, then tag the release."
    place = history.index("git push")
    yield trace(
        start + 4,
        [user("Clean up the branch and release it.")],
        choices=(
            said(
                history,
                call(
                    "shell",
                    '{"command":["bash","-lc","git push --force && git tag v2"],"env":{"CI":"1"}}',
                ),
            ),
        ),
        finishes=("tool_calls",),
        findings=(
            found(
                "history",
                "rewritten git history",
                "noted",
                Address(1, "content", place, place + 16),
                source="starter",
            ),
            found("tone", "would not be polite", "shadow"),
        ),
        model="o4-mini",
        started=NOW - 1200,
    )
    yield trace(
        start + 5,
        [user("What is the capital of Australia?")],
        choices=(said("Can"),),
        status="partial",
        http_status=200,
        finishes=(None,),
        started=NOW - 900,
    )
    yield trace(
        start + 6,
        [user("Translate the contract.")],
        status="error",
        reason="no verdict from contracts: the rule took longer than 2000 ms",
        http_status=400,
        finishes=(),
        usage={},
        started=NOW - 600,
    )


def ordinary(start: int, count: int, seconds: float) -> Iterator[Trace]:
    """Harmless calls, spread over the last hours or days."""
    dice = random.Random(7)
    models = ["gpt-4o-mini"] * 6 + ["gpt-4o", "o4-mini", "gpt-4.1"]
    for n in range(count):
        topic = dice.choice(["invoices", "parcels", "the garden", "a poem", "SQL", "rain", "tests"])
        first = dice.lognormvariate(5.8, 0.5)
        judged = dice.lognormvariate(2.8, 0.6)
        odd = dice.random()
        status = "blocked" if odd < 0.02 else "not scanned" if odd < 0.035 else "judged"
        hit = found(
            "secrets",
            "PROJECT-BLUEBIRD is not for outsiders",
            "blocked",
            Address(0, "content", 0, 5),
        )
        yield trace(
            start + n,
            [user(f"Question {n}: what should I know about {topic}?")],
            choices=()
            if status == "blocked"
            else (said(f"About {topic}: " + "it depends, " * dice.randint(2, 30)),),
            status=status,
            findings=(hit,) if status == "blocked" else (),
            model=dice.choice(models),
            started=NOW - seconds * (1 - n / count) - 30,
            timing=Timing(first * 4, first, judged * 1.7, judged, dice.randint(2, 9)),
            usage={
                "prompt_tokens": dice.randint(40, 4000),
                "completion_tokens": dice.randint(10, 900),
            },
        )


def fill(folder: Path, traces: Iterator[Trace] | Sequence[Trace]) -> None:
    store = Store(folder / FILE, key=b"k" * 32)
    for each in traces:
        assert store.add(each)
    while store.tidy():
        pass
    store.close()


def a_day(folder: Path, count: int = 60) -> None:
    fill(folder, ordinary(1000, count, 80_000))
    fill(folder, [*others(10), *file_agent(1)])
