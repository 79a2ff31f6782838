"""Turns that OpenAI keeps, end to end: a request is judged with all that the model reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stage import raw, responses, rules
from stage.proxy import Proxy, StartProxy
from stage.raw import RawClient
from stage.responses import PATH, function, message
from stage.script import Json, Stream
from stage.sockets import Socket, SocketClient
from stage.upstream import Upstream

RULES = (rules.NO_BLUEBIRD, rules.NO_MAIL_AFTER_INBOX)
INBOX, MAIL = function("read_inbox", "{}"), function("send_mail", '{"to": "a@b.c"}', number=1)
OUTPUT = [{"type": "function_call_output", "call_id": "call_stage0", "output": "one mail"}]

BOTH = ((True, "streamed"), (False, "whole"))


@pytest.fixture
def proxy(proxy_for: StartProxy) -> Proxy:
    return proxy_for(rules=RULES)


def ask(proxy: Proxy, content: Any, key: str = "sk-stage", **more: Any) -> raw.Reply:
    with RawClient.through(proxy) as client:
        auth = ("authorization", f"Bearer {key}")
        body = responses.request(content, **more)
        return client.post(PATH, body, [auth], key=False).wait_end()


def reply(
    upstream: Upstream, items: list[Any], name: str, *, stream: bool = True, **more: Any
) -> None:
    if stream:
        upstream.script(Stream(responses.stream(items, id=name, **more)), path=PATH)
    else:
        upstream.script(Json(responses.response(items, id=name, **more)), path=PATH)


def test_a_flow_over_three_turns_is_seen_when_only_news_is_sent(
    upstream: Upstream, start_proxy: StartProxy, tmp_path: Path
) -> None:
    """Streamed or not, and also by a proxy that was started meanwhile: the call of the first turn
    is nowhere in what the third one sends."""
    options = {"invariant_data": str(tmp_path / "data")}
    first = start_proxy(rules=RULES, options=options)
    for stream, name in BOTH:
        reply(upstream, [INBOX], f"{name}_1", stream=stream)
        assert ask(first, "read my mail", stream=stream).status == 200
        reply(upstream, [message("You have one mail.")], f"{name}_2", stream=stream)
        second = ask(first, OUTPUT, stream=stream, previous_response_id=f"{name}_1")
        assert second.status == 200 and b"one mail" in second.body
        reply(upstream, [MAIL], f"{name}_3", stream=stream)
        third = ask(first, "answer it", stream=stream, previous_response_id=f"{name}_2")
        assert b"no mail after reading" in third.body and b"send_mail" not in third.body
    first.kill()
    new = start_proxy(rules=RULES, options=options)
    for stream, name in BOTH:
        reply(upstream, [MAIL], f"{name}_4", stream=stream)
        again = ask(new, "answer it", stream=stream, previous_response_id=f"{name}_2")
        assert b"no mail after reading" in again.body and b"send_mail" not in again.body
    assert {call.method for call in upstream.calls} == {"POST"}  # nothing had to be asked for


def test_an_id_is_worth_nothing_under_another_key(upstream: Upstream, proxy: Proxy) -> None:
    """What one caller may read is not judged for, or told to, another one."""
    reply(upstream, [message("mine")], "resp_scope")
    ask(proxy, "hi")
    ask(proxy, "go on", previous_response_id="resp_scope")
    assert [call.method for call in upstream.calls] == ["POST", "POST"]
    upstream.script(Json({"error": {"message": "not found"}}, 404), path=f"{PATH}/resp_scope")
    refused = ask(proxy, "go on", key="sk-other", previous_response_id="resp_scope")
    assert refused.status == 400 and b"OpenAI answers 404" in refused.body
    asked = upstream.calls[-1]
    assert (asked.method, asked.header("authorization")) == ("GET", "Bearer sk-other")


def test_what_was_never_seen_is_fetched(upstream: Upstream, proxy: Proxy) -> None:
    """With the caller's own key, turn by turn, page by page."""
    old = responses.response([INBOX], id="resp_old")
    new = responses.response([message("One.")], id="resp_new", previous_response_id="resp_old")
    for one in (old, new):
        upstream.script(Json(one), path=f"{PATH}/{one['id']}", method="GET")
    user = {"id": "msg_u", "type": "message", "role": "user", "content": "read my mail"}
    pages = [Json({"data": [user], "has_more": True, "last_id": "msg_u"}), Json({"data": []})]
    upstream.script(*pages, path=f"{PATH}/resp_old/input_items")
    upstream.script(Json({"data": OUTPUT}), path=f"{PATH}/resp_new/input_items")
    reply(upstream, [MAIL], "resp_next")
    refused = ask(proxy, "answer it", previous_response_id="resp_new")
    assert b"no mail after reading" in refused.body
    assert sum(call.method == "GET" for call in upstream.calls) == 5
    ask(proxy, "answer it", previous_response_id="resp_new")  # and now it is known
    assert sum(call.method == "GET" for call in upstream.calls) == 5


