# ruff: noqa: T201 - it talks to the person who ran it
"""Check rules, try them on recorded conversations, mute what they found: `scripts/rules`."""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from ..engines.base import EngineError
from . import trial
from .data import default_folder
from .files import RulesError, from_files
from .mutes import Mute, MuteError, Mutes, Scope

OK, FOUND, FAILED, LACKING = 0, 1, 2, 3
"""Exit codes: all is well; rules are wrong, or found something; there is no answer; rules can be
used, but not here, for a package is missing."""

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"([0-9]{1,9})([smhd])")

EXAMPLES = """\
examples:
  scripts/rules check rules/*.inv
  scripts/rules test rules/mail.inv recorded.jsonl
  scripts/rules mute inv_0123456789abcdef --for 30m
  scripts/rules mute inv_0123456789abcdef --conversation --rule api_keys
  scripts/rules mutes
  scripts/rules unmute mute_1234abcd

exit codes: 0 all is well, 1 a rule is wrong or found something, 2 there is no answer,
3 (check) a rule lacks its package here: it gives no verdict, and calls are refused for that
"""


def main(arguments: Sequence[str]) -> int:
    try:
        order = _parser().parse_args(arguments)
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else FAILED
    run: Callable[[argparse.Namespace], int] = order.run
    try:
        return run(order)
    except (EngineError, RulesError, trial.TraceError, MuteError, RuntimeError) as error:
        _say(str(error))
        return FAILED
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "scripts/rules",
        description="Check rules, try them on recorded conversations, mute what they found.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)

    def verb(name: str, run: Callable[[argparse.Namespace], int], what: str) -> _Verb:
        added = verbs.add_parser(name, help=what, description=what, allow_abbrev=False)
        added.set_defaults(run=run)
        return added

    check = verb("check", _check, "Say whether files of rules can be used.")
    check.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a file of rules")
    test = verb("test", _test, "Say what rules find in recorded conversations.")
    test.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a file of rules")
    test.add_argument(
        "trace",
        type=Path,
        metavar="TRACE",
        help="a list of messages, a request's body, or one of these on each line, as JSON; "
        "or what scripts/traces export wrote",
    )
    test.add_argument("--json", action="store_true", help="print one JSON object for each trace")
    for added in (check, test):
        added.add_argument(
            "--trusted",
            action="store_true",
            help="the rules may import what they like and read files, as your own may",
        )

    mute = verb("mute", _mute, "Let pass, for a while, what was refused.")
    mute.add_argument("request_id", metavar="REQUEST_ID", help="from the refusal: inv_...")
    scope = mute.add_mutually_exclusive_group()
    scope.add_argument(
        "--finding",
        dest="scope",
        action="store_const",
        const="finding",
        default="finding",
        help="the very text that was found, wherever it is (the default)",
    )
    scope.add_argument(
        "--conversation",
        dest="scope",
        action="store_const",
        const="conversation",
        help="all that the rule finds in this conversation",
    )
    scope.add_argument(
        "--everywhere",
        dest="scope",
        action="store_const",
        const="rule",
        help="the rule as a whole: it is on trial, and what it would have blocked is noted",
    )
    mute.add_argument(
        "--for",
        dest="seconds",
        type=_seconds,
        default=3600,
        metavar="TIME",
        help="30m, 1h (the default), 1d",
    )
    mute.add_argument("--rule", metavar="NAME", help="only this one of the rules that refused it")
    mutes = verb("mutes", _mutes, "List what is muted.")
    unmute = verb("unmute", _unmute, "Take a mute back.")
    unmute.add_argument("id", metavar="ID", help="of the mute, or the refusal's request id")
    for added in (mute, mutes, unmute):
        added.add_argument(
            "--data", type=Path, metavar="DIR", help="the proxy's data folder ($INVARIANT_DATA)"
        )
    return parser


type _Verb = argparse.ArgumentParser

# -- verbs ----------------------------------------------------------------------------------


