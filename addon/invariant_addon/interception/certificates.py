"""The one certificate that the proxy shows for the API hosts.

A root is made in memory, constrained to exactly the hosts asked for; it signs one leaf and is
forgotten: its key is never written. So whoever trusts `ca.pem` trusts that one leaf and nothing
that could still be made, by anybody. mitmproxy's own authority is not used and need not be trusted.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import os
import re
import secrets
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from . import modes

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

DEFAULT_HOSTS = (
    "api.openai.com",
    *(f"{region}.api.openai.com" for region in ("us", "eu", "ae", "au", "in", "jp")),
)
"""The API and its regional addresses: what the proxy decrypts."""

LIFETIME = dt.timedelta(days=397)  # Safari's limit for some roots is 398
BACKDATED = dt.timedelta(days=1)  # a client whose clock is behind
RENEW_BEFORE = dt.timedelta(days=30)
INSTALLED = "system.json"
"""A file in the folder: the root is in the system's trust stores (`scripts/system on`). It is not
renewed behind anybody's back then, for the new one would not be trusted."""

_HOST = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Certificates:
    """What lies in the folder.

    ca: the root alone; what a client has to trust. leaf: key, leaf and root, for mitmproxy.
    reason: why they were made just now; None if they were there already.
    """

    ca: Path
    leaf: Path
    hosts: tuple[str, ...]
    not_after: dt.datetime
    reason: str | None = None

    @property
    def folder(self) -> Path:
        return self.ca.parent

    def days_left(self, now: dt.datetime | None = None) -> int:
        return (self.not_after - (now or dt.datetime.now(dt.UTC))).days

    @property
    def ends_soon(self) -> str:
        """What to say of it in its last 30 days; "" before."""
        days = self.days_left()
        if days >= RENEW_BEFORE.days:
            return ""
        left = f"{days} day{'s' * (days != 1)} left" if days >= 0 else "it has expired"
        return f"the certificate is good until {self.not_after:%Y-%m-%d} ({left})"

    @property
    def created(self) -> bool:
        return self.reason is not None


def ensure(
    folder: Path, hosts: Sequence[str] = DEFAULT_HOSTS, *, now: dt.datetime | None = None
) -> Certificates:
    """The certificates in this folder; made if they are missing, unusable, about to expire, or
    do not cover these hosts (then for the old ones as well).

    Raises ValueError for a host that is none, OSError if the folder cannot be used or others
    can read its key.
    """
    wanted = tuple(dict.fromkeys(_normal(host) for host in hosts))
    if not any(_address(host) is None for host in wanted):
        # Without one, the root would be constrained in addresses and free in names.
        raise ValueError(f"hosts: got {list(hosts)!r}, expected at least one DNS name")
    now = now or dt.datetime.now(dt.UTC)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(folder / ".lock"):
        return _ensure(folder, wanted, now)


def read(folder: Path) -> Certificates:
    """Those in this folder, as they are. Raises OSError or ValueError if they cannot be used."""
    ca, leaf = folder / "ca.pem", folder / "leaf.pem"
    try:
        hosts, not_after = _read(ca, leaf, dt.datetime.now(dt.UTC))
    except (TypeError, InvalidSignature, x509.ExtensionNotFound) as error:
        raise ValueError("they are no certificates of this project") from error
    return Certificates(ca, leaf, hosts, not_after)


def renew(folder: Path, hosts: Sequence[str] = DEFAULT_HOSTS) -> Certificates:
    """New ones in the place of those in this folder, for the same hosts and these."""
    found = ensure(folder, hosts)
    if found.created:
        return found
    with _locked(folder / ".lock"):
        return _make(folder, found.hosts, dt.datetime.now(dt.UTC), "you asked for it")


def _ensure(folder: Path, wanted: tuple[str, ...], now: dt.datetime) -> Certificates:
    ca, leaf = folder / "ca.pem", folder / "leaf.pem"
    hosts = wanted
    try:
        covered, not_after = _read(ca, leaf, now)
    except FileNotFoundError:
        reason = "there were none"
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        reason = "those that were there could not be used"
    else:
        hosts = tuple(dict.fromkeys(covered + wanted))
        if missing := [host for host in wanted if host not in covered]:
            reason = f"those that were there did not cover {', '.join(missing)}"
        elif not_after - now <= RENEW_BEFORE and not (
            not_after > now and (folder / INSTALLED).exists()
        ):
            reason = f"those that were there expire on {not_after:%Y-%m-%d}"
        else:
            for problem in modes.problems(folder):
                raise PermissionError(
                    f"{problem.text}; mend it with: {problem.fix}; where that has no effect (a "
                    "Windows drive), keep them elsewhere: --set invariant_certs=FOLDER"
                )
            return Certificates(ca, leaf, covered, not_after)
    return _make(folder, hosts, now, reason)


