"""scripts/system on a copy of the system's files, and the parts that it is made of."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from invariant_addon.interception import (
    elsewhere,
    firewall,
    hosts_file,
    installed,
    service,
    stores,
    system,
)
from invariant_addon.interception.certificates import INSTALLED, ensure
from invariant_addon.interception.installed import Job, Record, read_record
from invariant_addon.interception.service import User, loads, unit
from invariant_addon.interception.steps import Machine, StepError

DEBIAN = stores.KINDS[0]
SCRIPT = "/srv/project/addon/invariant.py"
NOBODY = User("nobody", 65534, 65534, Path("/nonexistent"))


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """A machine with two hosts and one root of its own."""
    root = tmp_path / "root"
    for name in (*(DEBIAN.anchors, DEBIAN.links), "/etc/systemd/system", "/usr/share/ca"):
        (root / name.lstrip("/")).mkdir(parents=True)
    (root / "etc" / "hosts").write_bytes(b"127.0.0.1 localhost\n\xff\xfe caf\xe9 # no text")
    (root / "etc" / "ca-certificates.conf").write_text("# none\n")
    for name in ("other", "third"):
        pem = ensure(tmp_path / name).ca.read_bytes()
        (root / DEBIAN.anchors.lstrip("/") / f"{name}.crt").write_bytes(pem)
    ensure(tmp_path / "certs")
    return Job(Machine(root, say=lambda line: None), tmp_path / "certs")


def files(root: Path) -> dict[str, bytes]:
    return {
        str(path): bytes(path.readlink()) if path.is_symlink() else path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def update(job: Job) -> None:
    if shutil.which("update-ca-certificates") is None:
        pytest.skip("needs update-ca-certificates")
    (job.machine.root / "usr/share/ca-certificates").mkdir(parents=True, exist_ok=True)
    job.machine.run(*stores._update(DEBIAN, job.machine))


def test_what_is_put_in_comes_out_again_to_the_byte(job: Job) -> None:
    """With the system's own tool, on a copy."""
    update(job)
    before, ca = files(job.machine.root), job.folder / "ca.pem"
    digest = stores.add(DEBIAN, job.machine, ca, job.kept)
    system.lead_here(job, ["api.openai.com"])
    assert stores.is_in(DEBIAN, job.machine, ca.read_text())
    assert len(stores.left(DEBIAN, job.machine, ca.read_text())) >= 3
    assert len(installed.traces(job)) >= 5
    stores.remove(DEBIAN, job.machine, job.kept, digest)
    job.machine.edit(job.hosts, hosts_file.lead_away, [])
    assert files(job.machine.root) == before
    assert installed.traces(job) == []


def test_the_tool_alone_leaves_a_link_that_leads_nowhere(job: Job) -> None:
    """Debian 12: it says "0 removed". So it is looked for by name and by fingerprint."""
    update(job)
    ca = job.folder / "ca.pem"
    stores.add(DEBIAN, job.machine, ca, job.kept)
    stores.anchor(DEBIAN, job.machine).unlink()
    job.machine.run(*stores._update(DEBIAN, job.machine))
    assert stores.left(DEBIAN, job.machine, ca.read_text())
    stores.remove(DEBIAN, job.machine, job.kept)
    assert not stores.left(DEBIAN, job.machine, ca.read_text())


def test_off_finds_what_an_on_that_died_has_left(job: Job, monkeypatch) -> None:
    """Killed between two steps, there may be no record, or no line."""
    monkeypatch.setattr(stores, "kind_of", lambda machine: None)
    before = files(job.machine.root)
    system.lead_here(job, ["api.openai.com"])
    assert system.off(job) == 0
    assert files(job.machine.root) == before
    (job.folder / INSTALLED).write_text("{}")
    assert system.off(job) == 0 and not list(job.folder.glob("system*"))[1:]


