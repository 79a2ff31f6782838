"""What of us is on this machine: what `scripts/system on` noted, and what is found without that."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from . import certificates, firewall, hosts_file, launch, service, stores
from .certificates import INSTALLED
from .steps import Machine

HOSTS_FILE = "/etc/hosts"


@dataclass(frozen=True, slots=True)
class Record:
    """What `on` did, or was about to do. ca: the root's text. pid: of a proxy without systemd.
    java: the digest of Java's trust store after it."""

    way: str
    ca: str
    settings: list[str]
    user: str
    pid: int = 0
    java: str = ""


@dataclass(slots=True)
class Job:
    """machine: where. folder: of the certificates. script: what the proxy loads."""

    machine: Machine
    folder: Path
    mitmdump: tuple[str, ...] = launch.MITMDUMP

    @property
    def script(self) -> str:
        return self.mitmdump[-1]

    @property
    def hosts(self) -> Path:
        return self.machine.at(HOSTS_FILE)

    @property
    def kept(self) -> Path:
        """Java's trust store as it was."""
        return self.folder / "system.cacerts"

    @property
    def log(self) -> Path:
        return self.folder / "system.log"


def traces(job: Job) -> list[str]:
    """What of us is on this machine, each in a line."""
    record, machine = read_record(job.folder), job.machine
    found = [f"{job.hosts}: {line}" for line in hosts_file.ours(text_of(job.hosts))]
    if service.unit_is(machine) == "ours":
        found.append(f"{machine.at(service.UNIT)}: a service")
    found += [f"process {pid}: a proxy" for pid in background(job, record)]
    kind = stores.kind_of(machine)
    for ca in roots(job, record) if kind is not None else ():
        assert kind is not None
        found += [f"{place}: trusts our root" for place in stores.left(kind, machine, ca)]
    if has_table(machine):
        found.append(f"nftables: table inet {firewall.TABLE}")
    return list(dict.fromkeys(found))


def background(job: Job, record: Record | None) -> list[int]:
    """Proxies of ours that serve the whole machine, without a service."""
    if service.has_systemd(job.machine) and service.unit_is(job.machine) == "ours":
        return []
    pids = {record.pid} if record is not None else set()
    if job.machine.root == Path("/"):
        pids |= set(service.listeners(job.script))
    return sorted(pid for pid in pids if service.is_ours(pid, job.script))


def roots(job: Job, record: Record | None) -> list[str]:
    texts = [record.ca] if record is not None else []
    with contextlib.suppress(OSError):
        texts.append((job.folder / "ca.pem").read_text())
    kind = stores.kind_of(job.machine)
    if kind is not None:  # of another folder, or of an earlier time
        with contextlib.suppress(OSError):
            texts.append(stores.anchor(kind, job.machine).read_text())
    texts = [text for text in texts if stores.is_ours(text)]
    return [text for text in dict.fromkeys(texts) if "BEGIN CERTIFICATE" in text]


def has_table(machine: Machine) -> bool:
    if machine.root != Path("/") or os.getuid() != 0 or (nft := shutil.which("nft")) is None:
        return False
    return launch.answers((nft, "list", "table", "inet", firewall.TABLE))


def read_record(folder: Path) -> Record | None:
    """None if there is none, or if it is no record."""
    try:
        parsed = json.loads((folder / INSTALLED).read_text())
        record = Record(**parsed)
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    texts = (record.way, record.ca, record.user, record.java, *record.settings)
    is_sound = all(isinstance(text, str) for text in texts) and isinstance(record.pid, int)
    return record if is_sound else None


def write_record(job: Job, record: Record) -> None:
    if not job.machine.dry:
        text = json.dumps(asdict(record), indent=1)
        certificates.write_whole(job.folder / INSTALLED, text.encode(), 0o600)


def text_of(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8", "surrogateescape")
    except OSError:
        return ""
