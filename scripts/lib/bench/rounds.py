"""Runs the contenders against each other: each scenario, each round, in changing order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict

import machine
from children import BenchError, Client, Upstream
from contenders import Runner
from scenarios import Scenario

Figures = dict[str, float]
Results = dict[str, dict[str, list[Figures]]]
"""Scenario -> contender -> figures, round by round."""


def play(
    scenarios: Sequence[Scenario],
    runners: Sequence[Runner],
    client: Client,
    upstream: Upstream,
    rounds: int,
    tell: Callable[[str], None],
) -> Results:
    """Every contender meets every scenario once in each round."""
    results: Results = {s.name: {r.contender.name: [] for r in runners} for s in scenarios}
    for number in range(rounds):
        for scenario in scenarios:
            tell(f"round {number + 1} of {rounds}: {scenario.name}")
            # Backwards every second time, so that nobody is always the last on a warm machine.
            for runner in runners if number % 2 == 0 else reversed(runners):
                found = measure(scenario, runner, client, upstream)
                results[scenario.name][runner.contender.name].append(found)
    return results


def measure(
    scenario: Scenario,
    runner: Runner,
    client: Client,
    upstream: Upstream,
    prompt: str | None = None,
) -> Figures:
    """One run. CPU: of the proxy and its workers, in milliseconds per 1,000 chunks or request.

    prompt: what is asked, if not the usual.
    """
    try:
        client.order(do="prepare", scenario=asdict(scenario), route=runner.route, prompt=prompt)
        before, fake_before = runner.usage(), machine.usage(upstream.pid)
        found = client.order(do="go")
        after, fake_after = runner.usage(), machine.usage(upstream.pid)
    except BenchError as error:
        raise BenchError(f"{scenario.name}, {runner.contender.name}: {error}") from error
    units = found["chunks"] / 1000 if scenario.chunks else found["calls"]
    found["proxy_cpu"] = 1000 * (after.cpu - before.cpu) / units
    found["workers_cpu"] = 1000 * (after.workers - before.workers) / units
    found["all_cpu"] = found["proxy_cpu"] + found["workers_cpu"]
    found["proxy_busy"] = (after.cpu - before.cpu) / found["wall"]
    found["load_busy"] = (found["client_cpu"] + fake_after.cpu - fake_before.cpu) / found["wall"]
    found |= {"rss": after.rss, "workers_rss": after.workers_rss, "workers": after.count}
    return found
