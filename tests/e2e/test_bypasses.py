"""Every way around the rules that is known, and the verdict that a user would want.

One proxy, one rule: BLUEBIRD must not leave, and must not come in. A request that holds it never
reaches OpenAI; a reply that holds it never reaches the client.
"""

from __future__ import annotations

import gzip
import json
import zlib
from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import brotli
import pytest
import zstandard

from stage import rules, streams
from stage.proxy import Proxy
from stage.raw import CHAT, HOST, KEY, RawClient, Reply, Version
from stage.script import Raw
from stage.upstream import Upstream

WORD = b"BLUEBIRD"
JSON = ("content-type", "application/json")
FORM = ("content-type", "multipart/form-data; boundary=xYz")
EVENTS = ("content-type", "text/event-stream")


def dumps(**body: object) -> bytes:
    return json.dumps(body).encode()


def prompt(text: str = "BLUEBIRD", **more: object) -> bytes:
    return dumps(**(streams.chat(text, stream=False) | more))


def form(*fields: bytes) -> bytes:
    return b"".join(b"--xYz\r\n" + field + b"\r\n" for field in fields) + b"--xYz--\r\n"


def value(name: str, data: bytes) -> bytes:
    return f'Content-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + data


def file(name: str, data: bytes) -> bytes:
    head = f'Content-Disposition: form-data; name="file"; filename="{name}"\r\n'
    return f"{head}Content-Type: application/octet-stream\r\n\r\n".encode() + data


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


@dataclass(frozen=True)
class Ask:
    """why: why anybody would try it. status: of the refusal."""

    why: str
    path: str = CHAT
    body: bytes = b""
    headers: Sequence[tuple[str, str]] = (JSON,)
    method: str = "POST"
    status: int = 400
    version: Version = "1.1"
    says_length: bool = True


