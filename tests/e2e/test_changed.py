"""What other addons, or a person, change after the verdict is judged again before it is sent."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from stage import rules, streams
from stage.raw import CHAT, RawClient
from stage.script import Json, Stream, wait_until
from stage.traces import Kept
from stage.upstream import Upstream

HEADERS = [("content-type", "application/json"), ("authorization", "Bearer sk-stage")]
PERSON = """
import asyncio
from mitmproxy import ctx, http

class Person:
    def requestheaders(self, flow):
        flow.request.stream = "stream-me" in flow.request.headers
    # Intercepts what says so, edits it, and lets it go on: as somebody in mitmweb does.
    def request(self, flow):
        if "edit-me" in flow.request.headers:
            self.edit(flow, flow.request)
    def response(self, flow):
        if "edit-reply" in flow.request.headers:
            self.edit(flow, flow.response)
    def edit(self, flow, message):
        flow.intercept()
        async def later():
            await asyncio.sleep(0.05)
            message.text = message.text.replace("robin", "BLUEBIRD")
            flow.resume()
        self.task = asyncio.create_task(later())

addons = [Person()]
"""


@pytest.fixture(scope="module")
def person(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("scripts") / "person.py"
    file.write_text(PERSON)
    return file


@pytest.fixture
def changing(proxy_for, person: Path):
    """A proxy where a header decides what is changed, and by whom."""
    return proxy_for(
        rules=[rules.NO_BLUEBIRD],
        scripts=[person],
        options={
            "modify_body": [
                "|~q & ~hq change-me|sparrow|BLUEBIRD",
                "|~s & ~hq change-reply|wren|BLUEBIRD",
                "|~s & ~hq change-reply|finch|hen",
            ],
            "map_remote": [
                "|~hq lead-me|/v1/other|/v1/chat/completions",
                "|~hq lead-me|http://plain.example/|https://api.openai.com/",
                "|~hq move-me|https://api.openai.com/|https://other.example/",
            ],
        },
    )


def chat(text: str) -> bytes:
    return json.dumps(streams.chat(text, stream=False)).encode()


def call(proxy, text: str, header: str = "", path: str = CHAT):
    headers = [*HEADERS, *([(header, "1")] if header else [])]
    with RawClient.through(proxy) as client:
        return client.send("POST", path, headers=headers, body=chat(text)).wait_end()


@pytest.mark.parametrize(("header", "text"), [("change-me", "sparrow"), ("edit-me", "robin")])
def test_a_request_that_was_changed_is_judged_as_it_is_sent(
    upstream: Upstream, changing, header: str, text: str
) -> None:
    """Scripts come first in mitmproxy, so the verdict was on another text."""
    answer = call(changing, text, header)
    assert answer.status == 400 and b"no bluebirds here" in answer.body
    assert not upstream.calls


def test_a_request_that_was_changed_and_is_clean_goes_on(upstream: Upstream, changing) -> None:
    """Editing is allowed."""
    upstream.script(Json(streams.completion("fine")))
    answer = call(changing, "a tit", "edit-me")
    assert answer.status == 200, answer.body
    assert len(upstream.calls) == 1


@pytest.mark.parametrize(("header", "text"), [("change-reply", "wren"), ("edit-reply", "robin")])
def test_a_reply_that_was_changed_is_judged_as_it_is_sent(
    upstream: Upstream, changing, header: str, text: str
) -> None:
    """The client acts on what it gets, and not on what was judged."""
    before = changing.health()["calls"]
    upstream.script(Json(streams.completion(text)))
    answer = call(changing, "hello", header)
    assert answer.status == 400 and b"no bluebirds here" in answer.body
    wait_until(lambda: not changing.health()["pending"], 10, "the end of the call")
    after = changing.health()["calls"]
    assert after["blocked"] == before["blocked"] + 1 and after["judged"] == before["judged"]
    changing.wait_log("a reply that was changed: response blocked: no bluebirds here")


def test_the_trace_has_the_reply_that_the_client_got(upstream: Upstream, changing) -> None:
    """Also if it is clean, and was changed by somebody else."""
    kept = Kept(changing.home / ".local" / "share" / "invariant")
    upstream.script(Json(streams.completion("a finch, a robin")))
    answer = call(changing, "hello", "change-reply")
    assert answer.status == 200 and b"a hen, a robin" in answer.body
    (trace,) = kept.traces(1)
    assert (trace.status, trace.choices[0]["content"]) == ("judged", "a hen, a robin")


def test_a_request_that_another_script_streams_does_not_leave(upstream: Upstream, changing) -> None:
    """It would go upstream before anybody has read it; and the proxy goes on after that."""
    answer = call(changing, "BLUEBIRD", "stream-me")
    assert answer.status == 400 and not upstream.calls
    assert call(changing, "BLUEBIRD").status == 400


def test_a_call_that_is_led_to_a_judged_endpoint_is_judged(upstream: Upstream, changing) -> None:
    """It went by as another endpoint, which nobody judges."""
    answer = call(changing, "BLUEBIRD", "lead-me", path="/v1/other")
    assert answer.status == 400 and not upstream.calls


def test_a_call_that_is_led_to_a_guarded_host_from_elsewhere_is_refused(
    upstream: Upstream, changing
) -> None:
    """Of plain HTTP to another host nothing was looked at."""
    body = chat("hello")
    with socket.create_connection((changing.host, changing.port), timeout=10) as plain:
        plain.sendall(
            f"POST http://plain.example{CHAT} HTTP/1.1\r\nHost: plain.example\r\nlead-me: 1\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
            + body
        )
        answer = b""
        while data := plain.recv(65536):
            answer += data
    assert b" 400 " in answer.split(b"\r\n")[0] and b"map_remote" in answer
    assert not upstream.calls


def test_a_call_that_is_led_elsewhere_stays_guarded(upstream: Upstream, changing) -> None:
    """A mirror of ones own is no way around: request and reply are judged, and once."""
    seen = changing.health()["calls"]["seen"]
    assert call(changing, "BLUEBIRD", "move-me").status == 400
    upstream.script(Json(streams.completion("a BLUEBIRD")))
    answer = call(changing, "hello", "move-me")
    assert answer.status == 400 and b"response did not pass" in answer.body
    assert changing.health()["calls"]["seen"] == seen + 2


def test_a_stream_is_not_upset_by_what_changes_its_record(upstream: Upstream, changing) -> None:
    """It has gone out already, judged as it came."""
    upstream.script(Stream(streams.text_stream(["a ", "wren", " sings"])))
    with RawClient.through(changing) as client:
        headers = [*HEADERS, ("change-reply", "1")]
        body = json.dumps(streams.chat("hello")).encode()
        answer = client.send("POST", CHAT, headers=headers, body=body).wait_end()
    assert answer.status == 200 and b"[DONE]" in answer.body and b"BLUEBIRD" not in answer.body


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("ignore_hosts=openai", "ignore_hosts: got 'openai', which lets"),
        ("stream_large_bodies=1m", "stream_large_bodies: got a size"),
        ("validate_inbound_headers=false", "validate_inbound_headers: got false"),
        ("invariant_peers=everybody", "invariant_peers: got 'everybody', expected a network"),
    ],
)
def test_an_option_that_leads_around_the_guard_stops_the_start(
    start_proxy, option: str, said: str
) -> None:
    """In one line."""
    name, value = option.split("=")
    given = value if name.endswith(("bodies", "headers")) else [value]
    ended = start_proxy(wait=False, options={name: given}).wait_ended()
    assert ended.code != 0
    (line,) = [line for line in ended.log.splitlines() if said in line]
    assert "Traceback" not in ended.log, line
