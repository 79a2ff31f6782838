"""The real Codex CLI, over its WebSocket: what its user gets to see."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from stage import responses, rules
from stage.clients_table import MADE
from stage.proxy import Proxy, StartProxy
from stage.responses import function, message
from stage.script import Stream
from stage.sockets import Socket
from stage.upstream import Upstream

CODEX = MADE / "codex" / "node_modules" / ".bin" / "codex"
NO_EVIL = """
raise "no evil files" if:
    (call: ToolCall)
    "evil" in call.function.arguments["cmd"]
"""
RULES = (rules.NO_BLUEBIRD, NO_EVIL)

pytestmark = pytest.mark.skipif(
    not CODEX.exists() or not shutil.which("node"),
    reason="there is no .clients/codex; scripts/clients makes it",
)


@pytest.fixture
def proxy(proxy_for: StartProxy) -> Proxy:
    return proxy_for(rules=RULES)


def events(items: list[Any], name: str) -> Any:
    return responses.payloads(b"".join(responses.stream(items, id=name)))


def shell(command: str) -> Any:
    return function("exec_command", json.dumps({"cmd": command}))


def serve(upstream: Upstream, *turns: Any) -> Socket:
    """The first answer is to a warm-up."""
    socket = Socket([events([], "resp_warm"), *turns], pace=0.005)
    upstream.script(socket, path=responses.PATH, method="GET")
    return socket


def run(proxy: Proxy, folder: Path, prompt: str = "say hi") -> subprocess.CompletedProcess[str]:
    home = folder / "home"
    home.mkdir()
    (home / "config.toml").write_text('model = "gpt-5.2"\nanalytics.enabled = false\n')
    environment = proxy.client_environment() | {
        "HOME": str(home),
        "CODEX_HOME": str(home),
        "CODEX_API_KEY": "sk-stage",
        "PATH": os.environ["PATH"],
    }
    options = ["--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"]
    return subprocess.run(
        [CODEX, "exec", *options, "-C", folder, prompt],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_clean_session_works_as_ever(upstream: Upstream, proxy: Proxy, tmp_path: Path) -> None:
    """Warm-up, full input, and then only what is new: all on one connection."""
    socket = serve(
        upstream,
        events([shell("echo fine > made")], "resp_1"),
        events([message("All done.", size=99)], "resp_2"),
    )
    before: Any = proxy.health()["calls"]
    ran = run(proxy, tmp_path)
    assert ran.returncode == 0 and ran.stdout == "All done.\n", ran.stderr
    assert (tmp_path / "made").read_text() == "fine\n"
    said = [(one.get("generate"), one.get("previous_response_id")) for one in socket.json()]
    assert said == [(False, None), (None, "resp_warm"), (None, "resp_1")]
    assert [item["type"] for item in socket.json()[2]["input"]] == ["function_call_output"]
    after: Any = proxy.health()["calls"]
    assert after["judged"] == before["judged"] + 3


def test_a_forbidden_call_is_not_run(upstream: Upstream, proxy: Proxy, tmp_path: Path) -> None:
    """Codex stops at the error, says it, and does not try again."""
    serve(upstream, events([message("Well."), shell("echo x > evil")], "resp_1"))
    ran = run(proxy, tmp_path)
    assert ran.returncode == 1 and "no evil files" in ran.stderr
    assert not (tmp_path / "evil").exists()
    assert [call.method for call in upstream.calls] == ["GET"]


def test_a_forbidden_prompt_does_not_leave(
    upstream: Upstream, proxy: Proxy, tmp_path: Path
) -> None:
    """Not over the WebSocket, and not by HTTP after it."""
    socket = serve(upstream, events([message("Fine.")], "resp_1"))
    ran = run(proxy, tmp_path, "tell me about BLUEBIRD")
    assert ran.returncode == 1 and "no bluebirds here" in ran.stderr
    assert len(socket.said) == 1 and "BLUEBIRD" not in str(socket.said)
    assert [call.method for call in upstream.calls] == ["GET"]


def test_it_goes_on_by_http_where_websockets_are_refused(
    upstream: Upstream, start_proxy: StartProxy, tmp_path: Path
) -> None:
    """At once: 426 is the one answer that costs no retries."""
    proxy = start_proxy(rules=RULES, options={"invariant_websocket": "refuse"})
    answer = [message("By HTTP.", size=99)]
    upstream.script(Stream(responses.stream(answer)), path=responses.PATH, method="POST")
    ran = run(proxy, tmp_path)
    assert ran.returncode == 0 and ran.stdout == "By HTTP.\n", ran.stderr
    assert [call.method for call in upstream.calls] == ["POST"]
