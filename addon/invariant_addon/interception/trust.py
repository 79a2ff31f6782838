"""The files that make clients trust our root beside everything that they trusted before.

SSL_CERT_FILE and its like replace a client's trust: with our root alone in it, every host that
is not decrypted would fail. So those files hold what was trusted before as well.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
import ssl
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import certifi
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import pkcs12

from .certificates import Certificates, write_whole

REPLACING = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""Variables whose file takes the place of what a client trusts."""
ADDING = ("NODE_EXTRA_CA_CERTS", "DENO_CERT", "CODEX_CA_CERTIFICATE")
"""Variables whose file adds to it."""

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", re.DOTALL)
_SYSTEM_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Alpine, Arch
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",  # Fedora, RHEL
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",  # macOS, BSD
)


@dataclass(frozen=True, slots=True)
class Trust:
    """ca: our root alone. bundle: for REPLACING. extra: for ADDING. java: the bundle, for Java."""

    ca: Path
    bundle: Path
    extra: Path
    java: Path | None = None


JAVA_PASSWORD = "changeit"  # Java's own; there is no key in it


def write_trust(
    certificates: Certificates, environment: Mapping[str, str], *, java: bool = False
) -> Trust:
    """The trust files that suit this environment, written beside the certificates.

    java: that of Java as well, which takes longer.
    """
    ours = certificates.ca.read_text()
    system = next((path for path in _SYSTEM_BUNDLES if Path(path).is_file()), "")
    default = (ssl.get_default_verify_paths().openssl_cafile, system, certifi.where())
    own = [environment[name] for name in REPLACING if environment.get(name)]
    bundle = merge_pem([ours, *_texts([*own, *default])])
    # `bundle.pem` serves everybody whose environment names no trust of its own; others get
    # a file of their own, so that two shells at once do not take each other's roots away.
    plain = bundle == merge_pem([ours, *_texts(default)])
    bundle_path = certificates.ca.with_name("bundle.pem" if plain else _name("bundle", bundle))
    _write_once(bundle_path, bundle)

    extra_path = certificates.ca
    if added := _texts([environment[name] for name in ADDING if environment.get(name)]):
        extra = merge_pem([ours, *added])
        extra_path = certificates.ca.with_name(_name("extra", extra))
        _write_once(extra_path, extra)
    java_path = _write_java(bundle_path, bundle) if java else None
    return Trust(certificates.ca, bundle_path, extra_path, java_path)


def _write_java(bundle: Path, pem: str) -> Path:
    """The same in a form that Java reads (PKCS 12). It is not the same file twice, so its name
    says what is in it."""
    path = bundle.with_name(_name("java", pem)).with_suffix(".p12")
    if not path.is_file():
        roots = [
            pkcs12.PKCS12Certificate(root, str(number).encode())
            for number, root in enumerate(_readable(pem))
        ]
        encryption = serialization.BestAvailableEncryption(JAVA_PASSWORD.encode())
        write_whole(path, pkcs12.serialize_java_truststore(roots, encryption), 0o644)
    return path


def _readable(pem: str) -> Iterator[x509.Certificate]:
    """Some old roots break rules that are newer; nothing on this machine was signed by them."""
    for match in _PEM.finditer(pem):
        with contextlib.suppress(ValueError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield x509.load_pem_x509_certificate(match[0].encode())


def merge_pem(texts: Iterable[str]) -> str:
    """All certificates of these PEM texts, each once, in order of appearance, without remarks."""
    found: dict[bytes, None] = {}
    for text in texts:
        for match in _PEM.finditer(text):
            with contextlib.suppress(ValueError):
                found.setdefault(base64.b64decode(match[1]))
    return "".join(ssl.DER_cert_to_PEM_cert(der) for der in found)


def _texts(paths: Iterable[str | None]) -> list[str]:
    """The texts of those files that can be read: a variable may name one that has long gone."""
    texts = []
    for path in dict.fromkeys(paths):
        with contextlib.suppress(OSError):
            if path:
                texts.append(Path(path).read_text(encoding="utf-8", errors="replace"))
    return texts


def _name(kind: str, text: str) -> str:
    return f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.pem"


def _write_once(path: Path, text: str) -> None:
    try:
        if path.read_bytes() == text.encode():
            return
    except OSError:
        pass  # not there, or not readable: written below
    write_whole(path, text.encode(), 0o644)
