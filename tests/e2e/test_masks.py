"""Mask rules: what upstream gets in the place of a secret, and that it gets all else unchanged."""

from __future__ import annotations

import gzip
import json
import random
import re
import string
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stage import clients, raw, rules, streams
from stage.proxy import Proxy
from stage.raw import CHAT, KEY, RawClient, Reply
from stage.script import Json, Stream
from stage.upstream import Upstream

VERSIONS: list[raw.Version] = ["1.1", "2"]
both_versions = pytest.mark.parametrize("version", VERSIONS)
MASK = re.compile(rb"\[masked:[\w-]+:[0-9a-f]{8}\]")
WORD = "CONDOR-\u00c4/7"
UNPLACED = "u" * 77_777
HANGS = "a" * 40 + "!"

KEYS = """
from invariant_addon.engines.detectors import has_secret

KINDS := ["openai", "private_key", "named"]

raise "keys stay here" if:
    (m: Message)
    has_secret(m, KINDS)

raise "keys stay here" if:
    (o: ToolOutput)
    has_secret(o, KINDS)

raise "keys stay here" if:
    (c: ToolCall)
    has_secret(c, KINDS)
"""
NO_CONDOR = f"""
raise "no word of condors" if:
    (m: Message)
    "{WORD}" in m.content
"""
LIBRARY = """
from invariant.detectors import secrets

raise "no tokens" if:
    (m: Message)
    any(secrets(m))
"""
UNPLACEABLE = f"""
raise "too long" if:
    (m: Message)
    len(m.content) == {len(UNPLACED)}
"""


def chars(seed: int, count: int) -> str:
    return "".join(random.Random(seed).choices(string.ascii_letters + string.digits, k=count))


def key(seed: int) -> str:
    """Longer than the part that it is found by."""
    return "sk-" + "proj-" + chars(seed, 120) + "7rQ2"


def pem(seed: int) -> str:
    body = chars(seed, 64 * 40)
    rows = [body[i : i + 64] for i in range(0, len(body), 64)]
    return "\n".join(["-----BEGIN " + "PRIVATE KEY-----", *rows, "-----END " + "PRIVATE KEY-----"])


SECRETS = [key(1), pem(2), "DB_PASSWORD=" + "Vq9#mLx2!wZ7k" + chars(3, 80)]


@pytest.fixture(scope="module")
def proxies(
    _the_upstream: Upstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Proxy]]:
    """usual: all mask rules. concurrent: the same in another data folder, with one that hangs."""
    started: dict[str, Proxy] = {}
    for name in ("usual", "concurrent"):
        folder = tmp_path_factory.mktemp(name)
        texts = {"keys": KEYS, "words": NO_CONDOR, "library": LIBRARY, "unplaceable": UNPLACEABLE}
        options: dict[str, object] = {"invariant_deadline_ms": 20_000}
        if name == "concurrent":
            texts["slow"] = rules.SLOW
            options = {"invariant_deadline_ms": 700, "invariant_request_check": "concurrent"}
        started[name] = start(_the_upstream, folder, texts, options).launch()
    for proxy in started.values():
        proxy.wait_ready(60)
    yield started
    for proxy in started.values():
        if proxy.is_running:
            proxy.stop()


def start(
    upstream: Upstream, folder: Path, texts: dict[str, str], options: dict[str, object]
) -> Proxy:
    files = []
    for name, text in texts.items():
        files.append(folder / f"{name}.inv")
        files[-1].write_text(text)
    return Proxy(
        upstream,
        folder,
        rules={"bluebirds.inv": rules.NO_BLUEBIRD, "keys-too.inv": KEYS},
        options={
            "invariant_data": str(folder / "data"),
            "invariant_mask_rules": [str(file) for file in files],
        }
        | options,
        save_flows=True,
    )


@pytest.fixture
def proxy(proxies: dict[str, Proxy], upstream: Upstream) -> Proxy:
    upstream.script(Json(streams.completion("fine")))
    return proxies["usual"]


def ask(proxy: Proxy, body: object, version: raw.Version = "1.1") -> Reply:
    with RawClient.through(proxy, version) as client:
        return client.post(CHAT, body).wait_end(60)


def masks(body: bytes) -> list[bytes]:
    return MASK.findall(body)


# -- what leaves -----------------------------------------------------------------------------


