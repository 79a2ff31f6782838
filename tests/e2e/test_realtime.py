"""Realtime WebSockets, end to end: what is said as text is judged, whoever says it."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from stage import rules
from stage.proxy import Proxy, StartProxy
from stage.sockets import Socket, SocketClient
from stage.upstream import Upstream

PATH = "/v1/realtime"
RULES = (rules.NO_BLUEBIRD, rules.NO_DELETE, rules.NO_MAIL_AFTER_INBOX)
SOUND = base64.b64encode(bytes(range(256)) * 4).decode()


@pytest.fixture
def proxy(proxy_for: StartProxy) -> Proxy:
    return proxy_for(rules=RULES)


def serve(upstream: Upstream, *answers: Any) -> Socket:
    socket = Socket(answers)
    upstream.script(socket, path=PATH, method="GET")
    return socket


def item(text: str) -> Any:
    content = [{"type": "input_text", "text": text}]
    made = {"type": "message", "role": "user", "content": content}
    return {"type": "conversation.item.create", "item": made}


def at(kind: str, response: str = "resp_1", **more: Any) -> Any:
    where = {"item_id": "item_1", "output_index": 0, "content_index": 0}
    return {"type": kind, "event_id": "event_1", "response_id": response} | where | more


def reply(*pieces: str, kind: str = "output_audio_transcript", response: str = "resp_1") -> Any:
    """An answer in sound with its transcript, or in text."""
    told: Any = {"id": response, "object": "realtime.response", "output": []}
    is_text = kind.endswith("text")
    part = {"type": "output_text", "text": ""} if is_text else {"type": "audio", "transcript": ""}
    key = "text" if is_text else "transcript"
    whole = "".join(pieces)
    made = {"id": "item_1", "object": "realtime.item", "type": "message", "role": "assistant"}
    events = [
        {
            "type": "response.created",
            "event_id": "e",
            "response": {**told, "status": "in_progress"},
        },
        at("response.output_item.added", response, item={**made, "content": []}),
        at("response.content_part.added", response, part=part),
    ]
    for piece in pieces:
        events.append(at(f"response.{kind}.delta", response, delta=piece))
        if not is_text:
            events.append(at("response.output_audio.delta", response, delta=SOUND))
    done = {**made, "content": [{**part, key: whole}]}
    events += [
        at(f"response.{kind}.done", response, **{key: whole}),
        at("response.output_item.done", response, item=done),
        {
            "type": "response.done",
            "event_id": "e",
            "response": {**told, "status": "completed", "output": [done]},
        },
    ]
    return events


def call(name: str, response: str = "resp_1") -> Any:
    made = {"id": "item_c", "type": "function_call", "name": name, "call_id": "c"}
    done = {**made, "arguments": "{}"}
    told = {"id": response, "object": "realtime.response", "status": "completed", "output": [done]}
    return [
        {"type": "response.created", "response": {**told, "status": "in_progress", "output": []}},
        at("response.output_item.added", response, item={**made, "arguments": ""}),
        at("response.function_call_arguments.delta", response, delta="{}"),
        at("response.function_call_arguments.done", response, arguments="{}", name=name),
        at("response.output_item.done", response, item=done),
        {"type": "response.done", "response": told},
    ]


HEARD = "conversation.item.input_audio_transcription"


def test_a_clean_session_is_unchanged(upstream: Upstream, proxy: Proxy) -> None:
    """Sound and text, in the order in which they came."""
    session = {"instructions": "Be kind.", "voice": "alloy"}
    sent = [
        {"type": "session.update", "session": session},
        item("hello"),
        {"type": "input_audio_buffer.append", "audio": SOUND},
        {"type": "response.create"},
    ]
    heard = [
        {"type": f"{HEARD}.delta", "item_id": "i", "content_index": 0, "delta": "so"},
        {"type": "rate_limits.updated", "rate_limits": [{"name": "requests", "limit": 1}]},
        {
            "type": f"{HEARD}.completed",
            "item_id": "i",
            "content_index": 0,
            "transcript": "so I",
        },
    ]
    answers: Any = [
        [{"type": "session.updated", "session": session}],
        [{"type": "conversation.item.added", "item": item("hello")["item"]}],
        heard,
        [*reply("Hi ", "there", "."), *reply("Text", " too", kind="output_text", response="r2")],
    ]
    socket = serve(upstream, *answers)
    with SocketClient.through(proxy, f"{PATH}?model=gpt-realtime") as client:
        for one in sent:
            client.send(one)
        client.wait_type("response.done", count=2)
    assert client.json() == [event for answer in answers for event in answer]
    assert socket.json() == sent


@pytest.mark.parametrize(
    "kind", ["text", "output_text", "audio_transcript", "output_audio_transcript"]
)
def test_a_forbidden_word_is_not_said(upstream: Upstream, proxy: Proxy, kind: str) -> None:
    """Neither as text, nor by the sound behind it."""
    serve(upstream, reply("A clean beginning. ", "Then a BLUE", "BIRD", " sings", kind=kind))
    with SocketClient.through(proxy, PATH) as client:
        client.send({"type": "response.create"})
        error = client.wait_type("error")[-1]
        assert client.wait_closed() == 1008
    assert error["error"]["code"] == "guardrail_violation"
    assert "no bluebirds here" in error["error"]["message"]
    assert not any("BLUE" in text for text in client.texts())
    assert sum("output_audio.delta" in text for text in client.texts()) <= 1


def test_an_errors_words_are_judged(upstream: Upstream, proxy: Proxy) -> None:
    """It belongs to no reply, and is read all the same."""
    error = {"type": "error", "event_id": "e", "error": {"type": "t", "message": "a BLUEBIRD"}}
    serve(upstream, [error])
    with SocketClient.through(proxy, PATH) as client:
        client.send({"type": "response.create"})
        assert client.wait_type("error")[-1]["error"]["code"] == "guardrail_violation"
    assert not any("BLUEBIRD" in text for text in client.texts())


def test_calls_are_held_and_judged_with_what_was_before(upstream: Upstream, proxy: Proxy) -> None:
    """No piece of a forbidden one arrives; a flow over two replies is seen."""
    serve(upstream, call("read_inbox"), [], call("send_mail", "resp_2"))
    output = {"type": "function_call_output", "call_id": "c", "output": "one mail"}
    with SocketClient.through(proxy, PATH) as client:
        client.send({"type": "response.create"})
        client.wait_type("response.done")
        client.send({"type": "conversation.item.create", "item": output})
        client.send({"type": "response.create"})
        error = client.wait_type("error")[-1]
        client.wait_closed()
    assert "no mail after reading" in error["error"]["message"]
    assert not any("send_mail" in text for text in client.texts())


@pytest.mark.parametrize(
    "frame",
    [
        item("a BLUEBIRD"),
        {"type": "session.update", "session": {"instructions": "Say BLUEBIRD."}},
        {"type": "response.create", "response": {"instructions": "Say BLUEBIRD."}},
        {"type": "response.create", "response": {"input": [item("a BLUEBIRD")["item"]]}},
        {"type": "conversation.item.create", "item": {"type": "message", "role": "user",
         "content": [{"type": "input_audio", "transcript": "a BLUEBIRD"}]}},
        {"type": "input_audio_buffer.commit", "note": "a BLUEBIRD"},
        {"type": "session.update", "session": {"prompt": {"id": "pmpt_1"}}},
        {"type": "else"}, "not JSON", b"\x00",
    ],
)  # fmt: skip
def test_what_may_not_be_said_does_not_leave(upstream: Upstream, proxy: Proxy, frame: Any) -> None:
    """The session goes on."""
    socket = serve(upstream, reply("Fine."))
    with SocketClient.through(proxy, PATH) as client:
        client.send(frame)
        client.wait_type("error")
        client.send({"type": "response.create"})
        client.wait_type("response.done")
    assert socket.json() == [{"type": "response.create"}]


def test_what_the_user_said_is_judged_as_it_is_heard(upstream: Upstream, proxy: Proxy) -> None:
    """Its transcript, across events; and the model goes on from it."""
    heard = [
        {"type": f"{HEARD}.delta", "item_id": "i", "content_index": 0, "delta": text}
        for text in ("a BLUE", "BIRD")
    ]
    serve(upstream, heard)
    with SocketClient.through(proxy, PATH) as client:
        client.send({"type": "input_audio_buffer.commit"})
        client.send({"type": "input_audio_buffer.clear"})
        client.wait_type("error")
        client.wait_closed()
    assert not any("BLUE" in text for text in client.texts())


def test_sound_is_marked(upstream: Upstream, start_proxy: StartProxy) -> None:
    """What nobody can read passes, and it is said."""
    proxy = start_proxy(rules=RULES, save_flows=True)
    serve(upstream, reply("Hi."))
    with SocketClient.through(proxy, PATH) as client:
        client.send({"type": "input_audio_buffer.append", "audio": SOUND})
        client.wait_type("response.done")
        client.close()
        client.wait_closed()
    proxy.stop()
    (flow,) = proxy.flows()
    assert flow.marked == ":warning:" and "sound is not judged" in flow.comment
