"""Recorded traffic that is judged again (`mitmdump -nr FILE`): reported, never answered, changed
or sent. All replays run at once, and each test looks at one of them."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mitmproxy.http import Headers, HTTPFlow, Request
from mitmproxy.io import FlowReader, FlowWriter
from mitmproxy.test.tflow import twebsocketflow
from mitmproxy.websocket import WebSocketMessage
from wsproto.frame_protocol import Opcode

from stage import raw, responses, rules, streams
from stage.proxy import ADDON, MITMDUMP, REDIRECT, Proxy, clean_environment
from stage.raw import CHAT, RawClient
from stage.script import Die, Json, Raw, Stream
from stage.upstream import Upstream

NEXT_TURN = [
    {"role": "user", "content": "a fox: REDFOX"},
    {"role": "assistant", "content": "fine"},
    {"role": "user", "content": "and?"},
]
KEY = "sk-" + "proj-Hq7sT2vWx8LmZp4Rk1Nd6Bf3Gj5Yc9Ua0Ee7rQ2tS8uV4wX1"


def rule(word: str) -> str:
    return f'raise "no {word.lower()}" if:\n    (m: Message)\n    "{word}" in m.content\n'


@dataclass(frozen=True)
class Replay:
    """code, said: of mitmdump. again: the flows that it wrote itself."""

    code: int
    said: str
    again: list[HTTPFlow]

    def of(self, number: int) -> str:
        """What it said of this flow."""
        return "\n".join(re.findall(rf"flow {number}, .*", self.said))


def record(proxy: Proxy, upstream: Upstream) -> None:
    """12 calls, in the order of the tests."""
    text = streams.text_stream
    bad = ["a", " BLUEBIRD", "."]
    calls: list[tuple[object, object]] = [
        (Stream(text(["One", " two"])), streams.chat("hello")),
        (Json(streams.completion("fine")), streams.chat("the BLUEBIRD", stream=False)),
        (Stream(text(bad)), streams.chat("hello")),
        (Json(streams.completion("a BLUEBIRD.")), streams.chat("hello", stream=False)),
        (Json(streams.error("slow down"), status=500), streams.chat("hello", stream=False)),
        (Die(), streams.chat("hello to a BLUEBIRD", stream=False)),
        (Json(streams.completion("fine")), streams.chat("a fox: REDFOX", stream=False)),
        (Json(streams.completion("fine")), streams.chat(stream=False, messages=NEXT_TURN)),
        (Stream(text(["a", " GREENFROG"])), streams.chat("hello")),
        (Json(streams.completion("fine")), streams.chat(f"a key: {KEY}", stream=False)),
        (Raw(b"<html>", 200, [("content-type", "text/html")]), streams.chat("hello")),
    ]
    for answer, body in calls:
        upstream.script(answer)
        with RawClient.through(proxy) as client:
            reply = client.post(CHAT, body, [("invariant-project-name", "x")])
            reply.wait_end()
    with RawClient.through(proxy) as client:
        client.send("GET", "/v1/models", [raw.KEY]).wait_end()


@pytest.fixture(scope="module")
def recorded(_the_upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files of flows. bare: without invariant. ours: with a rule that blocks nothing of this.
    broken: no flows. hollow: two of bare's, without a body each."""
    made = {}
    for name in ("bare", "ours"):
        options: dict[str, object] = {"store_streamed_bodies": True} if name == "bare" else {}
        made[name] = Proxy(
            _the_upstream,
            tmp_path_factory.mktemp(name),
            addon=name != "bare",
            rules=[] if name == "bare" else [rule("SOMETHING ELSE")],
            options=options | ({"invariant_on_failure": "pass"} if name == "ours" else {}),
            save_flows=True,
        ).launch()
    for proxy in made.values():
        proxy.wait_ready(60)
        _the_upstream.reset()
        record(proxy, _the_upstream)
        proxy.tell_to_stop()
    for proxy in made.values():
        proxy.stop()
    _the_upstream.reset()
    files = {name: proxy.flow_file for name, proxy in made.items() if proxy.flow_file}
    files["broken"] = tmp_path_factory.mktemp("broken") / "flows.mitm"
    files["broken"].write_bytes(b"no flows")
    files["hollow"] = files["broken"].with_name("hollow.mitm")
    with files["bare"].open("rb") as bare, files["hollow"].open("wb") as hollow:
        first, second, *_ = (f for f in FlowReader(bare).stream() if isinstance(f, HTTPFlow))
        assert first.response
        first.response.raw_content = second.request.raw_content = None
        for flow in (first, second):
            FlowWriter(hollow).add(flow)
    return files


