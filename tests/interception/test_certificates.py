"""The certificates: accepted for the API hosts by real clients, and useless for anything else."""

from __future__ import annotations

import datetime as dt
import multiprocessing
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from invariant_addon.interception import certificates
from invariant_addon.interception.certificates import DEFAULT_HOSTS, Certificates, ensure

NOW = dt.datetime.now(dt.UTC)


@pytest.fixture
def made(tmp_path: Path) -> Certificates:
    return ensure(tmp_path / "certs")


@contextmanager
def tls_server(chain: Path) -> Iterator[int]:
    """A server that shows this certificate and says "ok" to whoever trusts it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(5)

    def serve() -> None:
        with suppress(OSError):  # the listener was closed: the test is over
            while True:
                plain, _ = listener.accept()
                plain.settimeout(5)
                with plain, suppress(OSError), context.wrap_socket(plain, server_side=True) as tls:
                    tls.recv(4096)
                    tls.sendall(b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok")

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def handshake(port: int, ca: Path, host: str) -> None:
    context = ssl.create_default_context(cafile=str(ca))
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # Python 3.13's default, on 3.12 as well
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname=host) as tls,
    ):
        tls.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert tls.recv(4096)


def extension[T: x509.ExtensionType](certificate: x509.Certificate, kind: type[T]) -> T:
    return certificate.extensions.get_extension_for_class(kind).value


def root_of(certs: Certificates) -> x509.Certificate:
    return x509.load_pem_x509_certificate(certs.ca.read_bytes())


@pytest.mark.parametrize("host", DEFAULT_HOSTS)
def test_python_accepts_every_host_that_is_guarded(made: Certificates, host: str) -> None:
    """A regional name that fails would look like an outage of OpenAI."""
    with tls_server(made.leaf) as port:
        handshake(port, made.ca, host)


@pytest.mark.parametrize("host", ["chatgpt.com", "openai.com", "x.eu.api.openai.com", "127.0.0.1"])
def test_no_other_host_is_accepted(made: Certificates, host: str) -> None:
    """Who trusts ca.pem must not have to trust the proxy with the rest of the network."""
    with tls_server(made.leaf) as port, pytest.raises(ssl.SSLCertVerificationError):
        handshake(port, made.ca, host)


def test_curl_accepts_it(made: Certificates) -> None:
    """Not everybody is Python: another stack reads the constraints for itself."""
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    with tls_server(made.leaf) as port:
        curl = [
            *("curl", "-sS", "--noproxy", "*", "--max-time", "5", "--cacert", str(made.ca)),
            *("--resolve", f"api.openai.com:{port}:127.0.0.1", f"https://api.openai.com:{port}/"),
        ]
        assert subprocess.run(curl, check=True, capture_output=True, text=True).stdout == "ok"


def test_an_address_can_be_guarded_and_no_other_one(tmp_path: Path) -> None:
    """Excluding all IPv4 would win over permitting one of it, and the leaf would be dead."""
    made = ensure(tmp_path, [*DEFAULT_HOSTS, "127.0.0.1"])
    constraints = extension(root_of(made), x509.NameConstraints)
    assert [str(n.value) for n in constraints.excluded_subtrees or []] == ["::/0"]
    with tls_server(made.leaf) as port:
        handshake(port, made.ca, "127.0.0.1")
        handshake(port, made.ca, "api.openai.com")
        with pytest.raises(ssl.SSLCertVerificationError):
            handshake(port, made.ca, "127.0.0.2")


def test_even_the_roots_key_could_not_vouch_for_another_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The constraints hold by themselves: caught in memory, the key is still worth nothing."""
    keys: list[ec.EllipticCurvePrivateKey] = []
    generate = ec.generate_private_key

    def caught(curve: ec.EllipticCurve) -> ec.EllipticCurvePrivateKey:
        keys.append(generate(curve))
        return keys[-1]

    monkeypatch.setattr(ec, "generate_private_key", caught)
    made = ensure(tmp_path / "certs")
    root, leaf = x509.load_pem_x509_certificates(made.leaf.read_bytes())[::-1]
    signer = next(key for key in keys if key.public_key() == root.public_key())
    own = generate(ec.SECP256R1())
    rogue = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(root.subject)
        .public_key(own.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(leaf.not_valid_before_utc)
        .not_valid_after(leaf.not_valid_after_utc)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("bank.example")]), critical=True)
        .add_extension(extension(leaf, x509.ExtendedKeyUsage), critical=False)
        .add_extension(extension(leaf, x509.AuthorityKeyIdentifier), critical=False)
        .sign(signer, hashes.SHA256())
    )
    chain = tmp_path / "rogue.pem"
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    chain.write_bytes(
        own.private_bytes(pem, pkcs8, serialization.NoEncryption()) + rogue.public_bytes(pem)
    )
    with (
        tls_server(chain) as port,
        pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree"),
    ):
        handshake(port, made.ca, "bank.example")


def test_the_only_key_on_disk_is_the_leafs(made: Certificates) -> None:
    """No CA key exists after set-up: that is the promise, and this is the folder."""
    holders = [p.name for p in made.folder.iterdir() if b"PRIVATE KEY" in p.read_bytes()]
    assert holders == ["leaf.pem"]
    text = made.leaf.read_bytes()
    assert text.count(b"BEGIN PRIVATE KEY") == 1
    key = serialization.load_pem_private_key(text, None).public_key()
    assert key == x509.load_pem_x509_certificate(text).public_key()
    assert key != root_of(made).public_key()