SPELLED = r"""{ "model":"gpt-4o-mini",  "temperature":1.0e0,"stream":false, "user" : "ad\u0061",
 "messages": [
  {"role":"system","content":"Never say @WORD@.\u00e9 @KEY@"},
  {"content":[{"type":"text","text":"@KEY@"},{"type":"image_url","image_url":{"url":"data:x"}},
              {"type":"text","text":" and\t@WORD@, @WORD@"}], "role":"user"},
  {"role":"assistant","content":null,"tool_calls":[{"id":"call_1","type":"function",
    "function":{"name":"save","arguments":"{\"a\": \"@ARG@\",  \"n\":1.50, \"w\": [\"\\u0041@INNER@\"]}"}}]},
  {"role":"tool","tool_call_id":"call_1","content":"saved @KEY@\n@WORD@"},
  {"role":"assistant","content":"I saved @KEY@."},
  {"role":"user","name":"ada","content":"once \ud83d\ude00 more"}],
 "prediction":{"type":"content","content":"-- @KEY@ --"}, "tools":[ ] }
"""  # noqa: E501  # as it is sent
SPELLINGS = {
    "KEY": key(1),
    "ARG": key(1).replace("sk-", r"\\u0073k-"),
    "WORD": r"CONDOR-\u00c4\/7",
    "INNER": r"CONDOR-\\u00C4\\\/7",
}


@both_versions
def test_all_spellings_are_masked_and_nothing_else_is_touched(
    upstream: Upstream, proxy: Proxy, version: raw.Version
) -> None:
    """Whoever reads what upstream gets finds the request he sent, but for the secrets."""
    sent, wanted = SPELLED, SPELLED
    for name, spelling in SPELLINGS.items():
        sent = sent.replace(f"@{name}@", spelling)
    assert json.loads(sent)
    assert ask(proxy, sent.encode(), version).status == 200
    got = upstream.last()
    assert got.version == version
    of_key, of_word = {m for m in masks(got.body) if b"keys" in m}, {*masks(got.body)}
    of_word -= of_key
    assert len(of_key) == len(of_word) == 1, got.body.decode()
    for name in SPELLINGS:
        mask = (of_key if name in ("KEY", "ARG") else of_word).copy().pop()
        wanted = wanted.replace(f"@{name}@", mask.decode())
    assert got.body.decode() == wanted
    assert got.header("content-length") == str(len(got.body))


@pytest.mark.parametrize("number", range(len(SECRETS)))
def test_nothing_of_a_secret_leaves(upstream: Upstream, proxy: Proxy, number: int) -> None:
    """Not its end either, where a detector needs no more than its beginning."""
    secret = SECRETS[number]
    body = streams.chat(f"Is {secret} any good?", stream=False)
    assert ask(proxy, body).status == 200
    content = upstream.last().json()["messages"][0]["content"]
    assert re.fullmatch(r"Is (DB_PASSWORD=)?\[masked:keys:[0-9a-f]{8}\] any good\?", content)


def test_an_argument_that_another_hides_is_masked(upstream: Upstream, proxy: Proxy) -> None:
    """Of a key that comes twice most readers take the last value, and the model reads both."""
    spelled = key(4).replace("sk-", r"\u0073k-")
    text = f'{{"a": "{spelled}", "a": "b"}}'
    body = streams.chat("hello", stream=False)
    call = {"id": "c", "type": "function", "function": {"name": "save", "arguments": text}}
    body["messages"].append({"role": "assistant", "content": None, "tool_calls": [call]})
    assert ask(proxy, body).status == 200
    sent = upstream.last().json()["messages"][1]["tool_calls"][0]["function"]["arguments"]
    assert re.fullmatch(r'\{"a": "\[masked:keys:[0-9a-f]{8}\]", "a": "b"\}', sent)


def test_a_placeholder_stays_the_same_and_belongs_to_one_machine(
    upstream: Upstream, proxy: Proxy, proxies: dict[str, Proxy], start_proxy
) -> None:
    """Each turn sends the history again: prompts stay cacheable, also after a restart; and nobody
    elsewhere can try texts until one gives the same."""
    again = start_proxy(
        wait=False,
        options={
            "invariant_data": str(proxy.folder / "data"),
            "invariant_mask_rules": [str(proxy.folder / "keys.inv")],
        },
    )
    body = streams.chat(f"{key(1)} or {key(2)}?", stream=False)
    for _ in range(2):
        assert ask(proxy, body).status == 200
    body["messages"] = [
        *body["messages"],
        {"role": "assistant", "content": f"Use {key(2)}"},
        {"role": "user", "content": "Why?"},
    ]
    assert ask(proxy, body).status == 200
    assert ask(proxies["concurrent"], body).status == 200
    again.wait_ready()
    assert ask(again, body).status == 200
    first, second, turn, elsewhere, restarted = (masks(c.body) for c in upstream.calls)
    assert len({*first}) == 2
    assert first == second == turn[:2] == restarted[:2]
    assert turn[2] == turn[1]
    assert not {*turn} & {*elsewhere}