KINDS = {"rules": "BLUEBIRD", "log_rules": "REDFOX", "shadow_rules": "GREENFROG"}
NEEDS = """
from invariant_addon.engines.detectors import has_secret

raise "no keys" if:
    (m: Message)
    has_secret(m, ["openai"])
"""


@pytest.fixture(scope="module")
def replays(
    _the_upstream: Upstream, recorded: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Replay]:
    """bare, ours: by all kinds of rules. The others: by one that finds nothing."""
    folder = tmp_path_factory.mktemp("replays")
    sets: list[str] = []
    for kind, word in KINDS.items():
        (folder / f"{word.lower()}s.inv").write_text(rule(word))
        sets.append(f"invariant_{kind}={folder}/{word.lower()}s.inv")
    (folder / "keys.inv").write_text(NEEDS)
    sets.append(f"invariant_mask_rules={folder}/keys.inv")
    (folder / "harmless.inv").write_text(rule("NOWHERE"))
    harmless = [f"invariant_rules={folder}/harmless.inv", "invariant_on_failure=pass"]
    keep = os.pipe()  # the stage's script ends with its stdin
    try:
        started = {
            name: begin(_the_upstream, recorded[file], folder / name, options, keep[0])
            for name, (file, options) in {
                "bare": ("bare", [*sets, "invariant_replay_fails=true"]),
                "ours": ("ours", sets),
                "harmless": ("ours", [*harmless, "invariant_replay_fails=true"]),
                "hollow": ("hollow", harmless),
                "broken": ("broken", [*harmless, "invariant_replay_fails=true"]),
            }.items()
        }
        return {name: finish(child, folder / name) for name, child in started.items()}
    finally:
        for end in keep:
            os.close(end)


