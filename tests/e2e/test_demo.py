"""`scripts/demo`: the first thing that a newcomer sees has to work anywhere."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

DEMO = Path(__file__).resolve().parents[2] / "scripts" / "demo"

type Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(real_clients: None, tmp_path: Path) -> Run:
    """Runs scripts/demo in an empty home, from an empty folder, without a terminal."""
    for name in ("a home", "a cwd", "a tmp"):
        (tmp_path / name).mkdir()

    def start(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        kept = ("PATH", "PYTHON", "PYENV_ROOT")
        environment = {name: os.environ[name] for name in kept if name in os.environ}
        environment |= {"HOME": str(tmp_path / "a home"), "TMPDIR": str(tmp_path / "a tmp")} | more
        return subprocess.run(
            [DEMO, *arguments],
            cwd=tmp_path / "a cwd",
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )

    return start


def test_all_four_scenes_go_as_told(run: Run, tmp_path: Path) -> None:
    """It is the README's promise in 20 seconds, and it leaves nothing behind."""
    # What a shell may have set, and what would lead the agent past the proxy:
    done = run(OPENAI_BASE_URL="http://127.0.0.1:9/v1", NO_PROXY="*", PYTHONPATH="/nowhere")
    told = done.stdout
    assert done.returncode == 0, told + done.stderr

    assert "=> agent: 28 words, live | proxy: passed | OpenAI: 1 request, 31 of 31 chunks" in told

    assert "BadRequestError: Error code: 400" in told
    assert "PROJECT-BLUEBIRD is not for outsiders" in told
    assert "the fake OpenAI saw 0 requests" in told

    assert "[ran list_files()" in told
    assert "so I will delete that one." in told
    assert "agents do not delete files" in told.replace("\n         ", " ")
    assert "[ran delete_file" not in told

    assert "its owners did well." in told.replace("\n         ", " ")
    assert "no promises of profit" in told.replace("\n         ", " ")
    assert "guaranteed" not in told
    sent = re.search(r"OpenAI: cancelled after (\d+) of (\d+) chunks", told)
    assert sent and int(sent[1]) < int(sent[2])

    assert "5 calls: 2 judged and passed, 3 blocked" in told
    assert "scripts/run --rules my.inv -- python agent.py" in told
    assert "\033" not in told and max(map(len, told.splitlines())) <= 80
    assert [*(tmp_path / "a home").iterdir(), *(tmp_path / "a tmp").iterdir()] == []


def test_it_takes_no_arguments_and_says_so(run: Run) -> None:
    """A guess (`scripts/demo 3`) gets an answer, not a demo."""
    done = run("3")
    assert done.returncode == 2
    assert "four scenes" in done.stderr
