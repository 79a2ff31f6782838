"""All programs of this machine, guarded: what `scripts/system on|off|status|renew` does.

By the hosts file: the guarded hosts are led to a proxy on port 443 of this machine; nothing else
is touched, and if the proxy dies, calls to these hosts fail and no others. Or by the firewall.
What was done is noted in the certificates' folder before it is done, so that `off` finds it after
a crash; it looks for the rest as well, and is done when nothing is found.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import socket
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from . import (
    certificates,
    elsewhere,
    firewall,
    guardian,
    hosts_file,
    launch,
    proxy,
    service,
    stores,
    terminal,
)
from .certificates import INSTALLED
from .installed import (
    Job,
    Record,
    background,
    has_table,
    read_record,
    roots,
    text_of,
    traces,
    write_record,
)
from .steps import Machine, StepError

ON, BROKEN, OFF = 0, 1, 3
USAGE = (
    "scripts/system on [--rules FILE]... [--set OPTION=VALUE]... [--user NAME] [--way hosts|nft] "
    "| off | status | renew   [--dry-run]"
)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser("scripts/system", usage=USAGE, allow_abbrev=False)
    parser.add_argument("verb", choices=("on", "off", "status", "renew"))
    parser.add_argument("--rules", action="append", default=[], metavar="FILE")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--user", help="whom the proxy runs as (default: who called sudo)")
    parser.add_argument("--way", choices=("hosts", "nft"), default="hosts")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done")
    parser.add_argument("--certs", default=str(launch.ROOT / "certs"), help="as invariant_certs")
    parser.add_argument("--root", default="/", help="a prefix for the system's files, for trials")
    try:
        options = parser.parse_args(arguments)
        for file in options.rules:
            if not Path(file).is_file():
                parser.error(f"--rules: got {file!r}, expected a file")
        for setting in options.settings:
            if "=" not in setting:
                parser.error(f"--set: got {setting!r}, expected option=value")
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else 2
    if not sys.platform.startswith("linux"):
        return elsewhere.explain(options.verb, Path(options.certs))
    machine = Machine(Path(options.root), options.dry_run)
    job = Job(machine, Path(options.certs).expanduser())
    if options.verb == "status":
        return status(job)
    if os.getuid() != 0 and not options.dry_run and options.root == "/":
        terminal.say(f"this takes root: sudo {shlex.join([sys_script(), *arguments])}")
        return 2
    settings = [f"invariant_rules={Path(file).resolve()}" for file in options.rules]
    try:
        if options.verb == "on":
            return on(job, options.way, [*settings, *options.settings], options.user)
        return off(job) if options.verb == "off" else renew(job)
    except (StepError, OSError, ValueError, KeyError) as error:
        terminal.say(f"{error}; undo what was done with: sudo scripts/system off")
        return BROKEN


def sys_script() -> str:
    return str(launch.ROOT / "scripts" / "system")


# -- on -----------------------------------------------------------------------------------------


def on(job: Job, way: str, settings: Sequence[str], named: str | None) -> int:
    if read_record(job.folder) is not None or traces(job):
        if status(job) == ON:
            terminal.say("already on (scripts/system off, then on, changes how)")
            return ON
        terminal.say("something of an earlier time is left; first: scripts/system off")
        return BROKEN
    owner = service.user(named)
    if problem := _problem(way, owner, job):
        terminal.say(f"{problem}; nothing was changed")
        return BROKEN
    hosts = (
        *certificates.DEFAULT_HOSTS,
        *(s.partition("=")[2] for s in settings if s.startswith("invariant_hosts=")),
    )
    ca = job.folder / "ca.pem"
    if not job.machine.dry:
        certificates.ensure(job.folder, hosts)
        if owner.uid:
            guardian.give_to(owner.uid, owner.gid, job.folder)
    kind = stores.kind_of(job.machine)
    terminal.say(f"leading {hosts[0]} to a proxy on this machine, by {_WAYS[way]}:")
    full = [f"invariant_certs={job.folder}", *settings]
    record = Record(way, text_of(ca), full, owner.name)
    write_record(job, record)
    if kind is None:
        terminal.say(
            f"the system's trust store is of no kind that is known here; programs must trust "
            f"{ca} themselves"
        )
    else:
        record = replace(record, java=stores.add(kind, job.machine, ca, job.kept))
        write_record(job, record)
    record = guardian.start(job, record, owner)
    guardian.await_ready(job, way)
    # Last: from here on programs come to the proxy.
    if way == "hosts":
        lead_here(job, hosts)
    else:
        rules = job.folder / "system.nft"
        job.machine.write(rules, firewall.table(firewall.addresses(hosts), owner.uid))
        job.machine.run("nft", "-f", str(rules))
        guardian.await_ready(job, "led", proxy.HOST)
    if job.machine.dry:
        terminal.say("this was a dry run: nothing was done")
        return ON
    terminal.say("done. What runs already keeps its connections; start it again.")
    terminal.say("Python's certifi and Node need one variable more: see README, System-wide.")
    return status(job)


_WAYS = {"hosts": "the hosts file", "nft": "the firewall (nftables)"}


def _problem(way: str, owner: service.User, job: Job) -> str:
    if way == "nft":
        if shutil.which("nft") is None:
            return "nft is not installed"
        if owner.uid == 0 or owner.name == os.environ.get("SUDO_USER"):
            return (
                "--way nft takes --user NAME: a user of its own for the proxy, since what that "
                "user sends is let by (useradd --system NAME)"
            )
        return ""
    kind = stores.kind_of(job.machine)
    if kind is not None and (place := stores.anchor(kind, job.machine)).exists():
        return f"{place} is there already, and not ours"
    if service.unit_is(job.machine):
        return f"{service.UNIT} is there already, and not ours"
    if job.machine.dry or job.machine.root != Path("/"):
        return ""
    try:
        with socket.create_server((proxy.ADDRESS, service.PORT)):
            return ""
    except OSError as error:
        return f"port {service.PORT} of {proxy.ADDRESS} cannot be had ({error.strerror})"


def lead_here(job: Job, hosts: Sequence[str]) -> None:
    added = hosts_file.ours(hosts_file.lead_here("", hosts))
    job.machine.edit(
        job.hosts,
        lambda text: hosts_file.lead_here(text, hosts),
        [f"echo {shlex.quote(line)} >> {job.hosts}" for line in added],
    )


# -- off ----------------------------------------------------------------------------------------


def off(job: Job) -> int:
    """Take out everything that is found, also of an `on` that did not finish."""
    record = read_record(job.folder)
    found = traces(job)
    if record is None and not found:
        terminal.say("nothing to undo")
        return 0
    terminal.say("undoing:")
    machine = job.machine
    if any(hosts_file.ours(text_of(job.hosts))):
        shown = [f"sed -i '/{hosts_file.MARKER}/d' {job.hosts}"]
        machine.edit(job.hosts, hosts_file.lead_away, shown)
    if has_table(machine):
        machine.run("nft", "delete", "table", "inet", firewall.TABLE)
    service.stop_unit(machine)
    for pid in background(job, record):
        service.stop_background(machine, pid, job.script)
    kind = stores.kind_of(machine)
    if kind is not None and any(stores.left(kind, machine, ca) for ca in roots(job, record)):
        stores.remove(kind, machine, job.kept, record.java if record is not None else "")
    if machine.dry:
        terminal.say("this was a dry run: nothing was done")
        return 0
    left = traces(job)
    if left:
        terminal.say("NOT everything is gone:")
        terminal.show(left)
        return BROKEN
    for name in (INSTALLED, "system.nft", job.log.name, job.kept.name):
        (job.folder / name).unlink(missing_ok=True)
    whose = job.folder.stat()
    guardian.give_to(whose.st_uid, whose.st_gid, job.folder)
    shutil.rmtree(job.log.with_suffix(".conf"), ignore_errors=True)
    terminal.say("done: hosts file, trust stores, firewall and services were looked through")
    return 0


# -- status and renewal -------------------------------------------------------------------------


def status(job: Job) -> int:
    """What is so now, whatever was done once: a proxy may have died, a line may be lost."""
    machine, record = job.machine, read_record(job.folder)
    leads = bool(hosts_file.ours(text_of(job.hosts))) or has_table(machine)
    found = traces(job)
    if record is None and not found:
        terminal.say("off: this machine's calls go straight to OpenAI")
        return OFF
    ca = job.folder / "ca.pem"
    # As a program's call goes: the firewall redirects by the host's own address.
    where = proxy.HOST if record is not None and record.way == "nft" else proxy.ADDRESS
    health = proxy.probe_direct(service.PORT, ca, address=where) if ca.is_file() else None
    answers = health is not None and health.ready
    kind = stores.kind_of(machine)
    trusted = kind is not None and ca.is_file() and stores.is_in(kind, machine, ca.read_text())
    terminal.show(found)
    if leads and answers and trusted:
        rules = f", {health.rules} rules" if health is not None else ""
        terminal.say(f"on: all programs of this machine are guarded{rules}")
        return ON
    if leads and not answers:
        why = "calls to OpenAI are led to a proxy that does not answer, so they fail"
        terminal.say(f"BROKEN: {why}. {_again(job)}, or: sudo scripts/system off")
    elif leads:
        terminal.say(
            f"BROKEN: the system does not trust {ca}, so calls fail; sudo scripts/system off, "
            "then on"
        )
    else:
        terminal.say(
            "BROKEN: nothing leads to the proxy, so calls go straight to OpenAI; "
            "sudo scripts/system off, then on"
        )
    return BROKEN


def _again(job: Job) -> str:
    if service.has_systemd(job.machine):
        return "sudo systemctl restart invariant"
    return "sudo scripts/system off, then on"


def renew(job: Job) -> int:
    """A new certificate; where the old one is trusted, the new one takes its place."""
    record = read_record(job.folder)
    if job.machine.dry:
        terminal.say(f"would make a new certificate in {job.folder}" + (", trusted" * bool(record)))
        return 0
    kind = stores.kind_of(job.machine)
    if record is not None and kind is not None:
        stores.remove(kind, job.machine, job.kept, record.java)
    made = certificates.renew(job.folder)
    terminal.say(f"a new certificate is in {job.folder}, good until {made.not_after:%Y-%m-%d}")
    if record is not None:
        owner = service.user(record.user)
        guardian.give_to(owner.uid, owner.gid, made.folder)
        record = replace(record, ca=made.ca.read_text(), pid=0)
        if kind is not None:
            record = replace(record, java=stores.add(kind, job.machine, made.ca, job.kept))
        for pid in background(job, record):
            service.stop_background(job.machine, pid, job.script)
        service.stop_unit(job.machine)
        write_record(job, record)
        guardian.start(job, record, owner)
        guardian.await_ready(job, record.way)
    terminal.say("start proxies and programs again: the root is another one")
    return 0
