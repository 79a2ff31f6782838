"""The stage itself, with a bare mitmdump: so that later only invariant is under test."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from stage import clients, raw, streams
from stage.proxy import Proxy, StartProxy
from stage.raw import CHAT, RawClient
from stage.script import Death, Die, Json, Raw, Stream, wait_until
from stage.upstream import Upstream

WORDS = ["One", " two", " three", " f\u00fcnf", " \U0001f600", "."]
VERSIONS: list[raw.Version] = ["1.1", "2"]
both_versions = pytest.mark.parametrize("version", VERSIONS)


@both_versions
def test_curl_gets_the_stream_byte_for_byte(
    upstream: Upstream, bare: Proxy, real_clients: None, version: raw.Version
) -> None:
    """If the stage changed a byte, no test could blame invariant for it."""
    stream = Stream(streams.text_stream(WORDS))
    upstream.script(stream)

    run = clients.curl(bare, streams.chat(), http=version)

    assert (run.exit, run.status, run.version) == (0, 200, version), run.stderr
    assert run.body == stream.body()
    assert run.header("content-type") == "text/event-stream; charset=utf-8"
    call = upstream.last().wait_ended()
    assert (call.version, call.host, call.path) == (version, "api.openai.com", CHAT)
    assert call.state == "completed"
    assert call.written == len(stream.body())


@pytest.mark.parametrize("mode", ["stream"])
def test_the_sdk_streams_through_the_proxy(
    upstream: Upstream, bare: Proxy, real_clients: None, mode: clients.Mode
) -> None:
    """Most users are SDK users; the driver must show what their program would see."""
    upstream.script(Stream(streams.text_stream(WORDS)))

    run = clients.sdk(bare, mode, "hello")

    assert run.error is None
    assert run.text == "".join(WORDS)
    assert run.finish_reasons == ["stop"]
    assert [text for _, text in run.deltas] == WORDS
    sent = upstream.last()
    assert sent.json()["messages"] == [{"role": "user", "content": "hello"}]
    assert sent.at <= run.deltas[0][0], "the clocks of the processes are not the same"


def test_the_sdk_reads_a_whole_reply(upstream: Upstream, bare: Proxy, real_clients: None) -> None:
    """The other half of the traffic is not streamed; it is gzip on the wire."""
    upstream.script(Json(streams.completion("fine"), gzip=True))

    run = clients.sdk(bare, "create")

    assert (run.error, run.text) == (None, "fine")


def test_the_sdk_shows_the_exception_of_a_400(
    upstream: Upstream, bare: Proxy, real_clients: None
) -> None:
    """Refusals are 400s: name, text, code and body of the exception must come through, and the
    number of requests tells whether it was retried."""
    upstream.script(Json(streams.error("no such luck", code="bad_luck"), status=400))

    run = clients.sdk(bare, "stream")

    assert run.error is not None
    assert (run.error.name, run.error.status) == ("BadRequestError", 400)
    assert (run.error.code, run.error.kind) == ("bad_luck", "invalid_request_error")
    assert "no such luck" in run.error.text
    assert len(upstream.calls) == 1


def test_the_sdk_retries_as_it_does_by_default(
    upstream: Upstream, bare: Proxy, real_clients: None
) -> None:
    """max_retries is untouched: a status that is retried must be seen three times."""
    upstream.script(Json(streams.error("overloaded"), status=503))

    run = clients.sdk(bare, "create")

    assert run.error is not None
    assert run.error.name == "InternalServerError"
    assert len(upstream.calls) == 3


@both_versions
def test_a_gate_holds_the_stream_where_the_script_says(
    upstream: Upstream, bare: Proxy, version: raw.Version
) -> None:
    """Tests about "not before its verdict" need a stream that waits, not one that sleeps."""
    go = threading.Event()
    stream = Stream(streams.text_stream(WORDS), wait=go, wait_after=3)
    upstream.script(stream)
    first = b"".join(stream.events()[:3])

    with RawClient.through(bare, version) as client:
        reply = client.post(CHAT, streams.chat()).wait_body(size=len(first))
        assert reply.listen(0.2).body == first, "the gate leaks"
        assert upstream.last().chunks == 3
        opened = time.monotonic()
        go.set()
        reply.wait_end()

    assert reply.is_complete
    assert reply.body == stream.body()
    arrived = reply.arrived(streams.DONE)
    assert arrived is not None
    assert arrived >= opened
    assert upstream.last().wait_ended().state == "completed"


@both_versions
@pytest.mark.parametrize("cuts", ["random:1", "random:2", "bytes", "size:7", "whole"])
def test_cuts_reach_the_client_and_change_no_byte(
    upstream: Upstream, bare: Proxy, version: raw.Version, cuts: str
) -> None:
    """The network cuts where it likes: the fake must be able to as well, also inside a letter."""
    stream = Stream(streams.text_stream(WORDS), cuts=cuts)
    upstream.script(stream)

    with RawClient.through(bare, version) as client:
        reply = client.post(CHAT, streams.chat()).wait_end()

    assert reply.is_complete
    assert reply.body == stream.body()
    assert streams.content_of(reply.body) == "".join(WORDS)
    call = upstream.last().wait_ended()
    assert call.written == len(stream.body())
    assert (call.chunks == 1) == (cuts == "whole")
    if cuts == "bytes":
        assert call.chunks == len(stream.body())


def _vanish(client: RawClient, reply: raw.Reply) -> None:
    client.vanish()


def _reset(client: RawClient, reply: raw.Reply) -> None:
    client.vanish(rst=True)


def _cancel(client: RawClient, reply: raw.Reply) -> None:
    reply.cancel()


@pytest.mark.parametrize(
    ("version", "leave"),
    [("1.1", _vanish), ("1.1", _reset), ("2", _vanish), ("2", _reset), ("2", _cancel)],
)
def test_the_fake_notices_a_client_that_leaves_while_the_stream_waits(
    upstream: Upstream,
    bare: Proxy,
    version: raw.Version,
    leave: Callable[[RawClient, raw.Reply], None],
) -> None:
    """Nobody pays for tokens that nobody reads: "upstream was cancelled" must be provable, and
    not only at the next write."""
    upstream.script(Stream(streams.text_stream(WORDS), wait=threading.Event(), wait_after=2))

    with RawClient.through(bare, version) as client:
        reply = client.post(CHAT, streams.chat()).wait_body(b"One")
        leave(client, reply)
        call = upstream.last().wait_ended()

    assert call.state == "cancelled"
    assert call.chunks == 2
    assert call.why


def test_a_killed_sdk_cancels_the_stream(
    upstream: Upstream, bare: Proxy, real_clients: None
) -> None:
    """An agent that crashes is the usual way in which a client leaves."""
    upstream.script(Stream(streams.text_stream(WORDS), wait=threading.Event(), wait_after=2))

    with clients.sdk_process(bare, "stream") as running:
        running.wait_text("One")
        running.kill()
        call = upstream.last().wait_ended()

    assert call.state == "cancelled"


def test_a_cancelled_stream_does_not_touch_its_neighbour(upstream: Upstream, bare: Proxy) -> None:
    """HTTP/2 clients share one connection: a cancel is for one stream only."""
    go = threading.Event()
    stream = Stream(streams.text_stream(WORDS), wait=go, wait_after=2)
    upstream.script(stream)

    with RawClient.through(bare, "2") as client:
        leaver = client.post(CHAT, streams.chat("first")).wait_body(b"One")
        stayer = client.post(CHAT, streams.chat("second")).wait_body(b"One")
        leaver.cancel()
        by_prompt = {str(call.json()["messages"]): call for call in upstream.wait_calls(2)}
        left, stayed = (
            next(call for key, call in by_prompt.items() if name in key)
            for name in ("first", "second")
        )
        left.wait_ended()
        go.set()
        stayer.wait_end()

    assert (left.state, "RST_STREAM" in left.why) == ("cancelled", True)
    assert stayer.body == stream.body()
    assert stayed.wait_ended().state == "completed"
    assert left.connection == stayed.connection


@both_versions
@pytest.mark.parametrize("how", ["reset", "eof", "kill"])
def test_a_stream_that_dies_midway_arrives_broken(
    upstream: Upstream, bare: Proxy, version: raw.Version, how: Death
) -> None:
    """Upstream fails in the middle of an event: the client must be able to tell."""
    stream = Stream(streams.text_stream(WORDS), die_after=3, die_inside=20, die_with=how)
    upstream.script(stream)

    with RawClient.through(bare, version) as client:
        reply = client.post(CHAT, streams.chat()).wait_end()

    assert not reply.is_complete
    assert stream.body().startswith(reply.body)
    assert upstream.last().wait_ended().state == "died"


def test_a_death_before_the_head_is_no_reply(upstream: Upstream, bare: Proxy) -> None:
    """mitmproxy then answers 502 by itself; tests about it need the fake to say nothing."""
    upstream.script(Die())

    with RawClient.through(bare) as client:
        reply = client.post(CHAT, streams.chat()).wait_end()

    assert reply.status == 502


@both_versions
def test_the_fake_is_as_strict_as_openai(
    upstream: Upstream, bare: Proxy, version: raw.Version
) -> None:
    """A proxy that lost the key or the path must not look fine in a test."""
    with RawClient.through(bare, version) as client:
        no_key = client.post(CHAT, streams.chat(), key=False).wait_end()
        no_path = client.post("/v1/no/such/thing", {}).wait_end()
        fine = client.post(CHAT, streams.chat(stream=False)).wait_end()

    assert [r.status for r in (no_key, no_path, fine)] == [401, 404, 200]
    assert fine.json()["object"] == "chat.completion"
    assert len(upstream.calls) == 3


def test_scripts_answer_in_order_and_the_last_one_stays(upstream: Upstream, bare: Proxy) -> None:
    """A test about a retry wants a failure first and then a good reply."""
    upstream.script(Json({}, status=500), lambda call: Json({"asked": call.json()["model"]}))

    with RawClient.through(bare) as client:
        replies = [client.post(CHAT, streams.chat()).wait_end() for _ in range(3)]

    assert [r.status for r in replies] == [500, 200, 200]
    assert replies[2].json() == {"asked": "gpt-4o-mini"}
    assert len({call.connection for call in upstream.calls}) == 1, "upstream is not reused"


def test_raw_replies_are_sent_as_they_are(upstream: Upstream, bare: Proxy) -> None:
    """Compressed streams and other oddities must reach the proxy unchanged."""
    packed = gzip.compress(b"".join(streams.text_stream(WORDS)))
    head = [("content-type", "text/event-stream"), ("content-encoding", "gzip")]
    upstream.script(Raw(packed, headers=head))

    with RawClient.through(bare) as client:
        reply = client.post(CHAT, streams.chat()).wait_end()

    assert reply.body == packed
    assert reply.header("content-encoding") == "gzip"


def test_a_stream_can_promise_its_length(upstream: Upstream, bare: Proxy) -> None:
    """A content-length on an event stream is one of the traps on the list."""
    stream = Stream(streams.text_stream(WORDS), content_length=True, cuts="size:50")
    upstream.script(stream)

    with RawClient.through(bare) as client:
        reply = client.post(CHAT, streams.chat()).wait_end()

    assert reply.header("content-length") == str(len(stream.body()))
    assert reply.body == stream.body()


@both_versions
def test_large_requests_and_replies_pass_flow_control(
    upstream: Upstream, bare: Proxy, version: raw.Version
) -> None:
    """Agents send megabytes of history; HTTP/2 windows are 64 KiB at first."""
    prompt, answer = "x" * 3_000_000, ["y" * 100_000] * 20
    stream = Stream(streams.text_stream(answer), cuts="whole")
    upstream.script(stream)

    with RawClient.through(bare, version) as client:
        reply = client.post(CHAT, streams.chat(prompt)).wait_end()

    assert reply.is_complete
    assert reply.body == stream.body()
    assert prompt in str(upstream.last().json()["messages"])


@pytest.mark.parametrize("version", VERSIONS)
def test_past_the_proxy_the_same_bytes_come(upstream: Upstream, version: raw.Version) -> None:
    """The control group: what OpenAI itself would have delivered."""
    stream = Stream(streams.text_stream(WORDS))
    upstream.script(stream)

    with RawClient.direct(upstream, version) as client:
        reply = client.post(CHAT, streams.chat()).wait_end()

    assert [read.data for read in reply.reads] == stream.events()


@pytest.mark.parametrize("mode", ["reverse:https", "reverse:http"])
def test_reverse_mode_reaches_the_fake(
    upstream: Upstream, proxy_for: StartProxy, mode: str, real_clients: None
) -> None:
    """Gateways are reached by another base URL and not by HTTPS_PROXY."""
    proxy = proxy_for(addon=False, mode=mode)
    stream = Stream(streams.text_stream(WORDS))
    upstream.script(stream)

    assert clients.curl(proxy, streams.chat()).body == stream.body()
    assert clients.sdk(proxy, "stream").text == "".join(WORDS)
    with RawClient.through(proxy) as client:
        assert client.post(CHAT, streams.chat()).wait_end().body == stream.body()


def test_flows_are_saved_and_a_stopped_proxy_leaves_nothing(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    """Marks and comments are read from saved flows, and nobody wants orphans on the machine."""
    proxy = start_proxy(addon=False, save_flows=True)
    with RawClient.through(proxy) as client:
        client.post(CHAT, streams.chat(stream=False)).wait_end()
    pids = [proxy.pid, *proxy.workers()]

    ended = proxy.stop()

    assert ended.code == 0, ended.log
    assert [flow.type for flow in proxy.flows()] == ["http"]
    wait_until(lambda: not any(_is_alive(pid) for pid in pids), 5, "the end of all children")


def test_a_proxy_that_cannot_start_says_why(upstream: Upstream, start_proxy: StartProxy) -> None:
    """Wrong options are tested too: the exit code and the reason must be readable."""
    proxy = start_proxy(addon=False, wait=False, options={"confdir": "/dev/null/nowhere"})

    ended = proxy.wait_ended()

    assert ended.code != 0
    assert ended.log


def test_tool_streams_are_what_the_sdk_understands(
    upstream: Upstream, bare: Proxy, real_clients: None
) -> None:
    """The builders imitate OpenAI: the SDK's own accumulator is the judge."""
    calls = [("read_file", '{"path": "/etc/passwd"}'), ("send_mail", '{"to": "a@example.com"}')]
    for interleave in (False, True):
        upstream.script(Stream(streams.tool_stream("Let me see.", calls, interleave=interleave)))

        run = clients.sdk(bare, "stream_helper")

        assert run.error is None
        assert run.result is not None
        message = cast(Any, run.result)["choices"][0]["message"]
        assert message["content"] == "Let me see."
        got = [(c["function"]["name"], c["function"]["arguments"]) for c in message["tool_calls"]]
        assert got == calls


def _is_alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"