def test_a_placeholder_that_comes_back_stays(upstream: Upstream, proxy: Proxy) -> None:
    """The model quotes it, and the next request has it in its history."""
    assert ask(proxy, streams.chat(f"Is {key(1)} good?", stream=False)).status == 200
    mask = masks(upstream.last().body)[0].decode()
    body = streams.chat(f"{mask}: {key(1)}", stream=False)
    assert ask(proxy, body).status == 200
    content = upstream.last().json()["messages"][0]["content"]
    assert content == f"{mask}: {mask}"


# -- how it comes ----------------------------------------------------------------------------


def test_a_compressed_request_goes_on_masked(upstream: Upstream, proxy: Proxy) -> None:
    """It cannot be masked but as plain text, so it goes on as that."""
    plain = json.dumps(streams.chat(f"Is {key(1)} good?", stream=False)).encode()
    with RawClient.through(proxy) as client:
        packed = [("content-encoding", "gzip")]
        assert client.post(CHAT, gzip.compress(plain), packed).wait_end().status == 200
    call = upstream.last()
    assert call.header("content-encoding") is None
    assert call.body == plain.replace(key(1).encode(), masks(call.body)[0])


def test_a_compressed_request_without_secrets_stays_compressed(
    upstream: Upstream, proxy: Proxy
) -> None:
    """Byte for byte what it was."""
    packed = gzip.compress(json.dumps(streams.chat("hello", stream=False)).encode())
    with RawClient.through(proxy) as client:
        client.post(CHAT, packed, [("content-encoding", "gzip")]).wait_end()
    assert upstream.last().body == packed


@both_versions
def test_a_request_of_unknown_length_is_masked(
    upstream: Upstream, proxy: Proxy, version: raw.Version
) -> None:
    """Chunked, or an HTTP/2 stream without a length: no length may be made up for it."""
    plain = json.dumps(streams.chat(f"Is {key(1)} good?", stream=False)).encode()
    with RawClient.through(proxy, version) as client:
        head = [("content-type", "application/json"), KEY]
        assert client.send("POST", CHAT, head, plain, says_length=False).wait_end().status == 200
    call = upstream.last()
    assert call.body == plain.replace(key(1).encode(), masks(call.body)[0])


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("count", [20, 80, 200])
def test_many_secrets_in_one_request(
    upstream: Upstream, proxy: Proxy, count: int, apart: bool
) -> None:
    """A rule names some of them at a time. An agent that has read a whole vault has more."""
    texts = [f"{n}: {key(1000 + n)}" for n in range(count)]
    contents = texts if apart else ["\n".join(texts)]
    messages = [{"role": "user", "content": content} for content in contents]
    reply = ask(proxy, streams.chat(stream=False, messages=messages))
    assert reply.status == 200, reply.body
    body = upstream.last().body
    assert len({*masks(body)}) == count and b"sk-proj" not in body


def test_a_large_request_holds_nobody_up(upstream: Upstream, proxy: Proxy) -> None:
    """Five megabytes are searched and written anew; other calls are answered meanwhile."""
    upstream.script(
        lambda call: Json(streams.completion("large" if len(call.body) > 10**6 else ""))
    )
    lines = [f"line {n} of a long file\n" for n in range(200_000)]
    for n in (5, 100_000, 199_999):
        lines[n] = f"KEY={key(n)}\n"
    large = json.dumps(streams.chat("".join(lines), stream=False)).encode()
    assert len(large) > 4 * 10**6
    waits = []
    with RawClient.through(proxy, timeout=60) as client, RawClient.through(proxy) as other:
        reply = client.post(CHAT, large)
        while not reply.listen(0.02).end:
            began = time.monotonic()
            assert other.post(CHAT, streams.chat("hello", stream=False)).wait_end().status == 200
            waits.append(time.monotonic() - began)
        assert reply.status == 200, reply.body
    assert len(waits) > 2 and max(waits) < 2, waits
    body = next(c.body for c in upstream.calls if len(c.body) > 10**6)
    assert len(masks(body)) == 3 and b"sk-proj" not in body
    assert MASK.sub(b"", body) == re.sub(rb"sk-proj-\w+", b"", large)


# -- what does not leave ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"), [(UNPLACED, b"too long"), ("gh" + "p_" + chars(4, 36), b"no tokens")]
)
def test_what_cannot_be_placed_is_refused(
    upstream: Upstream, proxy: Proxy, content: str, words: bytes
) -> None:
    """The rule holds for the message as a whole: there is nothing to put a placeholder on. The
    library's own detector of secrets names no places either."""
    reply = ask(proxy, streams.chat(content, stream=False))
    assert reply.status == 400 and words in reply.body
    assert not upstream.calls


