"""scripts/doctor: faults are planted, and each is found, with the command that mends it."""

from __future__ import annotations

import datetime as dt
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

# --import-mode=importlib puts no test folder on sys.path; at the end, where it shadows nothing.
sys.path.append(str(Path(__file__).resolve().parent))

from fake_proxy import FakeProxy

from invariant_addon.interception import doctor, hosts_file, runtimes, stores
from invariant_addon.interception.certificates import INSTALLED, ensure
from invariant_addon.interception.checks import Finding, Patient
from invariant_addon.interception.environment import guarded_environment
from invariant_addon.interception.runtimes import Runtime, Seen, Way
from invariant_addon.interception.steps import Machine
from invariant_addon.interception.trust import write_trust

ADDON = Path(__file__).parents[2] / "addon"
GOES_THROUGH = Runtime("good", (sys.executable, "-c", runtimes._PYTHON.format(url=runtimes.URL)))
GOES_DIRECT = Runtime("bad", (sys.executable, "-c", "raise OSError('getaddrinfo failed')"))


class Ward:
    """A patient that is well, in a machine of its own, and what it takes to make it ill."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.certs = folder / "certs"
        self.root = folder / "root"
        self.made = ensure(self.certs)
        for name in ("etc/ssl/certs", "usr/local/share/ca-certificates"):
            (self.root / name).mkdir(parents=True)
        self.hosts = self.root / "etc" / "hosts"
        self.hosts.write_text("127.0.0.1 localhost\n")
        self.bundle = self.root / "etc" / "ssl" / "certs" / "ca-certificates.crt"
        self.bundle.write_text("")
        self.environment: dict[str, str] = {"PATH": "/usr/bin:/bin", "HOME": str(folder)}
        self.proxy: dict[str, object] = {}
        self.has_proxy = True
        self.is_guarded = True
        self.programs = [GOES_THROUGH]
        # The store's kind goes by a tool; none is run here.
        monkeypatch.setattr(stores, "kind_of", lambda machine: stores.KINDS[0])

    @contextmanager
    def patient(self) -> Iterator[Patient]:
        base = self.environment
        if not self.has_proxy:
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = free.getsockname()[1]
            yield self._patient(base, port)
            return
        with FakeProxy(**({"certs": self.certs} | self.proxy)) as proxy:
            yield self._patient(base, proxy.port)

    def _patient(self, base: dict[str, str], port: int) -> Patient:
        given = dict(base)
        if self.is_guarded:
            trusted = write_trust(self.made, {})
            given = guarded_environment({}, f"http://127.0.0.1:{port}", trusted) | base
        return Patient(given, self.certs, port, machine=Machine(self.root), programs=self.programs)

    def examine(self) -> list[Finding]:
        with self.patient() as patient:
            return list(doctor.examine(patient))

    def problems(self) -> dict[str, Finding]:
        return {finding.name: finding for finding in self.examine() if finding.is_problem}


@pytest.fixture
def ward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ward:
    return Ward(tmp_path, monkeypatch)


def test_who_is_well_is_told_so(ward: Ward) -> None:
    """A doctor who finds something in everybody is not asked again."""
    found = ward.examine()
    assert not [doctor.line(finding) for finding in found if finding.is_problem]
    assert {"certificate", "shell", "other hosts", "good"} <= {finding.name for finding in found}


def no_proxy(ward: Ward) -> str:
    ward.has_proxy = ward.is_guarded = False
    return "proxy on "


def another_root(ward: Ward) -> str:
    ward.proxy = {"certs": ensure(ward.certs.parent / "old").folder}
    return "proxy on "


def no_rules(ward: Ward) -> str:
    ward.proxy = {"rules": 0}
    return "proxy on "


def not_ready(ward: Ward) -> str:
    ward.proxy = {"ready": False}
    return "proxy on "


def open_to_all(ward: Ward) -> str:
    ward.proxy = {"address": "0.0.0.0"}
    return "loopback"


def decrypts_everything(ward: Ward) -> str:
    ward.proxy = {"decrypts_all": True}
    return "other hosts"


def readable_key(ward: Ward) -> str:
    ward.made.leaf.chmod(0o644)
    return "file modes"


def key_of_an_authority(ward: Ward) -> str:
    (ward.certs / "mitmproxy-ca.pem").write_text("-----BEGIN PRIVATE KEY-----\n")
    return "private keys"


def nearly_expired(ward: Ward) -> str:
    for file in (ward.made.ca, ward.made.leaf):
        file.unlink()
    ward.made = ensure(ward.certs, now=dt.datetime.now(dt.UTC) - dt.timedelta(days=380))
    return "certificate"


def a_bypass(ward: Ward) -> str:
    ward.environment["NO_PROXY"] = "localhost,.openai.com"
    return "NO_PROXY"


def plain_http_too(ward: Ward) -> str:
    ward.environment |= {"HTTPS_PROXY": "http://127.0.0.1:1", "https_proxy": "http://127.0.0.1:1"}
    ward.environment["HTTP_PROXY"] = "http://127.0.0.1:1"
    return "HTTP_PROXY"


def a_dead_proxy(ward: Ward) -> str:
    ward.environment |= {"HTTPS_PROXY": "http://127.0.0.1:1", "https_proxy": "http://127.0.0.1:1"}
    return "shell"


def a_bundle_that_is_gone(ward: Ward) -> str:
    ward.environment["SSL_CERT_FILE"] = "/nowhere/bundle.pem"
    return "SSL_CERT_FILE"


def a_bundle_of_ours_alone(ward: Ward) -> str:
    ward.environment["REQUESTS_CA_BUNDLE"] = str(ward.made.ca)
    return "REQUESTS_CA_BUNDLE"


def a_bundle_without_ours(ward: Ward) -> str:
    other = ensure(ward.certs.parent / "old").ca
    ward.environment["NODE_EXTRA_CA_CERTS"] = str(other)
    return "NODE_EXTRA_CA_CERTS"


def a_line_left_in_the_hosts_file(ward: Ward) -> str:
    ward.hosts.write_text(hosts_file.lead_here("127.0.0.1 localhost\n", ["api.openai.com"]))
    return "hosts file"


def a_line_lost_from_the_hosts_file(ward: Ward) -> str:
    record = {"way": "hosts", "ca": "", "settings": [], "user": "x"}
    (ward.certs / INSTALLED).write_text(json.dumps(record))
    ward.bundle.write_text(ward.made.ca.read_text())
    return "hosts file"


def an_old_root_in_the_store(ward: Ward) -> str:
    place = ward.root / "usr/local/share/ca-certificates/invariant.crt"
    place.write_text(ensure(ward.certs.parent / "old").ca.read_text())
    return "trust store"


def a_root_left_in_the_store(ward: Ward) -> str:
    ward.bundle.write_text(ward.made.ca.read_text())
    return "trust store"


def a_dangling_link(ward: Ward) -> str:
    (ward.root / "etc/ssl/certs/invariant.pem").symlink_to("/nowhere/invariant.crt")
    return "trust store"


def mitmproxys_authority(ward: Ward) -> str:
    authority = ward.certs.parent / ".mitmproxy" / "mitmproxy-ca-cert.pem"
    authority.parent.mkdir()
    authority.write_text(ensure(ward.certs.parent / "old").ca.read_text())
    ward.bundle.write_text(authority.read_text())
    return "mitmproxy's authority"


def a_runtime_that_goes_past(ward: Ward) -> str:
    ward.programs = [GOES_THROUGH, GOES_DIRECT]
    return "bad"


@pytest.mark.parametrize(
    "plant",
    [
        *(no_proxy, another_root, no_rules, not_ready, open_to_all, decrypts_everything),
        *(readable_key, key_of_an_authority, nearly_expired, a_bypass, plain_http_too),
        *(a_dead_proxy, a_bundle_that_is_gone, a_bundle_of_ours_alone, a_bundle_without_ours),
        *(a_line_left_in_the_hosts_file, a_line_lost_from_the_hosts_file),
        *(an_old_root_in_the_store, a_root_left_in_the_store, a_dangling_link),
        *(mitmproxys_authority, a_runtime_that_goes_past),
    ],
    ids=lambda plant: plant.__name__,
)
def test_each_fault_is_found_with_what_mends_it(ward: Ward, plant) -> None:
    """Each of these was measured: calls failed, or went by unseen."""
    name = plant(ward)
    problems = ward.problems()
    found = [problem for key, problem in problems.items() if key.startswith(name)]
    assert found, problems
    assert found[0].fix and "\n" not in doctor.line(found[0])


def test_a_program_can_read_the_findings(ward: Ward, capsys: pytest.CaptureFixture[str]) -> None:
    """--json, and an exit code: for a CI job, or an agent's start script."""
    with ward.patient() as patient:
        code = doctor.main(
            ["--json", "--certs", str(ward.certs), "--port", "1", "--root", str(ward.root)]
        )
        assert patient.port
    found = json.loads(capsys.readouterr().out)
    assert code == 1
    assert {"check", "ok", "found", "fix"} == set(found[0])
    assert any(not one["ok"] and one["check"] == "proxy on 1" for one in found)


