"""Every endpoint, every encoding: what is clean goes on as it was, and each call says how much of
it was judged."""

from __future__ import annotations

import gzip
import json
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import zstandard

from invariant_addon.traces.store import Store
from stage import rules, streams
from stage.clients import SdkRun, sdk
from stage.proxy import Proxy
from stage.raw import CHAT, KEY, RawClient, Version
from stage.script import Json, Raw, Stream, wait_until
from stage.upstream import Upstream

JSON = ("content-type", "application/json")
EVENTS = ("content-type", "text/event-stream")
WORDS = ["Hello ", "world, ", "how ", "are ", "you?"]


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


def flushed(header: str, events: Sequence[bytes]) -> Iterator[bytes]:
    """Each event encoded, so that it can be decoded when it comes; then the end."""
    if header == "zstd":
        frame = zstandard.ZstdCompressor().compressobj()
        for event in events:
            yield frame.compress(event) + frame.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
        yield frame.flush()
        return
    packer = zlib.compressobj(wbits=31)
    for event in events:
        yield packer.compress(event) + packer.flush(zlib.Z_SYNC_FLUSH)
    yield packer.flush()


@pytest.fixture
def proxy(proxy_for: Callable[..., Proxy]) -> Proxy:
    return proxy_for(rules=rules.USUAL)


@pytest.mark.parametrize(
    ("path", "body", "answer", "counter"),
    [
        ("/v1/completions", b'{"prompt":"hi"}', b'{"choices":[{"text":"hello"}]}', "judged"),
        ("/v1/embeddings", b'{"input":["a","b"]}', b'{"data":[{"embedding":[0.1]}]}', "judged"),
        ("/v1/images/generations", b'{"prompt":"x"}', b'{"data":[{"url":"http://x"}]}', "judged"),
        ("/v1/audio/speech", b'{"input":"hi","voice":"alloy"}', b"\xff\xfb\x90\x00" * 9, "partial"),
        ("/v1/vector_stores/v/search", b'{"query":"x"}', b'{"data":[]}', "judged"),
        ("/v1/responses/input_tokens", b'{"input":"x"}', b'{"input_tokens":1}', "judged"),
        ("/v1/organization/projects", b'{"name":"x"}', b'{"id":"proj_1"}', "judged"),
    ],
)
def test_clean_calls_to_any_endpoint_go_on_as_they_were(
    upstream: Upstream, proxy: Proxy, path: str, body: bytes, answer: bytes, counter: str
) -> None:
    """Byte for byte, and counted for what they are."""
    upstream.script(Raw(answer, 200, [JSON]), path=path)
    before = proxy.health()["calls"]
    with RawClient.through(proxy) as client:
        reply = client.post(path, body).wait_end()
    assert reply.status == 200 and reply.body == answer
    assert upstream.last().body == body
    after = proxy.health()["calls"]
    assert {k: after[k] - before[k] for k in after if after[k] != before[k]} == {
        "seen": 1,
        counter: 1,
    }


BATCH_LINE = '{"custom_id":"1","method":"POST","url":"/v1/chat/completions","body":{"messages":['
BATCH_LINE += '{"role":"user","content":"WORD"}]}}\n'
SDK_CALLS: list[tuple[str, dict[str, object]]] = [
    ("completions.create", {"prompt": "WORD"}),
    ("embeddings.create", {"input": ["a", "WORD"]}),
    ("images.edit", {"prompt": "WORD", "image": ["a.png", "\x89PNG\r\n\x1a\n\x00"]}),
    ("audio.transcriptions.create", {"prompt": "WORD", "file": ["a.mp3", "\xff\xfb\x90\x00"]}),
    ("files.create", {"model": None, "file": ["a.txt", "a WORD"], "purpose": "user_data"}),
    ("files.create", {"model": None, "file": ["b.jsonl", BATCH_LINE], "purpose": "batch"}),
    ("conversations.items.create", {"model": None, "conversation_id": "conv_1",
                                    "items": [{"role": "user", "content": "WORD"}]}),
    ("batches.create", {"model": None, "input_file_id": "file-1", "completion_window": "24h",
                        "endpoint": "/v1/responses", "metadata": {"note": "WORD"}}),
]  # fmt: skip


