"""The environment of a shell, guarded until it is told otherwise: what `scripts/env` prints.

What the variables were before is kept in one of them (INVARIANT_SAVED), with what they were set
to; `--unset` puts it back, and leaves alone what somebody changed meanwhile.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from . import certificates, environment, launch, proxy, shells, terminal, trust

SAVED = "INVARIANT_SAVED"

type Saved = dict[str, tuple[str | None, str]]
"""Name -> what it was (None: not set), what it was set to."""

USAGE = 'eval "$(scripts/env)"   or   scripts/env [--unset] [--shell SHELL] [--port PORT]'


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser("scripts/env", usage=USAGE, allow_abbrev=False)
    parser.add_argument("--unset", action="store_true", help="put back what was there before")
    parser.add_argument("--shell", choices=shells.SHELLS, default=shells.guess(os.environ))
    parser.add_argument("--port", type=proxy.port_number, default=proxy.USUAL_PORT)
    parser.add_argument("--hosts", action="append", default=[], help="as invariant_hosts")
    parser.add_argument("--certs", default=str(launch.ROOT / "certs"), help="as invariant_certs")
    try:
        options = parser.parse_args(arguments)
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else 2
    if options.unset:
        changes = undo(os.environ)
        terminal.say("this shell is not guarded any more" if changes else "nothing was set here")
        _show(changes, options.shell)
        return 0
    try:
        changes = _guard(options.port, Path(options.certs).expanduser(), options.hosts)
    except (OSError, ValueError, proxy.ProxyError) as error:
        terminal.say(f"{error}; nothing was set")
        return 1
    _show(changes, options.shell)
    return 0


def _guard(port: int, folder: Path, own: Sequence[str]) -> dict[str, str | None]:
    hosts = (*certificates.DEFAULT_HOSTS, *own)
    base = before(os.environ)
    made = certificates.ensure(folder, hosts)
    trusted = trust.write_trust(made, base, java=launch.has_java(base))
    found = proxy.probe(port, made.ca)
    if found is None:
        at = f" --listen-port {port}" if port != proxy.USUAL_PORT else ""
        raise proxy.ProxyError(
            f"no proxy of this project answers on {proxy.ADDRESS}:{port}; start one: "
            f"{' '.join(launch.MITMDUMP)}{at}"
        )
    url = f"http://{proxy.ADDRESS}:{port}"
    guarded = environment.guarded_environment(base, url, trusted, hosts)
    if removed := environment.bypasses(base, hosts):
        terminal.say(f"taken out of NO_PROXY, calls would go past: {', '.join(removed)}")
    if replaced := environment.replaced_proxy(base, url):
        terminal.say(f"WARNING: HTTPS_PROXY was {replaced}; it is replaced in this shell")
    terminal.say(
        f"this shell is guarded through {url} ({found.rules} rules); programs that run already "
        "are not. Undo: the same with --unset"
    )
    return change(os.environ, guarded)


def before(base: Mapping[str, str]) -> dict[str, str]:
    """The environment as it was before `scripts/env`."""
    restored = dict(base)
    for name, value in undo(base).items():
        if value is None:
            restored.pop(name, None)
        else:
            restored[name] = value
    return restored


def change(now: Mapping[str, str], guarded: Mapping[str, str]) -> dict[str, str | None]:
    """What to set so that `now` becomes `guarded`, and can be undone."""
    original = before(now)
    saved: Saved = {
        name: (original.get(name), value)
        for name, value in guarded.items()
        if original.get(name) != value
    }
    changes: dict[str, str | None] = {name: value for name, (_, value) in saved.items()}
    for name, value in undo(now).items():  # set by an earlier call, and not wanted any more
        if name != SAVED:
            changes.setdefault(name, value)
    changes[SAVED] = base64.b64encode(json.dumps(saved).encode()).decode()
    return changes


def undo(base: Mapping[str, str]) -> dict[str, str | None]:
    """What to set so that everything is as before; {} if nothing was changed."""
    if SAVED not in base:
        return {}
    changes: dict[str, str | None] = {
        name: old for name, (old, ours) in read(base[SAVED]).items() if base.get(name) == ours
    }
    return {**changes, SAVED: None}


def read(text: str) -> Saved:
    """What was saved. Nothing, if this is not what was written here."""
    try:
        parsed = json.loads(base64.b64decode(text, validate=True))
    except (ValueError, binascii.Error, RecursionError):
        return {}
    saved: Saved = {}
    for name, pair in parsed.items() if isinstance(parsed, dict) else ():
        match pair:
            case [(str() | None) as old, str() as ours]:
                saved[name] = (old, ours)
    return saved


def _show(changes: Mapping[str, str | None], shell: str) -> None:
    for line in shells.lines(changes, shell):
        print(line)
    sys.stdout.flush()