BATCH = b'{"custom_id":"1","method":"POST","url":"/v1/chat/completions","body":%b}\n'
REQUESTS = [
    # spellings of the path
    Ask("a trailing slash", CHAT + "/", prompt()),
    Ask("double slashes", "//v1//chat//completions", prompt()),
    Ask("parameters", "/v1;a/chat;x=1/completions;y", prompt()),
    Ask("encoded once", "/v1/chat%2Fcompletions", prompt()),
    Ask("encoded twice", "/v1/%2563hat/completions", prompt()),
    Ask("dot segments", "/v1/models/%2e%2e/chat/completions", prompt()),
    Ask("other letters", "/V1/Chat/Completions", prompt()),
    Ask("without the version", "/chat/completions", prompt()),
    Ask("a deployment", "/openai/deployments/x/chat/completions?api-version=1", prompt()),
    Ask("behind a harmless one", "/v1/organization/..%2fchat/completions", prompt()),
    # methods
    Ask("another method", CHAT, prompt(), method="PUT"),
    Ask("a method in small letters", CHAT, prompt(), method="post"),
    Ask("an invented method", CHAT, prompt(), method="BREW"),
    Ask("a GET with a body", "/v1/models", prompt(), method="GET"),
    Ask("a DELETE with a body", "/v1/models/x", prompt(), method="DELETE"),
    Ask("a preflight with a body", CHAT, prompt(), method="OPTIONS"),
    Ask(
        "a method in a header",
        CHAT,
        prompt(),
        (JSON, ("X-HTTP-Method-Override", "POST")),
        method="GET",
    ),
    Ask("a method in the query", "/v1/models?_method=POST", b"{}", method="GET"),
    # encodings and framing of the body
    Ask("gzip", body=gzip.compress(prompt()), headers=(JSON, ("content-encoding", "gzip"))),
    Ask("deflate", body=zlib.compress(prompt()), headers=(JSON, ("content-encoding", "deflate"))),
    Ask("raw deflate", body=raw_deflate(prompt()), headers=(("content-encoding", "deflate"),)),
    Ask("brotli", body=brotli.compress(prompt()), headers=(JSON, ("content-encoding", "br"))),
    Ask("zstd", body=zstd(prompt()), headers=(JSON, ("content-encoding", "zstd"))),
    Ask(
        "two encodings",
        body=zstd(gzip.compress(prompt())),
        headers=(JSON, ("content-encoding", "gzip"), ("content-encoding", "zstd")),
    ),
    Ask("two members", body=gzip.compress(b" ") + gzip.compress(prompt()),
        headers=(JSON, ("content-encoding", "gzip"))),
    Ask("two frames", body=zstd(b" ") + zstd(prompt()),
        headers=(JSON, ("content-encoding", "zstd"))),
    Ask("an encoding of Python's", body=b64encode(prompt()),
        headers=(JSON, ("content-encoding", "base64"))),
    Ask("an encoding that lies", body=prompt(), headers=(JSON, ("content-encoding", "gzip"))),
    Ask("something behind it", body=gzip.compress(prompt("hi")) + prompt(),
        headers=(JSON, ("content-encoding", "gzip"))),
    Ask("no length", body=prompt(), says_length=False),
    Ask("HTTP/2", body=prompt(), version="2"),
    Ask("no length, HTTP/2", body=prompt(), version="2", says_length=False),
    # JSON
    Ask("JSON as text", body=prompt(), headers=(("content-type", "text/plain"),)),
    Ask("JSON as a form", body=prompt(), headers=(FORM,)),
    Ask("no content type", body=prompt(), headers=()),
    Ask("UTF-16", body=prompt().decode().encode("utf-16")),
    Ask("a byte order mark", body=b"\xef\xbb\xbf" + prompt()),
    Ask("escapes", body=prompt().replace(b"BLUE", b"\\u0042\\u004cUE")),
    Ask("messages twice, the first", body=prompt()[:-1] + b',"messages":[]}'),
    Ask("messages twice, the last", body=b'{"messages":[],' + prompt()[1:]),
    Ask("another key's case", body=prompt().replace(b'"messages"', b'"Messages"')),
    Ask("deep in lists", body=dumps(messages=[], x=[[[[[["BLUEBIRD"]]]]]])),
    Ask("UTF-7", body=prompt("+AEIATABVAEUAQgBJAFIARA-"),
        headers=(("content-type", "application/json; charset=utf-7"),)),
    Ask("two charsets", body=prompt("hi"),
        headers=(("content-type", "application/json; charset=utf-8; charset=cp037"),)),
    Ask("no JSON", body=b"BLUEBIRD"),
    Ask("a list", body=b"[" + prompt() + b"]"),
    Ask("nothing", body=b"", headers=(JSON, ("x-note", "BLUEBIRD"))),
    # fields beside the messages
    *(
        Ask(f"in {name}", body=prompt("hi", **{name: field}))
        for name, field in {
            "tools": [{"type": "function", "function": {"name": "f", "description": "BLUEBIRD"}}],
            "functions": [{"name": "f", "parameters": {"properties": {"BLUEBIRD": {}}}}],
            "response_format": {"type": "json_schema", "json_schema": {"name": "BLUEBIRD"}},
            "metadata": {"k": "BLUEBIRD"},
            "user": "BLUEBIRD",
            "stop": ["BLUEBIRD"],
            "prediction": {"type": "content", "content": "BLUEBIRD"},
            "prompt_cache_key": "BLUEBIRD",
        }.items()
    ),
    Ask("a name", body=dumps(messages=[{"role": "user", "name": "BLUEBIRD", "content": "hi"}])),
    Ask("a file", body=dumps(messages=[{"role": "user", "content": [
        {"type": "file", "file": {"file_data": b64encode(b"a BLUEBIRD in a text").decode()}}]}])),
    # other endpoints
    Ask("a prompt", "/v1/completions", dumps(prompt="BLUEBIRD")),
    Ask("prompts", "/v1/completions", dumps(prompt=["hi", "BLUEBIRD"])),
    Ask("tokens", "/v1/completions", dumps(prompt=[33, 42, 9])),
    Ask("a suffix", "/v1/completions", dumps(prompt="hi", suffix="BLUEBIRD")),
    Ask("embeddings", "/v1/embeddings", dumps(input=["hi", "BLUEBIRD"])),
    Ask("embedded tokens", "/v1/embeddings", dumps(input=[[33, 42]])),
    Ask("a key twice", "/v1/embeddings", b'{"input":"BLUEBIRD","input":"hi"}'),
    Ask("moderations", "/v1/moderations", dumps(input=[{"type": "text", "text": "BLUEBIRD"}])),
    Ask("images", "/v1/images/generations", dumps(prompt="BLUEBIRD")),
    Ask("an edited image", "/v1/images/edits", form(value("prompt", WORD)), (FORM,)),
    Ask("speech", "/v1/audio/speech", dumps(input="BLUEBIRD", voice="alloy")),
    Ask("a hint to hear by", "/v1/audio/transcriptions", form(value("prompt", WORD)), (FORM,)),
    Ask("what looks like a picture", "/v1/embeddings",
        dumps(input="data:image/png;base64," + "BLUEBIRDBLUEBIRD" * 30)),
    Ask("a key's name that promises no text", "/v1/embeddings",
        dumps(input="hi", metadata={"session_id": "BLUEBIRD"})),
    Ask("a search", "/v1/vector_stores/vs_1/search", dumps(query="BLUEBIRD")),
    Ask("an assistant", "/v1/assistants", dumps(instructions="BLUEBIRD")),
    Ask("a thread", "/v1/threads/t/messages", dumps(role="user", content="BLUEBIRD")),
    Ask("kept history", "/v1/conversations/c/items",
        dumps(items=[{"type": "message", "role": "user", "content": "BLUEBIRD"}])),
    Ask("an eval", "/v1/evals", dumps(testing_criteria=[{"input": [{"content": "BLUEBIRD"}]}])),
    Ask("an agent", "/v1/agents/sessions/s/events", dumps(events=[{"text": "BLUEBIRD"}])),
    Ask("a note on a kept reply", CHAT + "/chatcmpl-1", dumps(metadata={"a": "BLUEBIRD"})),
    Ask("a project's name", "/v1/organization/projects", dumps(name="BLUEBIRD")),
    # files
    Ask("a document", "/v1/files", form(value("purpose", b"assistants"), file("a", WORD)), (FORM,)),
    Ask("a batch", "/v1/files",
        form(value("purpose", b"batch"), file("b.jsonl", BATCH % prompt("hi") + BATCH % prompt())),
        (FORM,)),
    Ask("a batch to an unknown endpoint", "/v1/files",
        form(value("purpose", b"batch"), file("b", b'{"url":"/v1/tomorrow","body":{}}\n')),
        (FORM,)),
    Ask("a packed batch", "/v1/files",
        form(value("purpose", b"batch"), file("b", gzip.compress(BATCH % prompt()))), (FORM,)),
    Ask("a file's name", "/v1/files", form(file("BLUEBIRD.txt", b"hi")), (FORM,)),
    Ask("a document that is packed", "/v1/files", form(file("a", gzip.compress(WORD))), (FORM,)),
    Ask("a form that can be read in two ways", "/v1/files",
        b"--other\r\n" + form(file("a", b"hi")), (FORM,)),
    Ask("a form in JSON's name", "/v1/files", form(file("a", WORD)), (JSON,)),
    Ask("pieces of a file", "/v1/uploads/u/parts", form(value("data", b"hi")), (FORM,)),
    # past the proxy
    Ask("what nobody knows", "/v1/tomorrow", dumps(input="hi")),
    Ask("nothing nobody knows", "/v1/tomorrow", method="GET"),
    Ask("WebRTC", "/v1/realtime/calls", b"v=0\r\n", (("content-type", "application/sdp"),)),
    Ask("a secret for a browser", "/v1/realtime/client_secrets", dumps(session={})),
    Ask("a live session", "/v1/live/sessions", dumps()),
    Ask("a WebSocket that is not known", "/v1/chat/completions", method="GET", status=426,
        headers=(("upgrade", "websocket"), ("connection", "Upgrade"),
                 ("sec-websocket-version", "13"),
                 ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="))),
    Ask("a WebSocket in capitals", "/v1/live/sessions?model=x", method="GET", status=426,
        headers=(("Upgrade", "h2c, WebSocket"), ("connection", "Upgrade"))),
]  # fmt: skip


@pytest.fixture
def proxy(proxy_for: Callable[..., Proxy]) -> Proxy:
    return proxy_for(rules=[rules.NO_BLUEBIRD])


@pytest.mark.parametrize("ask", REQUESTS, ids=lambda ask: ask.why)
def test_no_request_gets_around_the_rule(upstream: Upstream, proxy: Proxy, ask: Ask) -> None:
    """It is refused with words that say why, and OpenAI never hears of it."""
    upstream.script(Raw(b"{}", 200, [JSON]), path=ask.path.split("?")[0])
    with RawClient.through(proxy, ask.version) as client:
        headers = [KEY, *((name.lower(), text) for name, text in ask.headers)]
        sent = client.send(ask.method, ask.path, headers, ask.body, says_length=ask.says_length)
        reply = sent.wait_end()
    assert not upstream.calls
    assert reply.status == ask.status
    error = reply.json()["error"]
    assert isinstance(error, dict)
    assert error["code"] in ("guardrail_violation", "guardrail_unavailable")
    assert ("no bluebirds" in error["message"]) or ("invariant_unknown=pass" in error["message"])


def test_two_lengths_are_no_way_in(upstream: Upstream, proxy: Proxy) -> None:
    """What one of them hides would be the next request."""
    head = f"POST /v1/models/x HTTP/1.1\r\nhost: {HOST}\r\n{KEY[0]}: {KEY[1]}\r\n"
    head += "content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
    hidden = prompt()
    more = f"POST {CHAT} HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: {len(hidden)}\r\n\r\n"
    with RawClient.through(proxy) as client:
        client._write((head + more).encode() + hidden)
        client._sock.settimeout(20)
        assert b"400" in client._sock.recv(4096)
    assert not upstream.calls


# -- replies -----------------------------------------------------------------------------------

TEXT = b'{"choices":[{"index":0,"delta":{"content":"a BLUEBIRD."}}]}'
CLEAN = b'data: {"choices":[{"index":0,"delta":{"content":"hello "}}]}\n\n'
DONE = b"data: [DONE]\n\n"
EVENT = b"data: " + TEXT + b"\n\n"
WHOLE = json.dumps(streams.completion("a BLUEBIRD.")).encode()
TRANSCRIPT = (
    b'data: {"type":"transcript.text.delta","delta":"BLUE"}\n\n'
    b'data: {"type":"transcript.text.delta","delta":"BIRD"}\n\n'
)


@dataclass(frozen=True)
class Answered:
    why: str
    body: bytes
    headers: Sequence[tuple[str, str]] = (EVENTS,)
    ask: Ask = Ask("a stream", CHAT, dumps(**streams.chat("hello")))
    status: int = 200


def got(path: str, method: str = "GET", body: bytes = b"") -> Ask:
    return Ask(path, path, body, method=method)


STREAMED = Ask("a stream", "/v1/completions", dumps(prompt="hi", stream=True))
ASKED = Ask("whole", CHAT, prompt("hello"))
REPLIES = [
    # frames
    Answered("as it should be", CLEAN + EVENT + DONE),
    Answered("CR", (CLEAN + EVENT + DONE).replace(b"\n", b"\r")),
    Answered("CRLF", (CLEAN + EVENT + DONE).replace(b"\n", b"\r\n")),
    Answered("no space", b"data:" + TEXT + b"\n\n"),
    Answered("a tab", b"data:\t" + TEXT + b"\n\n"),
    Answered("two lines", b"data: " + TEXT.replace(b',"delta"', b',\ndata: "delta"') + b"\n\n"),
    Answered("a name", b"event: thread.x\n" + EVENT),
    Answered("an id", b"id: 1\nretry: 5\n" + EVENT),
    Answered("an id before it", b"id: 1\n\n" + EVENT),
    Answered("a comment before it", b": hi\n" + EVENT),
    Answered("U+2028", b"data: " + TEXT.replace(b"a BL", b"a \xe2\x80\xa8BL") + b"\n\n"),
    Answered("bad UTF-8", b"data: " + TEXT.replace(b"a BL", b"a \xffBL") + b"\n\n"),
    Answered("a key twice, the last", EVENT.replace(b'"content"', b'"content":"x","content"')),
    Answered("a key twice, the first",
             EVENT.replace(b'"a BLUEBIRD."', b'"a BLUEBIRD.","content":"x"')),
    Answered("no blank line", CLEAN + b"data: " + TEXT + b"\n"),
    Answered("no line end", CLEAN + b"data: " + TEXT),
    Answered("after the end", CLEAN + DONE + EVENT),
    Answered("a byte order mark", b"\xef\xbb\xbf" + EVENT),
    Answered("two byte order marks", b"\xef\xbb\xbf\xef\xbb\xbf" + EVENT),
    Answered("after no JSON", b"data: {x\n\n" + EVENT),
    Answered("after nothing", b"data:\n\n" + EVENT),
    Answered("capitals", b"DATA: " + TEXT + b"\n\n"),
    Answered("a space before it", b" data: " + TEXT + b"\n\n"),
    Answered("in a comment's line", b": x data: " + TEXT + b"\n\n"),
    Answered("split words", b"".join(
        b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % bytes([letter])
        for letter in b"BLUEBIRD ")),
    Answered("a second choice", EVENT.replace(b'"index":0', b'"index":1')),
    Answered("a refusal", EVENT.replace(b'"content"', b'"refusal"')),
    Answered("a field nobody knows", EVENT.replace(b'"content"', b'"thoughts"')),
    Answered("an error's words", b'data: {"error":{"failed_generation":"BLUEBIRD"}}\n\n'),
    # encodings and content types
    Answered("gzip", gzip.compress(EVENT), (EVENTS, ("content-encoding", "gzip"))),
    Answered("deflate", raw_deflate(EVENT), (EVENTS, ("content-encoding", "deflate"))),
    Answered("brotli", brotli.compress(EVENT), (EVENTS, ("content-encoding", "br"))),
    Answered("zstd", zstd(EVENT), (EVENTS, ("content-encoding", "zstd"))),
    Answered("two encodings", zstd(gzip.compress(EVENT)),
             (EVENTS, ("content-encoding", "gzip, zstd"))),
    Answered("an encoding that lies", EVENT, (EVENTS, ("content-encoding", "gzip"))),
    Answered("an unknown encoding", EVENT, (EVENTS, ("content-encoding", "rot13"))),
    Answered("no content type", EVENT, ()),
    Answered("as text", EVENT, (("content-type", "text/plain"),)),
    Answered("as octets", EVENT, (("content-type", "application/octet-stream"),)),
    Answered("events as JSON", EVENT, (JSON,)),
    Answered("JSON as events", WHOLE, (EVENTS,)),
    Answered("JSON as a page", WHOLE, (("content-type", "text/html"),), ASKED),
    Answered("JSON without a type", WHOLE, (), ASKED),
    Answered("events nobody asked for", EVENT, (EVENTS,), ASKED),
    Answered("encoded JSON", zstd(WHOLE), (JSON, ("content-encoding", "zstd")), ASKED),
    Answered("an error", WHOLE, (JSON,), ASKED, 500),
    Answered("a redirect", WHOLE, (JSON, ("location", "/")), ASKED, 302),
    # other endpoints
    Answered("a completion", b'{"choices":[{"text":"a BLUEBIRD."}]}', (JSON,),
             Ask("x", "/v1/completions", dumps(prompt="hi"))),
    Answered("a streamed completion", EVENT.replace(b'"delta":{"content"', b'"text"').replace(
        b"}}]", b"}]"), (EVENTS,), STREAMED),
    Answered("an encoded one", gzip.compress(EVENT.replace(
        b'"delta":{"content"', b'"text"').replace(b"}}]", b"}]")),
        (EVENTS, ("content-encoding", "gzip")), STREAMED),
    Answered("a transcript", b'{"text":"BLUEBIRD"}', (JSON,),
             Ask("x", "/v1/audio/transcriptions", form(value("language", b"en")), (FORM,))),
    Answered("a transcript as text", WORD, (("content-type", "text/plain"),),
             Ask("x", "/v1/audio/translations", form(value("language", b"en")), (FORM,))),
    Answered("a streamed transcript", TRANSCRIPT, (EVENTS,),
             Ask("x", "/v1/audio/transcriptions", form(value("stream", b"true")), (FORM,))),
    Answered("a file", WORD, (), got("/v1/files/f/content")),
    Answered("a batch's results", b'{"response":{"body":%b}}\n' % WHOLE, (),
             got("/v1/files/f/content")),
    Answered("an unknown file", b"\x00\x01BLUEBIRD", (), got("/v1/files/f/content")),
    Answered("a kept completion", WHOLE, (JSON,), got(CHAT + "/chatcmpl-1")),
    Answered("kept completions", b'{"data":[%b]}' % WHOLE, (JSON,), got(CHAT)),
    Answered("a kept conversation",
             b'{"data":[{"type":"message","role":"user","content":"BLUEBIRD"}]}', (JSON,),
             got("/v1/conversations/c/items")),
    Answered("a key twice", b'{"a":"x","a":"BLUEBIRD"}', (JSON,),
             got("/v1/conversations/c/items")),
    Answered("a run's events",
             b'event: thread.message.delta\ndata: {"delta":{"content":[{"text":{"value":"BLUE'
             b'BIRD"}}]}}\n\n', (EVENTS,), got("/v1/threads/t/runs", "POST", b'{"stream":true}')),
    Answered("search results", b'{"data":[{"content":[{"text":"BLUEBIRD"}]}]}', (JSON,),
             got("/v1/vector_stores/v/search", "POST", b'{"query":"x"}')),
    Answered("a prompt that was changed", b'{"data":[{"revised_prompt":"BLUEBIRD"}]}', (JSON,),
             got("/v1/images/generations", "POST", b'{"prompt":"x"}')),
]  # fmt: skip


def ask_for(upstream: Upstream, proxy: Proxy, answered: Answered) -> Reply:
    ask = answered.ask
    upstream.script(Raw(answered.body, answered.status, answered.headers), path=ask.path)
    with RawClient.through(proxy, ask.version) as client:
        return client.send(ask.method, ask.path, [KEY, *ask.headers], ask.body).wait_end()


@pytest.mark.parametrize("answered", REPLIES, ids=lambda answered: answered.why)
def test_no_reply_gets_around_the_rule(
    upstream: Upstream, proxy: Proxy, answered: Answered
) -> None:
    """The client gets the refusal, and not the word, whatever it would have made of it."""
    reply = ask_for(upstream, proxy, answered)
    assert upstream.calls
    assert reply.is_complete and WORD not in reply.body
    assert b'"code":"guardrail_' in reply.body
    assert reply.body.lstrip().startswith((b"{", b"data:", b":", b"id:", b"\xef\xbb\xbf"))
