"""Every call becomes a trace, with its verdict, on this machine; whatever dies afterwards."""

from __future__ import annotations

import base64
import json
import os
import re
import sqlite3
import subprocess
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from invariant_addon.core.trace import Trace
from invariant_addon.page.answers import Answers
from stage import rules, streams
from stage.proxy import ROOT, Proxy, StartProxy, clean_environment
from stage.raw import CHAT, RawClient, Reply
from stage.script import Json, Stream, wait_until
from stage.traces import Kept
from stage.traces import traces as traces_in
from stage.upstream import Upstream

KEY = "sk-proj-" + "Ab3dEf6hIj9kLm2nOp5q" * 2


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """For a proxy of one's own."""
    return tmp_path / "data"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    note = rules.NO_BLUEBIRD.replace("BLUEBIRD", "REDFOX").replace("bluebirds", "foxes")
    (folder / "note.inv").write_text(note)
    return folder


@pytest.fixture
def proxy(proxy_for: StartProxy, folder: Path) -> Proxy:
    options = {
        "invariant_data": str(folder / "data"),
        "invariant_log_rules": [str(folder / "note.inv")],
    }
    return proxy_for(rules=rules.USUAL, options=options)


@pytest.fixture
def kept(proxy: Proxy, folder: Path) -> Kept:
    return Kept(folder / "data")


def ask(proxy: Proxy, content: str, *, stream: bool = True) -> Reply:
    with RawClient.through(proxy) as client:
        return client.post(CHAT, streams.chat(content, stream=stream)).wait_end()


def traces(data: Path, count: int) -> list[Trace]:
    """The last ones, the oldest first, once there are so many."""
    found: list[Trace] = traces_in(data / "traces.db", count)
    return found


def said(home: Path, data: Path, *arguments: str) -> str:
    """What scripts/traces prints."""
    command = [ROOT / "scripts" / "traces", *arguments, "--data", data]
    environment = clean_environment(home)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("stream", [True, False])
def test_a_clean_call_is_kept_as_it_was(
    upstream: Upstream, proxy: Proxy, kept: Kept, stream: bool
) -> None:
    """What was asked, what came back, how long it took."""
    words = ["One ", "two ", "three"]
    upstream.script(
        Stream(streams.text_stream(words)) if stream else Json(streams.completion("".join(words)))
    )
    assert ask(proxy, "hello", stream=stream).status == 200
    (trace,) = kept.traces(1)
    assert (trace.status, trace.stream, trace.http_status) == ("judged", stream, 200)
    assert trace.messages == ({"role": "user", "content": "hello"},)
    assert trace.parameters == {"model": "gpt-4o-mini", "stream": stream}
    assert [choice["content"] for choice in trace.choices] == ["One two three"]
    assert trace.finishes == ("stop",) and trace.usage["total_tokens"]
    assert (trace.delivered, trace.withheld) == (13, 0)
    assert trace.timing.total > 0 and trace.timing.checks >= 2
    assert 0 < trace.timing.held <= trace.timing.judged


def test_refusals_are_kept_with_what_was_withheld(
    upstream: Upstream, proxy: Proxy, kept: Kept
) -> None:
    """The refusal's request id leads to it."""
    upstream.script(Stream(streams.text_stream(["One ", "two ", "BLUEBIRD ", "four"])))
    refused = ask(proxy, "a BLUEBIRD").json()["error"]
    ask(proxy, "hello")
    first, second = kept.traces(2)
    assert isinstance(refused, dict) and first.id == refused["details"]["request_id"]
    assert (first.status, first.choices) == ("blocked", ())
    assert first.findings[0].words == "no bluebirds here"
    assert second.status == "blocked" and second.findings[0].addresses[0].message == 1
    assert second.delivered == len("One two ") and second.withheld > 0


