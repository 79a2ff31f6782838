"""Is what runs here guarded? What `scripts/doctor` says: a line for each thing, the fix with it."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from . import certificates, launch, proxy
from .checks import CHECKS, Finding, Patient
from .steps import Machine

USAGE = "scripts/doctor [--json] [--port PORT] [--hosts HOST]..."


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser("scripts/doctor", usage=USAGE, allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--port", type=proxy.port_number, default=proxy.USUAL_PORT)
    parser.add_argument("--hosts", action="append", default=[], help="as invariant_hosts")
    parser.add_argument("--certs", default=str(launch.ROOT / "certs"), help="as invariant_certs")
    parser.add_argument("--root", default="/", help="a prefix for the system's files, for trials")
    try:
        options = parser.parse_args(arguments)
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else 2
    patient = Patient(
        os.environ,
        Path(options.certs).expanduser(),
        options.port,
        (*certificates.DEFAULT_HOSTS, *options.hosts),
        Machine(Path(options.root)),
    )
    found: list[Finding] = []
    for finding in examine(patient):  # some look for seconds: what is known is said at once
        found.append(finding)
        if not options.json:
            print(line(finding), flush=True)
    if options.json:
        print(json.dumps([as_dict(finding) for finding in found], indent=1))
    problems = sum(finding.is_problem for finding in found)
    if problems and not options.json:
        print(f"{problems} problem{'s' * (problems != 1)}; the command that mends it is behind ->")
    sys.stdout.flush()
    return 1 if problems else 0


def examine(patient: Patient) -> Iterator[Finding]:
    """All checks, one after the other. One that cannot look says so."""
    for check in CHECKS:
        try:
            yield from check(patient)
        except (OSError, ValueError) as error:
            yield Finding(check.__name__, f"could not look: {error}", "scripts/doctor")


def line(finding: Finding) -> str:
    if finding.is_problem:
        return f"PROBLEM  {finding.name}: {finding.text}  -> {finding.fix}"
    return f"ok       {finding.name}: {finding.text}"


def as_dict(finding: Finding) -> dict[str, object]:
    return {
        "check": finding.name,
        "ok": not finding.is_problem,
        "found": finding.text,
        "fix": finding.fix,
    }