def test_a_finding_in_what_is_kept_says_where_it_is(upstream: Upstream, proxy: Proxy) -> None:
    """There is nothing in the request that could be taken out."""
    items = {"data": [{"type": "message", "id": "m", "role": "user", "content": "a BLUEBIRD"}]}
    upstream.script(Json(items), path="/v1/conversations/conv_1/items")
    refused = ask(proxy, "go on", conversation="conv_1")
    assert refused.status == 400 and b"what OpenAI keeps of the conversation" in refused.body
    assert all(call.method == "GET" for call in upstream.calls)


def test_a_conversation_is_followed(upstream: Upstream, proxy: Proxy) -> None:
    """It is asked for once; then its turns come by here."""
    upstream.script(Json({"data": []}), path="/v1/conversations/conv_2/items")
    reply(upstream, [INBOX], "resp_c1", conversation={"id": "conv_2"})
    ask(proxy, "read my mail", conversation={"id": "conv_2"})
    reply(upstream, [MAIL], "resp_c2", conversation={"id": "conv_2"})
    refused = ask(proxy, OUTPUT, conversation={"id": "conv_2"})
    assert b"no mail after reading" in refused.body
    assert [call.method for call in upstream.calls] == ["GET", "POST", "POST"]


def test_a_conversation_that_was_written_to_is_asked_for_again(
    upstream: Upstream, proxy: Proxy
) -> None:
    """Its own endpoints add to what the model reads."""
    path = "/v1/conversations/conv_3/items"
    upstream.script(Json({"data": []}), path=path)
    reply(upstream, [message("Ok.")], "resp_w1", conversation={"id": "conv_3"})
    assert ask(proxy, "hi", conversation="conv_3").status == 200
    with RawClient.through(proxy) as client:
        items = {"items": [{"type": "message", "role": "user", "content": "something"}]}
        client.post(path, items).wait_end()
    kept = [{"type": "message", "role": "user", "content": "a BLUEBIRD"}]
    upstream.script(Json({"data": kept}), path=path)
    refused = ask(proxy, "go on", conversation="conv_3")
    assert refused.status == 400 and b"what OpenAI keeps" in refused.body


def test_items_are_known_by_their_ids(upstream: Upstream, proxy: Proxy) -> None:
    """The AI SDK sends references instead of what was answered."""
    reply(upstream, [INBOX], "resp_i1")
    ask(proxy, "read my mail")
    reply(upstream, [MAIL], "resp_i2")
    known = {"type": "item_reference", "id": "item_0"}
    refused = ask(proxy, [{"role": "user", "content": "read my mail"}, known, *OUTPUT])
    assert b"no mail after reading" in refused.body
    unknown = {"type": "item_reference", "id": "fc_of_nobody"}
    refused = ask(proxy, [unknown, *OUTPUT])
    assert refused.status == 400 and b"item_reference" in refused.body


def test_a_background_reply_is_judged_with_what_it_was_asked(
    upstream: Upstream, proxy: Proxy
) -> None:
    """It comes by GET, which says nothing of that; and then it can be gone on from."""
    reply(upstream, [], "resp_bg", stream=False, status="queued", background=True)
    ask(proxy, [{**INBOX, "call_id": "call_stage0"}, *OUTPUT], stream=False, background=True)
    path = f"{PATH}/resp_bg"
    upstream.script(Json(responses.response([MAIL], id="resp_bg")), path=path)
    with RawClient.through(proxy) as client:
        got = client.send("GET", path, [raw.KEY]).wait_end()
    assert got.status == 400 and b"no mail after reading" in got.body


