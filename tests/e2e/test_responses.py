"""The Responses API over HTTP, end to end: judged like chat completions."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from invariant_addon.core.trace import Trace
from stage import clients, raw, responses, rules
from stage.proxy import Proxy, StartProxy
from stage.raw import RawClient
from stage.responses import PATH, custom, function, message, reasoning
from stage.script import Json, Stream, wait_until
from stage.traces import traces
from stage.upstream import Upstream

TEXT = "One two three f\u00fcnf \U0001f600. Done"
FORBIDDEN = "This is a long and clean beginning. Then comes a BLUEBIRD and more."


@pytest.fixture
def proxy(proxy_for: StartProxy) -> Proxy:
    return proxy_for(rules=rules.USUAL)


CLEAN = {
    "text": [message(TEXT)],
    "reasoning": [reasoning("I think so."), message(TEXT)],
    "parallel tools": [
        message("Let me look."),
        function("read", '{"path": "/tmp/a"}'),
        function("read", '{"path": "/tmp/b"}', number=1),
    ],
    "custom tool": [custom("exec", "ls -l")],
}


@pytest.mark.parametrize("version", ["1.1", "2"])
@pytest.mark.parametrize("cuts", ["events", "random:1", "bytes", "whole"])
def test_a_clean_stream_arrives_byte_for_byte(
    upstream: Upstream, proxy: Proxy, version: raw.Version, cuts: str
) -> None:
    """Judged is not altered, wherever the network cuts."""
    for items in CLEAN.values():
        stream = Stream(responses.stream(items), cuts=cuts)
        upstream.script(stream)
        with RawClient.through(proxy, version) as client:
            reply = client.post(PATH, responses.request()).wait_end()
        assert reply.is_complete and reply.status == 200
        assert reply.body == stream.body()


def test_text_flows_before_the_stream_ends(upstream: Upstream, proxy: Proxy) -> None:
    """People watch the words come."""
    go = threading.Event()
    stream = Stream(responses.stream([message(TEXT, size=1)]), wait=go, wait_after=16)
    upstream.script(stream)
    with RawClient.through(proxy) as client:
        reply = client.post(PATH, responses.request()).wait_body(b'"delta":"t"')
        go.set()
        reply.wait_end()
    assert reply.body == stream.body()


@pytest.mark.parametrize("how", ["stream", "async_stream", "stream_helper", "create"])
def test_the_sdk_works_as_ever(
    upstream: Upstream, proxy: Proxy, real_clients: None, how: clients.Mode
) -> None:
    """The program is not changed, and does not notice."""
    items = CLEAN["parallel tools"]
    streamed = how != "create"
    upstream.script(
        Stream(responses.stream(items)) if streamed else Json(responses.response(items))
    )
    run = clients.sdk(proxy, how, api="responses")
    assert run.error is None
    if run.result:
        output: Any = run.result["output"]
        assert [item["type"] for item in output] == ["message", "function_call", "function_call"]
    if streamed:
        assert run.text == "Let me look."
    assert len(upstream.calls) == 1


@pytest.mark.parametrize("how", ["parse", "stream_helper"])
def test_structured_output_works_as_ever(
    upstream: Upstream, proxy: Proxy, real_clients: None, how: clients.Mode
) -> None:
    """The SDK reads half a JSON text while it comes."""
    items = [message('{"answer": "forty two"}', size=3)]
    whole = Json(responses.response(items))
    upstream.script(whole if how == "parse" else Stream(responses.stream(items), pace=0.002))
    more = {} if how == "parse" else {"structured": True}
    run = clients.sdk(proxy, how, api="responses", **more)
    assert run.error is None and run.result is not None
    output: Any = run.result["output"]
    assert output[0]["content"][0]["parsed"] == {"answer": "forty two"}
    assert len(upstream.calls) == 1


@pytest.mark.parametrize("how", ["create", "parse", "stream", "async_stream", "stream_helper"])
def test_a_forbidden_prompt_never_leaves(
    upstream: Upstream, proxy: Proxy, real_clients: None, how: clients.Mode
) -> None:
    """Whoever switches the endpoint does not get around the rules."""
    run = clients.sdk(proxy, how, "tell me about BLUEBIRD", api="responses")
    assert run.error is not None and run.error.name == "BadRequestError"
    assert "[Invariant] The request did not pass the guardrails: no bluebirds" in run.error.text
    assert run.error.code == "guardrail_violation"
    assert not upstream.calls


@pytest.mark.parametrize(
    "body",
    [
        {"instructions": "BLUEBIRD", "input": "hi"},
        {"input": [{"role": "user", "content": [{"type": "input_text", "text": "BLUEBIRD"}]}]},
        {"input": [{"type": "reasoning", "summary": [{"text": "BLUEBIRD"}]}]},
        {"input": [{"type": "from_the_future", "words": ["a BLUEBIRD"]}]},
        {"prompt": {"variables": {"x": "BLUEBIRD"}}},
    ],
)  # fmt: skip
def test_every_place_of_a_request_is_read(upstream: Upstream, proxy: Proxy, body: Any) -> None:
    """A rule about any message is about any item."""
    with RawClient.through(proxy) as client:
        reply = client.post(PATH, {"model": "m", **body}).wait_end()
    assert reply.status == 400 and b"no bluebirds here" in reply.body
    assert b"BLUEBIRD" not in reply.body and not upstream.calls


@pytest.mark.parametrize("how", ["stream", "async_stream", "stream_helper"])
def test_a_forbidden_reply_ends_midway(
    upstream: Upstream, proxy: Proxy, real_clients: None, how: clients.Mode
) -> None:
    """One request; the error names the rule; what came before was clean and is not lost."""
    upstream.script(Stream(responses.stream([message(FORBIDDEN)]), pace=0.005))
    run = clients.sdk(proxy, how, api="responses")
    assert run.error is not None and run.error.name == "APIError"
    assert "no bluebirds here" in run.error.text and run.error.code == "guardrail_violation"
    assert FORBIDDEN.startswith(run.text) and "BLUEBIRD" not in run.text
    assert len(upstream.calls) == 1


def test_a_refusal_midway_is_two_events(upstream: Upstream, proxy: Proxy) -> None:
    """Codex stops at the second, all others at the first."""
    stream = Stream(responses.stream([message(FORBIDDEN)]), pace=0.005)
    upstream.script(stream)
    with RawClient.through(proxy) as client:
        reply = client.post(PATH, responses.request()).wait_end()
    assert reply.is_complete and b"BLUEBIRD" not in reply.body
    *before, error, failed = responses.payloads(reply.body)
    assert stream.body().startswith(reply.body[: reply.body.index(b"\nevent: error")])
    last = before[-1]["sequence_number"]
    assert (error["type"], error["sequence_number"]) == ("error", last + 1)
    assert error["error"]["code"] == "guardrail_violation"
    assert (failed["type"], failed["sequence_number"]) == ("response.failed", last + 2)
    assert failed["response"]["status"] == "failed" and failed["response"]["id"] == responses.ID
    assert failed["response"]["error"]["code"] == "invalid_prompt"
    assert "no bluebirds here" in failed["response"]["error"]["message"]


@pytest.mark.parametrize(
    "items",
    [[message("Ok."), function("delete_file", '{"path": "x"}')], [custom("delete_file", "x")]],
)
def test_no_piece_of_a_forbidden_call_arrives(upstream: Upstream, proxy: Proxy, items: Any) -> None:
    """The text before it flows; the call is held until it is whole, and then refused."""
    upstream.script(Stream(responses.stream(items), pace=0.005))
    with RawClient.through(proxy) as client:
        reply = client.post(PATH, responses.request()).wait_end()
    assert b"invalid_prompt" in reply.body
    assert b"delete_file" not in reply.body and b"custom_tool_call" not in reply.body


@pytest.mark.parametrize("kind", ["json", "stream without its type", "only in the final event"])
def test_other_ways_to_say_it_are_refused(upstream: Upstream, proxy: Proxy, kind: str) -> None:
    """Clients go by what they asked for."""
    dirty = responses.response([message(FORBIDDEN)])
    if kind == "json":
        upstream.script(Json(dirty))
    elif kind == "stream without its type":
        upstream.script(Stream(responses.stream([message(FORBIDDEN)]), content_type="text/plain"))
    else:
        final = {"type": "response.completed", "response": dirty}
        clean = responses.stream([message("Fine.")], final=False)
        upstream.script(Stream([*clean, *responses.framed([final], 11)]))
    with RawClient.through(proxy) as client:
        reply = client.post(PATH, responses.request()).wait_end()
    assert b"no bluebirds here" in reply.body and b"BLUEBIRD" not in reply.body


def test_background_replies_are_judged_when_they_are_fetched(
    upstream: Upstream, proxy: Proxy, real_clients: None
) -> None:
    """The POST says only "queued"; the text comes by GET."""
    good_path, bad_path = f"{PATH}/resp_good", f"{PATH}/resp_bad"
    upstream.script(Json(responses.response([], "queued", background=True)))
    upstream.script(Json(responses.response([message(TEXT)], id="resp_good")), path=good_path)
    upstream.script(Json(responses.response([message(FORBIDDEN)], id="resp_bad")), path=bad_path)
    queued = clients.sdk(proxy, "create", api="responses", background=True)
    assert queued.result is not None and queued.result["status"] == "queued"
    good = clients.curl(proxy, path=good_path)
    assert good.status == 200 and TEXT.encode()[:8] in good.body
    bad = clients.curl(proxy, path=f"{bad_path}?x=y")
    assert bad.status == 400 and b"no bluebirds here" in bad.body and b"BLUEBIRD" not in bad.body


def test_a_resumed_stream_is_held_until_its_text_is_whole(
    upstream: Upstream, proxy: Proxy, real_clients: None
) -> None:
    """`starting_after` begins in the middle of a word that was clean so far."""
    events = responses.stream([message("a BLUE" + "BIRD flies", size=6)], id="resp_cut")
    at = next(n for n, e in enumerate(events) if b'"delta":"BIRD f"' in e)
    upstream.script(Stream(events[at:], pace=0.02), path=f"{PATH}/resp_cut")
    run = clients.curl(proxy, path=f"{PATH}/resp_cut?stream=true&starting_after={at - 1}")
    assert run.body.startswith(b"\nevent: error") and b"flies" not in run.body

    fine = responses.stream([message("a green bird flies", size=6)], id="resp_fine")
    upstream.script(Stream(fine[at:]), path=f"{PATH}/resp_fine")
    again = clients.curl(proxy, path=f"{PATH}/resp_fine?stream=true&starting_after={at - 1}")
    assert again.body == b"".join(fine[at:])


BIRD = "Ask a BLUEBIRD."
FAILED: Any = {"id": "resp_x", "object": "response", "status": "failed", "output": []}
ASIDE: dict[str, Any] = {
    "an error": {"type": "error", "error": {"type": "server_error", "message": BIRD}},
    "a flat error": {"type": "error", "code": "server_error", "message": BIRD, "param": None},
    "a failure": {"type": "response.failed", "response": FAILED | {"error": {"message": BIRD}}},
    "an end": {
        "type": "response.incomplete",
        "response": FAILED | {"incomplete_details": {"reason": BIRD}},
    },
    "a comment": f": {BIRD}\n\n".encode(),
    "an id": f'id: {BIRD}\nevent: keepalive\ndata: {{"type":"keepalive"}}\n\n'.encode(),
    "a name": f'event: {BIRD}\ndata: {{"type":"keepalive"}}\n\n'.encode(),
}


@pytest.mark.parametrize("what", ASIDE)
def test_what_upstream_says_beside_a_reply_is_judged(
    upstream: Upstream, proxy: Proxy, what: str
) -> None:
    """Upstream, or who poses as it, could say anything there; and clients show errors."""
    begun = responses.stream([message("It began.")], final=False)
    aside = ASIDE[what]
    block = aside if isinstance(aside, bytes) else responses.framed([aside], len(begun))[0]
    upstream.script(Stream([*begun, block]))
    with RawClient.through(proxy) as client:
        reply = client.post(PATH, responses.request()).wait_end()
    assert b"BLUEBIRD" not in reply.body and b"no bluebirds here" in reply.body
    assert b"event: response.failed" in reply.body


def test_an_error_and_heartbeats_arrive_as_they_came(upstream: Upstream, proxy: Proxy) -> None:
    """They are no violation, and a comment keeps the connection alive."""
    beat = b": OPENROUTER PROCESSING\n\n"
    begun = responses.stream([message("It began.")], final=False)
    error = {"type": "server_error", "code": "server_error", "message": "The server had an error."}
    ends: list[Any] = [
        {"type": "error", "error": error},
        {"type": "response.failed", "response": FAILED | {"error": error}},
    ]
    go = threading.Event()
    stream = Stream(
        [beat, beat, *begun, beat, *responses.framed(ends, len(begun))], wait=go, wait_after=2
    )
    upstream.script(stream)
    with RawClient.through(proxy) as client:
        reply = client.post(PATH, responses.request()).wait_body(beat * 2)
        go.set()
        reply.wait_end()
    assert reply.is_complete and reply.body == stream.body()


def test_what_was_refused_stays_refused(
    upstream: Upstream, proxy: Proxy, real_clients: None
) -> None:
    """Upstream keeps it, and the client knows its id."""
    known = "resp_refused_1"
    upstream.script(Stream(responses.stream([message(FORBIDDEN)], id=known), pace=0.002))
    clients.curl(proxy, responses.request(), PATH)
    before = len(upstream.calls)
    for run in (
        clients.curl(proxy, path=f"{PATH}/{known}"),
        clients.curl(proxy, path=f"{PATH}/{known}?stream=true&starting_after=3"),
        clients.curl(proxy, responses.request("go on", previous_response_id=known), PATH),
    ):
        assert run.status == 400 and b"no bluebirds here" in run.body
    assert len(upstream.calls) == before


def traces_of(proxy: Proxy, count: int) -> list[Trace]:
    """The last ones, the oldest first, once there are so many."""
    found = next(proxy.home.rglob("traces.db"), None)
    if found is None:
        wait_until(lambda: any(proxy.home.rglob("traces.db")), 10, "the first trace")
        found = next(proxy.home.rglob("traces.db"))
    kept: list[Trace] = traces(found, count)
    return kept


def test_a_call_is_kept_as_a_trace(upstream: Upstream, proxy: Proxy) -> None:
    """In the form of chat completions, so that every viewer can show it."""
    items = [reasoning("I think."), message("Let me look."), function("read", '{"path": "/a"}')]
    upstream.script(Stream(responses.stream(items, id="resp_trace")))
    asked = [
        {"role": "user", "content": "hi"},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "done"},
    ]
    with RawClient.through(proxy) as client:
        body = responses.request(asked, instructions="be kind", temperature=0.5)
        client.post(PATH, body).wait_end()
    trace = traces_of(proxy, 1)[-1]
    assert (trace.endpoint, trace.status, trace.stream) == ("responses", "judged", True)
    assert [m["role"] for m in trace.messages] == ["system", "user", "assistant", "tool"]
    assert trace.messages[2]["tool_calls"][0]["function"]["name"] == "f"
    assert trace.messages[3] == {"role": "tool", "content": "done", "tool_call_id": "c"}
    assert trace.parameters["temperature"] == 0.5 and "input" not in trace.parameters
    (reply,) = trace.choices
    assert reply["content"] == "Let me look." and reply["reasoning_content"] == "I think."
    assert reply["tool_calls"][0]["function"] == {"name": "read", "arguments": '{"path": "/a"}'}
    assert trace.finishes == ("tool_calls",) and trace.response_id == "resp_trace"
    assert trace.usage["output_tokens"] == 5 and trace.delivered == len("Let me look.")


def test_a_refused_reply_is_kept_with_where_it_was(upstream: Upstream, proxy: Proxy) -> None:
    """Whoever looks at the trace sees the words, marked."""
    upstream.script(Stream(responses.stream([message(FORBIDDEN)], id="resp_t2"), pace=0.002))
    with RawClient.through(proxy) as client:
        client.post(PATH, responses.request("hello")).wait_end()
    trace = traces_of(proxy, 1)[-1]
    assert trace.status == "blocked" and trace.response_id == "resp_t2"
    (place,) = trace.findings[0].addresses
    assert place.message == 1 and place.start is not None
    assert trace.choices[0]["content"][place.start : place.end] == "BLUEBIRD"
    assert 0 < trace.delivered < place.start and trace.withheld


def test_a_secret_is_masked_in_a_request(
    upstream: Upstream, start_proxy: StartProxy, tmp_path: Path
) -> None:
    """Upstream gets the placeholder, wherever the secret stood."""
    rule = tmp_path / "mask.inv"
    rule.write_text('raise "masked" if:\n    (m: Message)\n    "hidden-word" in m.content\n')
    proxy = start_proxy(options={"invariant_mask_rules": [str(rule)]})
    with RawClient.through(proxy) as client:
        body = responses.request(
            [{"role": "user", "content": [{"type": "input_text", "text": "a hidden-word."}]}],
            instructions="keep hidden-word",
        )
        reply = client.post(PATH, body).wait_end()
    assert reply.status == 200
    sent = upstream.last().json()
    assert "hidden-word" not in str(sent) and str(sent).count("[masked:") == 2