def _make(folder: Path, hosts: tuple[str, ...], now: dt.datetime, reason: str) -> Certificates:
    root_pem, leaf_pem, not_after = _mint(hosts, now)
    # The leaf first: it names its root, so a stop between the two is seen and mended.
    write_whole(folder / "leaf.pem", leaf_pem, 0o600)
    write_whole(folder / "ca.pem", root_pem, 0o644)
    return Certificates(folder / "ca.pem", folder / "leaf.pem", hosts, not_after, reason)


def _read(ca: Path, leaf: Path, now: dt.datetime) -> tuple[tuple[str, ...], dt.datetime]:
    """Hosts and end of what is there. Raises ValueError and its like if it is not sound."""
    pem = leaf.read_bytes()
    key = serialization.load_pem_private_key(pem, None)
    chain = x509.load_pem_x509_certificates(pem)
    roots = x509.load_pem_x509_certificates(ca.read_bytes())
    if len(chain) != 2 or roots != chain[1:] or key.public_key() != chain[0].public_key():
        raise ValueError("ca.pem and leaf.pem do not belong together")
    chain[0].verify_directly_issued_by(chain[1])
    if chain[0].not_valid_before_utc > now:
        raise ValueError("not valid yet")
    names = chain[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    addresses = names.get_values_for_type(x509.IPAddress)
    hosts = (*names.get_values_for_type(x509.DNSName), *(str(address) for address in addresses))
    return hosts, chain[0].not_valid_after_utc


def _mint(hosts: tuple[str, ...], now: dt.datetime) -> tuple[bytes, bytes, dt.datetime]:
    """(ca.pem, leaf.pem, end). The root's key lives until this returns."""
    start = now.replace(microsecond=0) - BACKDATED
    end = start + LIFETIME
    root_key = ec.generate_private_key(ec.SECP256R1())
    leaf_key = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "invariant"),
            x509.NameAttribute(
                # A new root has a new name, so that no client mixes it up with an older one.
                NameOID.COMMON_NAME,
                f"invariant, for {hosts[0]} only ({secrets.token_hex(4)})"[:64],
            ),
        ]
    )
    root_id = x509.SubjectKeyIdentifier.from_public_key(root_key.public_key())
    root = (
        _builder(issuer, issuer, root_key.public_key(), start, end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(root_id, critical=False)
        .add_extension(_constraints(hosts), critical=True)
        .sign(root_key, hashes.SHA256())
    )
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0][:64])])
    leaf = (
        _builder(subject, issuer, leaf_key.public_key(), start, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general(h) for h in hosts]), critical=False)
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(leaf_key.public_key()), critical=False
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(root_id), critical=False
        )
        .sign(root_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    key = leaf_key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    root_pem = root.public_bytes(pem)
    return root_pem, key + leaf.public_bytes(pem) + root_pem, end


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    start: dt.datetime,
    end: dt.datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
    )


def _usage(*, key_cert_sign: bool = False, digital_signature: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _constraints(hosts: tuple[str, ...]) -> x509.NameConstraints:
    """These names and addresses, and no other.

    A family of addresses of which some are permitted must not be excluded as a whole: exclusion
    goes first (RFC 5280, 4.2.1.10).
    """
    addresses = [address for host in hosts if (address := _address(host)) is not None]
    families = {address.version for address in addresses}
    everything = {4: "0.0.0.0/0", 6: "::/0"}
    excluded = [
        x509.IPAddress(ipaddress.ip_network(network))
        for family, network in everything.items()
        if family not in families
    ]
    return x509.NameConstraints(
        permitted_subtrees=[
            *(x509.DNSName(host) for host in hosts if _address(host) is None),
            *(x509.IPAddress(ipaddress.ip_network(address)) for address in addresses),
        ],
        excluded_subtrees=excluded or None,
    )


def _general(host: str) -> x509.GeneralName:
    address = _address(host)
    return x509.DNSName(host) if address is None else x509.IPAddress(address)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _normal(host: str) -> str:
    name = host.strip().lower().rstrip(".")
    if (address := _address(name)) is not None:
        return str(address)
    if len(name) > 253 or not _HOST.fullmatch(name):
        raise ValueError(f"hosts: got {host!r}, expected a DNS name or an IP address")
    return name


def write_whole(path: Path, data: bytes, mode: int) -> None:
    """All of it or nothing, and never readable for others on the way."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(mode)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One at a time; the system takes the lock back from one that dies."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if sys.platform == "win32":
            msvcrt.locking(descriptor, msvcrt.LK_LOCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