@pytest.mark.usefixtures("real_clients")
@pytest.mark.parametrize(("call", "kwargs"), SDK_CALLS, ids=[c for c, _ in SDK_CALLS])
def test_what_the_real_sdk_sends_is_read(
    upstream: Upstream, proxy: Proxy, call: str, kwargs: dict[str, object]
) -> None:
    """Its forms, files and fields: the clean call goes through, the other one is refused once."""
    for path in (
        *("/v1/images/edits", "/v1/batches"),
        *("/v1/conversations/conv_1/items", "/v1/audio/transcriptions"),
    ):
        upstream.script(Json({"id": "x", "object": "list", "data": []}), path=path)
    upstream.script(Json({"choices": [{"index": 0, "text": "hello"}]}), path="/v1/completions")
    upstream.script(Json({"data": [{"index": 0, "embedding": [0.5]}]}), path="/v1/embeddings")

    def run(word: str) -> SdkRun:
        text = json.dumps(kwargs).replace("WORD", word)
        given = {key: value for key, value in json.loads(text).items() if value is not None}
        model = {} if "model" in kwargs else {"model": "m"}
        return sdk(proxy, "create", call=call, drop_model="model" in kwargs, **model, **given)

    clean = run("hello")
    assert clean.error is None and len(upstream.calls) == 1
    refused = run("BLUEBIRD")
    assert refused.error is not None and refused.error.status == 400
    assert "no bluebirds here" in refused.error.text and len(upstream.calls) == 1


def test_a_file_is_fetched_whole(upstream: Upstream, proxy: Proxy) -> None:
    """In pieces, no rule would see a word that lies across two of them."""
    upstream.script(Raw(b"a BLUEBIRD here"), path="/v1/files/f/content")
    with RawClient.through(proxy) as client:
        headers = [KEY, ("range", "bytes=0-5"), ("if-range", "x")]
        assert client.send("GET", "/v1/files/f/content", headers).wait_end().status == 400
    assert upstream.last().header("range") is None


def test_an_upload_goes_on_as_it_was(upstream: Upstream, proxy: Proxy) -> None:
    """A form, with a picture in it that no rule reads: the call says so."""
    upstream.script(Json({"id": "file-1"}), path="/v1/images/edits")
    body = b'--xYz\r\nContent-Disposition: form-data; name="prompt"\r\n\r\na cat\r\n'
    body += b'--xYz\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n'
    body += b"Content-Type: image/png\r\n\r\n\x89PNG\r\n\x1a\n\x00\r\n--xYz--\r\n"
    headers = [KEY, ("content-type", "multipart/form-data; boundary=xYz")]
    before = proxy.health()["calls"]["partial"]
    with RawClient.through(proxy) as client:
        assert client.send("POST", "/v1/images/edits", headers, body).wait_end().status == 200
    assert upstream.last().body == body
    assert proxy.health()["calls"]["partial"] == before + 1


@pytest.mark.parametrize("method", ["OPTIONS", "HEAD"])
def test_preflights_pass(upstream: Upstream, proxy: Proxy, method: str) -> None:
    """A program in a browser asks before it calls."""
    upstream.script(Raw(b"", 204), path=CHAT, method=method)
    with RawClient.through(proxy) as client:
        assert client.send(method, CHAT, [KEY]).wait_end().status == 204


def test_an_encoded_request_goes_on_encoded(upstream: Upstream, proxy: Proxy) -> None:
    """Codex sends zstd; what was signed or measured stays what it was."""
    upstream.script(Json(streams.completion("fine")))
    body = zstd(json.dumps(streams.chat("hello", stream=False)).encode())
    with RawClient.through(proxy) as client:
        reply = client.post(CHAT, body, [("content-encoding", "zstd")]).wait_end()
    assert reply.status == 200
    call = upstream.last()
    assert call.body == body and call.header("content-encoding") == "zstd"


def test_an_encoded_reply_goes_on_encoded(upstream: Upstream, proxy: Proxy) -> None:
    """A client that decodes finds what its headers say."""
    body = zstd(json.dumps(streams.completion("fine")).encode())
    upstream.script(Raw(body, 200, [JSON, ("content-encoding", "zstd")]))
    with RawClient.through(proxy) as client:
        reply = client.post(CHAT, streams.chat("hello", stream=False)).wait_end()
    assert reply.body == body and reply.header("content-encoding") == "zstd"