def test_what_blocks_is_masked_first(upstream: Upstream, proxy: Proxy) -> None:
    """A block rule names the same keys: masked, there is nothing left to block. Another word is
    blocked all the same."""
    assert ask(proxy, streams.chat(f"{key(1)}", stream=False)).status == 200
    refused = ask(proxy, streams.chat(f"{key(1)} BLUEBIRD", stream=False))
    assert refused.status == 400 and b"no bluebirds here" in refused.body
    assert len(upstream.calls) == 1


def test_without_a_verdict_nothing_leaves(upstream: Upstream, proxies: dict[str, Proxy]) -> None:
    """A mask rule that hangs is a rule without a verdict, not one without a finding; not even
    concurrently does such a request go ahead."""
    reply = ask(proxies["concurrent"], streams.chat(f"{HANGS} {key(1)} {HANGS}", stream=False))
    assert reply.status == 400 and b"guardrail_unavailable" in reply.body
    assert b"sk-proj" not in reply.body and not upstream.calls


def test_concurrent_checks_wait_for_masks(upstream: Upstream, proxies: dict[str, Proxy]) -> None:
    """With a mask rule no request goes ahead of its verdict."""
    upstream.script(Json(streams.completion("fine")))
    reply = ask(proxies["concurrent"], streams.chat(f"Is {key(1)} good?", stream=False))
    assert reply.status == 200 and len(upstream.calls) == 1
    assert masks(upstream.last().body) and b"sk-proj" not in upstream.last().body


# -- replies ---------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
def test_a_secret_in_a_reply_is_noted_and_delivered(
    upstream: Upstream, proxy: Proxy, stream: bool
) -> None:
    """Mask rules are about what leaves."""
    words = ["Say ", WORD, f" {stream}."]
    answer = (
        Stream(streams.text_stream(words)) if stream else Json(streams.completion("".join(words)))
    )
    upstream.script(answer)
    since = proxy.log_size()
    reply = ask(proxy, streams.chat(f"hello {stream}", stream=stream))
    assert reply.status == 200 and reply.body == answer.body()
    proxy.wait_log("noted POST .*: noted: no word of condors", since=since)


@pytest.mark.parametrize("stream", [True, False])
def test_a_masked_call_can_be_blocked_by_its_reply(
    upstream: Upstream, proxy: Proxy, stream: bool
) -> None:
    """Masking the question takes nothing from the answer's rules."""
    words = ["a", " BLUEBIRD", "."]
    upstream.script(
        Stream(streams.text_stream(words)) if stream else Json(streams.completion("".join(words)))
    )
    reply = ask(proxy, streams.chat(f"Is {key(1)} good?", stream=stream))
    assert b"The response did not pass the guardrails: no bluebirds here" in reply.body
    assert masks(upstream.last().body)


def test_the_sdk_does_not_notice(upstream: Upstream, proxy: Proxy, real_clients: None) -> None:
    """No option, no other client: the key is typed, and does not leave."""
    upstream.script(Stream(streams.text_stream(["It", " is", " fine."])))
    run = clients.sdk(proxy, "stream", f"Is {key(1)} good?")
    assert run.error is None and run.text == "It is fine."
    assert masks(upstream.last().body) and b"sk-proj" not in upstream.last().body


# -- what people see -------------------------------------------------------------------------


def test_masked_calls_are_counted_and_told(upstream: Upstream, proxy: Proxy) -> None:
    """In the counters and in the log; the log has the rule's words, not the secret."""
    before, since = proxy.health()["calls"], proxy.log_size()
    assert ask(proxy, streams.chat(f"Is {key(1)} good?", stream=False)).status == 200
    after = proxy.health()["calls"]
    assert isinstance(before, dict) and isinstance(after, dict)
    changed = {name: after[name] - before[name] for name in after if after[name] != before[name]}
    assert changed == {"seen": 1, "masked": 1, "judged": 1}
    proxy.wait_log("POST /v1/chat/completions: masked: keys stay here", since=since)


def test_nothing_that_stays_behind_has_a_secret_in_it(upstream: Upstream, proxy: Proxy) -> None:
    """Flows and logs are kept, and shared with others: they have what upstream got.

    Comes last: it stops the proxy."""
    assert ask(proxy, streams.chat(f"Is {key(1)} good?", stream=False)).status == 200
    assert ask(proxy, streams.chat(f"Is {key(1)} BLUEBIRD?", stream=False)).status == 400
    proxy.stop()
    *_, masked, refused = proxy.flows()
    assert masked.marked == ":speech_balloon:" and masked.comment == "masked: keys stay here"
    assert masks(masked.request.raw_content)
    assert refused.marked == ":no_entry:"
    assert masks(refused.request.raw_content)
    assert "masked: keys stay here" in refused.comment
    assert proxy.flow_file
    kept = proxy.flow_file.read_bytes() + proxy.log().encode()
    assert b"sk-proj" not in kept and b"PRIVATE KEY" not in kept
