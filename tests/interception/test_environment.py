"""The environment of a guarded program, and the trust files it points at."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from dataclasses import replace
from pathlib import Path

import certifi
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from hypothesis import given
from hypothesis import strategies as st

from invariant_addon.interception.certificates import Certificates, ensure
from invariant_addon.interception.environment import (
    PRELOAD,
    bypasses,
    guarded_environment,
    replaced_java_trust,
    replaced_proxy,
)
from invariant_addon.interception.trust import Trust, merge_pem, write_trust

URL = "http://127.0.0.1:8080"
TRUST = Trust(Path("/c/ca.pem"), Path("/c/bundle.pem"), Path("/c/extra.pem"))


@pytest.fixture
def made(tmp_path: Path) -> Certificates:
    return ensure(tmp_path / "certs")


def root(folder: Path) -> str:
    """Some other authority's certificate."""
    return ensure(folder).ca.read_text()


def count(path: Path) -> int:
    return path.read_text().count("BEGIN CERTIFICATE")


def test_every_runtime_is_told_in_its_own_words() -> None:
    """Each of these is the only one that some client reads."""
    guarded = guarded_environment({"PATH": "/bin"}, URL, TRUST)
    assert guarded == {
        "PATH": "/bin",
        "HTTPS_PROXY": URL,
        "https_proxy": URL,
        "NO_PROXY": "localhost,127.0.0.1,::1",
        "no_proxy": "localhost,127.0.0.1,::1",
        "SSL_CERT_FILE": "/c/bundle.pem",
        "REQUESTS_CA_BUNDLE": "/c/bundle.pem",
        "CURL_CA_BUNDLE": "/c/bundle.pem",
        "NODE_EXTRA_CA_CERTS": "/c/extra.pem",
        "DENO_CERT": "/c/extra.pem",
        "CODEX_CA_CERTIFICATE": "/c/extra.pem",
        "NODE_USE_ENV_PROXY": "1",
        "AIOHTTP_TRUST_ENV": "True",
        "INVARIANT_PROXY": URL,
        "INVARIANT_GUARDED": "",
        "NODE_OPTIONS": f"--require {PRELOAD}",
    }


def test_old_nodes_and_java_are_told_by_their_options() -> None:
    """They read no proxy from the environment; what was there stays before ours."""
    base = {"NODE_OPTIONS": "--max-old-space-size=99", "JAVA_TOOL_OPTIONS": "-Xmx1g"}
    trust = replace(TRUST, java=Path("/my certs/java-1.p12"))
    guarded = guarded_environment(base, URL, trust, ["llm.example"], Path("/a b/preload.cjs"))
    assert guarded["NODE_OPTIONS"] == '--max-old-space-size=99 --require "/a b/preload.cjs"'
    assert guarded["JAVA_TOOL_OPTIONS"] == (
        "-Xmx1g -Dhttps.proxyHost=127.0.0.1 -Dhttps.proxyPort=8080 "
        '-Djavax.net.ssl.trustStore="/my certs/java-1.p12" '
        "-Djavax.net.ssl.trustStorePassword=changeit "
        "-Dhttp.nonProxyHosts=localhost|127.*|[::1]"
    )
    assert guarded["INVARIANT_GUARDED"] == "llm.example"
    assert guarded_environment(guarded, URL, trust, ["llm.example"], Path("/a b/preload.cjs")) == (
        guarded
    ), "a run inside a run adds nothing"
    assert "JAVA_TOOL_OPTIONS" not in guarded_environment({}, URL, TRUST)


def test_a_trust_store_that_is_replaced_is_known() -> None:
    """Calls to a company's own hosts may fail then; whoever runs it should hear why."""
    own = "-Djavax.net.ssl.trustStore=/corp.jks"
    assert replaced_java_trust({"JAVA_TOOL_OPTIONS": own})
    assert not replaced_java_trust({"JAVA_TOOL_OPTIONS": "-Xmx1g"})
    guarded = guarded_environment({}, URL, replace(TRUST, java=Path("/c/java-1.p12")))
    assert not replaced_java_trust(guarded)


