"""The arguments of `scripts/run` -> what is to be run, and with which options and rules."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .terminal import say

PROJECT_RULES = ".invariant.inv"
"""Rules that come with a project: they can only add to what the proxy checks."""

FILE_OPTIONS = {"invariant_rules", "invariant_project_rules"}
"""Their values are paths."""

USAGE = "scripts/run [--rules FILE]... [--set OPTION=VALUE]... -- COMMAND [ARGUMENT]..."


@dataclass(frozen=True, slots=True)
class Order:
    """What the person asked for. options: as for mitmproxy's --set."""

    command: tuple[str, ...]
    options: tuple[str, ...] = ()

    def values(self, name: str) -> list[str]:
        return [o.partition("=")[2] for o in self.options if o.partition("=")[0] == name]


def parse(arguments: Sequence[str]) -> Order | int:
    """The order, or the exit code if there is none."""
    own = list(arguments)
    command: list[str] = []
    if "--" in own:
        cut = own.index("--")
        own, command = own[:cut], own[cut + 1 :]
    parser = argparse.ArgumentParser(
        "scripts/run",
        usage=USAGE,
        description="Run a command with its calls to the OpenAI API guarded.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--rules", action="append", default=[], metavar="FILE", help="a file of rules"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="OPTION=VALUE",
        dest="options",
        help="an option of the addon or of mitmproxy",
    )
    try:
        options, rest = parser.parse_known_args(own)
        if rest and not command and not rest[0].startswith("-"):
            parser.error(f"put the command behind --: scripts/run -- {shlex.join(rest)}")
        if rest:
            parser.error(f"unrecognized arguments: {' '.join(rest)}")
        if not command:
            parser.error("no command: put it behind --, as in: scripts/run -- python agent.py")
        for option in options.options:
            if "=" not in option:
                parser.error(f"--set: got {option!r}, expected option=value")
        for file in options.rules:
            if not Path(file).is_file():
                parser.error(f"--rules: got {file!r}, expected a file")
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else 2
    rules = [f"invariant_rules={Path(file).resolve()}" for file in options.rules]
    if (project := project_rules(Path.cwd())) is not None:
        say(f"this project has rules of its own: {project}")
        rules.append(f"invariant_project_rules={project}")
    return Order(tuple(command), (*rules, *options.options))


def project_rules(folder: Path) -> Path | None:
    """The nearest file of rules in this folder or one above it.

    One that belongs to somebody else (in a folder that all may write to) is not the project's.
    """
    for place in (folder, *folder.parents):
        file = place / PROJECT_RULES
        if file.is_file():
            if hasattr(os, "getuid") and file.stat().st_uid not in (os.getuid(), 0):
                say(f"WARNING: {file} is somebody else's, and is not read")
                continue
            return file
    return None
