"""What can be wrong between a program and the guard: each check comes from a failure that was seen.

A check looks, and changes nothing. It returns what it found, with the command that mends it.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from . import (
    certificates,
    environment,
    hosts_file,
    installed,
    launch,
    modes,
    ports,
    processes,
    proxy,
    runtimes,
    stores,
)
from .certificates import DEFAULT_HOSTS
from .steps import Machine
from .trust import ADDING, REPLACING, write_trust

FEWEST_ROOTS = 50  # a system's own list has more than a hundred


@dataclass(frozen=True, slots=True)
class Finding:
    """name: of the check. text: what was found. fix: what to type; "": it is as it should be."""

    name: str
    text: str
    fix: str = ""

    @property
    def is_problem(self) -> bool:
        return bool(self.fix)


@dataclass(slots=True)
class Patient:
    """What is looked at. environment: of the shell that asks. port: where the proxy should be."""

    environment: Mapping[str, str]
    folder: Path
    port: int = proxy.USUAL_PORT
    hosts: tuple[str, ...] = DEFAULT_HOSTS
    machine: Machine = field(default_factory=Machine)
    programs: list[runtimes.Runtime] = field(default_factory=runtimes.usual)
    proc: Path = processes.PROC

    @property
    def ca(self) -> Path:
        return self.folder / "ca.pem"

    @property
    def url(self) -> str:
        return f"http://{proxy.ADDRESS}:{self.port}"

    @property
    def set_proxy(self) -> str:
        """The proxy of this shell, or ""."""
        given = self.environment
        return (given.get("https_proxy") or given.get("HTTPS_PROXY") or "").rstrip("/")

    @property
    def is_guarded_shell(self) -> bool:
        return self.set_proxy.startswith(f"http://{proxy.ADDRESS}:") or (
            "INVARIANT_PROXY" in self.environment
        )


START = " ".join(shlex.quote(part) for part in launch.MITMDUMP)
SHELL = 'eval "$(scripts/env)"'
RENEW = "scripts/system renew"


def files(patient: Patient) -> Iterator[Finding]:
    """The certificate: there, sound, private, and good for a while."""
    if not patient.ca.is_file():
        yield Finding("certificate", f"there is none in {patient.folder} yet", START)
        return
    for problem in modes.problems(patient.folder):
        yield Finding("file modes", problem.text, problem.fix)
    keys = [
        path
        for path in sorted(patient.folder.glob("*"))
        if path.name != "leaf.pem" and path.is_file() and b"PRIVATE KEY" in _bytes(path)
    ]
    for path in keys:
        text = f"{path} holds a private key that nothing here needs"
        yield Finding("private keys", text, f"rm {shlex.quote(str(path))}")
    try:
        made = certificates.read(patient.folder)
    except (OSError, ValueError, TypeError) as error:
        yield Finding("certificate", f"it cannot be used: {error}", RENEW)
        return
    if made.ends_soon:
        yield Finding("certificate", made.ends_soon, RENEW)
    else:
        yield Finding("certificate", f"good until {made.not_after:%Y-%m-%d}")
    if missing := [host for host in patient.hosts if host not in made.hosts]:
        yield Finding("certificate", f"it does not cover {', '.join(missing)}", START)


def running(patient: Patient) -> Iterator[Finding]:
    """The proxy: there, ours, ready, on loopback alone, and only for the API."""
    health = proxy.probe(patient.port, patient.ca) if patient.ca.is_file() else None
    name = f"proxy on {patient.port}"
    usual = patient.port == proxy.USUAL_PORT
    start = START if usual else f"{START} --listen-port {patient.port}"
    if health is None:
        if not ports.listens(patient.port) and is_guarded_machine(patient):
            return  # the whole machine is guarded by another one (see `machine`)
        if not ports.listens(patient.port):
            yield Finding(name, "nobody listens there (scripts/run starts one itself)", start)
        elif ports.shows(patient.port) not in ("", ports.leaf(patient.folder)):
            text = f"it shows a certificate that is not the one in {patient.folder}"
            yield Finding(name, text, f"scripts/off; {start}")
        else:
            yield Finding(
                name,
                "something else listens there",
                f"{START} --listen-port {8081 if usual else proxy.USUAL_PORT}",
            )
        return
    if not health.ready:
        yield Finding(name, "it is not ready to judge (its log says why)", f"scripts/off; {start}")
    elif health.rules == 0:
        yield Finding(name, "no rules are loaded, so it blocks nothing", f"{start} (see README)")
    else:
        yield Finding(name, f"it answers (pid {health.pid}, {health.rules} rules)")
    if wide := ports.wide(patient.port, patient.proc):
        text = f"port {patient.port} is open on {', '.join(wide)}, and not on loopback alone"
        yield Finding("loopback", text, f"scripts/off; {start}")
    with ports.other_host() as (port, shown):
        seen = ports.certificate_through(patient.port, f"{proxy.ADDRESS}:{port}", ports.OTHER)
        if seen and seen != shown:
            text = "other hosts are decrypted as well (allow_hosts?)"
            yield Finding("other hosts", text, f"scripts/off; {start}")
        elif seen:
            yield Finding("other hosts", "their own certificate reaches the client")


def shell(patient: Patient) -> Iterator[Finding]:
    """The variables of this shell: none that leads past the proxy, or to one that is gone."""
    given = patient.environment
    if not patient.is_guarded_shell:
        if not is_guarded_machine(patient):
            yield Finding("shell", "not guarded (only what scripts/run starts is)")
    elif not ports.listens(port := _port(patient.set_proxy)):
        text = f"HTTPS_PROXY is {patient.set_proxy}, and nobody listens there: all calls fail"
        yield Finding("shell", text, 'eval "$(scripts/env --unset)"' if port else SHELL)
    else:
        yield Finding("shell", f"guarded through {patient.set_proxy}")
    if not patient.is_guarded_shell:
        return
    for entry in environment.bypasses(given, patient.hosts):
        text = f"the entry {entry!r} leads calls past the proxy"
        yield Finding("NO_PROXY", text, SHELL)
    for name in ("HTTP_PROXY", "http_proxy"):
        if (value := given.get(name, "").rstrip("/")) and value == patient.set_proxy:
            text = f"{name} leads plain HTTP through the proxy as well, which is not for that"
            yield Finding("HTTP_PROXY", text, f"unset {name}")
    ours = patient.ca.read_text() if patient.ca.is_file() else ""
    for name in REPLACING:
        yield from _bundle(name, given.get(name, ""), ours, replaces=True)
    for name in ADDING:
        yield from _bundle(name, given.get(name, ""), ours, replaces=False)


def machine(patient: Patient) -> Iterator[Finding]:
    """What `scripts/system` may have left, and an authority that nobody should trust."""
    job = installed.Job(patient.machine, patient.folder)
    undo = "sudo scripts/system off"
    text = _text(job.hosts)
    record = installed.read_record(patient.folder)
    led = patient.hosts[0] in hosts_file.led_here(text)
    direct = proxy.probe_direct(443, patient.ca) if patient.ca.is_file() else None
    if led and direct is None:
        yield Finding(
            "hosts file", f"it leads {patient.hosts[0]} here, and no proxy answers on 443", undo
        )
    elif led:
        yield Finding("hosts file", "it leads the API to the proxy on port 443")
    elif record is not None and record.way == "hosts":
        text = "scripts/system is on, and its lines in the hosts file are gone: nothing is guarded"
        yield Finding("hosts file", text, f"{undo}, then on")
    kind = stores.kind_of(patient.machine)
    if kind is None:
        return
    ours = patient.ca.read_text() if patient.ca.is_file() else ""
    try:
        present = stores.anchor(kind, patient.machine).read_text()
    except OSError:
        present = ""
    if present and present != ours:
        text = "the system trusts a certificate of an earlier time"
        yield Finding("trust store", text, undo)
    elif record is None and ours and (left := stores.left(kind, patient.machine, ours)):
        yield Finding("trust store", f"our root is left in {left[0]}", undo)
    elif record is not None and not stores.is_in(kind, patient.machine, ours):
        text = "scripts/system is on, and the system does not trust the certificate"
        yield Finding("trust store", text, f"{undo}, then on")
    authority = Path(patient.environment.get("HOME", "/"), ".mitmproxy/mitmproxy-ca-cert.pem")
    if authority.is_file() and stores.is_in(kind, patient.machine, authority.read_text()):
        text = f"the system trusts mitmproxy's own authority, whose key lies in {authority.parent}"
        name = shlex.quote(str(authority))
        yield Finding(
            "mitmproxy's authority", text, f"take {name} out of the trust store; it is not needed"
        )


def programs(patient: Patient) -> Iterator[Finding]:
    """Each runtime on the PATH, in this shell; or, if it is not guarded, as scripts/run does it."""
    has_proxy = patient.ca.is_file() and proxy.probe(patient.port, patient.ca) is not None
    if not has_proxy and not is_guarded_machine(patient):
        return  # there is nothing to go through
    given = dict(patient.environment)
    where = "in this shell"
    if not patient.is_guarded_shell and not is_guarded_machine(patient):
        where = "under scripts/run"
        made = certificates.read(patient.folder)
        trusted = write_trust(made, given, java=launch.has_java(given))
        given = environment.guarded_environment(given, patient.url, trusted, patient.hosts)
    for seen in runtimes.look(patient.programs, given):
        said = f": {seen.said}" if seen.said else ""
        text = f"{seen.way.value} {where}{said}"
        yield Finding(seen.runtime, text, _mend(seen, where))


def is_guarded_machine(patient: Patient) -> bool:
    """Whether the whole machine is guarded, so that a shell needs nothing."""
    text = _text(installed.Job(patient.machine, patient.folder).hosts)
    return patient.hosts[0] in hosts_file.led_here(text)


CHECKS: tuple[Callable[[Patient], Iterator[Finding]], ...] = (
    files,
    running,
    shell,
    machine,
    programs,
)


def _mend(seen: runtimes.Seen, where: str) -> str:
    if seen.way is runtimes.Way.VIA:
        return ""
    if seen.runtime == "python aiohttp":
        return "ClientSession(trust_env=True) in the code, or sudo scripts/system on"
    if seen.runtime in ("deno https", "bun https"):
        return "use fetch, or sudo scripts/system on"
    return SHELL if where == "in this shell" else "sudo scripts/system on"


def _bundle(name: str, file: str, ours: str, *, replaces: bool) -> Iterator[Finding]:
    if not file:
        yield Finding(name, "it is not set, and the proxy is", SHELL)
        return
    try:
        text = Path(file).read_text(errors="replace")
    except OSError:
        yield Finding(name, f"{file} cannot be read", SHELL)
        return
    if ours and ours.strip() not in text:
        yield Finding(name, f"{file} does not hold the proxy's root", SHELL)
    elif replaces and (count := text.count("BEGIN CERTIFICATE")) < FEWEST_ROOTS:
        yield Finding(
            name, f"{file} holds {count} roots, so all other hosts fail: it replaces them", SHELL
        )


def _port(url: str) -> int:
    number = url.rpartition(":")[2]
    return int(number) if number.isdigit() and int(number) < 65536 else 0


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _text(path: Path) -> str:
    return _bytes(path).decode(errors="replace")