def test_java_reads_what_was_written(made: Certificates) -> None:
    """Its own form of the bundle: PKCS 12, with every root marked as trusted."""
    trust = write_trust(made, {}, java=True)
    assert trust.java is not None
    again = write_trust(made, {}, java=True)
    assert again.java == trust.java
    if shutil.which("keytool") is None:
        pytest.skip("needs keytool")
    listed = subprocess.run(
        ["keytool", "-list", "-keystore", trust.java, "-storepass", "changeit"],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout
    ours = x509.load_pem_x509_certificate(made.ca.read_bytes()).fingerprint(hashes.SHA256())
    assert ":".join(f"{byte:02X}" for byte in ours) in listed
    assert listed.count("trustedCertEntry") > 100


def test_plain_http_is_left_alone() -> None:
    """It is not ours, and a proxy that is asked for it can be made to call itself."""
    assert "HTTP_PROXY" not in guarded_environment({}, URL, TRUST)
    assert guarded_environment({"HTTP_PROXY": "http://corp"}, URL, TRUST)["HTTP_PROXY"] == (
        "http://corp"
    )


def test_the_callers_environment_is_not_changed() -> None:
    """The function is pure: what is guarded is the command, and not its parent."""
    base = {"NO_PROXY": "openai.com"}
    guarded_environment(base, URL, TRUST)
    assert base == {"NO_PROXY": "openai.com"}


@pytest.mark.parametrize(
    "entry",
    [
        *("*", "openai.com", ".openai.com", "*.openai.com", "api.openai.com", "API.OpenAI.com."),
        *("api.openai.com:443", "com", "*.com", "eu.api.openai.com", "*api*", "enai.com"),
    ],
)
def test_entries_that_lead_past_the_proxy_are_taken_out(entry: str) -> None:
    """With one of them in NO_PROXY, every client calls OpenAI directly, with success."""
    base = {"NO_PROXY": f"corp.example,{entry}", "no_proxy": f"{entry} 10.0.0.0/8"}
    guarded = guarded_environment(base, URL, TRUST)
    assert guarded["NO_PROXY"] == "10.0.0.0/8,corp.example,localhost,127.0.0.1,::1"
    assert guarded["no_proxy"] == guarded["NO_PROXY"]
    assert bypasses(base) == (entry,)


@pytest.mark.parametrize(
    "entry", ["localhost", "chatgpt.com", "api.openai.com.evil.example", "10.0.0.0/8", "[::1]:80"]
)
def test_other_entries_stay(entry: str) -> None:
    """What a company keeps away from proxies is its own affair."""
    assert bypasses({"no_proxy": entry}) == ()
    assert entry in guarded_environment({"no_proxy": entry}, URL, TRUST)["NO_PROXY"].split(",")


def test_hosts_of_ones_own_are_guarded_like_the_api() -> None:
    """An Azure or gateway host that was added is as easy to bypass as the API."""
    assert bypasses({"NO_PROXY": "llm.example"}, ["llm.example"]) == ("llm.example",)


@given(st.text(alphabet="*.:,[]azopeni com/0", max_size=30))
def test_no_entry_upsets_it_and_twice_is_once(entries: str) -> None:
    """Environments come from anywhere; a run inside a run must not pile up entries."""
    once = guarded_environment({"NO_PROXY": entries}, URL, TRUST)
    assert bypasses(once) == ()
    assert guarded_environment(once, URL, TRUST) == once


def test_a_proxy_that_is_replaced_is_named_without_its_password() -> None:
    """Terminals are recorded; and our own proxy, of a run around this one, is no news."""
    assert replaced_proxy({"HTTPS_PROXY": "http://u:p@corp:3128"}, URL) == "http://corp:3128"
    assert replaced_proxy({"https_proxy": f"{URL}/"}, URL) is None
    assert replaced_proxy({}, URL) is None


def test_the_bundle_trusts_us_and_everybody_from_before(made: Certificates) -> None:
    """These variables replace a client's trust: with our root alone, all other hosts fail."""
    trust = write_trust(made, {})
    assert trust.bundle == made.folder / "bundle.pem"
    assert trust.extra == made.ca
    assert count(trust.bundle) >= count(Path(certifi.where()))
    assert trust.bundle.read_text().startswith(made.ca.read_text())
    assert ssl.create_default_context(cafile=str(trust.bundle)).get_ca_certs()


def test_a_companys_own_root_stays_trusted(made: Certificates, tmp_path: Path) -> None:
    """Set by hand in SSL_CERT_FILE and nowhere else, it would be lost."""
    corporate = tmp_path / "corp.pem"
    corporate.write_text(f"# Corp\n{root(tmp_path / 'corp')}")
    plain = write_trust(made, {})
    trust = write_trust(
        made, {"SSL_CERT_FILE": str(corporate), "NODE_EXTRA_CA_CERTS": str(corporate)}
    )
    assert count(trust.bundle) == count(plain.bundle) + 1
    assert count(trust.extra) == 2
    assert trust.bundle != plain.bundle, "two shells at once must not take each other's roots"


def test_a_run_inside_a_run_uses_the_same_files(made: Certificates) -> None:
    """Else each level would add a copy."""
    trust = write_trust(made, {})
    again = write_trust(made, guarded_environment({}, URL, trust))
    assert again.bundle == trust.bundle
    assert count(again.extra) == 1


def test_a_file_that_has_gone_is_no_reason_to_stop(made: Certificates) -> None:
    """Stale variables are common, and clients ignore them as well."""
    trust = write_trust(made, {"SSL_CERT_FILE": "/nowhere/ca.pem", "DENO_CERT": "/nowhere"})
    assert trust.bundle.name == "bundle.pem"
    assert trust.extra == made.ca


def test_each_certificate_is_written_once(made: Certificates, tmp_path: Path) -> None:
    """The system's roots and certifi's are nearly the same."""
    ours, other = made.ca.read_text(), root(tmp_path / "other")
    merged = merge_pem([ours, f"remark\n{other}{ours}", "-----BEGIN CERTIFICATE-----\ncut"])
    assert merged == ours + other
