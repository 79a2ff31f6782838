"""Ways past the rules that somebody has tried: each got through once."""

from __future__ import annotations

import json
import os
import socket
import time
from http.client import HTTPResponse
from pathlib import Path

import pytest

from stage import rules, streams
from stage.proxy import Proxy, StartProxy
from stage.raw import CHAT, RawClient, Reply
from stage.script import Json, Raw, Stream
from stage.upstream import Upstream

HALF = b'{"model":"g","messages":[{"role":"\\ud800","content":"%b"}],"stream":%b}'


def ask(proxy: Proxy, body: object, *headers: tuple[str, str]) -> Reply:
    with RawClient.through(proxy) as client:
        return client.post(CHAT, body, headers).wait_end(60)


@pytest.mark.parametrize("options", [{}, {"invariant_request_check": "concurrent"}], ids=str)
@pytest.mark.parametrize("stream", [True, False])
def test_a_role_that_is_half_a_character_does_not_open_the_door(
    upstream: Upstream, proxy_for, options: dict[str, str], stream: bool
) -> None:
    """The refusal could not be written, and the call went on."""
    proxy = proxy_for(rules=[rules.NO_BLUEBIRD], options=options)
    words = ["One ", "BLUEBIRD ", "three"]
    reply = Stream(streams.text_stream(words)) if stream else Json(streams.completion("BLUEBIRD"))
    upstream.script(reply)
    flag = b"true" if stream else b"false"
    refused = ask(proxy, HALF % (b"BLUEBIRD", flag))
    assert refused.status == 400 and b"no bluebirds here" in refused.body
    answered = ask(proxy, HALF % (b"hello", flag))
    assert b"BLUEBIRD" not in answered.body and b"no bluebirds here" in answered.body


def test_a_role_is_not_repeated_in_the_refusal(upstream: Upstream, proxy_for) -> None:
    """It is text of the caller, of any length."""
    proxy = proxy_for(rules=rules.USUAL)
    message = {"role": "x\n" * 5000, "content": "BLUEBIRD"}
    refused = ask(proxy, {"model": "g", "messages": [message]})
    assert refused.status == 400 and len(refused.body) < 2000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("edited")
    (folder / ".invariant.inv").write_text(rules.NO_DELETE)
    (folder / "numbers.inv").write_text(
        'raise "a number" if:\n    (m: Message)\n    any(find("[0-9a-f]{8}", m.content))\n'
    )
    return folder


@pytest.fixture
def edited(proxy_for: StartProxy, folder: Path) -> Proxy:
    """Its rule files are spoiled one by one: whatever was loaded first stays in force."""
    return proxy_for(
        rules={
            "pipe.inv": rules.NO_BLUEBIRD,
            "comments.inv": rules.NO_BLUEBIRD.replace("BLUEBIRD", "REDFOX"),
            "windows.inv": rules.NO_CONDOR.replace("\n", "\r\n"),
        },
        options={
            "invariant_project_rules": [str(folder / ".invariant.inv")],
            "invariant_mask_rules": [str(folder / "numbers.inv")],
        },
    )


def test_line_ends_of_windows_are_line_ends(upstream: Upstream, edited: Proxy) -> None:
    """Nothing in the language depends on them."""
    assert edited.rule_files[2].read_bytes().count(b"\r\n") > 2
    assert ask(edited, streams.chat("CONDOR-7", stream=False)).status == 400


def test_an_edit_that_leaves_comments_only_takes_no_rule_away(
    upstream: Upstream, edited: Proxy
) -> None:
    """An editor that pauses after the first lines, or a person who means to switch rules off."""
    since = edited.log_size()
    edited.rule_files[1].write_text("# nothing\n")
    edited.wait_log("there is no rule in it", since=since)
    assert ask(edited, streams.chat("REDFOX", stream=False)).status == 400


def test_a_pipe_in_a_rule_files_place_stops_nothing(upstream: Upstream, edited: Proxy) -> None:
    """To open one waits for a writer, and nobody came."""
    upstream.script(Json(streams.completion("fine")))
    since = edited.log_size()
    file: Path = edited.rule_files[0]
    file.unlink()
    os.mkfifo(file)
    edited.wait_log("not a regular file", since=since)
    assert ask(edited, streams.chat("BLUEBIRD", stream=False)).status == 400
    assert ask(edited, streams.chat("hello", stream=False)).status == 200
    file.unlink()
    file.write_text(rules.NO_BLUEBIRD)


def send_head(proxy: Proxy, head: bytes) -> tuple[int, bytes]:
    """A harmless call under a head that no HTTP library would send: the reply's status and body."""
    body = json.dumps(streams.chat("hello", stream=False)).encode()
    with socket.create_connection((proxy.host, proxy.port), timeout=20) as client:
        client.sendall(head + b"content-length: %d\r\n\r\n%b" % (len(body), body))
        reply = HTTPResponse(client)
        reply.begin()
        return reply.status, reply.read()