def _check(order: argparse.Namespace) -> int:
    results = asyncio.run(trial.check(order.files, trusted=order.trusted))
    for result in results:
        if result.reason:
            print(f"{result.file}: {_line(result.reason)}")
        elif not result.lacks:
            print(f"{result.file}: ok: {_count(result.rules, 'rule')}")
        for what in result.lacks:
            print(f"{result.file}: no verdict: {_line(what)}")
        for what in result.notes:
            print(f"{result.file}: note: {_line(what)}")
    if any(result.lacks for result in results):
        _say(
            "a rule without its package gives no verdict: the proxy starts with it, and then "
            "invariant_on_failure says what becomes of calls (the default: they are refused)"
        )
    if not all(result.readable for result in results):
        return FAILED
    if any(result.reason for result in results):
        return FOUND
    return LACKING if any(result.lacks for result in results) else OK


def _test(order: argparse.Namespace) -> int:
    guardrails = from_files(order.files, trusted=order.trusted)
    traces = trial.read_traces(order.trace)
    results = asyncio.run(trial.judge(guardrails, traces))
    for tried in results:
        if order.json:
            print(json.dumps(asdict(tried)))
        else:
            _show(tried)
    if any(tried.errors for tried in results):
        return FAILED
    return FOUND if any(tried.hits for tried in results) else OK


def _mute(order: argparse.Namespace) -> int:
    mutes, folder = _of(order)
    scope: Scope = order.scope
    for made in mutes.mute(
        order.request_id, scope=scope, seconds=order.seconds, guardrail=order.rule
    ):
        print(f"muted {_about(made)}")
    print(f"written to {folder / 'mutes.json'}; running proxies see it with the next call")
    print(f"to take it back: scripts/rules unmute {order.request_id}")
    return OK


def _mutes(order: argparse.Namespace) -> int:
    mutes, folder = _of(order)
    found = mutes.list()
    for mute in found:
        print(f"{mute.id}  {_about(mute)}, after {_line(mute.request_id)}")
    if found:
        print("to take one back: scripts/rules unmute ID")
    else:
        print(f"nothing is muted ({folder})")
    return OK


def _unmute(order: argparse.Namespace) -> int:
    mutes, _ = _of(order)
    for gone in mutes.unmute(order.id):
        print(f"no longer muted: {_line(gone.guardrail)}, {_SCOPES[gone.scope].rstrip(',')}")
    return OK


_SCOPES = {
    "finding": "this finding",
    "conversation": "this conversation",
    "rule": "everything, as if on trial,",
}


def _of(order: argparse.Namespace) -> tuple[Mutes, Path]:
    folder = order.data.expanduser() if order.data else default_folder()
    return Mutes(folder, b""), folder  # fingerprints are made by the proxy: no key is needed


# -- words ----------------------------------------------------------------------------------


def _show(tried: trial.Tried) -> None:
    nothing = "no verdict" if tried.errors else "nothing found"
    found = _count(len(tried.hits), "violation") if tried.hits else nothing
    print(f"{tried.name}, {_count(tried.messages, 'message')}: {found}")
    for hit in tried.hits:
        print(f"  {_line(hit.guardrail)}: {_line(hit.words)}")
        for place in hit.places:
            where = f"message {place.message} ({_line(place.role)})"
            where += f", {_line(place.path)}" if place.path else ""
            if place.start is not None:
                where += f", characters {place.start + 1}-{place.end}"  # as scripts/traces says
            print(f"    {where}")
            if place.found:
                print(f"      {_line(place.before)}{_marked(place.found)}{_line(place.after)}")
    for error in tried.errors:
        print(f"  no verdict from {_line(error)}")


def _marked(text: str) -> str:
    inverse = sys.stdout.isatty()
    return f"\x1b[7m{_line(text)}\x1b[27m" if inverse else f">>>{_line(text)}<<<"


def _line(text: str) -> str:
    """On one line, and without what a terminal would obey."""
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def _about(mute: Mute) -> str:
    until = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(mute.until))
    words = f' ("{_line(mute.words)}")' if mute.words else ""
    return f"{_line(mute.guardrail)}{words} for {_SCOPES[mute.scope]} until {until}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _seconds(text: str) -> int:
    match = _DURATION.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a time such as 30m, 1h or 1d")
    return int(match[1]) * _UNITS[match[2]]


def _say(text: str) -> None:
    print(f"invariant: {_line(text)}", file=sys.stderr, flush=True)
