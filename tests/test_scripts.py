"""What the scripts do before Python runs: find one, and make an environment with it.

With stand-ins for Python, so that every kind of machine can be had.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SETUP = ROOT / "scripts" / "lib" / "setup.sh"
VERBS = sorted(
    path for path in [*(ROOT / "scripts").iterdir(), ROOT / ".ci" / "run"] if path.is_file()
)
# fmt: off
TOOLS = (
    "bash", "cat", "cksum", "cp", "dirname", "flock", "grep", "kill", "mkdir", "mv", "rm", "sh",
    "sleep", "sort", "tail", "tr",
)
# fmt: on

PYTHON = """#!/bin/sh
version="{version}"
case "$*" in
*ensurepip*)
  set -- $(echo "$version" | tr . " ")
  [ "$1$2" -ge 312 ] || exit 1
  printf '%d%03d%03d\\n' "$1" "$2" "$3" ;;
*_base_executable*) echo "{home}/python" ;;
-V) echo "Python $version" ;;
*"-m venv"*)
  for folder; do :; done
  rm -rf "$folder"
  mkdir -p "$folder/bin"
  cp "$0" "$folder/bin/python"
  printf 'home = %s\\ncommand = x -m venv --clear %s\\n' "{home}" "$folder" >"$folder/pyvenv.cfg"
  echo venv >>"{journal}" ;;
*"-m pip install"*)
  sleep "${{PIP_TAKES:-0}}"
  [ -z "${{PIP_FAILS:-}}" ] || {{ echo "ERROR: no matching distribution"; exit 1; }}
  echo "pip" >>"{journal}" ;;
esac
"""


class Machine:
    """A PATH with the usual tools and with just those Pythons that a test puts there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.journal = folder / "journal"
        self.venv = folder / "a project" / ".venv"
        self.venv.parent.mkdir()
        self.lock = folder / "a project" / "requirements.lock"
        self.lock.write_text("orjson==1\n")
        for tool in TOOLS:
            if found := shutil.which(tool):
                (self.bin / tool).symlink_to(found)

    def add(self, name: str, version: str, folder: Path | None = None) -> Path:
        path = (folder or self.bin) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(PYTHON.format(version=version, home=path.parent, journal=self.journal))
        path.chmod(0o755)
        return path

    def add_shim(self, name: str) -> None:
        """What pyenv leaves on the PATH for a version that is not switched on."""
        path = self.bin / name
        path.write_text(f"#!/bin/sh\necho 'pyenv: {name}: command not found' >&2\nexit 127\n")
        path.chmod(0o755)

    def start(
        self, command: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self.bin / "bash", "-c", f'set -euo pipefail; . "{SETUP}"; {command}'],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={
                "PATH": str(self.bin),
                "HOME": str(self.folder / "nobody"),
                **(environment or {}),
            },
        )

    def run(
        self, command: str, environment: Mapping[str, str] | None = None
    ) -> tuple[int, str, str]:
        run = self.start(command, environment)
        out, err = run.communicate(timeout=20)
        return run.returncode, out.strip(), err

    def ensure(self, **environment: str) -> tuple[int, str, str]:
        return self.run(self.ensuring, environment)

    @property
    def ensuring(self) -> str:
        return f'ensure_environment "{self.venv}" "{self.lock}"'

    @property
    def done(self) -> list[str]:
        return self.journal.read_text().split() if self.journal.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_shim_that_does_not_run_is_passed_over(machine: Machine) -> None:
    """Being on the PATH says nothing: pyenv has a shim for every version of every project."""
    machine.add_shim("python3.13")
    machine.add("python3", "3.11.2")
    fits = machine.add("python3.12", "3.12.1")
    assert machine.run("find_python")[:2] == (0, str(fits))


def test_pyenvs_newest_version_is_found(machine: Machine) -> None:
    """Shims alone: the versions are there, and none is switched on."""
    machine.add_shim("python3")
    root = machine.folder / "py env"
    for version in ("3.9.18", "3.12.1", "3.13.0"):
        machine.add("python", version, root / "versions" / version / "bin")
    found = machine.run("find_python", {"PYENV_ROOT": str(root)})[1]
    assert found == str(root / "versions" / "3.13.0" / "bin" / "python")


