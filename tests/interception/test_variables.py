"""scripts/env: a shell that is guarded, and one that is as it was."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invariant_addon.interception import shells, variables
from invariant_addon.interception.environment import guarded_environment
from invariant_addon.interception.trust import Trust

URL = "http://127.0.0.1:8080"
TRUST = Trust(Path("/c/ca.pem"), Path("/c/bundle.pem"), Path("/c/extra.pem"))
NAMES = st.sampled_from(["NO_PROXY", "HTTPS_PROXY", "SSL_CERT_FILE", "NODE_OPTIONS", "PATH"])
# An environment holds no NUL; what is no UTF-8 comes as a surrogate and goes as the same byte.
VALUES = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=20)


def applied(base: Mapping[str, str], changes: Mapping[str, str | None]) -> dict[str, str]:
    """What a shell makes of it."""
    result = {**base, **{k: v for k, v in changes.items() if v is not None}}
    return {k: v for k, v in result.items() if changes.get(k, "") is not None}


def guarded(base: Mapping[str, str], url: str = URL) -> dict[str, str]:
    wanted = guarded_environment(variables.before(base), url, TRUST)
    return applied(base, variables.change(base, wanted))


@given(st.dictionaries(NAMES, VALUES))
def test_a_shell_is_as_it_was_after_unset(base: dict[str, str]) -> None:
    """Undo means undo: to the letter, also of variables that were set before."""
    once = guarded(base)
    assert once["HTTPS_PROXY"] == URL
    assert applied(once, variables.undo(once)) == base


@given(st.dictionaries(NAMES, VALUES))
def test_twice_is_once_and_another_port_is_another_port(base: dict[str, str]) -> None:
    """Else the second call would take the first one's values for what was there before."""
    once = guarded(base)
    assert guarded(once) == once
    moved = guarded(once, "http://127.0.0.1:9090")
    assert moved["HTTPS_PROXY"] == "http://127.0.0.1:9090"
    assert applied(moved, variables.undo(moved)) == base


def test_what_somebody_changed_meanwhile_stays() -> None:
    """It is newer than what was saved."""
    shell = guarded({"NO_PROXY": "corp"}) | {"HTTPS_PROXY": "http://mine:1"}
    after = applied(shell, variables.undo(shell))
    assert after == {"NO_PROXY": "corp", "HTTPS_PROXY": "http://mine:1"}


@given(st.text(max_size=50) | st.binary(max_size=50).map(lambda b: b.hex()))
def test_a_saved_state_of_any_kind_is_read(text: str) -> None:
    """A variable can be cut short, or set by somebody else."""
    variables.read(text)
    variables.undo({variables.SAVED: text})


@given(st.dictionaries(NAMES, VALUES | st.none(), min_size=1))
def test_sh_reads_back_exactly_what_was_meant(changes: dict[str, str | None]) -> None:
    """A quote in NO_PROXY must not become a command."""
    changes.pop("PATH", None)
    script = "\n".join(shells.lines(changes, "sh"))
    printing = "".join(f"printf '%s\\0' \"${{{n}-unset}}\";" for n in changes)
    said = subprocess.run(
        ["sh", "-c", f'eval "$1"; {printing}', "sh", script],
        capture_output=True,
        check=True,
        env={"PATH": "/usr/bin:/bin"},
    ).stdout
    wanted = [("unset" if v is None else v).encode() for v in changes.values()]
    assert said.split(b"\0")[:-1] == wanted


@pytest.mark.parametrize(
    ("shell", "value", "line"),
    [
        ("bash", "it's", "export A='it'\\''s';"),
        ("zsh", None, "unset A;"),
        ("fish", r"it's a \ ", r"set -gx A 'it\'s a \\ ';"),
        ("fish", None, "set -e A;"),
        ("powershell", "it's $(x)", "$env:A = 'it''s $(x)'"),
        ("powershell", "\u2019; calc; \u2018", "$env:A = '\u2019\u2019; calc; \u2018\u2018'"),
        ("powershell", None, "Remove-Item Env:A -ErrorAction SilentlyContinue"),
    ],
)
def test_other_shells_have_other_quotes(shell: str, value: str | None, line: str) -> None:
    """From their manuals; neither shell is here to be asked."""
    assert shells.lines({"A": value}, shell) == [line]


def test_a_name_that_is_none_is_refused() -> None:
    """Nothing but names of ours is written, and a saved state may come from elsewhere."""
    with pytest.raises(ValueError, match="expected the name"):
        shells.lines({"A;rm": "x"}, "sh")


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_whole_way_through_a_shell() -> None:
    """eval, look, eval --unset, look."""
    base = {"PATH": "/usr/bin:/bin", "NO_PROXY": "it's, corp"}
    lines = "\n".join(shells.lines(variables.change(base, guarded(base)), "sh"))
    back = "\n".join(shells.lines(variables.undo(guarded(base)), "sh"))
    said = subprocess.run(
        ["bash", "-c", 'eval "$1"; echo "$HTTPS_PROXY"; eval "$2"; env', "bash", lines, back],
        capture_output=True,
        text=True,
        check=True,
        env=base,
    ).stdout.splitlines()
    assert said[0] == URL
    assert "NO_PROXY=it's, corp" in said
    assert not [line for line in said[1:] if "_proxy" in line.lower() and "NO_PROXY" not in line]


@pytest.mark.parametrize("port", ["0", "99999", "http", "-1", "9" * 5000, "\u0661"])
def test_a_port_that_is_none_is_said(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    """ "No proxy answers on 99999; start one" is advice that nobody can follow."""
    assert variables.main(["--port", port]) == 2
    assert "expected a number from 1 to 65535" in capsys.readouterr().err


def test_the_advice_is_for_the_port_that_was_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it says to type has to help."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert variables.main(["--port", str(port), "--certs", str(tmp_path)]) == 1
    assert f"--listen-port {port}; nothing was set" in capsys.readouterr().err
