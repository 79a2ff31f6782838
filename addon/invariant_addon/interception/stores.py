"""The system's trust stores: our root into them, out of them, and whether it is in there still.

Taking out is checked by the certificate itself, not by what a tool says: on Debian 12
`update-ca-certificates` says "0 removed", leaves a link that leads nowhere, and Java goes on
trusting what was removed. Debian's way was tried; Fedora's and Arch's are as documented.
"""

from __future__ import annotations

import hashlib
import shutil
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from .certificates import write_whole
from .steps import Machine

NAME = "invariant"
JAVA_PASSWORD = "changeit"  # Java's own; there is no key in it


@dataclass(frozen=True, slots=True)
class Kind:
    """anchors: where a root is put. update: what makes the system read it. bundles, links, java:
    where it can be found afterwards."""

    name: str
    anchors: str
    suffix: str
    update: tuple[str, ...]
    bundles: tuple[str, ...]
    links: str = ""
    java: str = ""


KINDS = (
    Kind(
        "Debian",
        "/usr/local/share/ca-certificates",
        ".crt",
        ("update-ca-certificates",),
        ("/etc/ssl/certs/ca-certificates.crt",),
        links="/etc/ssl/certs",
        java="/etc/ssl/certs/java/cacerts",
    ),
    Kind(
        "Fedora",
        "/etc/pki/ca-trust/source/anchors",
        ".pem",
        ("update-ca-trust", "extract"),
        ("/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",),
        java="/etc/pki/ca-trust/extracted/java/cacerts",
    ),
    Kind(
        "Arch",
        "/etc/ca-certificates/trust-source/anchors",
        ".crt",
        ("update-ca-trust",),
        ("/etc/ca-certificates/extracted/tls-ca-bundle.pem", "/etc/ssl/certs/ca-certificates.crt"),
        java="/etc/ca-certificates/extracted/java-cacerts.jks",
    ),
)


def kind_of(machine: Machine, which: Callable[[str], str | None] = shutil.which) -> Kind | None:
    """The kind of this system; None if it has no store that is known here."""
    for kind in KINDS:
        if machine.at(kind.anchors).is_dir() and which(kind.update[0]):
            return kind
    return None


def _update(kind: Kind, machine: Machine) -> tuple[str, ...]:
    if machine.root == Path("/") or kind.name != "Debian":
        return kind.update
    places = {
        "--certsconf": "/etc/ca-certificates.conf",
        "--certsdir": "/usr/share/ca-certificates",
        "--localcertsdir": kind.anchors,
        "--etccertsdir": kind.links,
        "--hooksdir": "/etc/ca-certificates/update.d",
    }
    moved = (part for name, path in places.items() for part in (name, str(machine.at(path))))
    return (*kind.update, *moved)


def anchor(kind: Kind, machine: Machine) -> Path:
    return machine.at(kind.anchors) / f"{NAME}{kind.suffix}"


def add(kind: Kind, machine: Machine, ca: Path, kept: Path) -> str:
    """kept: a file for what Java's store was before. Returns the digest of what it is now."""
    store = machine.at(kind.java) if kind.java else None
    had_java = store is not None and store.is_file()
    if store is not None and had_java and not machine.dry:
        write_whole(kept, store.read_bytes(), 0o600)
    machine.install(ca, anchor(kind, machine))
    machine.run(*_update(kind, machine))
    return _digest(store) if store is not None and had_java else ""


def remove(kind: Kind, machine: Machine, kept: Path, digest: str = "") -> None:
    """kept, digest: of `add`. Java's store is put back as it was, if nobody touched it since."""
    store = machine.at(kind.java) if kind.java else None
    is_untouched = store is not None and bool(digest) and _digest(store) == digest
    if not (is_foreign := has_foreign(kind, machine)):
        machine.remove(anchor(kind, machine))
    if kind.links and not is_foreign:
        for link in _links(machine.at(kind.links)):
            machine.remove(link)
    machine.run(*_update(kind, machine))
    if store is None or not kind.links or not store.is_file():
        return
    if is_untouched and kept.is_file():
        machine.restore(kept, store)
    elif shutil.which("keytool"):
        # Debian's hook puts it in by this name, and does not take it out.
        machine.run(
            *("keytool", "-delete", "-alias", f"debian:{NAME}.pem", "-keystore", str(store)),
            *("-storepass", JAVA_PASSWORD),
            may_fail=True,  # it was not in there
        )


def has_foreign(kind: Kind, machine: Machine) -> bool:
    """Whether somebody else's root lies where ours would: it and its links stay."""
    try:
        return not is_ours(anchor(kind, machine).read_text(errors="replace"))
    except OSError:
        return False


def is_ours(pem: str) -> bool:
    """Whether this is a root that was made here: another one of the same file name stays."""
    try:
        root = x509.load_pem_x509_certificate(pem.encode())
    except ValueError:
        return False
    names = [str(name.value) for name in root.issuer]
    return "invariant" in names and any(name.startswith("invariant, for ") for name in names)


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def left(kind: Kind, machine: Machine, ca_pem: str) -> list[str]:
    """Where this root can still be found. ca_pem: its text."""
    der = ssl.PEM_cert_to_DER_cert(ca_pem)
    found = []
    is_foreign = has_foreign(kind, machine)
    if (place := anchor(kind, machine)).exists() and not is_foreign:
        found.append(str(place))
    bundles = [machine.at(path) for path in kind.bundles]
    found += [str(bundle) for bundle in bundles if der in _ders(bundle)]
    if kind.links and not is_foreign:
        found += [str(link) for link in _links(machine.at(kind.links))]
    if kind.java and _holds(machine.at(kind.java), der):
        found.append(str(machine.at(kind.java)))
    return found


def is_in(kind: Kind, machine: Machine, ca_pem: str) -> bool:
    """Whether programs that ask the system trust it."""
    der = ssl.PEM_cert_to_DER_cert(ca_pem)
    return any(der in _ders(machine.at(path)) for path in kind.bundles)


def fingerprint(ca_pem: str) -> str:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(ca_pem)).hexdigest()


def _links(folder: Path) -> list[Path]:
    """Links to our root: by its name, and those that OpenSSL looks up by a hash."""
    names = {f"{NAME}.pem", f"{NAME}.crt"}
    links = (path for path in folder.iterdir() if path.is_symlink()) if folder.is_dir() else ()
    return sorted(p for p in links if p.name in names or p.readlink().name in names)


def _ders(bundle: Path) -> Iterator[bytes]:
    try:
        text = bundle.read_text(errors="replace")
    except OSError:
        return
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    for part in text.split(begin)[1:]:
        try:
            yield ssl.PEM_cert_to_DER_cert(f"{begin}{part.partition(end)[0]}{end}")
        except ValueError:
            continue


def _holds(store: Path, der: bytes) -> bool:
    """Java's own format holds certificates as they are."""
    try:
        return der in store.read_bytes()
    except OSError:
        return False
