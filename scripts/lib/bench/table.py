"""Figures to plain text, at most 100 columns wide."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import figures
from scenarios import Scenario

BASE = "bare"
Rounds = Mapping[str, Sequence[figures.Figures]]
"""Of one scenario: contender -> its figures, round by round."""


def of_scenario(scenario: Scenario, rounds: Rounds) -> list[str]:
    """One table: a line for each contender, medians over the rounds."""
    rate = "chunks_s" if scenario.name.startswith(("burst", "paced")) else "requests_s"
    per = "1,000 chunks" if scenario.chunks else "request"
    head = f"{scenario.name}: {scenario.title}, {scenario.at_once} at once"
    lines = [
        head,
        f"  {'':<11}{rate.replace('_s', '/s'):>10}{'against bare':>18}{'first, ms':>16}"
        f"{'CPU, ms per ' + per:>27}",
        f"  {'':<39}{'p50':>9}{'p99':>7}{'proxy':>11}{'workers':>9}{'ratio':>7}",
    ]
    lines += [_line(name, found, rounds.get(BASE), rate) for name, found in rounds.items()]
    if scenario.is_paced:
        lines += ["", *of_pace(rounds)]
    return lines


def _line(
    name: str, rounds: Sequence[figures.Figures], base: Sequence[figures.Figures] | None, rate: str
) -> str:
    middle = figures.median(rounds)
    proxied = middle["proxy_cpu"] > 0
    speed = figures.spread(figures.ratios(rounds, base, rate)) if base else "-"
    saved = figures.ratios(rounds, base, "all_cpu", less_is_better=True) if base else []
    cpu = f"{middle['proxy_cpu']:.2f}" if proxied else "-"
    workers = f"{middle['workers_cpu']:.2f}" if proxied and middle["workers"] else "-"
    ratio = f"{statistics.median(saved):.2f}" if proxied and saved else "-"
    return (
        f"  {name:<11}{middle[rate]:>10,.0f}{speed:>18}{middle['first_p50']:>9.2f}"
        f"{middle['first_p99']:>7.1f}{cpu:>11}{workers:>9}{ratio:>7}"
    )


def of_pace(rounds: Rounds) -> list[str]:
    """Gaps and lateness of paced streams: what a reader sees. busy: the proxy, of one core."""
    lines = [
        f"  {'':<14}{'gap between reads, ms':>32}{'an event is late by, ms':>32}{'proxy':>8}",
        f"  {'':<14}" + f"{'p50':>8}{'p95':>8}{'p99':>8}{'max':>8}" * 2 + f"{'busy':>8}",
    ]
    for name, found in rounds.items():
        middle = figures.median(found)
        cells = [
            f"{middle[f'{what}_{part}']:>8.1f}"
            for what in ("gap", "late")
            for part in ("p50", "p95", "p99", "max")
        ]
        busy = f"{middle['proxy_busy']:.0%}" if middle["proxy_busy"] else "-"
        lines.append(f"  {name:<14}" + "".join(cells) + f"{busy:>8}")
    return lines


def of_memory(rounds: Mapping[str, Rounds]) -> list[str]:
    """The most that each contender had in memory after a scenario."""
    lines = [f"memory, MiB:{'proxy':>10}{'workers':>10}{'of them':>9}"]
    names = dict.fromkeys(name for found in rounds.values() for name in found)
    for name in names:
        seen: list[figures.Figures] = []
        for found in rounds.values():
            seen += found.get(name, ())
        most = {key: max(f[key] for f in seen) for key in ("rss", "workers_rss", "workers")}
        if most["rss"]:
            lines.append(
                f"  {name:<10}{most['rss']:>10.0f}{most['workers_rss']:>10.0f}"
                f"{most['workers']:>9.0f}"
            )
    return lines


def bottlenecks(rounds: Mapping[str, Rounds]) -> list[str]:
    """Warnings: where the fake and the client, and not the proxy, may have set the pace."""
    found = []
    for scenario, contenders in rounds.items():
        for name, seen in contenders.items():
            busy = statistics.median(f["load_busy"] for f in seen)
            if name != "direct" and busy > 0.85:
                found.append(
                    f"{scenario}, {name}: client and upstream took {busy:.0%} of their core; "
                    "the proxy may be faster than this says"
                )
    return found