def test_keys_are_for_their_owner_alone(made: Certificates) -> None:
    """The leaf's key is all that is needed to read a program's calls on this machine."""
    assert made.leaf.stat().st_mode & 0o777 == 0o600
    assert made.ca.stat().st_mode & 0o777 == 0o644
    assert made.folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("name", "mode", "fix"),
    [("leaf.pem", 0o644, "chmod 600"), ("ca.pem", 0o666, "chmod 644"), (".", 0o777, "chmod 755")],
)
def test_files_that_others_can_reach_are_refused_with_the_fix(
    made: Certificates, name: str, mode: int, fix: str
) -> None:
    """The key may have been read already: silently mending it would hide that."""
    (made.folder / name).chmod(mode)
    with pytest.raises(PermissionError, match=f"mode {mode:04o}.*{fix}"):
        ensure(made.folder)
    made.folder.chmod(0o755)
    made.ca.chmod(0o644)
    made.leaf.chmod(0o600)
    assert not ensure(made.folder).created


def test_one_that_is_installed_is_not_renewed_before_its_end(tmp_path: Path) -> None:
    """The new root would be trusted by nobody, and all programs would fail at once."""
    old = ensure(tmp_path, now=NOW - dt.timedelta(days=380))
    (tmp_path / certificates.INSTALLED).write_text("{}")
    kept = ensure(tmp_path)
    assert not kept.created and kept.not_after == old.not_after
    assert "days left" in kept.ends_soon
    later = ensure(tmp_path, now=NOW + dt.timedelta(days=60))
    assert later.reason and "expire" in later.reason, "an expired one serves nobody"


def test_renewing_makes_others_for_the_same_hosts(tmp_path: Path) -> None:
    """One call, whenever one wants."""
    old = ensure(tmp_path, [*DEFAULT_HOSTS, "llm.example"])
    before = old.ca.read_bytes()
    new = certificates.renew(tmp_path)
    assert new.ca.read_bytes() != before and new.hosts == old.hosts
    assert not ensure(tmp_path, new.hosts).created and not new.ends_soon


def test_it_lasts_no_longer_than_every_system_accepts(made: Certificates) -> None:
    """Some systems refuse server certificates of more than 398 days."""
    root = root_of(made)
    assert root.not_valid_after_utc - root.not_valid_before_utc == dt.timedelta(days=397)
    assert root.not_valid_before_utc < NOW - dt.timedelta(hours=23)
    assert made.not_after == root.not_valid_after_utc


def test_a_second_call_finds_it_already_there(made: Certificates) -> None:
    """A new root would have to be trusted again, by every program that runs."""
    before = made.leaf.read_bytes(), made.ca.read_bytes()
    again = ensure(made.folder)
    assert made.created
    assert not again.created
    assert (again.leaf.read_bytes(), again.ca.read_bytes()) == before
    assert (again.hosts, again.not_after) == (made.hosts, made.not_after)


def test_fewer_hosts_need_no_new_one(made: Certificates) -> None:
    """Two ways of starting the proxy must not make each other's certificates in turns."""
    assert not ensure(made.folder, ["API.OpenAI.com."]).created


def test_more_hosts_are_added_to_the_old_ones(made: Certificates) -> None:
    """And the reason can be told: who trusts the old root has to trust the new one."""
    again = ensure(made.folder, ["llm.example"])
    assert again.reason == "those that were there did not cover llm.example"
    assert set(again.hosts) == {*DEFAULT_HOSTS, "llm.example"}


def test_one_that_is_about_to_expire_is_replaced(made: Certificates) -> None:
    """Before the day on which every call fails."""
    near = made.not_after - dt.timedelta(days=29)
    assert not ensure(made.folder, now=made.not_after - dt.timedelta(days=31)).created
    assert "expire on" in (ensure(made.folder, now=near).reason or "")
    assert not ensure(made.folder, now=near).created


@pytest.mark.parametrize("damage", ["leaf gone", "leaf cut", "leaf empty", "ca gone", "ca other"])
def test_what_was_damaged_is_made_again(made: Certificates, damage: str, tmp_path: Path) -> None:
    """A full disk or a stop half-way must not need a person who knows about certificates."""
    file = made.leaf if damage.startswith("leaf") else made.ca
    match damage.split()[1]:
        case "gone":
            file.unlink()
        case "cut":
            file.write_bytes(file.read_bytes()[:300])
        case "empty":
            file.write_bytes(b"")
        case _:
            file.write_bytes(ensure(tmp_path / "other").ca.read_bytes())
    again = ensure(made.folder)
    assert again.created
    with tls_server(again.leaf) as port:
        handshake(port, again.ca, "api.openai.com")


def test_two_at_once_agree(tmp_path: Path) -> None:
    """Two terminals started at login: neither may hold a root that no longer fits the leaf."""
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        found = pool.map(ensure, [tmp_path] * 6)
        pool.close()
        pool.join()
    assert sum(made.created for made in found) == 1
    assert not ensure(tmp_path).created
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "ca.pem", "leaf.pem"]


@pytest.mark.parametrize("host", ["", "api openai", "https://api.openai.com", "*.x", "a..b", "-a"])
def test_what_is_no_host_is_refused(tmp_path: Path, host: str) -> None:
    """Better than a certificate that no client will ever match."""
    with pytest.raises(ValueError, match="hosts: got"):
        ensure(tmp_path, ["api.openai.com", host])


def test_addresses_alone_are_refused(tmp_path: Path) -> None:
    """With no name permitted, the root would be free to vouch for all names."""
    with pytest.raises(ValueError, match="at least one DNS name"):
        ensure(tmp_path, ["127.0.0.1"])