@pytest.mark.parametrize("version", ["1.1", "2"])
@pytest.mark.parametrize("header", ["gzip", "zstd"])
def test_an_encoded_stream_goes_on_decoded_while_it_streams(
    upstream: Upstream, proxy: Proxy, header: str, version: Version
) -> None:
    """We asked for none; what is judged piece by piece cannot be encoded as a whole again."""
    events = streams.text_stream(WORDS)
    *packed, end = flushed(header, events)
    go = threading.Event()
    upstream.script(
        Stream(
            [*packed, end],
            headers=[("content-encoding", header)],
            gates={4: go},
            done=None,
        )
    )
    with RawClient.through(proxy, version) as client:
        reply = client.post(CHAT, streams.chat("hello"))
        reply.wait_body(b"world, ")  # it flows although upstream waits
        go.set()
        reply.wait_end()
    assert reply.body == b"".join(events)
    assert reply.header("content-encoding") is None


def test_a_stream_without_a_content_type_streams(upstream: Upstream, proxy: Proxy) -> None:
    """Codex's own backend names none."""
    events = streams.text_stream(WORDS)
    go = threading.Event()
    upstream.script(Stream(events, gates={4: go}, content_type=""))
    with RawClient.through(proxy) as client:
        reply = client.post(CHAT, streams.chat("hello"))
        reply.wait_body(b"world, ")
        go.set()
        assert reply.wait_end().body == b"".join(events)


def test_a_stream_of_the_old_completions_streams(upstream: Upstream, proxy: Proxy) -> None:
    """Through the same gate, event by event."""
    events = [
        b'data: {"choices":[{"index":0,"text":%b}]}\n\n' % json.dumps(word).encode()
        for word in WORDS
    ]
    go = threading.Event()
    upstream.script(Stream([*events, streams.DONE], gates={2: go}), path="/v1/completions")
    with RawClient.through(proxy) as client:
        reply = client.post("/v1/completions", {"prompt": "hi", "stream": True})
        reply.wait_body(b"Hello ")
        go.set()
        assert reply.wait_end().body == b"".join((*events, streams.DONE))


def test_sound_streams(upstream: Upstream, proxy: Proxy) -> None:
    """Nobody waits for its end: there is nothing in it to judge."""
    go = threading.Event()
    sound = Stream([b"\xff\xfb" * 99, b"\xff\xfb" * 99], gates={1: go}, content_type="audio/mpeg")
    upstream.script(sound, path="/v1/audio/speech")
    with RawClient.through(proxy) as client:
        reply = client.post("/v1/audio/speech", {"input": "hi"})
        reply.wait_body(size=198)
        go.set()
        assert reply.wait_end().size == 396


@pytest.mark.parametrize("options", [{"invariant_request_check": "concurrent"}], ids=str)
def test_a_request_that_is_judged_meanwhile_is_refused_all_the_same(
    upstream: Upstream, proxy_for: Callable[..., Proxy], options: dict[str, str]
) -> None:
    """Also where its reply is not judged, and would flow."""
    proxy = proxy_for(rules=[rules.NO_BLUEBIRD], options=options)
    upstream.script(Raw(b"\xff\xfb" * 99, 200, [("content-type", "audio/mpeg")]))
    upstream.script(Raw(b"\xff\xfb" * 99, 200), path="/v1/audio/speech")
    with RawClient.through(proxy) as client:
        reply = client.post("/v1/audio/speech", {"input": "BLUEBIRD"}).wait_end()
    assert reply.status == 400 and b"no bluebirds" in reply.body


