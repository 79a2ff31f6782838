"""Streamed chat, end to end: what a user of the SDK, of curl, of anything gets."""

from __future__ import annotations

import threading

import pytest

from stage import raw, rules, streams
from stage.proxy import StartProxy
from stage.raw import CHAT, RawClient
from stage.script import Call, Death, Stream
from stage.upstream import Upstream

WORDS = ["One", " two", " three", " f\u00fcnf", " \U0001f600", " and", " so", " on", "."]
both_versions = pytest.mark.parametrize("version", ["1.1", "2"])


@both_versions
def test_text_flows_before_the_stream_ends(
    upstream: Upstream, proxy_for: StartProxy, version: raw.Version
) -> None:
    """People watch the words come: what was judged clean goes on while the rest is not there."""
    proxy = proxy_for(rules=rules.USUAL)
    go = threading.Event()
    stream = Stream(streams.text_stream(WORDS), wait=go, wait_after=4)
    upstream.script(stream)

    with RawClient.through(proxy, version) as client:
        reply = client.post(CHAT, streams.chat()).wait_body(b"two")
        go.set()
        reply.wait_end()

    assert reply.body == stream.body()


@both_versions
@pytest.mark.parametrize("rst", [False, True])
def test_a_client_that_leaves_cancels_upstream(
    upstream: Upstream, proxy_for: StartProxy, version: raw.Version, rst: bool
) -> None:
    """The user pressed Ctrl-C: the tokens that would still come are not paid for."""
    proxy = proxy_for(rules=rules.USUAL)
    upstream.script(Stream(streams.text_stream(WORDS), wait=threading.Event(), wait_after=5))

    with RawClient.through(proxy, version) as client:
        client.post(CHAT, streams.chat()).wait_body(b"two")
        client.vanish(rst=rst)
        call = upstream.last().wait_ended()

    assert call.state == "cancelled"


@both_versions
@pytest.mark.parametrize("how", ["reset", "eof", "kill"])
def test_when_upstream_dies_the_clean_part_arrives_and_the_break_shows(
    upstream: Upstream, proxy_for: StartProxy, version: raw.Version, how: Death
) -> None:
    """A broken stream must not look finished, and what was fine until then is not lost."""
    proxy = proxy_for(rules=rules.USUAL)
    # A reset throws away what the proxy has not read yet: it comes after that.
    go = threading.Event()
    stream = Stream(
        streams.text_stream(WORDS), wait=go, wait_after=5, die_after=5, die_inside=15, die_with=how
    )
    upstream.script(stream)

    with RawClient.through(proxy, version) as client:
        reply = client.post(CHAT, streams.chat()).wait_body(b"three")
        go.set()
        reply.wait_end()

    assert not reply.is_complete
    assert stream.body().startswith(reply.body)
    assert b"three" in reply.body


def test_streams_on_one_connection_do_not_mix(upstream: Upstream, proxy_for: StartProxy) -> None:
    """HTTP/2 clients share a connection: every conversation gets its own reply, whole."""
    proxy = proxy_for(rules=rules.USUAL)

    def echo(call: Call) -> Stream:
        return Stream(streams.text_stream(["You", " said", f" {call.header('x-n')}."]), pace=0.01)

    upstream.script(echo)

    with RawClient.through(proxy, "2") as client:
        replies = [client.post(CHAT, streams.chat(), [("x-n", str(n))]) for n in range(20)]
        texts = [streams.content_of(reply.wait_end().body) for reply in replies]

    assert texts == [f"You said {n}." for n in range(20)]


@pytest.mark.parametrize(
    "block",
    [b'data: {"error": {"message": "a BLUEBIRD"}}\n\n', b": a BLUEBIRD\n\n",
     b'event: error\ndata: {"error": "a BLUEBIRD"}\n\n', b"id: a BLUEBIRD\ndata: {}\n\n"],
)  # fmt: skip
def test_what_upstream_says_beside_a_reply_is_judged(
    upstream: Upstream, proxy_for: StartProxy, block: bytes
) -> None:
    """Errors in the middle of a stream, and lines of it that are no data."""
    proxy = proxy_for(rules=rules.USUAL)
    words = streams.text_stream(["One", " two"])
    upstream.script(Stream([*words[:-1], block, words[-1]]))
    with RawClient.through(proxy) as client:
        reply = client.post(CHAT, streams.chat("hello")).wait_end()
    assert b"BLUEBIRD" not in reply.body and b"no bluebirds here" in reply.body
