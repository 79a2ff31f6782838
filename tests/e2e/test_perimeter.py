"""Who may connect, and whose traffic is decrypted."""

from __future__ import annotations

import json
import os
import re
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cryptography import x509

from stage import rules, streams
from stage.proxy import ADDON, MITMDUMP, Proxy, clean_environment
from stage.raw import CHAT, RawClient
from stage.script import Stream, wait_until
from stage.upstream import Upstream


@pytest.fixture
def proxy(proxy_for) -> Proxy:
    """With keys of the usual size: here mitmproxy's own authority shows itself."""
    return proxy_for(rules=rules.USUAL, options={"key_size": 2048})


def issuer_seen_through(proxy: Proxy, host: str, sni: str) -> str:
    """Who signed the certificate that a client of the proxy sees."""
    with socket.create_connection((proxy.host, proxy.port), timeout=10) as plain:
        plain.sendall(f"CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        head = b""
        while b"\r\n\r\n" not in head:
            head += plain.recv(1000)
        assert b" 200 " in head.split(b"\r\n")[0], head
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with context.wrap_socket(plain, server_hostname=sni) as secure:
            der = secure.getpeercert(binary_form=True)
    assert der
    return x509.load_der_x509_certificate(der).issuer.rfc4514_string()


@pytest.mark.parametrize("host", ["api.openai.com", "eu.api.openai.com"])
def test_the_guarded_hosts_are_decrypted_with_our_one_certificate(
    upstream: Upstream, proxy: Proxy, host: str
) -> None:
    """No CA key: the one leaf serves them all."""
    assert "nvariant" in issuer_seen_through(proxy, f"{host}:443", host)


@pytest.mark.parametrize(
    "host", ["other.example", "evilapi.openai.com", "api.openai.com.other.example"]
)
def test_every_other_host_keeps_its_own_certificate(
    upstream: Upstream, proxy: Proxy, host: str
) -> None:
    """Only the API host is decrypted."""
    theirs = x509.load_pem_x509_certificate(upstream.ca.read_bytes()).subject.rfc4514_string()
    assert issuer_seen_through(proxy, f"{host}:443", host) == theirs


def test_an_inner_name_does_not_get_around_the_guard(upstream: Upstream, proxy: Proxy) -> None:
    """CONNECT says one host and the TLS handshake another: either one is enough."""
    assert "nvariant" in issuer_seen_through(proxy, "api.openai.com:443", "other.example")
    assert "nvariant" in issuer_seen_through(proxy, "other.example:443", "api.openai.com")


@pytest.mark.parametrize("host", ["other.example", "api.openai.com"])
def test_a_request_that_names_a_guarded_host_is_guarded(
    upstream: Upstream, proxy: Proxy, host: str
) -> None:
    """Also as clear text with an absolute address, and behind another name."""
    upstream.script(Stream(streams.text_stream(["x"])))
    body = b'{"model": "m", "messages": [{"role": "user", "content": "BLUEBIRD"}]}'
    with socket.create_connection((proxy.host, proxy.port), timeout=10) as plain:
        plain.sendall(
            f"POST http://{host}{CHAT} HTTP/1.1\r\nHost: api.openai.com\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
            + body
        )
        answer = b""
        while data := plain.recv(65536):
            answer += data
            if b"guardrail_violation" in answer:
                break
    assert b" 400 " in answer.split(b"\r\n")[0] and b"no bluebirds here" in answer
    assert not upstream.calls


def test_a_client_that_does_not_trust_is_named_and_not_let_by(
    upstream: Upstream, proxy: Proxy
) -> None:
    """The log says which program it was and what to type; nothing is tunnelled instead."""
    since, before = proxy.log_size(), upstream.connections
    for _ in range(2):  # a busy proxy looks only after a failure: the next try is named
        with socket.create_connection((proxy.host, proxy.port), timeout=10) as plain:
            plain.sendall(b"CONNECT api.openai.com:443 HTTP/1.1\r\nHost: api.openai.com\r\n\r\n")
            assert b" 200 " in plain.recv(1000)
            context = ssl.create_default_context()
            with pytest.raises(ssl.SSLCertVerificationError):
                context.wrap_socket(plain, server_hostname="api.openai.com")
        said = proxy.wait_log("did not trust the certificate for api.openai.com", since=since)
        assert "scripts/env" in said
    if sys.platform.startswith("linux"):
        proxy.wait_log(rf"\(pid {os.getpid()}\) did not trust", since=since)
    assert upstream.connections == before


def test_another_case_of_the_name_is_no_way_around(upstream: Upstream, proxy: Proxy) -> None:
    """mitmproxy has no certificate of ours for it: the client refuses, and nothing is tunnelled."""
    assert issuer_seen_through(proxy, "API.OpenAI.com:443", "API.OpenAI.com") == (
        "O=mitmproxy,CN=mitmproxy"
    )


CIRCLE = """
def server_connect(data):
    if data.server.address[0] == "rebind.example":
        data.server.address = ("127.0.0.1", data.server.address[1])
"""


def test_a_request_in_a_circle_is_stopped(start_proxy, tmp_path: Path) -> None:
    """A web page whose name resolves to 127.0.0.1 can send one; mitmproxy would loop for ever."""
    script = tmp_path / "circle.py"
    script.write_text(CIRCLE)
    proxy = start_proxy(rules=[rules.NO_BLUEBIRD], scripts=[script])
    name = f"rebind.example:{proxy.port}"
    with socket.create_connection((proxy.host, proxy.port), timeout=10) as plain:
        plain.sendall(f"GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
        head = plain.recv(1000)
    assert b" 508 " in head.split(b"\r\n")[0]


def test_a_blocked_call_does_not_even_connect_to_upstream(upstream: Upstream, proxy: Proxy) -> None:
    """Whether upstream is called is decided first."""
    before = upstream.connections
    with RawClient.through(proxy) as client:
        assert client.post(CHAT, streams.chat("BLUEBIRD")).wait_end().status == 400
    assert upstream.connections == before


@pytest.mark.parametrize("mode", ["regular", "reverse:https://api.openai.com", "socks5"])
def test_it_listens_on_loopback_alone(tmp_path: Path, mode: str) -> None:
    """mitmproxy alone would listen on every address of the machine."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = tmp_path / "log"
    with log.open("wb") as out:
        child = subprocess.Popen(
            [
                *(MITMDUMP, "-s", ADDON, "--mode", mode, "--listen-port", str(port)),
                *("--set", f"confdir={tmp_path}", "--set", f"invariant_certs={tmp_path / 'c'}"),
                *("--set", "invariant_starter_rules=false", "--set", "invariant_workers=2"),
            ],
            stdout=out,
            stderr=out,
            env=clean_environment(tmp_path),
        )
    try:
        wait_until(lambda: _listeners(port) == {"127.0.0.1"}, 20, f"loopback: {_listeners(port)}")
    finally:
        child.terminate()
        child.wait(15)


def _listeners(port: int) -> set[str]:
    """Addresses on which something listens on this port."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        if not Path(table).exists():
            pytest.skip("needs /proc")
        for line in Path(table).read_text().splitlines()[1:]:
            local, state = line.split()[1], line.split()[3]
            address, _, number = local.partition(":")
            if state == "0A" and int(number, 16) == port:
                parts = bytes.fromhex(address)[::-1]
                found.add(socket.inet_ntoa(parts) if len(parts) == 4 else address)
    return found


def test_a_host_of_ones_own_is_guarded_and_gets_a_certificate(
    upstream: Upstream, proxy_for
) -> None:
    """invariant_hosts: the certificate is made again, with that name in it."""
    proxy = proxy_for(rules=[rules.NO_BLUEBIRD], options={"invariant_hosts": ["other.example"]})
    with RawClient.through(proxy, host="other.example") as client:
        assert client.post(CHAT, streams.chat("BLUEBIRD")).wait_end().status == 400


def test_no_ca_key_is_left_on_the_disk(proxy: Proxy) -> None:
    """Whoever reads the folder can speak for the guarded hosts to this machine, and no others."""
    keys = [f for f in proxy.certs.rglob("*") if f.is_file() and b"PRIVATE" in f.read_bytes()]
    assert [f.name for f in keys] == ["leaf.pem"]
    assert oct(keys[0].stat().st_mode & 0o777) == "0o600"
    assert re.search(rb"BEGIN CERTIFICATE", keys[0].read_bytes())


@pytest.mark.parametrize("alpn", [None, "foo"])
@pytest.mark.parametrize("first", [b"PO", b"POST"])
def test_what_does_not_look_like_http_at_first_is_judged_all_the_same(
    upstream: Upstream, proxy: Proxy, first: bytes, alpn: str | None
) -> None:
    """mitmproxy would take it for raw TCP, and tunnel it: no hook, no mark."""
    body = json.dumps(streams.chat("BLUEBIRD", stream=False)).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: api.openai.com\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection((proxy.host, proxy.port), timeout=10) as plain:
        plain.sendall(b"CONNECT api.openai.com:443 HTTP/1.1\r\nHost: api.openai.com:443\r\n\r\n")
        assert b" 200 " in plain.recv(1000)
        context = ssl.create_default_context(cafile=str(proxy.ca))
        if alpn:
            context.set_alpn_protocols([alpn])
        with context.wrap_socket(plain, server_hostname="api.openai.com") as secure:
            secure.sendall(first)
            time.sleep(0.3)  # so that it is a TLS record, and a read, of its own
            secure.sendall(head.encode()[len(first) :] + body)
            answer = secure.recv(65536)
    assert b" 400 " in answer.split(b"\r\n")[0] and not upstream.calls