def test_a_home_with_pyenv_needs_no_variable(machine: Machine) -> None:
    """A service or an editor starts without the shell's profile."""
    fits = machine.add("python", "3.12.1", machine.folder / "nobody/.pyenv/versions/3.12.1/bin")
    assert machine.run("find_python")[1] == str(fits)


def test_uvs_python_is_found(machine: Machine) -> None:
    """It lies where no PATH leads."""
    fits = machine.add("python", "3.13.0", machine.folder / "uv")
    (machine.bin / "uv").write_text(f'#!/bin/sh\necho "{fits}"\n')
    (machine.bin / "uv").chmod(0o755)
    assert machine.run("find_python")[1] == str(fits)


def test_the_newest_is_not_the_best(machine: Machine) -> None:
    """For 3.14 a dependency has to be compiled: only if there is nothing else."""
    newest = machine.add("python3", "3.14.0")
    assert machine.run("find_python")[1] == str(newest)
    fits = machine.add("python3.12", "3.12.1")
    assert machine.run("find_python")[1] == str(fits)


def test_the_persons_choice_goes_first(machine: Machine) -> None:
    """And a choice that cannot work is an error, not a reason to take another."""
    machine.add("python3.13", "3.13.0")
    own = machine.add("mine", "3.12.1", machine.folder)
    assert machine.run("find_python", {"PYTHON": str(own)})[1] == str(own)
    old = machine.add("old", "3.11.0", machine.folder)
    code, out, err = machine.run("find_python", {"PYTHON": str(old)})
    assert (code, out) == (1, "")
    assert f"PYTHON={old} does not run, is older than 3.12" in err


def test_without_any_python_it_says_how_to_get_one(machine: Machine) -> None:
    """The first thing that a new person sees must not be a stack of shell errors."""
    machine.add_shim("python3.13")
    machine.add("python3", "3.11.2")
    code, out, err = machine.ensure()
    assert (code, out) == (1, "")
    assert "no Python 3.12 or newer was found" in err
    assert "apt install python3" in err
    assert all(line.startswith("invariant: ") for line in err.splitlines())


def test_an_environment_is_made_once(machine: Machine) -> None:
    """The second start has to be as quick as if there were no set-up at all."""
    machine.add("python3", "3.13.0")
    code, out, err = machine.ensure()
    assert (code, out) == (0, "")
    assert "setting up .venv with Python 3.13.0" in err
    assert ".venv is ready" in err
    assert machine.ensure() == (0, "", "")
    assert machine.done == ["venv", "pip"]


def test_a_changed_lock_is_installed(machine: Machine) -> None:
    """After a `git pull`, without a word from anybody."""
    machine.add("python3", "3.13.0")
    machine.ensure()
    machine.lock.write_text("orjson==2\n")
    machine.ensure()
    assert machine.done == ["venv", "pip", "pip"]


def test_an_interrupted_set_up_is_mended_by_the_next(machine: Machine) -> None:
    """Ctrl-C, a full disk, a train into a tunnel: half of pip's work looks like all of it."""
    machine.add("python3", "3.13.0")
    code, _, err = machine.ensure(PIP_FAILS="1")
    assert code == 1
    assert "ERROR: no matching distribution" in err
    assert "could not set up .venv" in err
    assert machine.ensure()[0] == 0
    assert machine.done == ["venv", "venv", "pip"]


def test_one_that_was_killed_is_mended_by_the_next(machine: Machine) -> None:
    """No trap runs then, and no lock may stay."""
    machine.add("python3", "3.13.0")
    run = machine.start("exec >/dev/null 2>&1; " + machine.ensuring, {"PIP_TAKES": "1"})
    deadline = time.monotonic() + 5
    while machine.done != ["venv"] and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(run.pid, signal.SIGKILL)  # with everything that it had started
    run.communicate()
    assert machine.ensure()[0] == 0
    assert machine.done[:2] == ["venv", "venv"]