HEADS = {
    "a folded key": b"POST /v1/chat/completions HTTP/1.1\r\nhost: h\r\n"
    b"authorization: Bearer sk-a;\r\n invariant-auth=k\r\n",
    "a folded header": b"POST /v1/chat/completions HTTP/1.1\r\nhost: h\r\n"
    b"authorization: Bearer sk-a\r\nx-note: a\r\n b\r\n",
    "a path with an escape": b"POST /v1/\x1b[2J/../chat/completions HTTP/1.1\r\nhost: h\r\n"
    b"authorization: Bearer sk-a\r\n",
}


@pytest.mark.parametrize("name", HEADS)
def test_a_head_that_reads_in_two_ways_goes_nowhere(
    upstream: Upstream, proxy_for, name: str
) -> None:
    """What was left of a folded key ended the head at upstream, and the rest of the request was
    one of its own; an escape in a path told the proxy's terminal what to do."""
    proxy = proxy_for(rules=[rules.NO_BLUEBIRD], mode="reverse:https")
    since = proxy.log_size()
    status, said = send_head(proxy, HEADS[name])
    assert status == 400 and b"guardrail_invalid" in said
    assert not upstream.calls
    assert "\x1b" not in proxy.log(since)


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/v1/chat/completions HTTP/1.1"), ("POST /v1/chat/completions", "/x")],
)
def test_a_request_line_of_four_words_goes_nowhere(
    upstream: Upstream, proxy_for, method: str, path: str
) -> None:
    """HTTP/2 has no line to break: an HTTP/1.1 server reads the first words of it."""
    upstream.speak("http/1.1")
    proxy = proxy_for(rules=[rules.NO_BLUEBIRD], mode="reverse:https")
    body = json.dumps(streams.chat("BLUEBIRD", stream=False)).encode()
    with RawClient.through(proxy, "2") as client:
        refused = client.send(method, path, [("authorization", "Bearer sk-a")], body).wait_end()
    assert refused.status == 400 and b"guardrail_invalid" in refused.body
    assert upstream.connections == 0


def test_a_dataset_in_a_header_says_nothing_to_the_terminal(
    upstream: Upstream, start_proxy
) -> None:
    """Its name stands in the log, and is the program's own text."""
    proxy = start_proxy(
        rules=[rules.NO_BLUEBIRD], mode="reverse:https", options={"invariant_header_rules": True}
    )
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: [::1]\r\nauthorization: Bearer sk-a\r\n"
    assert send_head(proxy, head + b"invariant-project-name: \x1b]0;gone\x07\r\n")[0] == 200
    assert "?]0;gone?" in proxy.wait_log("calls name the dataset")


def test_a_204_that_calls_itself_an_event_stream_has_no_body(upstream: Upstream, proxy_for) -> None:
    """The client took the end of an empty one for the beginning of its next reply."""
    proxy = proxy_for(rules=rules.USUAL)
    head = [("content-type", "text/event-stream"), ("content-length", "0")]
    empty = Raw(status=204, headers=head)
    upstream.script(empty, Json(streams.completion("fine")))
    with RawClient.through(proxy) as client:
        assert client.post(CHAT, streams.chat()).wait_end().status == 204
        assert client.post(CHAT, streams.chat(stream=False)).wait_end().status == 200


def test_placeholders_that_a_rule_finds_hide_no_finding(upstream: Upstream, edited: Proxy) -> None:
    """They look like what the rule is about, and an engine names sixteen findings at a time."""
    upstream.script(Json(streams.completion("fine")))
    numbers = [f"{0xDEADBE00 + n * 7919:08x}" for n in range(20)]
    messages = [{"role": "user", "content": number} for number in numbers]
    ask(edited, {"model": "g", "messages": messages})
    sent = b"".join(call.body for call in upstream.calls)
    assert not [number for number in numbers if number.encode() in sent]


def test_forged_placeholders_hide_no_finding(upstream: Upstream, edited: Proxy) -> None:
    """Whoever writes the prompt can write those, too."""
    upstream.script(Json(streams.completion("fine")))
    ask(edited, streams.chat("[masked:numbers:12345678] " * 65 + "87654321", stream=False))
    assert not [call for call in upstream.calls if b"87654321" in call.body]


def test_a_long_parse_of_an_edit_does_not_keep_calls_waiting(
    upstream: Upstream, edited: Proxy, folder: Path
) -> None:
    """A project's file is the guarded program's to write. (The last test of this proxy: it would
    go on parsing.)"""
    edited.rule_files[1].write_text(rules.NO_DELETE)  # no other file stands in the way
    upstream.script(Json(streams.completion("fine")))
    ands = " and ".join(["1 == 1"] * 60)
    (folder / ".invariant.inv").write_text(f'raise "x" if:\n    (m: Message)\n    {ands}\n')
    end = time.monotonic() + 4
    while time.monotonic() < end:
        assert ask(edited, streams.chat("BLUEBIRD", stream=False)).status == 400
        assert ask(edited, streams.chat("hello", stream=False)).status == 200
        time.sleep(0.05)
    edited.stop()
