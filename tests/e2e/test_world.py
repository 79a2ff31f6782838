"""On a machine of its own, with an internet: what is decrypted, who may connect, on and off.

The real mitmdump, the real update-ca-certificates, real names; in a network and a mount namespace,
so that nothing of this machine is touched (stage/world.py).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

WORLD = Path(__file__).parent / "stage" / "world.py"
INSIDE = ("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")


def missing() -> str:
    if not sys.platform.startswith("linux"):
        return "needs Linux"
    if os.geteuid() != 0:
        return "needs root, for namespaces"
    for tool in ("unshare", "nsenter", "ip", "ss", "mount", "curl"):
        if shutil.which(tool) is None:
            return f"needs {tool}"
    tried = subprocess.run([*INSIDE, "true"], capture_output=True, text=True, check=False)
    return f"no namespaces here: {tried.stderr.strip()}" if tried.returncode else ""


def explore(verb: str, folder: Path) -> dict[str, Any]:
    if why := missing():
        pytest.skip(why)
    ended = subprocess.run(
        [*INSIDE, sys.executable, WORLD, verb, folder],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        stdin=subprocess.DEVNULL,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    seen = json.loads(ended.stdout.splitlines()[-1])
    assert isinstance(seen, dict)
    return seen


def test_only_the_api_is_decrypted_and_only_for_this_machine(tmp_path: Path) -> None:
    """Every way of naming a host, in CONNECT and in TLS; "theirs" is the host's own certificate."""
    seen = explore("rows", tmp_path)
    assert seen["rows"] == {
        "api.openai.com / api.openai.com": "ours",
        "api.openai.com. / api.openai.com": "ours",
        "API.OPENAI.COM / api.openai.com": "ours",
        "other.example / other.example": "theirs",
        "other.example / api.openai.com": "ours",
        "api.openai.com / other.example": "ours",
        "api.openai.com / None": "ours",
        "203.0.113.10 / api.openai.com": "ours",
        "203.0.113.10 / other.example": "theirs",
        "203.0.113.10 / None": "theirs",
        "other.example / None": "theirs",
    }
    assert seen["bound"] == ["127.0.0.1"], "and nothing was reached from outside"
    assert " 508 " in seen["circle"], "a name that resolves to 127.0.0.1 dies at the first hop"
    assert " 200 " not in seen["onboarding"], "mitmproxy's own authority is not handed out"
    assert seen["outsider"] == {"nobody": "000", "10.99.0.0/24": "200"}


def test_the_whole_machine_is_guarded_and_put_back_to_the_byte(tmp_path: Path) -> None:
    """on, a call, a regional call, another host; the proxy dies; off."""
    if shutil.which("update-ca-certificates") is None:
        pytest.skip("needs update-ca-certificates")
    seen = explore("system", tmp_path)
    code, said = seen["dry"]
    assert code == 0 and seen["dry changed"] == []
    assert "update-ca-certificates" in said and ">> /etc/hosts" in said
    code, said = seen["on"]
    assert code == 0, said
    assert {"/etc/hosts", "/etc/ssl/certs/ca-certificates.crt"} <= set(seen["changed"])
    assert set(seen["bound"]) <= {"127.0.0.1", "::1", "203.0.113.10"}
    assert json.loads(seen["health"])["ready"] is True, "curl needs no variable at all"
    assert json.loads(seen["call"]) == {"public": "api.openai.com"}, "found around the hosts file"
    assert json.loads(seen["regional"]) == {"public": "eu.api.openai.com"}
    assert seen["asked"] == ["api.openai.com", "eu.api.openai.com"]
    assert json.loads(seen["other"]) == {"public": "other.example"}, "untouched"
    assert "VIA-PROXY" in seen["doctor"][1] and "proxy on 8080" not in seen["doctor"][1]
    assert seen["status"][0] == 0
    assert "Failed to connect" in seen["dead call"], "it fails closed, at once"
    code, said = seen["dead status"]
    assert code == 1 and "BROKEN" in said and "sudo scripts/system off" in said
    code, said = seen["off"]
    assert code == 0, said
    assert seen["left"] == [], "hosts file, trust stores, links: as before"
    assert seen["off again"] == [0, "invariant: nothing to undo\n"]