def test_one_that_was_moved_is_made_again(machine: Machine) -> None:
    """Its programs name it by the path where it was."""
    machine.add("python3", "3.13.0")
    machine.ensure()
    machine.venv.parent.rename(machine.folder / "elsewhere")
    machine.venv = machine.folder / "elsewhere" / ".venv"
    machine.lock = machine.folder / "elsewhere" / "requirements.lock"
    assert machine.ensure()[0] == 0
    assert machine.done == ["venv", "pip", "venv", "pip"]


def test_one_whose_python_has_gone_is_made_again(machine: Machine) -> None:
    """brew upgrade takes away what a venv points at."""
    machine.add("python3", "3.13.0")
    machine.ensure()
    (machine.venv / "bin" / "python").unlink()
    assert machine.ensure()[0] == 0
    assert machine.done == ["venv", "pip", "venv", "pip"]


def test_another_python_makes_another_environment(machine: Machine) -> None:
    """Whoever names one gets it; whoever names none keeps what is there."""
    machine.add("python3", "3.13.0")
    own = machine.add("mine", "3.12.1", machine.folder / "own")
    machine.ensure()
    machine.ensure(PYTHON=str(own))
    assert machine.done == ["venv", "pip", "venv", "pip"]
    assert machine.ensure() == machine.ensure(PYTHON=str(own)) == (0, "", "")


@pytest.mark.parametrize("with_flock", [True, False])
def test_two_at_once_make_it_once(machine: Machine, *, with_flock: bool) -> None:
    """Two terminals, or a test run beside an agent; macOS has no flock."""
    if not with_flock:
        (machine.bin / "flock").unlink(missing_ok=True)
    machine.add("python3", "3.13.0")
    runs = [machine.start(machine.ensuring, {"PIP_TAKES": "0.3"}) for _ in range(3)]
    assert [run.communicate(timeout=20)[0] for run in runs] == ["", "", ""]
    assert [run.returncode for run in runs] == [0, 0, 0]
    assert machine.done == ["venv", "pip"]


def test_a_lock_whose_owner_is_gone_is_taken(machine: Machine) -> None:
    """Without flock nothing takes it back by itself."""
    (machine.bin / "flock").unlink(missing_ok=True)
    machine.add("python3", "3.13.0")
    gone = subprocess.Popen(["true"])
    gone.wait()
    left = machine.venv.with_name(".venv.lock.d")
    left.mkdir()
    (left / "pid").write_text(f"{gone.pid}\n")
    assert machine.ensure()[0] == 0
    assert not left.exists()


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.relative_to(ROOT).as_posix())
def test_a_verb_can_be_run_and_says_what_it_is(verb: Path) -> None:
    """The first lines of a script are its manual."""
    lines = verb.read_text().splitlines()
    assert os.access(verb, os.X_OK)
    assert lines[0] in ("#!/usr/bin/env bash", "#!/usr/bin/env python3")
    if lines[0].endswith("bash"):
        assert lines[1].startswith("# ")
        assert "set -euo pipefail" in lines
        subprocess.run(["bash", "-n", verb], check=True)


@pytest.mark.parametrize("verb", ["clients", "demo", "gateway"])
def test_help_does_nothing_else(verb: str, tmp_path: Path) -> None:
    """Somebody asks what it does because they do not want to find out: it made environments."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    said = subprocess.run(
        [tmp_path / "scripts" / verb, "--help"],
        check=True,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )
    assert f"scripts/{verb}" in said.stdout + said.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == ["scripts"]


def test_a_linked_environment_is_left_alone(tmp_path: Path) -> None:
    """Setting it up would clear another checkout's environment, under another lock."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "precious").write_text("x")
    (tmp_path / ".venv").symlink_to(other)
    (tmp_path / "lock").write_text("nothing\n")
    done = subprocess.run(
        ["bash", "-c", f'. "{ROOT}/scripts/lib/setup.sh"; ensure_environment "$PWD/.venv" lock'],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode != 0 and "is a link" in done.stderr
    assert (other / "precious").exists()