def test_a_withheld_call_and_the_hold_time_are_kept(
    upstream: Upstream, proxy: Proxy, kept: Kept
) -> None:
    """The text before the call was delivered, the call was not; and bytes waited for that."""
    calls = [("delete_file", '{"name": "customers.db"}')]
    upstream.script(Stream(streams.tool_stream("I will delete it.", calls), pace=0.01))
    ask(proxy, "hello")
    (trace,) = kept.traces(1)
    assert (trace.status, trace.withheld_calls, trace.withheld) == ("blocked", 1, 0)
    assert 0 < trace.timing.held < trace.timing.total


def test_the_page_marks_what_was_found(upstream: Upstream, proxy: Proxy, kept: Kept) -> None:
    """By the addresses of the real engine: the words of a prompt, the call that was blocked."""
    upstream.script(Stream(streams.tool_stream("I look.", [("delete_file", '{"name": "a.db"}')])))
    ask(proxy, "look for a.db")
    ask(proxy, "what is a 🙂 BLUEBIRD, please?")
    kept.traces(2)
    answers = Answers(kept.data, {})
    prompt, call = answers.conversations({})["conversations"][:2]

    def turn(run: dict[str, Any]) -> Any:
        return answers.conversation({"id": run["id"]})["shown"][0]

    (piece,) = [p for p in turn(prompt)["items"][0]["blocks"][0]["pieces"] if "m" in p]
    assert piece["t"] == "BLUEBIRD"
    text, block = turn(call)["items"][1]["blocks"]
    assert (block["kind"], block["withheld"]) == ("call", True)
    assert block["about"] or any("m" in p for p in block["name"])
    assert not any("m" in piece for piece in text["pieces"])
    answers.reader.close()


def test_it_says_which_program_called(upstream: Upstream, proxy: Proxy, kept: Kept) -> None:
    """By its name, and not by its arguments."""
    upstream.script(Json(streams.completion("fine")))
    with RawClient.through(proxy) as client:

        def is_told() -> bool:  # it is looked for behind the client's back
            client.post(CHAT, streams.chat("hello", stream=False)).wait_end()
            told = kept.traces(1)[0].client
            return re.fullmatch(rf"pid {os.getpid()} \S+( \S+)*", told) is not None

        wait_until(is_told, 10, "its name")


def test_findings_in_parts_and_masked_ones_point_at_their_text(
    upstream: Upstream, start_proxy, data: Path, tmp_path: Path
) -> None:
    """At the words themselves, and at what took their place."""
    mask, note = tmp_path / "mask.inv", tmp_path / "note.inv"
    mask.write_text(rules.NO_BLUEBIRD)
    note.write_text(rules.NO_BLUEBIRD.replace("BLUEBIRD", "REDFOX"))
    proxy = start_proxy(
        options={
            "invariant_data": str(data),
            "invariant_mask_rules": [str(mask)],
            "invariant_log_rules": [str(note)],
        }
    )
    upstream.script(Json(streams.completion("fine")))
    parts = [{"type": "text", "text": text} for text in ("😀 one", "a REDFOX and a BLUEBIRD", "so")]
    with RawClient.through(proxy) as client:
        client.post(CHAT, streams.chat(messages=[{"role": "user", "content": parts}])).wait_end()
    effects = {"masked", "noted"}
    wait_until(lambda: {f.effect for f in traces(data, 1)[0].findings} == effects, 10, "both")
    (trace,) = traces(data, 1)
    text = "\n".join(part["text"] for part in trace.messages[0]["content"])
    found = {
        f.effect: [(a.path, text[a.start : a.end]) for a in f.addresses] for f in trace.findings
    }
    assert found["noted"] == [("content", "REDFOX")]
    ((path, words),) = found["masked"]
    assert path == "content" and re.fullmatch(r"\[masked:mask:[0-9a-f]{8}\]", words)


def test_what_log_rules_find_is_added(upstream: Upstream, proxy: Proxy, kept: Kept) -> None:
    """They run after the reply has gone."""
    upstream.script(Json(streams.completion("a REDFOX")))
    ask(proxy, "hello", stream=False)
    wait_until(lambda: bool(kept.traces(1)[0].findings), 10, "the late finding")
    (finding,) = kept.traces(1)[0].findings
    assert (finding.effect, finding.words) == ("noted", "no foxes here")