def test_what_is_somebody_elses_stays(job: Job, monkeypatch) -> None:
    """A root or a unit of the same name: it is neither overwritten nor taken out."""
    monkeypatch.setattr(stores, "kind_of", lambda machine: DEBIAN)
    monkeypatch.setattr(stores, "_update", lambda kind, machine: ("true",))
    unit_file = job.machine.at(service.UNIT)
    unit_file.write_text("[Unit]\nDescription=another invariant\n")
    place = stores.anchor(DEBIAN, job.machine)
    place.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    link = job.machine.at(DEBIAN.links) / "invariant.pem"
    link.symlink_to(place)
    before = files(job.machine.root)
    assert installed.traces(job) == []
    assert system.on(job, "hosts", [], None) == system.BROKEN
    system.lead_here(job, ["api.openai.com"])
    assert system.off(job) == 0
    assert files(job.machine.root) == before


def test_a_trial_says_all_and_does_nothing(job: Job, monkeypatch) -> None:
    """--dry-run: the same steps, as lines for a shell."""
    monkeypatch.setattr(stores, "kind_of", lambda machine: DEBIAN)
    said: list[str] = []
    job.machine = Machine(job.machine.root, dry=True, say=said.append)
    before = files(job.machine.root.parent)
    assert system.on(job, "hosts", ["invariant_workers=2"], None) == 0
    assert files(job.machine.root.parent) == before
    text = "\n".join(said)
    for part in ("install -m 644", "update-ca-certificates", "@127.0.0.1:443", "# invariant' >>"):
        assert part in text


def test_a_step_that_fails_says_what_the_tool_said(job: Job) -> None:
    """And not just that it failed."""
    with pytest.raises(StepError, match="ended with 3: why"):
        job.machine.run("sh", "-c", "echo why; exit 3")
    with pytest.raises(StepError, match="no-such-tool"):
        job.machine.run("no-such-tool")


def test_a_file_is_not_written_through_a_link(job: Job, tmp_path: Path) -> None:
    """Root writes here: a link that somebody laid must not lead it elsewhere."""
    target = tmp_path / "elsewhere"
    target.write_text("safe")
    link = job.machine.root / "etc" / "link"
    link.symlink_to(target)
    with pytest.raises(StepError):
        job.machine.write(link, "x")
    assert target.read_text() == "safe"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"way": 1}', "\0", '{"way":"x","pid":"y"}'])
def test_a_record_that_is_none_is_none(job: Job, text: str) -> None:
    """It may be cut short, or of another version."""
    (job.folder / INSTALLED).write_text(text)
    assert read_record(job.folder) is None


def test_a_record_is_read_as_it_was_written(job: Job) -> None:
    """After a crash it is all that is known."""
    record = Record("hosts", "PEM", ["a=b"], "me", 7, "digest")
    installed.write_record(job, record)
    assert read_record(job.folder) == record
    assert (job.folder / INSTALLED).stat().st_mode & 0o777 == 0o600


def test_the_unit_gives_the_proxy_no_more_than_it_needs() -> None:
    """One capability, no root, and a disk that it cannot write to."""
    text = unit(["/srv/my project/mitmdump", "-s", "50%$x"], NOBODY, [Path("/srv/certs")])
    assert 'ExecStart="/srv/my project/mitmdump" "-s" "50%%$$x" --set confdir=' in text
    for line in (
        "User=nobody",
        "AmbientCapabilities=CAP_NET_BIND_SERVICE",
        "CapabilityBoundingSet=CAP_NET_BIND_SERVICE",
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
        'ReadWritePaths="-/srv/certs"',
        "Restart=always",
    ):
        assert line in text.splitlines()
    if (analyze := shutil.which("systemd-analyze")) is None:
        pytest.skip("needs systemd-analyze")
    real = unit(["/bin/true"], User("root", 0, 0, Path("/root")), [Path("/tmp")])
    file = Path("/tmp") / f"invariant-{id(real)}.service"
    file.write_text(real)
    try:
        ended = subprocess.run(
            [analyze, "verify", file], capture_output=True, text=True, check=False
        )
    finally:
        file.unlink()
    assert ended.returncode == 0, ended.stderr