def test_a_refused_reply_stays_refused_after_a_restart(
    upstream: Upstream, start_proxy: StartProxy, tmp_path: Path
) -> None:
    """OpenAI keeps it, and its words alone may be clean: it was refused for the call before it."""
    options = {"invariant_data": str(tmp_path / "data")}
    first = start_proxy(rules=RULES, options=options)
    inbox = [{**INBOX, "call_id": "call_stage0"}, *OUTPUT]
    for stream, name in BOTH:
        reply(upstream, [MAIL], f"{name}_bad", stream=stream)
        assert b"no mail after reading" in ask(first, inbox, stream=stream).body
    first.stop()
    second = start_proxy(rules=RULES, options=options)
    before = len(upstream.calls)
    for stream, name in BOTH:
        path = f"{PATH}/{name}_bad"
        upstream.script(Json(responses.response([MAIL], id=f"{name}_bad")), path=path, method="GET")
        with RawClient.through(second) as client:
            got = client.send("GET", path, [raw.KEY]).wait_end()
        gone_on = ask(second, "go on", stream=stream, previous_response_id=f"{name}_bad")
        for refused in (got, gone_on):
            assert refused.status == 400 and b"no mail after reading" in refused.body
    assert len(upstream.calls) == before
    assert b"no mail" not in (tmp_path / "data" / "history.db").read_bytes()


def test_stored_prompts_cannot_be_read(upstream: Upstream, proxy: Proxy) -> None:
    """Nobody but OpenAI knows their text."""
    refused = ask(proxy, "hi", prompt={"id": "pmpt_1"})
    assert refused.status == 400 and b"prompt.id" in refused.body and not upstream.calls


def test_unseen_history_passes_with_a_mark_if_told_so(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    """What can be judged is judged; and it is said that there was more."""
    proxy = start_proxy(rules=RULES, options={"invariant_unseen_history": "pass"}, save_flows=True)
    assert ask(proxy, "hi", prompt={"id": "pmpt_1"}).status == 200
    assert ask(proxy, "a BLUEBIRD", prompt={"id": "pmpt_1"}).status == 400
    calls: Any = proxy.health()["calls"]
    assert (calls["not_scanned"], calls["blocked"]) == (1, 1)
    proxy.stop()
    assert "prompt.id" in proxy.flows()[0].comment


def test_masks_are_made_in_what_is_sent(
    upstream: Upstream, start_proxy: StartProxy, tmp_path: Path
) -> None:
    """By HTTP and on a WebSocket, where the same conversation goes on from what is kept; what the
    model has said itself cannot be taken back."""
    mask = tmp_path / "mask.inv"
    mask.write_text(rules.NO_CONDOR)
    proxy = start_proxy(rules=RULES, options={"invariant_mask_rules": [str(mask)]})
    reply(upstream, [message("CONDOR-7 it is")], "resp_m1")
    assert ask(proxy, "say CONDOR-7").status == 200
    assert ask(proxy, "and CONDOR-7?", previous_response_id="resp_m1").status == 200
    events = responses.payloads(b"".join(responses.stream([message("Ok.")], id="resp_m3")))
    socket = Socket([events])
    upstream.script(socket, path=PATH, method="GET")
    with SocketClient.through(proxy) as client:
        again = {"type": "response.create", "model": "m", "previous_response_id": "resp_m1"}
        client.send(again | {"input": "more CONDOR-7"})
        client.wait_type("response.completed")
    sent = [str(call.json()["input"]) for call in upstream.calls if call.method == "POST"]
    sent.append(socket.json()[0]["input"])
    assert len(sent) == 3 and all("[masked:mask:" in text for text in sent)
    assert not any("CONDOR" in text for text in sent)
    assert socket.json()[0] | {"input": ""} == again | {"input": ""}