def test_a_client_that_leaves_is_kept_too(upstream: Upstream, proxy: Proxy, kept: Kept) -> None:
    """As far as its reply came."""
    never = threading.Event()
    upstream.script(Stream(streams.text_stream(["One ", "two "]), wait=never, wait_after=3))
    client = RawClient.through(proxy)
    client.post(CHAT, streams.chat("hello")).wait_body(b"One")
    client.vanish()
    (trace,) = kept.traces(1)
    never.set()
    assert trace.status == "partial" and trace.choices[0]["content"].startswith("One")


def test_a_client_that_leaves_when_it_has_all_was_judged(
    upstream: Upstream, proxy: Proxy, kept: Kept
) -> None:
    """After [DONE] nothing comes that anybody waits for: SDKs hang up there, and upstream may end
    the message a moment later."""
    never = threading.Event()
    chunks = streams.text_stream(["One ", "two"])
    upstream.script(Stream(chunks, wait=never, wait_after=len(chunks)))
    with RawClient.through(proxy) as client:
        client.post(CHAT, streams.chat("hello")).wait_body(b"[DONE]")
        client.vanish()
    (trace,) = kept.traces(1)
    never.set()
    assert (trace.status, trace.reason, trace.delivered) == ("judged", "", len("One two"))


def test_no_secret_is_kept(upstream: Upstream, start_proxy, data: Path) -> None:
    """The store must not become what leaks."""
    options = {"invariant_data": str(data), "invariant_starter_rules": True}
    proxy = start_proxy(options=options)
    assert ask(proxy, f"my key is {KEY}, keep it").status == 400
    (trace,) = traces(data, 1)
    assert trace.messages[0]["content"].startswith("my key is [masked:api_keys:")
    proxy.stop()
    stored = b"".join(file.read_bytes() for file in data.iterdir())
    assert KEY.encode() not in stored and b"Bearer" not in stored
    assert oct((data / "traces.db").stat().st_mode & 0o777) == "0o600"


def test_secrets_are_kept_for_their_owner_alone(
    upstream: Upstream, start_proxy, data: Path, tmp_path: Path
) -> None:
    """If he wants that: whoever looks for how a key got into a prompt needs to see it. What is
    listed and exported is as without it, and no header is kept."""
    options = {"invariant_data": str(data), "invariant_keep_secrets": True}
    proxy = start_proxy(rules=rules.API_KEYS, options=options)
    refused = ask(proxy, f"my key is {KEY}, keep it").json()["error"]
    assert isinstance(refused, dict)
    upstream.script(Json(streams.completion("fine")))
    ask(proxy, "hello", stream=False)
    blocked, clean = traces(data, 2)
    assert blocked.messages[0]["content"].startswith("my key is [masked:api_keys:")
    assert blocked.original is not None
    assert blocked.original.messages[0]["content"] == f"my key is {KEY}, keep it"
    assert clean.original is None
    proxy.stop()
    assert b"Bearer" not in b"".join(file.read_bytes() for file in data.iterdir())

    def run(*arguments: str) -> str:
        return said(tmp_path, data, *arguments)

    identity = refused["details"]["request_id"]
    assert KEY in run("show", identity, "--secrets") and KEY not in run("show", identity)
    assert KEY not in run("list") and KEY not in run("list", "--json")
    exported = run("export")
    assert "[masked:api_keys:" in exported and KEY not in exported


def test_nothing_is_kept_if_nobody_wants_it(upstream: Upstream, start_proxy, data: Path) -> None:
    """One option."""
    proxy = start_proxy(
        rules=rules.USUAL, options={"invariant_data": str(data), "invariant_traces": False}
    )
    refused = ask(proxy, "a BLUEBIRD")
    assert refused.status == 400 and b"scripts/traces" not in refused.body
    assert not (data / "traces.db").exists()


