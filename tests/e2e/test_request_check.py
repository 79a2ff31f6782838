"""When a request is judged, and what happens when there is no verdict, or no upstream."""

from __future__ import annotations

import itertools
import json
import threading
import time

import pytest

from stage import raw, rules, streams
from stage.proxy import Proxy
from stage.raw import CHAT, RawClient
from stage.script import Json, Stream
from stage.upstream import Upstream

VERSIONS: list[raw.Version] = ["1.1", "2"]
both_versions = pytest.mark.parametrize("version", VERSIONS)
both_ways = pytest.mark.parametrize("stream", [True, False])


def slow_word() -> str:
    """Takes about a second in the SLOW rule, for a worker that has not seen it before."""
    return "a" * 21 + f"!{next(_NEW)} "


_NEW = itertools.count()


@pytest.fixture
def concurrent(proxy_for) -> Proxy:
    return proxy_for(
        rules=[rules.NO_BLUEBIRD, rules.SLOW],
        options={"invariant_request_check": "concurrent", "invariant_deadline_ms": 20_000},
    )


# -- concurrent ------------------------------------------------------------------------------


@both_versions
@both_ways
def test_a_concurrent_refusal_is_a_400_before_upstream_answers(
    upstream: Upstream, concurrent: Proxy, version: raw.Version, stream: bool
) -> None:
    """Upstream is still thinking: nobody waits for it, and it is told to stop."""
    never = threading.Event()
    words = streams.text_stream(["One"])
    upstream.script(
        Stream(words, wait_head=never) if stream else Json(streams.completion("x"), wait=never)
    )
    with RawClient.through(concurrent, version) as client:
        body = streams.chat(slow_word() + "BLUEBIRD", stream=stream)
        reply = client.post(CHAT, body).wait_end()
        assert reply.status == 400 and reply.is_complete
        error = reply.json()["error"]
    assert isinstance(error, dict) and error["code"] == "guardrail_violation"
    assert "The request did not pass" in error["message"]
    assert upstream.last().wait_ended().state == "cancelled"
    never.set()


@both_versions
@both_ways
def test_a_concurrent_refusal_is_a_400_after_upstream_answered(
    upstream: Upstream, concurrent: Proxy, version: raw.Version, stream: bool
) -> None:
    """The head waits for the request's verdict, so the client sees nothing of the reply."""
    upstream.script(
        Stream(streams.text_stream(["SECRETREPLY"] * 5))
        if stream
        else Json(streams.completion("SECRETREPLY"))
    )
    with RawClient.through(concurrent, version) as client:
        body = streams.chat(slow_word() + "BLUEBIRD", stream=stream)
        reply = client.post(CHAT, body).wait_end()
    assert reply.status == 400 and b"SECRETREPLY" not in reply.body
    assert b"The request did not pass" in reply.body
    assert len(upstream.calls) == 1


@both_versions
@both_ways
def test_a_clean_call_is_the_same_in_concurrent(
    upstream: Upstream, concurrent: Proxy, version: raw.Version, stream: bool
) -> None:
    """Only when it is judged differs."""
    answer = Stream(streams.text_stream(["One", " two"])) if stream else Json(streams.completion())
    upstream.script(answer)
    with RawClient.through(concurrent, version) as client:
        reply = client.post(CHAT, streams.chat("hello", stream=stream)).wait_end()
    assert reply.status == 200 and reply.body == answer.body()


@both_ways
def test_a_reply_is_judged_in_concurrent_too(
    upstream: Upstream, concurrent: Proxy, stream: bool
) -> None:
    """The request's verdict is not the reply's."""
    words = ["One", " two", " BLUEBIRD", " four"]
    upstream.script(
        Stream(streams.text_stream(words)) if stream else Json(streams.completion("BLUEBIRD"))
    )
    with RawClient.through(concurrent) as client:
        reply = client.post(CHAT, streams.chat("hello", stream=stream)).wait_end()
    assert b"BLUEBIRD" not in reply.body and b"The response did not pass" in reply.body


def test_concurrent_hides_the_check_behind_upstreams_thinking(
    upstream: Upstream, concurrent: Proxy
) -> None:
    """Upstream has the request while it is being judged; `before` would not have sent it."""
    go = threading.Event()
    upstream.script(Json(streams.completion("fine"), wait=go))
    with RawClient.through(concurrent) as client:
        reply = client.post(CHAT, streams.chat("a" * 23 + "!", stream=False))
        upstream.wait_calls(1)  # long before the verdict, which takes seconds
        assert reply.status == 0 or not reply.body
        go.set()
        assert reply.wait_end(60).status == 200


def test_a_client_that_leaves_ends_both(upstream: Upstream, concurrent: Proxy) -> None:
    """Nobody waits any more: upstream is cancelled, and the next call finds a worker."""
    never = threading.Event()
    upstream.script(Json(streams.completion("x"), wait=never), Json(streams.completion("fine")))
    client = RawClient.through(concurrent)
    client.post(CHAT, streams.chat(slow_word(), stream=False))
    call = upstream.last()
    client.vanish()
    assert call.wait_ended().state in ("cancelled", "died")
    never.set()
    with RawClient.through(concurrent) as other:
        assert other.post(CHAT, streams.chat("hi", stream=False)).wait_end().status == 200


