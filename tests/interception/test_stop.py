"""scripts/off: every proxy of this checkout ends, and nobody else's."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from invariant_addon.interception import launch, stop

WAIT = "import time; print('up', flush=True); time.sleep(60)"
DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {WAIT}"

pytestmark = pytest.mark.skipif(not Path("/proc/self").exists(), reason="reads /proc")


def stand_in(folder: Path, script: str, code: str = WAIT, cwd: Path | None = None):
    """A process that looks like a mitmdump which has loaded this script."""
    mitmdump = folder / "mitmdump"
    mitmdump.write_text(code)
    child = subprocess.Popen(
        [sys.executable, mitmdump, "-s", script], stdout=subprocess.PIPE, cwd=cwd or folder
    )
    assert child.stdout and child.stdout.readline() == b"up\n"
    return child


def test_proxies_of_this_checkout_end_and_others_stay(tmp_path: Path, monkeypatch) -> None:
    """Named by its whole path, from its folder, or deaf to a polite word."""
    monkeypatch.setattr(stop, "STOP_SECONDS", 1.0)
    script = tmp_path / "addon" / "invariant.py"
    script.parent.mkdir()
    script.touch()
    (tmp_path / "d").mkdir()
    ours = [
        stand_in(tmp_path, str(script)),
        stand_in(tmp_path, "addon/invariant.py"),
        stand_in(tmp_path / "d", str(script), DEAF),
    ]
    (tmp_path / "other").mkdir()
    theirs = stand_in(tmp_path, "addon/invariant.py", cwd=tmp_path / "other")
    try:
        assert stop.end_proxies(str(script), dry=True)[0] == sorted(c.pid for c in ours)
        assert all(child.poll() is None for child in ours)
        # A child that has ended stays in the table until it is asked after.
        ended, left = stop.end_proxies(str(script), dry=False)
        assert sorted(ended) == sorted(child.pid for child in ours) and not left
        assert theirs.poll() is None
    finally:
        for child in (*ours, theirs):
            child.kill()
            child.wait(10)
            assert child.stdout
            child.stdout.close()


def test_programs_that_still_point_at_it_are_named(tmp_path: Path) -> None:
    """Their variables cannot be changed from here, and their calls fail from now on."""
    script = tmp_path / "agent.py"
    script.write_text("print('up', flush=True)\nimport time; time.sleep(60)")
    child = subprocess.Popen(
        [sys.executable, script, "--key=sk-secret"],
        stdout=subprocess.PIPE,
        env={**os.environ, "INVARIANT_PROXY": "http://127.0.0.1:1"},
    )
    try:
        assert child.stdout and child.stdout.readline() == b"up\n"
        time.sleep(0)
        (found,) = [p for p in stop.pointing(Path("/proc"), os.getpid()) if p.pid == child.pid]
        assert found.script == "agent.py" and "sk-" not in found.label
    finally:
        child.kill()
        child.wait(10)
        assert child.stdout
        child.stdout.close()


def test_a_page_of_the_traces_is_named_and_left_alone(tmp_path: Path) -> None:
    """Whoever types `off` thinks that nothing of ours runs any more. To read is no harm, though."""
    (tmp_path / "data").mkdir()
    environment = {**os.environ, "INVARIANT_DATA": str(tmp_path / "data")}
    child = subprocess.Popen(
        [launch.ROOT / "scripts" / "traces", "serve"],
        stdout=subprocess.PIPE,
        env=environment,
    )
    try:
        assert child.stdout and child.stdout.readline()
        assert child.pid in stop.pages(Path("/proc"), launch.ROOT / "addon")
        assert child.pid not in stop.pages(Path("/proc"), tmp_path / "addon")  # another checkout
        assert child.pid not in stop.proxies(launch.MITMDUMP[-1])
    finally:
        child.terminate()
        assert child.wait(20) == 0
        assert child.stdout
        child.stdout.close()