def test_the_command_shows_them(
    upstream: Upstream, proxy: Proxy, kept: Kept, tmp_path: Path
) -> None:
    """As a person looks for what was blocked."""
    upstream.script(Json(streams.completion("fine")))
    ask(proxy, "hello", stream=False)
    error = ask(proxy, "a BLUEBIRD").json()["error"]
    assert isinstance(error, dict)
    kept.traces(2)

    def run(*arguments: str) -> str:
        return said(tmp_path, kept.data, *arguments)

    assert "blocked" in run("list") and "judged" in run("list")
    _, _, command = error["message"].partition("scripts/traces ")
    shown = run(*command.split())
    assert "BLUEBIRD" in shown and "no bluebirds here" in shown
    assert error["details"]["request_id"] in shown
    lines = run("export").splitlines()
    assert len(lines) >= 2 and all(json.loads(line)["messages"] for line in lines)
    assert "BLUEBIRD" in lines[-1] and "hello" in lines[-2]
    assert re.search(rf"\b{len(lines)}\b", run("stats"))


def test_secrets_of_calls_that_nobody_judged_are_not_kept(
    upstream: Upstream, proxy_for: StartProxy, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """No verdict found them, and traces may be sent on. An MCP server's credentials are looked at
    by no rule at all."""
    data = tmp_path_factory.mktemp("unjudged")
    options = {"invariant_data": str(data), "invariant_unknown": "pass"}
    upstream.script(Json(streams.completion("hello")))
    twice = {"role": "user", "content": f"use {KEY}"}
    body = b'{"n": 1, "n": 2, "messages": [' + json.dumps(twice).encode() + b"]}"
    with RawClient.through(proxy_for(options=options)) as client:
        assert client.post(CHAT, body).wait_end().status == 200
        tool = {"type": "mcp", "server_label": "docs", "authorization": f"Bearer {KEY}"}
        client.post(CHAT, {"messages": [], "tools": [tool]}).wait_end()
    first, second = traces(data, 2)
    assert first.status == "not scanned" and "[masked:api_keys:" in first.messages[0]["content"]
    assert "[masked:credentials:" in second.parameters["tools"][0]["authorization"]
    assert KEY not in repr((first, second))


def test_what_was_answered_survives_a_kill(upstream: Upstream, proxy: Proxy, kept: Kept) -> None:
    """The trace is on disk before the client has the end of its reply. And when a backup locks the
    file, and more comes than is kept in memory, too. (The last test that the shared proxy sees.)

    No rule of this proxy is about passwords in addresses; none is kept."""
    upstream.script(Stream(streams.text_stream(["One", " two"])))
    for n in range(20):
        assert ask(proxy, f"hello {n}").is_complete
    found = kept.traces(20)
    assert [trace.messages[0]["content"] for trace in found] == [f"hello {n}" for n in range(20)]
    picture = "data:image/png;base64," + base64.b64encode(os.urandom(1_500_000)).decode()
    with closing(sqlite3.connect(kept.data / "traces.db", isolation_level=None)) as locker:
        locker.execute("BEGIN EXCLUSIVE")
        for n in range(4):
            text = {"type": "text", "text": f"{n} https://ada:plainword7@db.acme.dev/"}
            image = {"type": "image_url", "image_url": {"url": picture}}
            body = streams.chat(messages=[{"role": "user", "content": [text, image]}])
            with RawClient.through(proxy) as client:
                assert client.post(CHAT, body).wait_end().is_complete
        for n in range(20):
            assert ask(proxy, f"again {n}").is_complete
        proxy.kill()
    found = [trace.messages[0]["content"] for trace in kept.traces(44)[20:]]
    assert found[4:] == [f"again {n}" for n in range(20)]
    parts = found[:4]
    assert [text["text"].partition(" ")[0] for text, _ in parts] == [str(n) for n in range(4)]
    assert all(image["image_url"]["url"] == picture for _, image in parts)
    stored = b"".join(file.read_bytes() for file in kept.data.iterdir())
    assert b"plainword7" not in stored and not any(
        "plainword7" in text["text"] for text, _ in parts
    )
