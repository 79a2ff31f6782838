"""The proxy that guards a whole machine: started as its user, and awaited."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import replace
from pathlib import Path

from . import firewall, processes, proxy, proxy_log, service, terminal
from .installed import Job, Record, read_record, write_record
from .steps import StepError

READY_SECONDS = 60.0


def give_to(uid: int, gid: int, folder: Path) -> None:
    """The proxy reads the key as its user; nobody else does. Others may pass through the folder,
    which is not to read it."""
    if os.getuid() == 0 and folder.stat().st_uid != uid:
        folder.chmod(folder.stat().st_mode | 0o011)
    for path in (folder / "leaf.pem", folder / ".lock"):
        if os.getuid() == 0 and path.exists() and path.stat().st_uid != uid:
            os.chown(path, uid, gid, follow_symlinks=False)


def start(job: Job, record: Record, owner: service.User) -> Record:
    machine = job.machine
    if record.way == "nft":
        started = [*job.mitmdump, "--mode", f"transparent@127.0.0.1:{firewall.PORT}"]
        started += [part for setting in record.settings for part in ("--set", setting)]
    else:
        started = service.command(job.mitmdump, record.settings, ipv6=has_ipv6())
    if service.has_systemd(machine):
        data = [s.partition("=")[2] for s in record.settings if s.startswith("invariant_data=")]
        default = owner.home / ".local" / "share" / "invariant"
        writable = [job.folder, Path(data[-1]) if data else default]
        if not machine.dry:
            for folder in writable[1:]:
                _make_for(owner, folder)
        service.start_unit(machine, service.unit(started, owner, writable))
        return record
    terminal.say("systemd does not run here: the proxy runs in the background until the next start")
    pid = service.start_background(machine, started, owner, job.log)
    record = replace(record, pid=pid)
    write_record(job, record)
    return record


def _make_for(owner: service.User, folder: Path) -> None:
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(mode=0o700)
        os.chown(path, owner.uid, owner.gid)


def await_ready(job: Job, way: str, address: str = proxy.ADDRESS) -> None:
    """Until the proxy answers. Raises StepError if it does not; nothing leads to it then."""
    if job.machine.dry:
        return
    end = time.monotonic() + READY_SECONDS
    while time.monotonic() < end:
        if way == "nft":
            # Not by connecting: a connection that was not redirected is an error to mitmproxy,
            # and an error while it starts ends it.
            if processes.is_listening(firewall.PORT):
                time.sleep(1.0)  # its start is over a moment later
                return
        else:
            ca = job.folder / "ca.pem"
            health = proxy.probe_direct(service.PORT, ca, address=address)
            if health is not None and health.ready:
                return
        record = read_record(job.folder)
        if record and record.pid and not service.is_ours(record.pid, job.script):
            break
        time.sleep(0.2)
    terminal.show(proxy_log.essence(proxy_log.read_lines(job.log)))
    raise StepError(f"the proxy does not answer (see {job.log}, or journalctl -u invariant)")


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False
