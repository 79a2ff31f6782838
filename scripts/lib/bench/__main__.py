"""What `scripts/bench ROOT ...` runs. Everything it writes is in one temporary folder."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

import fake
import load
import machine
import profiling
import rounds
import slow
import table
from authority import make_authority
from children import HERE, BenchError, Client, Upstream
from contenders import AGAINST, Contender, Runner, contenders, start
from scenarios import SCENARIOS

SLOW = "slow"
PLAYABLE = [scenario.name for scenario in SCENARIOS]


class Bench:
    """The fake, the client and a folder; contenders are started as they are needed."""

    def __init__(self, root: Path, folder: Path, stack: ExitStack) -> None:
        self._root = root
        self._folder = folder
        self._stack = stack
        self.ca, chain = make_authority(folder / "authority")
        self.upstream = stack.enter_context(Upstream(folder / "fake", chain))
        self.client = stack.enter_context(Client(folder / "client"))

    def start(self, contender: Contender) -> Runner:
        folder = self._folder / contender.name.replace(" ", "-")
        runner = start(contender, self._root, folder, self.upstream.port, self.ca)
        self._stack.callback(runner.stop)
        return runner

    def another_client(self) -> Client:
        return self._stack.enter_context(Client(self._folder / "client"))


def main(arguments: Sequence[str]) -> int:
    if arguments[0] in ("role:fake", "role:load"):
        machine.keep_to_last_core()
        asyncio.run(fake.serve(Path(arguments[1])) if "fake" in arguments[0] else load.serve())
        return 0
    root = Path(arguments[0])
    all_contenders = contenders(root, HERE / "rules.inv")
    given = _parse(arguments[1:], [contender.name for contender in all_contenders])
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGHUP, _stop)
    try:
        with tempfile.TemporaryDirectory(prefix="invariant-bench-") as name, ExitStack() as stack:
            bench = Bench(root, Path(name), stack)
            if given.profile:
                profile(bench, root, given)
            else:
                compare(bench, root, given)
    except KeyboardInterrupt:
        tell("stopped")
        return 130
    except (BenchError, OSError) as error:
        tell(f"the run failed: {error}")
        return 1
    return 0


def compare(bench: Bench, root: Path, given: argparse.Namespace) -> None:
    print("\n".join(machine.facts()), end="\n\n", flush=True)
    overload, warnings = machine.overload(), list[str]()
    wanted = given.only or [*PLAYABLE, SLOW]
    chosen = [s.shortened() if given.quick else s for s in SCENARIOS if s.name in wanted]
    if chosen:
        names = given.contenders
        runners = []
        for contender in contenders(root, given.rules, given.against):
            if not names or contender.name in (*names, AGAINST):
                tell(f"starting {contender.name}")
                runners.append(bench.start(contender))
        results = rounds.play(chosen, runners, bench.client, bench.upstream, given.rounds, tell)
        for scenario in chosen:
            print("\n".join(table.of_scenario(scenario, results[scenario.name])), end="\n\n")
        print("\n".join(table.of_memory(results)), end="\n\n", flush=True)
        warnings += table.bottlenecks(results)
        for runner in runners:
            runner.stop()
    if SLOW in wanted:
        contender = slow.contender(HERE)
        tell(f"starting {contender.name}")
        runner, other = bench.start(contender), bench.another_client()
        found = slow.play(runner, bench.client, other, bench.upstream, given.rounds, tell)
        print("\n".join(found), end="\n\n", flush=True)
    if overload := overload or machine.overload():
        warnings.append(overload)
    for warning in warnings:
        print(f"WARNING: {warning}")


def profile(bench: Bench, root: Path, given: argparse.Namespace) -> None:
    wanted = given.only or ["burst-16"]
    name = (given.contenders or ["rules"])[0]
    (contender,) = (c for c in contenders(root, given.rules) if c.name == name)
    runner = bench.start(profiling.with_profile(contender))
    for scenario in SCENARIOS:
        if scenario.name in wanted:
            chosen = scenario.shortened() if given.quick else scenario
            text = profiling.profile(chosen, runner, bench.client)
            print(f"{scenario.name}, {name}\n{text}", flush=True)


def tell(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def _parse(arguments: Sequence[str], names: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="invariant against a bare mitmdump, side by side. Ratios: more than 1 is "
        "better. Absolute figures differ from hour to hour; compare ratios.",
    )
    parser.add_argument("--rounds", type=int, help="how often everybody runs (5; quick: 1)")
    parser.add_argument("--quick", action="store_true", help="short runs, for a first look")
    parser.add_argument(
        "--only", action="append", choices=[*PLAYABLE, SLOW], help="this scenario; repeatable"
    )
    parser.add_argument(
        "--contenders", type=lambda text: text.split(","), help=f"of: {', '.join(names)}"
    )
    parser.add_argument(
        "--rules", type=Path, default=HERE / "rules.inv", help="for the contender `rules`"
    )
    parser.add_argument(
        "--against", type=Path, help="another checkout: its `rules` run too, as `other`"
    )
    parser.add_argument(
        "--profile", action="store_true", help="where the proxy's CPU goes (burst-16, or --only)"
    )
    given = parser.parse_args(arguments)
    given.rounds = (1 if given.quick else 5) if given.rounds is None else given.rounds
    if not 1 <= given.rounds <= 50:
        parser.error(f"--rounds: got {given.rounds}, expected 1 to 50")
    if unknown := set(given.contenders or ()) - set(names):
        parser.error(f"--contenders: got {', '.join(unknown)}, expected some of {', '.join(names)}")
    if not given.rules.is_file():
        parser.error(f"--rules: {given.rules} is no file")
    if given.against and not (given.against / "addon" / "invariant.py").is_file():
        parser.error(f"--against: there is no addon/invariant.py in {given.against}")
    given.rules = given.rules.resolve()
    return given


def _stop(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
