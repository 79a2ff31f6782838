"""Ways past the rules that somebody has tried: each got through once."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from stage import rules, streams
from stage.proxy import Proxy
from stage.raw import CHAT, RawClient, Reply
from stage.script import Json, Stream
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
    proxy = proxy_for(rules=[rules.NO_BLUEBIRD])
    message = {"role": "x\n" * 5000, "content": "BLUEBIRD"}
    refused = ask(proxy, {"model": "g", "messages": [message]})
    assert refused.status == 400 and len(refused.body) < 2000


def test_a_pipe_in_a_rule_files_place_stops_nothing(upstream: Upstream, start_proxy) -> None:
    """To open one waits for a writer, and nobody came."""
    proxy = start_proxy(rules=[rules.NO_BLUEBIRD])
    upstream.script(Json(streams.completion("fine")))
    since = proxy.log_size()
    file: Path = proxy.rule_files[0]
    file.unlink()
    os.mkfifo(file)
    proxy.wait_log("not a regular file", since=since)
    assert ask(proxy, streams.chat("BLUEBIRD", stream=False)).status == 400
    assert ask(proxy, streams.chat("hello", stream=False)).status == 200


def test_an_edit_that_leaves_comments_only_takes_no_rule_away(
    upstream: Upstream, start_proxy
) -> None:
    """An editor that pauses after the first lines, or a person who means to switch rules off."""
    proxy = start_proxy(rules=[rules.NO_BLUEBIRD])
    since = proxy.log_size()
    proxy.rule_files[0].write_text("# nothing\n")
    proxy.wait_log("there is no rule in it", since=since)
    assert ask(proxy, streams.chat("BLUEBIRD", stream=False)).status == 400


def test_a_long_parse_of_an_edit_does_not_keep_calls_waiting(
    upstream: Upstream, start_proxy, tmp_path: Path
) -> None:
    """A project's file is the guarded program's to write."""
    project = tmp_path / ".invariant.inv"
    project.write_text(rules.NO_DELETE)
    proxy = start_proxy(
        rules=[rules.NO_BLUEBIRD], options={"invariant_project_rules": [str(project)]}
    )
    upstream.script(Json(streams.completion("fine")))
    ands = " and ".join(["1 == 1"] * 60)
    project.write_text(f'raise "x" if:\n    (m: Message)\n    {ands}\n')
    end = time.monotonic() + 6
    while time.monotonic() < end:
        assert ask(proxy, streams.chat("BLUEBIRD", stream=False)).status == 400
        assert ask(proxy, streams.chat("hello", stream=False)).status == 200


def test_line_ends_of_windows_are_line_ends(upstream: Upstream, start_proxy) -> None:
    """Nothing in the language depends on them."""
    proxy = start_proxy(rules=[rules.NO_BLUEBIRD.replace("\n", "\r\n")])
    assert ask(proxy, streams.chat("BLUEBIRD", stream=False)).status == 400


def masking(start_proxy, tmp_path: Path, pattern: str) -> Proxy:
    file = tmp_path / "numbers.inv"
    file.write_text(
        f'raise "a number" if:\n    (m: Message)\n    any(find("{pattern}", m.content))\n'
    )
    return start_proxy(options={"invariant_mask_rules": [str(file)]})


def test_placeholders_that_a_rule_finds_hide_no_finding(
    upstream: Upstream, start_proxy, tmp_path: Path
) -> None:
    """They look like what the rule is about, and an engine names sixteen findings at a time."""
    proxy = masking(start_proxy, tmp_path, "[0-9a-f]{8}")
    upstream.script(Json(streams.completion("fine")))
    numbers = [f"{0xDEADBE00 + n * 7919:08x}" for n in range(20)]
    messages = [{"role": "user", "content": number} for number in numbers]
    ask(proxy, {"model": "g", "messages": messages})
    sent = b"".join(call.body for call in upstream.calls)
    assert not [number for number in numbers if number.encode() in sent]


def test_forged_placeholders_hide_no_finding(
    upstream: Upstream, start_proxy, tmp_path: Path
) -> None:
    """Whoever writes the prompt can write those, too."""
    proxy = masking(start_proxy, tmp_path, "[0-9]{8}")
    upstream.script(Json(streams.completion("fine")))
    ask(proxy, streams.chat("[masked:numbers:12345678] " * 65 + "87654321", stream=False))
    assert not [call for call in upstream.calls if b"87654321" in call.body]
