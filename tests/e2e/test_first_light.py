"""What a user sees on the first day: clean streams untouched, what breaks a rule refused."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path

import pytest
from mitmproxy.http import HTTPFlow
from mitmproxy.io import FlowReader

from stage import clients, raw, rules, streams
from stage.proxy import ADDON, MITMDUMP, Proxy, clean_environment
from stage.raw import CHAT, RawClient
from stage.script import Json, Raw, Stream
from stage.upstream import Upstream

WORDS = ["One", " two", " three", " f\u00fcnf", " \U0001f600", ".", " Done"]
VERSIONS: list[raw.Version] = ["1.1", "2"]
both_versions = pytest.mark.parametrize("version", VERSIONS)
REFUSAL = b'\ndata: {"error"'
MODES = ["verified", "buffer", "observe"]


@pytest.fixture
def proxy(proxy_for) -> Proxy:
    """The command as people type it; most others are forked from a warm one."""
    return proxy_for(rules=rules.USUAL, cold=True)


# -- clean -----------------------------------------------------------------------------------


@both_versions
@pytest.mark.parametrize("cuts", ["events", "random:1", "random:2", "bytes", "whole"])
def test_a_clean_stream_arrives_byte_for_byte(
    upstream: Upstream, proxy: Proxy, version: raw.Version, cuts: str
) -> None:
    """Judged is not altered, wherever the network cuts."""
    stream = Stream(streams.text_stream(WORDS), cuts=cuts)
    upstream.script(stream)
    with RawClient.through(proxy, version) as client:
        reply = client.post(CHAT, streams.chat()).wait_end()
    assert reply.is_complete and reply.status == 200
    assert reply.body == stream.body()


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_delivers_a_clean_stream(upstream: Upstream, proxy_for, mode: str) -> None:
    """The modes differ in when, not in what."""
    proxy = proxy_for(rules=[rules.NO_BLUEBIRD], options={"invariant_stream": mode})
    stream = Stream(streams.text_stream(WORDS), content_length=True)
    upstream.script(stream)
    with RawClient.through(proxy) as client:
        reply = client.post(CHAT, streams.chat()).wait_end()
    assert reply.is_complete and reply.body == stream.body()


@pytest.mark.parametrize("how", ["stream", "async_stream", "stream_helper"])
def test_the_sdk_streams_as_ever(
    upstream: Upstream, proxy: Proxy, real_clients: None, how: clients.Mode
) -> None:
    """The program is not changed, and does not notice."""
    upstream.script(Stream(streams.text_stream(WORDS)))
    run = clients.sdk(proxy, how)
    assert run.error is None and run.text == "".join(WORDS)


@both_versions
def test_curl_streams_as_ever(
    upstream: Upstream, proxy: Proxy, real_clients: None, version: raw.Version
) -> None:
    """Not every program is an SDK."""
    stream = Stream(streams.text_stream(WORDS))
    upstream.script(stream)
    run = clients.curl(proxy, streams.chat(), http=version)
    assert (run.exit, run.status, run.version) == (0, 200, version)
    assert run.body == stream.body()


def test_upstream_is_not_offered_compression(upstream: Upstream, proxy: Proxy) -> None:
    """What is compressed cannot be judged as it comes; and our own headers stay here."""
    upstream.script(Stream(streams.text_stream(WORDS)))
    with RawClient.through(proxy) as client:
        extra = [("accept-encoding", "gzip, br"), ("invariant-project-name", "x")]
        client.post(CHAT, streams.chat(), extra).wait_end()
    call = upstream.last()
    assert call.header("accept-encoding") == "identity"
    assert call.header("invariant-project-name") is None
    assert call.header("host") == "api.openai.com"


# -- the request -----------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["create", "stream", "async_stream", "stream_helper"])
def test_a_forbidden_prompt_never_leaves(
    upstream: Upstream, proxy: Proxy, real_clients: None, how: clients.Mode
) -> None:
    """The program gets an exception that names the rule; OpenAI gets nothing."""
    before = len(upstream.calls)
    run = clients.sdk(proxy, how, "tell me about BLUEBIRD")
    assert run.error is not None and run.error.name == "BadRequestError"
    assert "[Invariant] The request did not pass the guardrails" in run.error.text
    assert "no bluebirds here" in run.error.text
    assert run.error.code == "guardrail_violation"
    assert len(upstream.calls) == before


@both_versions
def test_a_refusal_of_a_request_tells_where_and_never_what(
    upstream: Upstream, proxy: Proxy, version: raw.Version
) -> None:
    """`details` leads to the place; the blocked text itself is not repeated."""
    with RawClient.through(proxy, version) as client:
        reply = client.post(CHAT, streams.chat("the BLUEBIRD is hidden-text-1")).wait_end()
    assert reply.status == 400
    assert b"BLUEBIRD" not in reply.body and b"hidden-text-1" not in reply.body
    error = reply.json()["error"]
    assert isinstance(error, dict)
    found = error["details"]["errors"][0]
    assert found["guardrail"]["action"] == "block"
    assert "messages.0.content:4-12" in found["ranges"]
    assert reply.header("x-invariant-request-id") == error["details"]["request_id"]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"messages": 3}', b"\x1f\x8b not json", b'{"model":"m"}']
)
def test_a_request_that_cannot_be_read_is_blocked(
    upstream: Upstream, proxy: Proxy, body: bytes
) -> None:
    """Never silently unscanned."""
    with RawClient.through(proxy) as client:
        reply = client.post(CHAT, body).wait_end()
    assert reply.status == 400 and b"guardrail_unavailable" in reply.body
    assert not upstream.calls


def test_a_compressed_request_is_read(upstream: Upstream, proxy: Proxy) -> None:
    """An encoding is no way around the rules."""
    import gzip
    import json

    body = gzip.compress(json.dumps(streams.chat("BLUEBIRD")).encode())
    with RawClient.through(proxy) as client:
        reply = client.post(CHAT, body, [("content-encoding", "gzip")]).wait_end()
    assert reply.status == 400 and b"no bluebirds here" in reply.body
    assert not upstream.calls


@pytest.mark.parametrize(
    "path",
    ["/v1//chat/completions", "/v1/chat/completions/", "/v1/chat%2Fcompletions?x=1"],
)
def test_another_spelling_of_the_path_is_guarded_too(
    upstream: Upstream, proxy: Proxy, path: str
) -> None:
    """A lenient server would serve it."""
    with RawClient.through(proxy) as client:
        reply = client.post(path, streams.chat("BLUEBIRD")).wait_end()
    assert reply.status == 400 and not upstream.calls


# -- the reply -------------------------------------------------------------------------------


@both_versions
def test_a_forbidden_word_late_in_a_long_reply(
    upstream: Upstream, proxy: Proxy, version: raw.Version
) -> None:
    """300 clean chunks arrive, of the word not one character; upstream is cancelled at once."""
    words = [f" word{n}" for n in range(300)] + [" BLUE", "BIRD"] + [" more"] * 2700
    events = streams.text_stream(words)
    go = threading.Event()
    # 3 chunks beyond the word, then upstream waits: so "at once" is not a matter of speed.
    upstream.script(Stream(events, wait=go, wait_after=306))
    with RawClient.through(proxy, version) as client:
        reply = client.post(CHAT, streams.chat()).wait_end()
    call = upstream.last().wait_ended()
    go.set()
    assert reply.is_complete
    text = streams.content_of(reply.body.partition(REFUSAL)[0])
    assert text == "".join(words[:300])
    assert b"BLUE" not in reply.body
    assert b"[Invariant] The response did not pass the guardrails: no bluebirds here" in reply.body
    assert call.state == "cancelled" and call.chunks <= 306
    assert len(upstream.calls) == 1


def test_upstream_that_does_not_wait_is_cancelled_too(upstream: Upstream, proxy: Proxy) -> None:
    """It writes on while the verdict is awaited; it must stop soon after."""
    words = [f" word{n}" for n in range(300)] + [" BLUEBIRD"] + [" more"] * 2700
    upstream.script(Stream(streams.text_stream(words), pace=0.002))
    with RawClient.through(proxy) as client:
        reply = client.post(CHAT, streams.chat()).wait_end()
    call = upstream.last().wait_ended()
    assert call.state == "cancelled" and call.chunks < 2000
    assert b"BLUEBIRD" not in reply.body


@pytest.mark.parametrize("how", ["stream", "async_stream", "stream_helper"])
def test_the_sdk_raises_after_the_clean_text(
    upstream: Upstream, proxy: Proxy, real_clients: None, how: clients.Mode
) -> None:
    """One exception that names the rule, one request, no retry."""
    upstream.script(Stream(streams.text_stream(["fine", " so", " far.", " BLUEBIRD", " and on"])))
    run = clients.sdk(proxy, how)
    assert run.error is not None and run.error.name == "APIError"
    assert "no bluebirds here" in run.error.text
    assert "BLUE" not in run.text and "fine so far.".startswith(run.text.strip())
    assert len(upstream.calls) == 1


def test_a_whole_reply_is_judged_too(upstream: Upstream, proxy: Proxy, real_clients: None) -> None:
    """Without `stream` the refusal is a 400."""
    upstream.script(Json(streams.completion("a BLUEBIRD"), gzip=True))
    run = clients.sdk(proxy, "create")
    assert run.error is not None and run.error.name == "BadRequestError"
    assert "[Invariant] The response did not pass the guardrails" in run.error.text


def test_a_clean_whole_reply_passes(upstream: Upstream, proxy: Proxy, real_clients: None) -> None:
    """... and everything else arrives."""
    upstream.script(Json(streams.completion("a robin"), gzip=True))
    run = clients.sdk(proxy, "create")
    assert run.error is None and run.text == "a robin"


def test_buffer_refuses_a_stream_with_a_plain_400(
    upstream: Upstream, proxy_for, real_clients: None
) -> None:
    """Nothing has gone out, so the refusal is a whole response."""
    proxy = proxy_for(rules=[rules.NO_BLUEBIRD], options={"invariant_stream": "buffer"})
    upstream.script(Stream(streams.text_stream(["fine", " BLUEBIRD", " more"])))
    run = clients.sdk(proxy, "stream")
    assert run.error is not None and run.error.name == "BadRequestError"
    assert run.text == ""


def test_observe_delivers_and_then_raises(
    upstream: Upstream, proxy_for, real_clients: None
) -> None:
    """The text is out; the program still learns of it, before [DONE]."""
    proxy = proxy_for(rules=[rules.NO_BLUEBIRD], options={"invariant_stream": "observe"})
    upstream.script(Stream(streams.text_stream(["fine", " BLUEBIRD", " more"])))
    run = clients.sdk(proxy, "stream")
    assert run.error is not None and run.error.name == "APIError"
    assert run.text == "fine BLUEBIRD more"


# -- tool calls ------------------------------------------------------------------------------


def test_of_a_forbidden_call_not_one_byte_arrives(upstream: Upstream, proxy: Proxy) -> None:
    """The text before it streams on."""
    go = threading.Event()
    events = streams.tool_stream("Let me clean up.", [("delete_file", '{"path": "/tmp/x"}')])
    first = next(n for n, event in enumerate(events) if b"tool_calls" in event)
    upstream.script(Stream(events, wait=go, wait_after=first + 2))
    with RawClient.through(proxy) as client:
        reply = client.post(CHAT, streams.chat())
        reply.wait_body(events[first - 1])
        assert b"tool_calls" not in reply.body
        go.set()
        reply.wait_end()
    delivered, error = reply.body.split(REFUSAL)
    assert b"tool_calls" not in delivered and b"delete_file" not in reply.body
    assert b"/tmp/x" not in reply.body
    assert streams.content_of(delivered) == "Let me clean up."
    assert b"files are not deleted" in error


@pytest.mark.parametrize("interleave", [False, True])
def test_an_allowed_call_arrives_whole_and_unchanged(
    upstream: Upstream, proxy: Proxy, interleave: bool
) -> None:
    """Parallel calls too."""
    calls = [("read_file", '{"path": "/tmp/x"}'), ("list", '{"path": "/"}')]
    stream = Stream(streams.tool_stream("Let me look.", calls, interleave=interleave))
    upstream.script(stream)
    with RawClient.through(proxy) as client:
        reply = client.post(CHAT, streams.chat()).wait_end()
    assert reply.is_complete and reply.body == stream.body()


@pytest.mark.parametrize("done", [True, False])
def test_a_forbidden_custom_tool_is_seen(upstream: Upstream, proxy: Proxy, done: bool) -> None:
    """The ancestor did not see them at all; nor anything where [DONE] was missing."""
    upstream.script(Stream(streams.custom_tool_stream("", [("delete_file", "/tmp/x")]), done=done))
    with RawClient.through(proxy) as client:
        reply = client.post(CHAT, streams.chat()).wait_end()
    assert b"/tmp/x" not in reply.body and b"files are not deleted" in reply.body


def test_a_forbidden_legacy_function_call_is_seen(upstream: Upstream, proxy: Proxy) -> None:
    """Old agents use it, and old agents need guarding."""
    upstream.script(Stream(streams.function_call_stream("delete_file", '{"path": "/tmp/x"}')))
    with RawClient.through(proxy) as client:
        reply = client.post(CHAT, streams.chat()).wait_end()
    assert b"/tmp/x" not in reply.body and b"files are not deleted" in reply.body


def test_arguments_are_judged_parsed(upstream: Upstream, proxy_for) -> None:
    """The path is spelled with an escape; a rule about the path sees through it."""
    proxy = proxy_for(rules=[rules.NO_ETC])
    events = streams.tool_stream("", [("read_file", '{"path": "\\u002fetc/passwd"}')])
    upstream.script(Stream(events))
    with RawClient.through(proxy) as client:
        reply = client.post(CHAT, streams.chat()).wait_end()
    assert b"nothing below /etc" in reply.body and b"passwd" not in reply.body


def test_one_bad_choice_of_three_refuses_the_reply(upstream: Upstream, proxy: Proxy) -> None:
    """Choices are alternatives, each judged for itself."""
    choices = [["a", " robin."], ["a", " BLUEBIRD", "."], ["a", " wren."]]
    upstream.script(Stream(streams.choices_stream(choices)))
    with RawClient.through(proxy) as client:
        reply = client.post(CHAT, streams.chat(n=3)).wait_end()
    assert b"BLUE" not in reply.body and b"no bluebirds here" in reply.body


# -- rules about the end ---------------------------------------------------------------------


@pytest.mark.parametrize("cuts", ["events", "whole"])
@pytest.mark.parametrize("pace", [0, 0.06])
def test_a_rule_about_the_end_is_not_misjudged_midway(
    upstream: Upstream, proxy_for, cuts: str, pace: float
) -> None:
    """Every prefix breaks it; the whole does not."""
    proxy = proxy_for(rules=[rules.ENDS_WITH_END])
    stream = Stream(streams.text_stream(["This", " is", " the", " END"]), cuts=cuts, pace=pace)
    upstream.script(stream)
    with RawClient.through(proxy) as client:
        reply = client.post(CHAT, streams.chat()).wait_end()
    assert reply.body == stream.body()


def test_a_rule_about_the_end_refuses_at_the_end(upstream: Upstream, proxy_for) -> None:
    """... and here the whole breaks it, and nothing was delivered."""
    proxy = proxy_for(rules=[rules.ENDS_WITH_END])
    upstream.script(Stream(streams.text_stream(["The", " END", " is", " near"]), pace=0.06))
    with RawClient.through(proxy) as client:
        reply = client.post(CHAT, streams.chat()).wait_end()
    assert b"every reply ends with END" in reply.body
    assert b" near" not in reply.body


# -- what upstream says ----------------------------------------------------------------------


@pytest.mark.parametrize("status", [401, 429, 500])
def test_upstreams_own_errors_pass_unchanged(upstream: Upstream, proxy: Proxy, status: int) -> None:
    """They are for the client to understand."""
    answer = Json(streams.error("slow down"), status=status)
    upstream.script(answer)
    with RawClient.through(proxy) as client:
        reply = client.post(CHAT, streams.chat()).wait_end()
    assert reply.status == status and reply.body == answer.body()


@pytest.mark.parametrize("kind", ["application/json", "text/plain", "text/event-stream"])
def test_a_success_that_cannot_be_read_is_withheld(
    upstream: Upstream, proxy: Proxy, kind: str
) -> None:
    """A 200 that is neither JSON nor events was not judged."""
    upstream.script(Raw(b"data: <html>BLUEBIRD</html>\n\n", 200, [("content-type", kind)]))
    with RawClient.through(proxy) as client:
        reply = client.post(CHAT, streams.chat()).wait_end()
    assert b"guardrail_unavailable" in reply.body and b"BLUEBIRD" not in reply.body


@pytest.mark.parametrize("kind", ["text/plain", "application/json", ""])
def test_a_stream_under_another_content_type_is_judged(
    upstream: Upstream, proxy: Proxy, kind: str
) -> None:
    """Clients go by what they asked for; so do we. What says that it is JSON is judged whole."""
    body = b"".join(streams.text_stream(["a", " BLUEBIRD", "."]))
    upstream.script(Raw(body, 200, [("content-type", kind)] if kind else []))
    with RawClient.through(proxy) as client:
        reply = client.post(CHAT, streams.chat()).wait_end()
    assert reply.status == (400 if "json" in kind else 200)
    assert b"no bluebirds here" in reply.body and b"BLUEBIRD" not in reply.body


def test_calls_with_nothing_to_judge_pass_and_are_counted(upstream: Upstream, proxy: Proxy) -> None:
    """A list of models is no conversation."""
    before = proxy.health()["calls"]
    with RawClient.through(proxy) as client:
        reply = client.send("GET", "/v1/models", [raw.KEY]).wait_end()
    assert reply.status == 200
    after = proxy.health()["calls"]
    assert after["harmless"] == before["harmless"] + 1


def test_health_needs_no_key_and_no_upstream(upstream: Upstream, proxy: Proxy) -> None:
    """Scripts ask it whether the proxy is there, and what it did."""
    health = proxy.health()
    assert health["ready"] is True and health["rules"] == 2
    assert not upstream.calls


# -- the other ways in -----------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["reverse:https", "reverse:http"])
@both_versions
def test_reverse_mode_is_guarded(
    upstream: Upstream, proxy_for, mode: str, version: raw.Version
) -> None:
    """Clients with a base URL: with and without TLS on their side."""
    proxy = proxy_for(rules=[rules.NO_BLUEBIRD], mode=mode)
    stream = Stream(streams.text_stream(WORDS))
    upstream.script(stream, Stream(streams.text_stream(["a", " BLUEBIRD", "."])))
    with RawClient.through(proxy, version) as client:
        clean = client.post(CHAT, streams.chat()).wait_end()
        assert clean.is_complete and clean.body == stream.body()
    with RawClient.through(proxy, version) as client:
        refused = client.post(CHAT, streams.chat()).wait_end()
        assert b"BLUE" not in refused.body and b"no bluebirds" in refused.body
    with RawClient.through(proxy, version) as client:
        blocked = client.post(CHAT, streams.chat("BLUEBIRD")).wait_end()
        assert blocked.status == 400
    assert len(upstream.calls) == 2


def test_h2_client_with_h1_upstream(upstream: Upstream, proxy: Proxy) -> None:
    """The two sides need not speak the same version."""
    upstream.speak("http/1.1")
    stream = Stream(streams.text_stream(WORDS))
    upstream.script(stream, Stream(streams.text_stream(["a", " BLUEBIRD", "."])))
    with RawClient.through(proxy, "2") as client:
        assert client.post(CHAT, streams.chat()).wait_end().body == stream.body()
        refused = client.post(CHAT, streams.chat()).wait_end()
    assert refused.is_complete and b"BLUE" not in refused.body
    assert upstream.last().wait_ended().version == "1.1"


@pytest.mark.parametrize("mode", ["regular", "reverse:https"])
def test_many_h2_streams_with_h1_upstream(upstream: Upstream, proxy_for, mode: str) -> None:
    """Each has a connection to upstream of its own. One that was being opened while another was
    closed was forgotten: its call hung for ever."""
    proxy = proxy_for(rules=rules.USUAL, mode=mode)
    upstream.speak("http/1.1")
    upstream.script(Json(streams.completion("fine")))
    for _ in range(3):
        with RawClient.through(proxy, "2") as client:
            replies = [client.post(CHAT, streams.chat(stream=False)) for _ in range(8)]
            assert all(reply.wait_end().status == 200 for reply in replies)


def test_two_streams_on_one_h2_connection(upstream: Upstream, proxy: Proxy) -> None:
    """A refused stream does not touch its neighbour."""
    go = threading.Event()
    clean = Stream(streams.text_stream(WORDS), wait=go, wait_after=3)
    bad = Stream(streams.text_stream(["a", " BLUEBIRD", "."]))
    upstream.script(lambda call: bad if b"second" in call.body else clean)
    with RawClient.through(proxy, "2") as client:
        first = client.post(CHAT, streams.chat("first"))
        second = client.post(CHAT, streams.chat("second")).wait_end()
        go.set()
        first.wait_end()
    assert first.is_complete and first.body == clean.body()
    assert second.is_complete and b"no bluebirds here" in second.body


# -- what stays behind -----------------------------------------------------------------------


def test_flows_are_marked_and_can_be_judged_again(
    upstream: Upstream, start_proxy, tmp_path: Path
) -> None:
    """The person who looks at the flows sees what happened, and why."""
    proxy = start_proxy(rules=[rules.NO_BLUEBIRD], save_flows=True)
    stream = Stream(streams.text_stream(WORDS))
    upstream.script(stream, Stream(streams.text_stream(["a", " BLUEBIRD", "."])))
    with RawClient.through(proxy) as client:
        client.post(CHAT, streams.chat()).wait_end()
        client.post(CHAT, streams.chat()).wait_end()
        client.post(CHAT, streams.chat("BLUEBIRD")).wait_end()
        client.send("GET", "/v1/models", [raw.KEY]).wait_end()
    proxy.stop()
    flows = [f for f in proxy.flows() if "/v1/" in f.request.path]
    assert [f.marked for f in flows] == ["", ":no_entry:", ":no_entry:", ""]
    assert flows[0].response.raw_content == stream.body()
    assert b"BLUEBIRD" in flows[1].response.raw_content
    assert "response blocked: no bluebirds here" in flows[1].comment
    assert "request blocked: no bluebirds here" in flows[2].comment
    assert [f.metadata["invariant"]["coverage"] for f in flows] == ["scanned"] * 4
    ends = ["judged", "blocked", "blocked", "nothing to judge"]
    assert [f.metadata["invariant"]["status"] for f in flows] == ends


def test_saved_flows_are_judged_again(upstream: Upstream, start_proxy, tmp_path: Path) -> None:
    """New rules can be tried on yesterday's traffic: judged and reported, never answered."""
    proxy = start_proxy(rules=[], save_flows=True)
    stream = Stream(streams.text_stream(["a", " BLUEBIRD", "."]))
    upstream.script(
        stream, Json(streams.completion("a BLUEBIRD")), Stream(streams.text_stream("a"))
    )
    with RawClient.through(proxy) as client:
        assert client.post(CHAT, streams.chat()).wait_end().body == stream.body()
        client.post(CHAT, streams.chat(stream=False)).wait_end()
        client.post(CHAT, streams.chat()).wait_end()
    proxy.stop()
    rule, again = tmp_path / "rule.inv", tmp_path / "again.mitm"
    rule.write_text(rules.NO_BLUEBIRD)
    said = subprocess.run(
        [
            *(MITMDUMP, "-nr", proxy.flow_file, "-w", again, "-s", ADDON),
            *("--set", f"confdir={tmp_path}", "--set", f"invariant_certs={proxy.certs}"),
            *("--set", f"invariant_rules={rule}", "--set", "invariant_starter_rules=false"),
        ],
        env=clean_environment(tmp_path),
        capture_output=True,
        timeout=60,
        check=True,
    ).stdout.decode()
    with again.open("rb") as file:
        flows = [f for f in FlowReader(file).stream() if isinstance(f, HTTPFlow)]
        flows = [f for f in flows if CHAT in f.request.path]
    assert [f.marked for f in flows] == [":no_entry:", ":no_entry:", ""]
    assert [f.response and f.response.status_code for f in flows] == [200, 200, 200]
    assert "response blocked: no bluebirds here" in flows[0].comment
    assert "no bluebirds here" in said


def test_a_log_rule_notes_and_does_not_block(
    upstream: Upstream, start_proxy, tmp_path: Path
) -> None:
    """For rules that one wants to watch before one trusts them."""
    rule = tmp_path / "watched.inv"
    rule.write_text(rules.NO_BLUEBIRD)
    proxy = start_proxy(rules=[rules.NO_DELETE], options={"invariant_log_rules": str(rule)})
    stream = Stream(streams.text_stream(["a", " BLUEBIRD", "."]))
    upstream.script(stream)
    with RawClient.through(proxy) as client:
        assert client.post(CHAT, streams.chat()).wait_end().body == stream.body()
    proxy.wait_log("noted POST .*no bluebirds here")
    assert proxy.health()["calls"]["judged"] == 1