def begin(
    upstream: Upstream, file: Path, folder: Path, options: Sequence[str], stdin: int
) -> subprocess.Popen[str]:
    folder.mkdir()
    command = [MITMDUMP, "-nr", file, "-w", folder / "again.mitm", "-s", ADDON, "-s", REDIRECT]
    options = [
        *options,
        f"confdir={folder}",
        f"invariant_certs={folder}/certs",
        "invariant_starter_rules=false",
        "invariant_workers=2",
        "flow_detail=0",
    ]
    for option in options:
        command += ["--set", option]
    stage = {"STAGE_TLS_PORT": str(upstream.port), "STAGE_PLAIN_PORT": str(upstream.plain_port)}
    return subprocess.Popen(
        command,
        env=clean_environment(folder) | stage,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(child: subprocess.Popen[str], folder: Path) -> Replay:
    said, _ = child.communicate(timeout=90)
    flows = []
    if (folder / "again.mitm").exists():
        with (folder / "again.mitm").open("rb") as file:
            flows = [f for f in FlowReader(file).stream() if isinstance(f, HTTPFlow)]
    return Replay(child.returncode, said, [f for f in flows if "/v1/" in f.request.path])


both = pytest.mark.parametrize("name", ["bare", "ours"])


@both
def test_each_call_that_would_be_blocked_is_named_with_rule_and_place(
    replays: dict[str, Replay], name: str
) -> None:
    """Somebody has to find it in his agent's prompts."""
    replay = replays[name]
    assert replay.of(1) == ""
    request = "the request would have been blocked by bluebirds: no bluebird (message 1 (user)"
    assert f"{request}, characters 5-12)" in replay.of(2)
    reply = "the response would have been blocked by bluebirds: no bluebird (message 2 (assistant)"
    for number in (3, 4):
        assert f"{reply}, characters 3-10)" in replay.of(number)
    assert replay.of(5) == ""


@both
def test_a_request_that_upstream_never_answered_is_judged(
    replays: dict[str, Replay], name: str
) -> None:
    """It left all the same."""
    assert "the request would have been blocked by bluebirds" in replays[name].of(6)


@both
def test_log_and_shadow_rules_have_their_say(replays: dict[str, Replay], name: str) -> None:
    """They run behind a live client's back; here the proxy waits for them before it ends. What was
    found in one turn of a conversation is not found again in the next."""
    replay = replays[name]
    assert "noted by redfoxs: no redfox (message 1 (user), characters 8-13)" in replay.of(7)
    assert replay.of(8) == ""
    assert "were it not on trial, by greenfrogs: no greenfrog (message 2" in replay.of(9)
    assert "would have been masked by keys: no keys (message 1 (user), char" in replay.of(10)


@both
def test_what_could_not_be_judged_is_said(replays: dict[str, Replay], name: str) -> None:
    """A page of HTML is no reply; in a list of models there is nothing to judge."""
    replay = replays[name]
    assert "the response would have been blocked: the reply could not be read" in replay.of(11)
    assert replay.of(12) == ""
    assert re.findall(r"judged \d.*", replay.said) == [
        "judged 12 recorded calls: 2 changed or noted, 3 clean, 1 with nothing to judge, "
        "5 would have been blocked, 1 would have been blocked by a rule on trial"
    ]


@both
def test_nothing_is_sent_answered_or_changed(
    replays: dict[str, Replay], recorded: dict[str, Path], upstream: Upstream, name: str
) -> None:
    """Whoever writes the flows on has what was recorded, and the marks."""
    assert not upstream.calls and not upstream.connections
    with recorded[name].open("rb") as file:
        flows = [f for f in FlowReader(file).stream() if isinstance(f, HTTPFlow)]
    flows = [f for f in flows if "/v1/" in f.request.path]
    again = replays[name].again
    assert len(flows) == len(again) == 12
    for before, after in zip(flows, again, strict=True):
        assert before.request.get_state() == after.request.get_state()
        assert (before.response is None) == (after.response is None)
        if before.response and after.response:
            assert before.response.get_state() == after.response.get_state()
    blocked = [n for n, flow in enumerate(again, 1) if flow.marked == ":no_entry:"]
    assert blocked == [2, 3, 4, 6, 11]
    assert again[0].marked == again[0].comment == ""


def test_old_marks_of_ours_go(replays: dict[str, Replay]) -> None:
    """Recorded with other rules, and passed unjudged then: what counts is what is said now."""
    harmless = replays["harmless"].again
    assert [f.comment for f in harmless if f.marked == ":no_entry:"] == []
    ours = replays["ours"].again[10]
    assert ours.comment.startswith("response blocked:") and "not scanned" not in ours.comment


def test_the_exit_code_is_for_whom_it_may_concern(replays: dict[str, Replay]) -> None:
    """A CI job fails if something would have been blocked, or if there was nothing to judge. But
    only if it asked for that: mitmproxy itself ends with 0."""
    assert replays["ours"].code == 0
    assert replays["bare"].code == 1
    assert replays["harmless"].code == 0, replays["harmless"].said
    assert replays["broken"].code == 1
    assert "judged 0 recorded calls" in replays["broken"].said
    assert "Traceback" not in replays["bare"].said


def test_a_body_that_was_not_recorded_is_not_scanned(replays: dict[str, Replay]) -> None:
    """mitmproxy keeps no body of what it streamed, unless it was told to."""
    replay = replays["hollow"]
    assert "not scanned: the reply's body was not recorded" in replay.of(1)
    assert "not scanned: the request's body was not recorded" in replay.of(2)
    assert "judged 2 recorded calls: 2 not scanned" in replay.said


# -- WebSockets ------------------------------------------------------------------------------

CREATE: dict[str, object] = {"type": "response.create", "model": "m", "store": False}


def socket(path: str, *messages: tuple[bool, object]) -> HTTPFlow:
    """A recorded one. messages: whether the client said it, and what."""
    flow = twebsocketflow()
    flow.request = Request.make("GET", f"https://api.openai.com{path}", b"", UPGRADE)
    assert flow.websocket
    flow.websocket.messages = [
        WebSocketMessage(Opcode.TEXT, from_client, json.dumps(said).encode())
        for from_client, said in messages
    ]
    return flow


UPGRADE = Headers(upgrade="websocket", connection="upgrade", sec_websocket_version="13")


def answer(items: Sequence[Any], name: str) -> list[tuple[bool, object]]:
    stream = b"".join(responses.stream(items, id=name))
    return [(False, event) for event in responses.payloads(stream)]


def test_recorded_web_sockets_are_judged_again(upstream: Upstream, tmp_path: Path) -> None:
    """Message by message, as they would have been judged live; a refused request's reply is not
    judged, as it would not have come, and a later turn with what the connection remembers."""
    mail = responses.function("send_mail", '{"to": "a@b.c"}')
    talk = socket(
        "/v1/responses",
        (True, CREATE | {"input": "hello"}),
        *answer([responses.message("One two three.")], "resp_1"),
        (True, CREATE | {"input": "the BLUEBIRD"}),
        *answer([responses.message("It would not have come: a BLUEBIRD.")], "resp_2"),
        (True, CREATE | {"input": "and?"}),
        *answer([responses.message("A BLUEBIRD.")], "resp_3"),
        (True, CREATE | {"input": "read my mail"}),
        *answer([responses.function("read_inbox", "{}")], "resp_4"),
        (True, CREATE | {"input": "answer it", "previous_response_id": "resp_4"}),
        *answer([mail], "resp_5"),
        (True, CREATE | {"input": "bye"}),
        *answer([responses.message("Bye.")], "resp_6"),
    )
    speech = {"type": "response.output_text.delta", "response_id": "r", "item_id": "i"}
    spoken = socket(
        "/v1/realtime",
        (True, {"type": "response.create"}),
        (False, speech | {"output_index": 0, "content_index": 0, "delta": "a BLUEBIRD"}),
        (False, {"type": "response.done", "response": {"id": "r", "output": []}}),
    )
    other = socket("/v1/other", (True, {"a": "b"}))
    file = tmp_path / "sockets.mitm"
    with file.open("wb") as opened:
        for flow in (talk, spoken, other):
            FlowWriter(opened).add(flow)
    rules_file = tmp_path / "birds.inv"
    rules_file.write_text(rules.NO_BLUEBIRD + rules.NO_MAIL_AFTER_INBOX)
    keep = os.pipe()
    try:
        options = [f"invariant_rules={rules_file}", f"invariant_data={tmp_path}/data"]
        replay = finish(begin(upstream, file, tmp_path / "run", options, keep[0]), tmp_path / "run")
    finally:
        for end in keep:
            os.close(end)
    said = [line.partition("flow ")[2] for line in replay.said.splitlines() if "flow " in line]
    blocked = [line.partition(", ")[2] for line in said if "would have been blocked" in line]
    assert [line.partition(" by birds")[0] for line in blocked[:4]] == [
        "POST /v1/responses: the request would have been blocked",
        "POST /v1/responses: the response would have been blocked",
        "POST /v1/responses: the response would have been blocked",
        "POST /v1/realtime: the response would have been blocked",
    ]
    assert "no mail after reading" in blocked[2] and "WebSocket are not judged" in blocked[4]
    assert "judged 8 recorded calls: 3 clean, 5 would have been blocked" in replay.said
    assert not upstream.calls and not upstream.connections
    again = replay.again[0]
    assert again.websocket and talk.websocket and again.marked == ":no_entry:"
    assert again.websocket.get_state() == talk.websocket.get_state()
    history = tmp_path / "data" / "history.db"
    assert not history.exists() or b"resp_" not in history.read_bytes()
