"""The scenario `slow`: do many quick streams suffer from a few whose verdicts take a second?

The rule's regular expression is catastrophic on a text that only the slow calls hold; how long
that text must be on this machine is found out first, through the proxy itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import table
from children import BenchError, Client, Upstream
from contenders import Contender, Runner
from rounds import measure
from scenarios import PACED, Scenario

# At 20 ms a small machine has no time left, slow ones or not.
READERS = replace(PACED, at_once=47, chunks=80, gap=0.05)
SLOW = 3
LONGEST_TEXT = 34
"""Characters: every further one doubles the time, so a much faster machine still ends here."""


def contender(here: Path) -> Contender:
    """A deadline that no verdict here reaches: a worker that is killed would be another story."""
    return Contender(
        "slow rule",
        guarded=True,
        options=(
            ("invariant_starter_rules", "false"),
            ("invariant_rules", str(here / "slow.inv")),
            ("invariant_deadline_ms", "20000"),
            ("invariant_wait_ms", "30000"),
        ),
    )


def text(length: int) -> str:
    return "a" * length + "!"


def calibrate(runner: Runner, client: Client, upstream: Upstream) -> tuple[int, float]:
    """The length of text whose verdict takes 0.7 s or more, and the seconds it takes."""
    once = Scenario("calibrate", "", 1, calls=1)
    for length in range(14, LONGEST_TEXT + 1):
        took = measure(once, runner, client, upstream, text(length))["first_p50"] / 1000
        # A call is two checks: of its request, and of its reply with it.
        if took / 2 >= 0.7:
            return length, took / 2
    raise BenchError(f"{LONGEST_TEXT} characters were judged in less than a second")


def play(
    runner: Runner,
    client: Client,
    other: Client,
    upstream: Upstream,
    rounds: int,
    tell: Callable[[str], None],
) -> list[str]:
    """The tables: the gaps of the readers alone, with the slow ones, and alone again."""
    length, seconds = calibrate(runner, client, upstream)
    tell(f"slow: a verdict on {length} characters takes {seconds:.1f} s")
    found: dict[str, list[dict[str, float]]] = {"0 slow": [], f"{SLOW} slow": []}
    until = READERS.chunks * READERS.gap + 1.0
    asked = Scenario("slow", "", SLOW, 20, 0.02, seconds=until, calls=50)
    replies, longest = 0.0, 0.0
    for number in range(rounds):
        tell(f"slow: round {number + 1} of {rounds}")
        found["0 slow"].append(measure(READERS, runner, client, upstream))
        order = {"scenario": asdict(asked), "route": runner.route, "prompt": text(length)}
        other.order(do="prepare", **order)
        other.send(do="go")
        time.sleep(0.5)
        found[f"{SLOW} slow"].append(measure(READERS, runner, client, upstream))
        theirs = other.answer()
        replies += theirs["calls"]
        longest = max(longest, theirs["late_max"])
    return [
        f"slow: {READERS.at_once} streams of {1 / READERS.gap:.0f} chunks/s beside {SLOW} whose "
        f"verdicts take {seconds:.1f} s ({length} characters)",
        *table.of_pace(found),
        f"  the slow ones got {replies:.0f} replies, each within {longest / 1000:.1f} s",
    ]