@pytest.mark.parametrize(
    ("said", "way"),
    [
        ('{"invariant":"0.1.0","pid":1}', Way.VIA),
        ("curl: (6) Could not resolve host: api.openai.com", Way.DIRECT),
        ("Error: getaddrinfo ENOTFOUND api.openai.com", Way.DIRECT),
        ('{"error": {"message": "Invalid URL (GET /.invariant/health)"}}', Way.DIRECT),
        ("something else", Way.DIRECT),
        ("", Way.DIRECT),
        ("SSL: CERTIFICATE_VERIFY_FAILED self-signed certificate", Way.REFUSED),
        ("PKIX path building failed", Way.REFUSED),
        ("Error: connect ECONNREFUSED 127.0.0.1:8080", Way.REFUSED),
        ("ModuleNotFoundError: No module named 'requests'", Way.ABSENT),
    ],
)
def test_what_a_runtime_says_is_understood(said: str, way: Way) -> None:
    """Only the proxy's own answer counts as guarded; all doubt is "direct"."""
    seen = runtimes.judge(Runtime("x", ("x",), ("requests",)), said)
    assert seen.way is way


def test_a_runtime_that_is_not_there_is_left_out() -> None:
    """Nobody has all of them."""
    assert runtimes.look([Runtime("x", ("no-such-runtime",))], {"PATH": "/bin"}) == []
    assert Seen("x", Way.VIA).said == ""