EFFECTS: dict[str, tuple[str, dict[str, object]]] = {
    "a batch": ("/v1/batches", {"input_file_id": "f", "metadata": {"a": "BLUEBIRD"}}),
    "fine-tuning": ("/v1/fine_tuning/jobs", {"suffix": "BLUEBIRD"}),
    "a background response": (
        "/v1/responses",
        {"input": "BLUEBIRD", "store": False, "background": True},
    ),
    "a stored response": ("/v1/responses", {"input": "BLUEBIRD"}),
    "a stored completion": (CHAT, {**streams.chat("BLUEBIRD", stream=False), "store": True}),
    "a conversation's item": (
        "/v1/conversations/c/items",
        {"items": [{"type": "message", "role": "user", "content": "BLUEBIRD"}]},
    ),
    "a stored object": ("/v1/chat/completions/c", {"metadata": {"a": "BLUEBIRD here"}}),
}


@pytest.mark.parametrize("what", EFFECTS)
def test_what_leaves_more_than_an_answer_is_judged_first(
    upstream: Upstream, concurrent: Proxy, what: str
) -> None:
    """It would be there although it was refused."""
    path, body = EFFECTS[what]
    with RawClient.through(concurrent) as client:
        reply = client.post(path, {"model": "m", "user": slow_word(), **body}).wait_end()
    assert reply.status == 400 and b"no bluebirds here" in reply.body
    assert not upstream.calls


def test_an_upload_is_judged_first(upstream: Upstream, concurrent: Proxy) -> None:
    """A file is there once it was sent."""
    line = json.dumps({"url": CHAT, "method": "POST", "body": streams.chat("BLUEBIRD")})
    form = (
        '--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--b\r\n'
        'content-disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
        f"{line}\r\n--b--\r\n"
    )
    headers = [("content-type", "multipart/form-data; boundary=b")]
    with RawClient.through(concurrent) as client:
        reply = client.send("POST", "/v1/files", headers, form.encode()).wait_end()
    assert reply.status == 400 and b"no bluebirds here" in reply.body
    assert not upstream.calls


# -- no verdict ------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrently", ["before", "concurrent"])
def test_each_phase_has_its_own_rule_for_failures(
    upstream: Upstream, start_proxy, concurrently: str
) -> None:
    """A prompt may go unjudged, a reply may not: both are the user's to say."""
    proxy = start_proxy(
        rules=[rules.SLOW],
        options={
            "invariant_deadline_ms": 300,
            "invariant_on_failure": "block",
            "invariant_on_failure_request": "pass",
            "invariant_request_check": concurrently,
        },
        save_flows=True,
    )
    upstream.script(Json(streams.completion("fine")), Json(streams.completion("a" * 23 + "!")))
    with RawClient.through(proxy) as client:
        # The history is judged with the reply again, so the request's failure shows there too:
        # a slow word in the prompt makes the reply fail as well, and that is not let through.
        slow = client.post(CHAT, streams.chat("a" * 23 + "!", stream=False)).wait_end(30)
    assert slow.status == 400 and b"The response could not be checked" in slow.body
    assert len(upstream.calls) == 1, "the request was let through"
    with RawClient.through(proxy) as client:
        reply = client.post(CHAT, streams.chat("hi", stream=False)).wait_end(30)
    assert reply.status == 400 and b"The response could not be checked" in reply.body


# -- no upstream -----------------------------------------------------------------------------


@pytest.fixture
def impatient(proxy_for) -> Proxy:
    return proxy_for(
        rules=[rules.NO_BLUEBIRD], options={"invariant_upstream_timeout_ms": 400}, save_flows=True
    )


@both_versions
def test_an_upstream_that_says_nothing_is_given_up(
    upstream: Upstream, impatient: Proxy, version: raw.Version
) -> None:
    """A client that waits for ever is worse than one that gets a 502."""
    never = threading.Event()
    upstream.script(Json(streams.completion("x"), wait=never))
    began = time.monotonic()
    with RawClient.through(impatient, version) as client:
        reply = client.post(CHAT, streams.chat(stream=False)).wait_end()
    assert reply.status == 502 and b"upstream sent nothing" in reply.body
    assert time.monotonic() - began > 0.4
    assert upstream.last().wait_ended().state == "cancelled"
    never.set()


def test_a_stream_that_dries_up_is_cut_after_what_was_clean(
    upstream: Upstream, impatient: Proxy
) -> None:
    """What came before is judged and delivered, and the end is not a clean one."""
    never = threading.Event()
    upstream.script(
        Stream(streams.text_stream(["One ", "two ", "three "]), wait=never, wait_after=3)
    )
    with RawClient.through(impatient) as client:
        reply = client.post(CHAT, streams.chat()).wait_end()
    never.set()
    assert b"One " in reply.body and not reply.is_complete


def test_a_slow_stream_is_not_a_dry_one(upstream: Upstream, impatient: Proxy) -> None:
    """The time counts from byte to byte."""
    stream = Stream(streams.text_stream([f"w{n} " for n in range(8)]), pace=0.15)
    upstream.script(stream)
    with RawClient.through(impatient) as client:
        reply = client.post(CHAT, streams.chat()).wait_end()
    assert reply.is_complete and reply.body == stream.body()


@pytest.mark.parametrize("check", ["before", "concurrent"])
@both_ways
def test_a_slow_verdict_is_not_a_silent_upstream(
    upstream: Upstream, proxy_for, stream: bool, check: str
) -> None:
    """Upstream has said all it had to say; it is us who take so long."""
    proxy = proxy_for(
        rules=[rules.SLOW],
        options={
            "invariant_upstream_timeout_ms": 150,
            "invariant_deadline_ms": 20_000,
            "invariant_request_check": check,
        },
    )
    asked, said = slow_word(), slow_word()
    answer = Stream(streams.text_stream([said])) if stream else Json(streams.completion(said))
    upstream.script(answer)
    with RawClient.through(proxy) as client:
        reply = client.post(CHAT, streams.chat(asked, stream=stream)).wait_end(60)
    assert reply.is_complete and reply.status == 200 and reply.body == answer.body()
