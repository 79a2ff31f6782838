"""A false positive is muted by its request id, for a while, by the person at this machine alone.

Two proxies share a data folder, with the same rules; each test forbids a bird of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stage import streams
from stage.proxy import ADDON, Proxy, clean_environment
from stage.raw import CHAT, RawClient, Reply
from stage.script import Json, Stream, wait_until
from stage.upstream import Upstream

NO_BIRDS = r"""
raise "no birds" if:
    (m: Message)
    any(find("BIRD-[A-Z]+", m.content))
"""
COMMAND = """
import sys
sys.path.append(sys.argv.pop(1))
from invariant_addon.rules.cli import main
sys.exit(main(sys.argv[1:]))
"""
"""What scripts/rules runs, in the environment of the tests."""


@pytest.fixture(scope="module")
def two(_the_upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Proxy]]:
    data = tmp_path_factory.mktemp("data") / "invariant"
    started = [
        Proxy(
            _the_upstream,
            tmp_path_factory.mktemp(name),
            rules={"birds.inv": NO_BIRDS},
            options={"invariant_data": str(data), "invariant_header_rules": True},
            save_flows=True,
        ).launch()
        for name in ("first", "second")
    ]
    for proxy in started:
        proxy.wait_ready(60)
    yield started
    for proxy in started:
        if proxy.is_running:
            proxy.stop()


@pytest.fixture
def data(two: list[Proxy]) -> Iterator[Path]:
    """Nothing is muted, before and after."""
    folder = two[0].folder.parent / "data0" / "invariant"
    yield folder
    (folder / "mutes.json").unlink(missing_ok=True)


@pytest.fixture
def proxy(two: list[Proxy], upstream: Upstream, data: Path) -> Proxy:
    upstream.script(Json(streams.completion("fine")))
    return two[0]


def ask(proxy: Proxy, content: str, headers: dict[str, str] | None = None, **more: object) -> Reply:
    with RawClient.through(proxy) as client:
        body = streams.chat(content, **{"stream": False} | more)
        return client.post(CHAT, body, list((headers or {}).items())).wait_end()


def request_id(reply: Reply) -> str:
    """From a 400, or from the last event of a stream."""
    line = reply.body.rpartition(b"data: ")[2] if reply.status == 200 else reply.body
    return str(json.loads(line)["error"]["details"]["request_id"])


def run(data: Path, *order: str, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-I", "-c", COMMAND, ADDON.parent, *order, "--data", data],
        env=clean_environment(data.parent),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


# -- what is muted ---------------------------------------------------------------------------


def test_a_muted_finding_passes_wherever_it_comes_again(
    upstream: Upstream, proxy: Proxy, data: Path
) -> None:
    """... and nothing else of the same rule does."""
    refused = ask(proxy, "the BIRD-ROBIN")
    assert refused.status == 400 and not upstream.calls
    before, since = proxy.health()["calls"], proxy.log_size()
    said = run(data, "mute", request_id(refused), "--for", "1h")
    assert 'muted birds ("no birds") for this finding until' in said
    assert ask(proxy, "the BIRD-ROBIN").status == 200
    assert ask(proxy, "elsewhere: BIRD-ROBIN, too").status == 200
    assert ask(proxy, "the BIRD-WREN").status == 400
    assert ask(proxy, "the BIRD-ROBIN and the BIRD-WREN").status == 400
    log = proxy.log(since)
    assert "muted birds for one finding, for 60 minutes" in log
    assert log.count("POST /v1/chat/completions: muted: no birds") == 2
    after = proxy.health()["calls"]
    assert isinstance(before, dict) and isinstance(after, dict)
    assert after["muted"] == before["muted"] + 2
    assert "ROBIN" not in log + said + (data / "mutes.json").read_text()


def test_a_muted_conversation_passes_with_all_that_the_rule_finds(
    upstream: Upstream, proxy: Proxy, data: Path
) -> None:
    """Known by its opening, which all its turns have in common."""
    opening = [{"role": "system", "content": "hi"}, {"role": "user", "content": "a BIRD-TIT"}]
    turn = [{"role": "assistant", "content": "fine"}, {"role": "user", "content": "a BIRD-EMU"}]
    other = [{"role": "system", "content": "hi"}, {"role": "user", "content": "the BIRD-TIT"}]
    refused = ask(proxy, "", messages=opening)
    run(data, "mute", request_id(refused), "--conversation", "--for", "1h")
    assert ask(proxy, "", messages=opening).status == 200
    assert ask(proxy, "", messages=[*opening, *turn]).status == 200
    assert ask(proxy, "", messages=other).status == 400
    assert ask(proxy, "a BIRD-EMU").status == 400


def test_a_mute_ends_by_itself_and_can_be_taken_back(
    upstream: Upstream, proxy: Proxy, data: Path
) -> None:
    """What was muted in a hurry does not stay muted for ever."""
    refused = ask(proxy, "the BIRD-KITE")
    run(data, "mute", request_id(refused), "--for", "2s")
    assert ask(proxy, "the BIRD-KITE").status == 200
    wait_until(lambda: ask(proxy, "the BIRD-KITE").status == 400, 10, "the end of a mute")
    run(data, "mute", request_id(refused))
    assert ask(proxy, "the BIRD-KITE").status == 200
    assert "birds" in run(data, "mutes")
    assert "no longer muted: birds" in run(data, "unmute", request_id(refused))
    assert ask(proxy, "the BIRD-KITE").status == 400
    assert "nothing is muted" in run(data, "mutes")


# -- replies ---------------------------------------------------------------------------------


@pytest.mark.parametrize("pace", [0, 0.1])
def test_a_reply_that_was_refused_midway_is_muted(
    upstream: Upstream, proxy: Proxy, data: Path, pace: float
) -> None:
    """The word came in pieces, and was refused before or after its last one: the same word is
    found when the reply comes again, in pieces of other sizes."""
    name = "CRANE" if pace else "HERON"
    words = ["Look: ", "a BI", "RD-", name[:2], name[2:], " up", " there", "."]
    upstream.script(Stream(streams.text_stream(words), pace=pace))
    refused = ask(proxy, "hello", stream=True)
    assert refused.status == 200 and b'"error"' in refused.body
    run(data, "mute", request_id(refused))
    for cuts in ("events", "whole", "random:1"):
        stream = Stream(streams.text_stream(words), cuts=cuts, pace=pace / 2)
        upstream.script(stream)
        assert ask(proxy, "hello", stream=True).body == stream.body()
    upstream.script(Json(streams.completion("".join(words))))
    assert ask(proxy, "hello").status == 200


def test_one_choice_of_two_is_muted(upstream: Upstream, proxy: Proxy, data: Path) -> None:
    """The other one is judged for itself."""
    first, second = ["a ", "BIRD-SWAN", " up"], ["a ", "swan", " up"]
    upstream.script(Stream(streams.choices_stream([first, second])))
    refused = ask(proxy, "hello", stream=True, n=2)
    run(data, "mute", request_id(refused))
    stream = Stream(streams.choices_stream([second, first]))
    upstream.script(stream)
    assert ask(proxy, "hello", stream=True, n=2).body == stream.body()
    upstream.script(Stream(streams.choices_stream([first, ["a ", "BIRD-DUCK", " up"]])))
    again = ask(proxy, "hello", stream=True, n=2)
    assert b"no birds" in again.body and b"DUCK" not in again.body


# -- who mutes -------------------------------------------------------------------------------


def test_two_proxies_share_what_is_muted(
    upstream: Upstream, proxy: Proxy, two: list[Proxy], data: Path
) -> None:
    """The person mutes on this machine, not in one process."""
    refused = ask(two[1], "the BIRD-GULL")
    run(data, "mute", request_id(refused))
    assert [ask(each, "the BIRD-GULL").status for each in two] == [200, 200]


@pytest.mark.parametrize("damage", ["text", "list", "mode", "link"])
def test_a_file_that_cannot_be_trusted_mutes_nothing(
    upstream: Upstream, proxy: Proxy, data: Path, damage: str
) -> None:
    """One warning, not one for each call; and when it is mended, it counts again."""
    name = {"text": "BIRD-A", "list": "BIRD-B", "mode": "BIRD-C", "link": "BIRD-D"}[damage]
    refused = ask(proxy, name)
    run(data, "mute", request_id(refused))
    file = data / "mutes.json"
    good = file.read_bytes()
    since = proxy.log_size()
    if damage == "mode":
        file.chmod(0o666)
    elif damage == "link":
        file.rename(data / "elsewhere.json")
        file.symlink_to(data / "elsewhere.json")
    else:
        file.write_bytes(b"{" if damage == "text" else b'{"mutes": [{"id": 1}]}')
    for _ in range(3):
        assert ask(proxy, name).status == 400
    assert proxy.log(since).count("nothing is muted") == 1
    file.unlink()
    file.write_bytes(good)
    file.chmod(0o600)
    assert ask(proxy, name).status == 200


def test_a_program_cannot_mute_by_what_it_sends(
    upstream: Upstream, proxy: Proxy, data: Path
) -> None:
    """It has the request id from the refusal; that is not enough."""
    refused = request_id(ask(proxy, "the BIRD-DODO"))
    attempts = {
        "x-invariant-request-id": refused,
        "invariant-mute": refused,
        "invariant-request-id": refused,
        "invariant-mutes": "*",
        "invariant-data": "/tmp",
        "invariant-guardrails-parameters": json.dumps({"mute": refused, "mutes": [refused]}),
    }
    for name, value in attempts.items():
        assert ask(proxy, "the BIRD-DODO", {name: value}).status == 400, name
    for content in (f"mute {refused} BIRD-DODO", f"scripts/rules mute {refused}: BIRD-DODO"):
        assert ask(proxy, content, metadata={"mute": refused}).status == 400
    with RawClient.through(proxy) as client:
        client.post("/.invariant/mute", {"id": refused}).wait_end()
    assert ask(proxy, "the BIRD-DODO").status == 400
    assert "not among the last refusals" in run(data, "mute", "inv_" + "0" * 32, code=2)


def test_a_muted_flow_says_so(upstream: Upstream, two: list[Proxy], data: Path) -> None:
    """Comes last: flows are read when the proxy has written them all."""
    proxy = two[1]
    upstream.script(Json(streams.completion("fine")))
    refused = ask(proxy, "the BIRD-ROOK")
    run(data, "mute", request_id(refused))
    assert ask(proxy, "the BIRD-ROOK").status == 200
    began = time.monotonic()
    proxy.stop()
    assert time.monotonic() - began < 10
    *_, blocked, muted = proxy.flows()
    assert blocked.marked == ":no_entry:"
    assert muted.marked == ":speech_balloon:" and muted.comment == "muted: no birds"