def test_the_script_itself_runs(ward: Ward) -> None:
    """As a person calls it."""
    ended = subprocess.run(
        [
            *(sys.executable, "-I", "-c"),
            f"import sys; sys.path.append({str(ADDON)!r}); "
            "from invariant_addon.interception.doctor import main; sys.exit(main(sys.argv[1:]))",
            *("--certs", str(ward.certs), "--port", "1", "--root", str(ward.root)),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={"PATH": "/usr/bin:/bin"},
    )
    assert ended.returncode == 1, ended.stderr
    (line,) = (n for n in ended.stdout.splitlines() if "proxy on 1: nobody listens there" in n)
    assert line.startswith("PROBLEM") and line.endswith(" --listen-port 1")
    assert "ok       certificate" in ended.stdout


def test_what_is_found_is_said_before_the_next_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The runtimes take ten seconds; a command that says nothing for so long looks hung."""
    said: list[str] = []

    def first(_: Patient) -> Iterator[Finding]:
        yield Finding("first", "is well")

    def second(_: Patient) -> Iterator[Finding]:
        said.append(capsys.readouterr().out)
        yield Finding("second", "is well")

    monkeypatch.setattr(doctor, "CHECKS", (first, second))
    assert doctor.main(["--certs", str(tmp_path)]) == 0
    assert said == ["ok       first: is well\n"]
    assert capsys.readouterr().out == "ok       second: is well\n"


def test_a_machine_that_is_guarded_needs_no_proxy_of_its_own(ward: Ward) -> None:
    """With scripts/system on, port 8080 has nobody, and nothing is wrong with that."""
    ward.has_proxy = ward.is_guarded = False
    ward.hosts.write_text(hosts_file.lead_here("", ["api.openai.com"]))
    with ward.patient() as patient:
        found = list(doctor.examine(replace(patient, programs=[])))
    assert not [finding for finding in found if finding.name.startswith("proxy on")]
