"""WebSockets to /v1/responses, end to end: judged message by message, as calls by HTTP are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from stage import responses, rules
from stage.proxy import Proxy, StartProxy
from stage.responses import function, message
from stage.script import Json
from stage.sockets import Socket, SocketClient
from stage.upstream import Upstream

RULES = (rules.NO_BLUEBIRD, rules.NO_DELETE, rules.NO_MAIL_AFTER_INBOX)
INBOX, MAIL = function("read_inbox", "{}"), function("send_mail", '{"to": "a@b.c"}', number=1)
OUTPUT = [{"type": "function_call_output", "call_id": "call_stage0", "output": "one mail"}]
FORBIDDEN = "This is a long and clean beginning. Then comes a BLUEBIRD and more."


@pytest.fixture
def proxy(proxy_for: StartProxy) -> Proxy:
    return proxy_for(rules=RULES)


def create(content: Any = "Say this is a test", **more: Any) -> Any:
    return {"type": "response.create", "model": "m", "input": content, "store": False, **more}


def events(items: Sequence[Any], **more: Any) -> list[Any]:
    lane = {"stream_id": more.pop("stream_id")} if "stream_id" in more else {}
    return [p | lane for p in responses.payloads(b"".join(responses.stream(items, **more)))]


def serve(upstream: Upstream, *answers: Any, **more: Any) -> Socket:
    socket = Socket(answers, **more)
    upstream.script(socket, path=responses.PATH, method="GET")
    return socket


@pytest.mark.parametrize("deflate", [True, False])
@pytest.mark.parametrize("cut", [0, 7])
def test_a_clean_session_is_unchanged_frame_for_frame(
    upstream: Upstream, proxy: Proxy, deflate: bool, cut: int
) -> None:
    """Judged is not altered: texts, frames, order, both ways."""
    turns = [
        [*events([message("One two three fünf \U0001f600.")], id="resp_w1"), {"type": "keepalive"}],
        events([message("Let me look."), INBOX], id="resp_w2"),
        [*events([message("Done.")], id="resp_w3"), {"type": "keepalive", "sequence_number": 99}],
    ]
    socket = serve(upstream, *turns, cut=cut, deflate=deflate)
    sent = [create(generate=False), create("look"), create(OUTPUT, previous_response_id="resp_w2")]
    with SocketClient.through(proxy, deflate=deflate) as client:
        for n, one in enumerate(sent, 1):
            client.send(one, cut=cut)
            client.wait_type("response.completed", count=n)
            client.wait_type("keepalive")  # it comes between two replies, and holds nothing up
        client.wait_type("keepalive", count=2)
        expected = [json.dumps(e, separators=(",", ":")) for turn in turns for e in turn]
        assert client.texts() == expected
        if cut and not deflate:  # compressed, what a frame holds is not told by its text
            assert [len(p) for p in client.messages[0][:-1]] == [7] * ((len(expected[0]) - 1) // 7)
        client.close()
        assert client.wait_closed() == 1000
    assert socket.json() == sent


def test_a_forbidden_request_does_not_leave(upstream: Upstream, proxy: Proxy) -> None:
    """The client gets an error after which it does not try again; the connection stays."""
    socket = serve(upstream, events([message("Fine.")]))
    with SocketClient.through(proxy) as client:
        client.send(create("a BLUEBIRD"))
        (error,) = client.wait_type("error")
        assert error["status"] == 400 and error["error"]["code"] == "guardrail_violation"
        assert "no bluebirds here" in error["error"]["message"]
        client.send(create("hi"))
        client.wait_type("response.completed")
    assert [one["input"] for one in socket.json()] == ["hi"]


@pytest.mark.parametrize("pace", [0, 0.005])
def test_no_piece_of_a_forbidden_call_arrives(
    upstream: Upstream, proxy: Proxy, pace: float
) -> None:
    """The text before it does. What upstream says on top of a refused reply is not wanted."""
    answer = events([message("Ok."), function("delete_file", '{"path": "x"}')])
    socket = serve(upstream, [*answer, *events([message("more")]) * 3], pace=pace)
    with SocketClient.through(proxy) as client:
        client.send(create("hi"))
        came = client.wait_type("error")
        client.listen(0.1)
    assert [e["type"] for e in client.json()].count("error") == 1
    assert not any("delete_file" in text for text in client.texts())
    assert came[-1]["error"]["code"] == "guardrail_violation" and came[-1]["status"] == 400
    assert [e["type"] for e in came[:2]] == ["response.created", "response.in_progress"]
    assert len(socket.said) == 1


def test_upstream_is_told_to_stop(upstream: Upstream, proxy: Proxy) -> None:
    """Nobody pays for what nobody reads."""
    serve(upstream, events([message("Ok."), function("delete_file", "{}")], final=False))
    with SocketClient.through(proxy) as client:
        client.send(create("hi"))
        client.wait_type("error")
        assert client.wait_closed() == 1000
    upstream.last().wait_ended()


def test_a_forbidden_text_ends_midway(upstream: Upstream, proxy: Proxy) -> None:
    """What came before was clean, and is not lost."""
    serve(upstream, events([message(FORBIDDEN)]), pace=0.005)
    with SocketClient.through(proxy) as client:
        client.send(create("hi"))
        client.wait_type("error")
    text = "".join(e.get("delta", "") for e in client.json())
    assert FORBIDDEN.startswith(text) and not any("BLUEBIRD" in t for t in client.texts())


def test_an_errors_words_are_judged(upstream: Upstream, proxy: Proxy) -> None:
    """A client shows them; whoever poses as upstream could say anything there."""
    begun = events([message("Ok.")], final=False)
    error = {"type": "error", "status": 500, "error": {"message": "a BLUEBIRD", "code": "c"}}
    serve(upstream, [*begun, error])
    with SocketClient.through(proxy) as client:
        client.send(create("hi"))
        told = client.wait_type("error")[-1]
    assert told["error"]["code"] == "guardrail_violation"
    assert not any("BLUEBIRD" in text for text in client.texts())
    honest = {**error, "error": {"message": "overloaded", "code": "server_error"}}
    serve(upstream, [*begun, honest])
    with SocketClient.through(proxy) as client:
        client.send(create("hi"))
        client.wait_type("error")
    assert client.json() == [*begun, honest]


def test_a_turn_of_news_is_judged_with_its_whole_history(upstream: Upstream, proxy: Proxy) -> None:
    """OpenAI keeps it in the connection's memory (store is false), and so does the proxy."""
    items = [INBOX, message("One."), MAIL]
    serve(upstream, *(events([item], id=f"resp_h{n}") for n, item in enumerate(items)))
    with SocketClient.through(proxy) as client:
        client.send(create("read my mail"))
        client.wait_type("response.completed")
        client.send(create(OUTPUT, previous_response_id="resp_h0"))
        client.wait_type("response.completed", count=2)
        client.send(create("answer it", previous_response_id="resp_h1"))
        came = client.wait_type("error")
    assert "no mail after reading" in came[-1]["error"]["message"]
    assert not any("send_mail" in text for text in client.texts())
    upstream.script(Json({}, 404), path="/v1/responses/resp_h0", method="GET")
    with SocketClient.through(proxy) as other:  # which does not know it
        other.send(create(OUTPUT, previous_response_id="resp_h0"))
        assert "more than was seen" in other.wait_type("error")[-1]["error"]["message"]