def test_invariant_unknown_lets_pass_and_every_call_says_how_it_was_judged(
    upstream: Upstream, start_proxy: Callable[..., Proxy], tmp_path: Path
) -> None:
    """Whoever opens that door sees what went through: in the mark, in the trace, in the sum."""
    proxy = start_proxy(
        rules=[rules.NO_BLUEBIRD],
        options={"invariant_unknown": "pass", "invariant_data": str(tmp_path)},
        save_flows=True,
    )
    upstream.script(Json(streams.completion("fine")), path=CHAT)
    upstream.script(Json({"said": "BLUEBIRD"}), path="/v1/tomorrow")
    upstream.script(Json({"said": "fine"}), path="/v1/embeddings")
    upstream.script(Json({"said": "fine"}), path="/v1/completions")
    switch = Raw(b"", 101, [("upgrade", "websocket"), ("connection", "upgrade")])
    upstream.script(switch, path="/v1/live/sessions")
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    seen = {"messages": [{"role": "user", "content": [picture]}]}
    with RawClient.through(proxy) as client:
        assert client.post("/v1/tomorrow", {"input": "BLUEBIRD"}).wait_end().status == 200
        assert client.post("/v1/embeddings", {"input": [1, 2]}).wait_end().status == 200
        assert client.post("/v1/embeddings", {"input": "BLUEBIRD"}).wait_end().status == 400
        assert client.post(CHAT, b"{", [JSON]).wait_end().status == 200
        assert client.post(CHAT, seen | {"stream": True}).wait_end().status == 200
        client.send("GET", "/v1/models", [KEY]).wait_end()
    calls = proxy.health()["calls"]
    told = {name: calls[name] for name in ("seen", "not_scanned", "blocked", "partial", "harmless")}
    assert told == {"seen": 6, "not_scanned": 3, "blocked": 1, "partial": 1, "harmless": 1}
    assert calls["judged"] == calls["failed"] == 0
    with RawClient.through(proxy) as client:
        upgrade = [KEY, ("upgrade", "websocket"), ("connection", "upgrade")]
        more = [("sec-websocket-version", "13"), ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")]
        client.send("GET", "/v1/live/sessions", [*upgrade, *more])

        def is_counted() -> bool:
            calls = proxy.health()["calls"]
            return isinstance(calls, dict) and calls["not_scanned"] == 4

        wait_until(is_counted, 15, "the WebSocket")
    assert upstream.last().header("upgrade") == "websocket"
    proxy.stop()
    flows = [flow for flow in proxy.flows() if "/v1/" in flow.request.path]
    said = [flow.metadata["invariant"] for flow in flows]
    assert [each["coverage"] for each in said] == [
        *("not scanned", "not scanned", "scanned", "not scanned", "partial", "scanned"),
        "not scanned",
    ]
    assert flows[0].comment.startswith("not scanned: what POST /v1/tomorrow does is not known")
    assert "tokens" in flows[1].comment and "not JSON" in flows[3].comment
    assert flows[4].comment == "judged in part: pictures cannot be read"
    assert [flow.marked for flow in flows[:5]] == [
        *(":warning:", ":warning:", ":no_entry:", ":warning:", "")
    ]
    store = Store(tmp_path / "traces.db")
    kept = [trace for each in store.list() if (trace := store.get(each.id)) is not None]
    store.close()
    told = {each.endpoint: (each.status, each.reason) for each in kept}
    assert told["/v1/tomorrow"][0] == "not scanned" and "not known" in told["/v1/tomorrow"][1]
    assert ("partial", "cannot be read: pictures") in [(each.status, each.reason) for each in kept]
    assert len(kept) == 6  # a list of models is no conversation


def test_what_is_not_known_is_refused_with_the_option_in_words(
    upstream: Upstream, proxy: Proxy
) -> None:
    """The person finds out what to do, and a WebSocket client falls back to HTTP."""
    with RawClient.through(proxy) as client:
        refused = client.post("/v1/tomorrow", {"input": "hi"}).wait_end()
        upgrade = [KEY, ("upgrade", "websocket"), ("connection", "upgrade")]
        again = client.send("GET", "/v1/responses", upgrade).wait_end()
        assert client.post(CHAT, streams.chat("hi")).wait_end().status == 200
    message = refused.json()["error"]
    assert isinstance(message, dict)
    assert "POST /v1/tomorrow" in message["message"]
    assert "invariant_unknown=pass" in message["message"]
    assert again.status == 426 and len(upstream.calls) == 1


def test_a_bomb_is_given_up(upstream: Upstream, proxy: Proxy) -> None:
    """A small body must not become a large one in memory, whichever way it goes."""
    bomb = gzip.compress(b"\0" * 80_000_000)
    upstream.script(Raw(bomb, 200, [EVENTS, ("content-encoding", "gzip")]))
    with RawClient.through(proxy, timeout=60) as client:
        refused = client.post(CHAT, bomb, [("content-encoding", "gzip")]).wait_end()
        assert refused.status == 400 and not upstream.calls
        reply = client.post(CHAT, streams.chat("hello")).wait_end()
    assert b"guardrail_unavailable" in reply.body