def test_under_systemd_it_is_a_service(job: Job, monkeypatch) -> None:
    """The lines, with a stand-in for systemctl: here there is no systemd to start one."""
    (job.machine.root / "run/systemd/system").mkdir(parents=True)
    monkeypatch.setattr("shutil.which", lambda name, **_: f"/bin/{name}")
    ran: list[tuple[str, ...]] = []
    monkeypatch.setattr(Machine, "run", lambda self, *words, may_fail=False: ran.append(words))
    assert service.has_systemd(job.machine)
    text = unit(["/bin/true"], NOBODY, [])
    service.start_unit(job.machine, text)
    assert job.machine.at(service.UNIT).read_text() == text
    service.stop_unit(job.machine)
    assert not job.machine.at(service.UNIT).exists()
    assert [words[1] for words in ran] == ["daemon-reload", "enable", "disable", "daemon-reload"]


@pytest.mark.parametrize(
    ("words", "folder", "is_ours"),
    [
        (["mitmdump", "-s", SCRIPT], None, True),
        (["/v/bin/python", "/v/bin/mitmdump", "-s", "addon/invariant.py"], "/srv/project", True),
        (["mitmweb", "--set", f"scripts={SCRIPT}"], None, True),
        (["setpriv", "--reuid=1", "--x", "--", "mitmdump", "-s", SCRIPT], None, True),
        (["mitmdump", "-s", "addon/invariant.py"], "/srv/other", False),
        (["mitmdump", "-s", "/srv/other/addon/invariant.py"], "/srv/project", False),
        (["vim", SCRIPT], "/srv/project", False),
        (["vim", "notes on", "the old", "mitmdump", SCRIPT], "/srv/project", False),
        ([], None, False),
    ],
)
def test_only_a_proxy_of_this_checkout_is_ended(
    words: list[str], folder: str | None, is_ours: bool
) -> None:
    """`off` kills by what a process is, not by what its line looks like."""
    assert loads(words, SCRIPT, Path(folder) if folder else None) is is_ours


def test_the_firewalls_table_lets_the_proxy_by(tmp_path: Path) -> None:
    """Else its own calls would come back to it."""
    text = firewall.table(["203.0.113.10", "2001:db8::1", "127.0.0.1"], 999)
    assert "elements = { 203.0.113.10 }" in text and "elements = { 2001:db8::1 }" in text
    assert text.count("meta skuid 999 return") == 2
    with pytest.raises(ValueError, match="no address"):
        firewall.table(["127.0.0.1"], 999)
    if (nft := shutil.which("nft")) is None:
        pytest.skip("needs nft")
    file = tmp_path / "table.nft"
    file.write_text(text)
    ended = subprocess.run([nft, "-c", "-f", file], capture_output=True, text=True, check=False)
    assert ended.returncode == 0 or "not permitted" in ended.stderr, ended.stderr


@pytest.mark.parametrize("platform", ["darwin", "win32"])
@pytest.mark.parametrize("verb", ["on", "off"])
def test_other_systems_get_the_commands_and_the_warning(
    platform: str, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """They were not tried, so nothing is run."""
    assert elsewhere.explain(verb, Path("/c"), platform) == 2
    said = capsys.readouterr().err
    assert "NOT VERIFIED" in said and "{" not in said
    assert ("security" if platform == "darwin" else "certutil") in said


def test_it_says_that_it_takes_root(monkeypatch, capsys, tmp_path: Path) -> None:
    """With the line to type."""
    monkeypatch.setattr("os.getuid", lambda: 1000)
    assert system.main(["on", "--certs", str(tmp_path)]) == 2
    assert "sudo " in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_status_says_off_where_nothing_was_done(job: Job, monkeypatch) -> None:
    """And ends with what a script can ask for."""
    monkeypatch.setattr(stores, "kind_of", lambda machine: None)
    assert system.status(job) == system.OFF
    record = {"way": "hosts", "ca": "", "settings": [], "user": "x"}
    (job.folder / INSTALLED).write_text(json.dumps(record))
    assert system.status(job) == system.BROKEN
