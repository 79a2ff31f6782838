"""`scripts/run -- python agent.py`: an agent that knows nothing of all this, guarded."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from stage import rules, streams
from stage.clients import SDK_PYTHON
from stage.script import Stream
from stage.upstream import Upstream

ROOT = Path(__file__).resolve().parents[2]
AGENT = """
import sys
from openai import OpenAI, BadRequestError
client = OpenAI(api_key="sk-test")
try:
    for chunk in client.chat.completions.create(
        model="gpt-4o-mini", stream=True, messages=[{"role": "user", "content": sys.argv[1]}]
    ):
        if chunk.choices and chunk.choices[0].delta.content:
            print(chunk.choices[0].delta.content, end="")
except BadRequestError as error:
    sys.exit(f"refused: {error}")
"""


@pytest.fixture
def run(upstream: Upstream, real_clients: None, tmp_path: Path):
    """Runs scripts/run as a user would, in an empty home."""
    (tmp_path / "agent.py").write_text(AGENT)
    (tmp_path / "rule.inv").write_text(rules.NO_BLUEBIRD)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "LANG": "C.UTF-8",
        **{name: os.environ[name] for name in ("PYTHON", "PYENV_ROOT") if name in os.environ},
    }
    # The last two lines lead "the internet" to the fake OpenAI; a user has neither. The starter
    # rules, which cost most of a start, are on in the test of the README's promise.
    settings = [
        *("--rules", tmp_path / "rule.inv"),
        *("--set", f"invariant_certs={tmp_path / 'certs'}"),
        *("--set", f"map_remote=|https://api.openai.com/|https://127.0.0.1:{upstream.port}/"),
        *("--set", f"ssl_verify_upstream_trusted_ca={upstream.ca}"),
    ]

    def start(
        *command: object, option: str = "invariant_starter_rules=false"
    ) -> subprocess.CompletedProcess[str]:
        own = [*settings, "--set", option]
        return subprocess.run(
            [ROOT / "scripts" / "run", *map(str, own), "--", *map(str, command)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    return start


def test_an_agent_is_guarded_without_being_changed(upstream: Upstream, run) -> None:
    """The promise of the README, word for word."""
    upstream.script(Stream(streams.text_stream(["all", " is", " well"])))
    done = run(SDK_PYTHON, "agent.py", "hello", option="invariant_starter_rules=true")
    assert (done.returncode, done.stdout) == (0, "all is well"), done.stderr
    assert "1 call: 1 judged and passed, 0 blocked, 0 not scanned" in done.stderr


def test_a_blocked_prompt_is_an_exception_that_names_the_rule(upstream: Upstream, run) -> None:
    """... and OpenAI never saw it."""
    done = run(SDK_PYTHON, "agent.py", "BLUEBIRD")
    assert done.returncode == 1
    assert "refused: Error code: 400 - [Invariant] The request did not pass" in done.stderr
    assert "no bluebirds here" in done.stderr and "1 blocked" in done.stderr
    assert not upstream.calls


OLD_NODE = """
const https = require('https');
const body = JSON.stringify({model: 'm', messages: [{role: 'user', content: process.argv[2]}]});
const call = https.request('https://api.openai.com/v1/chat/completions', {method: 'POST',
  headers: {'content-type': 'application/json', authorization: 'Bearer sk-x'}}, (reply) => {
  reply.resume().on('end', () => console.log('https', reply.statusCode));
});
call.on('error', (error) => console.log('https', error.message));
call.end(body);
fetch('https://api.openai.com/v1/chat/completions', {method: 'POST', body,
  headers: {'content-type': 'application/json', authorization: 'Bearer sk-x'}})
  .then((reply) => console.log('fetch', reply.status), (no) => console.log('fetch', no.cause));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node")
def test_node_is_guarded_whatever_its_version(upstream: Upstream, run, tmp_path: Path) -> None:
    """Before 22.21 Node knows no proxy, and called OpenAI directly, with success."""
    (tmp_path / "agent.js").write_text(OLD_NODE)
    done = run("node", "agent.js", "BLUEBIRD")
    assert sorted(done.stdout.split("\n")) == ["", "fetch 400", "https 400"], done.stderr
    assert "2 calls: 0 judged and passed, 2 blocked" in done.stderr
    assert not upstream.calls


def test_zero_calls_are_said_loudly(upstream: Upstream, run) -> None:
    """A program that goes around the proxy must not look guarded."""
    done = run("true")
    assert done.returncode == 0
    assert "NOT ONE CALL" in done.stderr


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("invariant_workers=abc", "invariant_workers: not an integer: abc"),
        ("invariant_workers=-1", "invariant_workers: got -1, expected 0 or more"),
        (
            "invarant_rules=x",
            "invarant_rules: there is no such option; did you mean invariant_rules?",
        ),
    ],
)
def test_a_bad_option_is_one_line_and_at_once(run, tmp_path: Path, option: str, said: str) -> None:
    """Nothing runs, and nobody waits for a proxy that will never be ready."""
    began = time.monotonic()
    done = run("touch", "ran", option=option)
    assert time.monotonic() - began < 20
    assert done.returncode == 125
    (line,) = [line for line in done.stderr.splitlines() if "made a certificate" not in line]
    assert line == f"invariant: {said}; touch was not run"
    assert not (tmp_path / "ran").exists()