def test_several_replies_at_once(upstream: Upstream, proxy: Proxy) -> None:
    """Each stream_id for itself; what is refused on one does not end the other."""
    good = events([message("Good. " * 5)], id="resp_a", stream_id="a")
    bad = events([message("Ok."), function("delete_file", "{}")], id="resp_b", stream_id="b")
    both = [e for pair in zip(good, bad, strict=False) for e in pair]
    rest = [*good[len(bad) :], *bad[len(good) :]]
    serve(upstream, [], [*both, *rest])
    with SocketClient.through(proxy) as client:
        client.send(create("a", stream_id="a"))
        client.send(create("b", stream_id="b"))
        client.wait_type("response.completed")
        client.wait_type("error")
    assert [e for e in client.json() if e["stream_id"] == "a"] == good
    assert client.json()[-1]["stream_id"] == "b" or "error" in {e["type"] for e in client.json()}
    assert not any("delete_file" in text for text in client.texts())


def test_pings_and_a_farewell_pass_while_messages_are_held(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    """A slow verdict is no dead connection; and a client may leave meanwhile."""
    proxy = start_proxy(rules=[rules.SLOW], options={"invariant_deadline_ms": 20_000})
    socket = serve(upstream, events([message("a" * 27 + "!", size=99)]), ping=b"from upstream")
    with SocketClient.through(proxy) as client:
        client.send(create("hi"))
        client.ping(b"hello")
        client.wait_pong()
        client.wait_ping()
        assert client.pongs == [b"hello"]
        assert not any(e["type"] == "response.output_text.delta" for e in client.json())
        assert client.pings[0].isdigit()  # not upstream's own words: nobody has judged them
        client.close(1001, "a BLUEBIRD")
        client.wait_closed()
    upstream.last().wait_ended()
    assert (socket.left, socket.farewell) == (1001, "")
    assert socket.pings[0].isdigit() and socket.pongs == [b"from upstream"]


def test_a_servers_farewell_comes_behind_what_it_said(upstream: Upstream, proxy: Proxy) -> None:
    """The last verdict is awaited. Its words stay behind: no rule has seen them."""
    answer = events([message("Bye.")])
    serve(upstream, answer, close=1001, reason="a BLUEBIRD")
    with SocketClient.through(proxy) as client:
        client.send(create("hi"))
        assert client.wait_closed() == 1001
    assert client.json() == answer and not client.reason


@pytest.mark.parametrize(
    "frame",
    [b"\x00\x01", "not JSON", "[]", {"type": "response.think"}, {"type": "response.create",
     "response": {"input": "a BLUEBIRD"}}, {"type": "response.cancel", "note": "a BLUEBIRD"}],
)  # fmt: skip
def test_what_is_not_known_does_not_leave(upstream: Upstream, proxy: Proxy, frame: Any) -> None:
    """Binary messages, too."""
    socket = serve(upstream, [])
    with SocketClient.through(proxy) as client:
        client.send(frame)
        assert client.wait_type("error")[-1]["error"]["code"] == "guardrail_unavailable"
    assert not socket.said


@pytest.mark.parametrize("answer", [[b"\x00"], ["not JSON"], ["[1]"], [{"no": "a BLUEBIRD"}]])
def test_what_upstream_says_oddly_does_not_arrive(
    upstream: Upstream, proxy: Proxy, answer: Any
) -> None:
    """Also where nobody asked for it."""
    serve(upstream, answer, close=1000)
    with SocketClient.through(proxy) as client:
        client.send(create("hi"))
        client.wait_closed()
    assert [e["type"] for e in client.json()] == ["error"]


def test_a_steer_is_judged_with_what_was_said(upstream: Upstream, proxy: Proxy) -> None:
    """It becomes a message of the user's in the middle of a reply."""
    begun = events([message("Well, ")], id="resp_s", final=False)
    rest = events([message("Well, ok.")], id="resp_s")[-1:]
    socket = serve(upstream, begun, rest)
    steer = {"type": "response.steer", "response_id": "resp_s", "input": "faster"}
    with SocketClient.through(proxy) as client:
        client.send(create("hi"))
        client.wait_type("response.created")
        client.send(steer | {"input": "a BLUEBIRD"})
        client.send(steer)
        client.wait_type("response.completed")
        client.wait_type("error")
    assert [one["type"] for one in socket.json()] == ["response.create", "response.steer"]


def test_an_answer_in_the_place_of_a_socket_is_judged(upstream: Upstream, proxy: Proxy) -> None:
    """An error arrives; another text is one like any other."""
    for text, status in (("no key", 401), ("a BLUEBIRD", 401), ("a BLUEBIRD", 200)):
        upstream.script(Json({"error": {"message": text}}, status), path=responses.PATH)
        with SocketClient.through(proxy) as client:
            assert client.status == (400 if "BLUEBIRD" in text else status)


def test_other_sockets_are_refused(upstream: Upstream, proxy: Proxy) -> None:
    """Nobody here knows what would be said."""
    upstream.script(Socket([[]]), path="/v1/else", method="GET")
    with SocketClient.through(proxy, "/v1/else") as client:
        assert client.status == 426
    assert not upstream.calls


def test_websockets_can_be_refused(upstream: Upstream, start_proxy: StartProxy) -> None:
    """426 is what makes Codex go on by HTTP."""
    proxy = start_proxy(rules=RULES, options={"invariant_websocket": "refuse"})
    with SocketClient.through(proxy) as client:
        assert client.status == 426
    assert not upstream.calls


def test_calls_are_counted_and_kept(upstream: Upstream, start_proxy: StartProxy) -> None:
    """Each reply is a call: in the sums, in the marks, in the traces."""
    proxy = start_proxy(rules=RULES, save_flows=True)
    serve(upstream, events([message("Fine.")], id="resp_t"))
    with SocketClient.through(proxy) as client:
        client.send(create("hi"))
        client.wait_type("response.completed")
        client.send(create("a BLUEBIRD"))
        client.wait_type("error")
        client.close()
        client.wait_closed()
    calls: Any = proxy.health()["calls"]
    assert (calls["seen"], calls["judged"], calls["blocked"]) == (2, 1, 1)
    proxy.stop()
    (flow,) = proxy.flows()
    assert flow.marked == ":no_entry:" and "no bluebirds" in flow.comment
    assert flow.metadata["invariant"]["calls"] == {"judged": 1, "blocked": 1}
