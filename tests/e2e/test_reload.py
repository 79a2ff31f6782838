"""Rule files that are edited while the proxy works: the next call is judged by the new ones."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from stage import rules, streams
from stage.proxy import Proxy
from stage.raw import CHAT, RawClient
from stage.script import Json, Stream, wait_until
from stage.upstream import Upstream


@pytest.fixture
def proxy(proxy_for) -> Proxy:
    """One for all: each test finds the same rules in force."""
    proxy: Proxy = proxy_for(rules={"mine.inv": rules.NO_BLUEBIRD})
    file = proxy.rule_files[0]
    if not file.exists() or file.read_text() != rules.NO_BLUEBIRD:
        since = proxy.log_size()
        edit(file, rules.NO_BLUEBIRD)
        proxy.wait_log("judging by mine", since=since)
    return proxy


def status(proxy: Proxy, content: str) -> int:
    with RawClient.through(proxy) as client:
        return int(client.post(CHAT, streams.chat(content, stream=False)).wait_end().status)


def edit(path: Path, text: str) -> None:
    """As most editors do it: another file takes the place."""
    draft = path.with_suffix(".draft")
    draft.write_text(text)
    draft.replace(path)


def test_an_edited_file_is_the_rule_of_the_next_call(upstream: Upstream, proxy: Proxy) -> None:
    """Nobody restarts an agent's proxy for a word in a rule."""
    upstream.script(Json(streams.completion("fine")))
    assert status(proxy, "BLUEBIRD") == 400
    since = proxy.log_size()
    edit(proxy.rule_files[0], rules.NO_BLUEBIRD.replace("BLUEBIRD", "REDFOX"))
    proxy.wait_log("judging by mine", since=since)
    assert status(proxy, "REDFOX") == 400
    assert status(proxy, "BLUEBIRD") == 200


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("raise if if", "rule file mine cannot be used"),
        ("", "mine.inv: the file is empty"),
        ("from os import system\n" + rules.NO_BLUEBIRD, "rule file mine cannot be used: line 1"),
        ('raise "x" if:\n    (m: Message)\n    m.contnt == "a"\n', "cannot be used: line 3"),
    ],
)
def test_a_bad_edit_changes_nothing_and_says_where(
    upstream: Upstream, proxy: Proxy, text: str, reason: str
) -> None:
    """The last good rules stay, for as long as it takes to mend the file."""
    upstream.script(Json(streams.completion("fine")))
    since = proxy.log_size()
    edit(proxy.rule_files[0], text)
    said = proxy.wait_log(reason, since=since)
    assert "The rules stay as they were" in proxy.log(since), said
    assert status(proxy, "BLUEBIRD") == 400 and status(proxy, "REDFOX") == 200
    edit(proxy.rule_files[0], rules.NO_BLUEBIRD.replace("BLUEBIRD", "REDFOX"))
    proxy.wait_log("judging by mine", since=since)
    assert status(proxy, "REDFOX") == 400


def test_a_deleted_file_leaves_its_rules(proxy: Proxy) -> None:
    """Who may not weaken the rules might still be able to delete a file."""
    since = proxy.log_size()
    proxy.rule_files[0].unlink()
    proxy.wait_log("The rules stay as they were", since=since)
    assert status(proxy, "BLUEBIRD") == 400


def test_a_bad_file_stops_the_start(start_proxy) -> None:
    """Then nobody believes to be guarded."""
    proxy = start_proxy(rules={"mine.inv": "raise if if"}, wait=False)
    ended = proxy.wait_ended()
    assert ended.code != 0
    assert "rule file mine cannot be used" in ended.log


def test_a_running_stream_ends_under_the_rules_it_began_with(
    upstream: Upstream, proxy: Proxy
) -> None:
    """Half a reply under one set and half under another would be judged by neither."""
    go = threading.Event()
    upstream.script(Stream(streams.text_stream(["One ", "REDFOX ", "two"]), wait=go, wait_after=2))
    with RawClient.through(proxy) as client:
        reply = client.post(CHAT, streams.chat())
        reply.wait_body(b"One")
        since = proxy.log_size()
        edit(proxy.rule_files[0], rules.NO_BLUEBIRD.replace("BLUEBIRD", "REDFOX"))
        proxy.wait_log("judging by mine", since=since)
        go.set()
        reply.wait_end()
    assert reply.is_complete and b"REDFOX" in reply.body and b'"error"' not in reply.body


def test_edits_under_load_are_never_seen_by_halves(upstream: Upstream, proxy: Proxy) -> None:
    """100 edits while 20 streams run: each call is judged by one of the two sets, and none fails.

    Both sets forbid BLUEBIRD, so a call that gets through with it saw no set, or half of one.
    """
    one = rules.NO_BLUEBIRD + rules.NO_BLUEBIRD.replace("BLUEBIRD", "REDFOX")
    two = rules.NO_BLUEBIRD.replace("BLUEBIRD", "GREENFROG") + rules.NO_BLUEBIRD
    upstream.script(Stream(streams.text_stream(["One", " two", " three"] * 3), pace=0.02))
    stop, wrong, done = threading.Event(), [], [0]

    def calls() -> None:
        while not stop.is_set():
            bad = done[0] % 2 == 0
            with RawClient.through(proxy) as client:
                reply = client.post(CHAT, streams.chat("BLUEBIRD" if bad else "hello")).wait_end()
            if reply.status != (400 if bad else 200) or b"guardrail_unavailable" in reply.body:
                wrong.append((bad, reply.status, reply.body[:300]))
            done[0] += 1

    threads = [threading.Thread(target=calls) for _ in range(20)]
    for thread in threads:
        thread.start()
    for n in range(100):
        text = two if n % 2 else one
        if n % 3:
            edit(proxy.rule_files[0], text)
        else:  # not all editors are careful
            proxy.rule_files[0].write_text("")
            proxy.rule_files[0].write_text(text)
        time.sleep(0.05)
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong, wrong[:3]
    assert done[0] > 20
    edit(proxy.rule_files[0], rules.NO_BLUEBIRD.replace("BLUEBIRD", "LASTWORD"))
    wait_until(lambda: status(proxy, "LASTWORD") == 400, 10, "the last edit counts")
