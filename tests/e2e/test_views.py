"""What people see of calls in mitmweb, by its own API, and in mitmdump with flow_detail=3."""

from __future__ import annotations

import json
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stage import rules, streams
from stage.proxy import Proxy
from stage.raw import CHAT, RawClient
from stage.script import Json, Stream, wait_until
from stage.upstream import Upstream

PASSWORD = "the-password"
NO_FOXES = rules.NO_BLUEBIRD.replace("BLUEBIRD", "REDFOX").replace("bluebirds", "foxes")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Web:
    """mitmweb's API."""

    def __init__(self, port: int) -> None:
        self._address = f"http://127.0.0.1:{port}"

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self._address}{path}?token={PASSWORD}", timeout=10) as reply:
            return json.loads(reply.read())

    def run(self, command: str, *arguments: str) -> Any:
        body = json.dumps({"arguments": arguments}).encode()
        request = urllib.request.Request(
            f"{self._address}/commands/{command}?token={PASSWORD}",
            body,
            # A change needs the same word as a cookie and as a header: no form can do that.
            {
                "Content-Type": "application/json",
                "Cookie": "_mitmproxy_xsrf=abcd",
                "X-XSRFToken": "abcd",
            },
        )
        with urllib.request.urlopen(request, timeout=10) as reply:
            return json.loads(reply.read())

    def flows(self) -> list[dict[str, Any]]:
        found = [f for f in self.get("/flows") if f["request"]["path"].startswith("/v1/")]
        return sorted(found, key=lambda flow: flow["timestamp_created"])

    def view(self, flow: dict[str, Any], side: str, view: str = "auto") -> dict[str, Any]:
        found = self.get(f"/flows/{flow['id']}/{side}/content/{view}.json")
        assert isinstance(found, dict)
        return found


@pytest.fixture(scope="module")
def web(
    _the_upstream: Upstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Web, Proxy]]:
    """mitmweb after five calls: clean, blocked prompt, blocked midway, noted, not scanned."""
    upstream, folder = _the_upstream, tmp_path_factory.mktemp("mitmweb")
    upstream.reset()
    port = free_port()
    note = folder / "foxes.inv"
    note.write_text(NO_FOXES)
    proxy = Proxy(
        upstream,
        folder,
        program="mitmweb",
        rules={"bluebirds.inv": rules.NO_BLUEBIRD},
        options={
            "web_port": port,
            "web_host": "127.0.0.1",
            "web_open_browser": False,
            "web_password": PASSWORD,
            "invariant_log_rules": [str(note)],
            "invariant_on_failure": "pass",
            "invariant_data": str(folder / "data"),
        },
    )
    with proxy:
        text = streams.text_stream
        for answer, body in (
            (Stream(text(["One ", "two"])), streams.chat("hello")),
            (Json(streams.completion("never")), streams.chat("the BLUEBIRD 🙂", stream=False)),
            (Stream(text(["One ", "two ", "BLUEBIRD ", "four"])), streams.chat("hi")),
            (Json(streams.completion("a REDFOX")), streams.chat("and", stream=False)),
            (Json({"no": "reply"}), streams.chat("odd", stream=False)),
            (Json(streams.completion("BLUEBIRD said")), streams.chat("whole", stream=False)),
        ):
            upstream.script(answer)
            with RawClient.through(proxy) as client:
                client.post(CHAT, body).wait_end()
        site = Web(port)
        wait_until(lambda: "noted" in site.flows()[3]["comment"], 10, "the late note")
        yield site, proxy
    upstream.reset()


def test_a_clean_flow_shows_the_merged_conversation(web: tuple[Web, Proxy]) -> None:
    """Not three hundred chunks of it."""
    site, _ = web
    clean = site.flows()[0]
    assert (clean["marked"], clean["comment"]) == ("", "")
    asked, said = site.view(clean, "request"), site.view(clean, "response")
    assert asked["view_name"] == said["view_name"] == "Invariant"
    assert "judged" in asked["text"] and "── 1 user\n  hello" in asked["text"]
    assert "── 2 reply (stop)\n  One two" in said["text"] and "data:" not in said["text"]
    assert "data:" in site.view(clean, "response", "raw")["text"]


def test_a_blocked_prompt_shows_the_words_and_the_rule(web: tuple[Web, Proxy]) -> None:
    """And what the client got instead of a reply."""
    site, _ = web
    flow = site.flows()[1]
    assert flow["marked"] == "⛔" and flow["comment"] == "request blocked: no bluebirds here"
    asked, said = site.view(flow, "request")["text"], site.view(flow, "response")["text"]
    assert "the ⟦BLUEBIRD⟧ [bluebirds] 🙂" in asked
    assert "blocked by bluebirds: no bluebirds here (message 1 (user), characters 5-12)" in asked
    assert "── what the client got instead" in said and "guardrail_violation" in said


def test_a_reply_blocked_midway_shows_what_was_withheld(web: tuple[Web, Proxy]) -> None:
    """Marked in the merged text, though the word came in chunks."""
    site, _ = web
    flow = site.flows()[2]
    assert flow["marked"] == "⛔" and flow["comment"].startswith("response blocked: ")
    said = site.view(flow, "response")["text"]
    assert "One two ⟦BLUEBIRD⟧ [bluebirds]" in said
    assert "withheld: the client got 8 of " in said


def test_a_whole_reply_that_was_blocked_is_seen_though_a_refusal_took_its_place(
    web: tuple[Web, Proxy],
) -> None:
    """Whoever looks wants to know what it was."""
    said = web[0].view(web[0].flows()[5], "response")["text"]
    assert "⟦BLUEBIRD⟧ [bluebirds] said" in said and "what the client got instead" in said


def test_a_late_note_is_there(web: tuple[Web, Proxy]) -> None:
    """Log rules run after the reply has gone; mitmweb is told of it."""
    flow = web[0].flows()[3]
    assert flow["marked"] == "👀" and flow["comment"] == "noted: no foxes here"
    assert "a ⟦REDFOX⟧ [foxes]" in web[0].view(flow, "response")["text"]


def test_a_flow_that_was_not_scanned_says_why(web: tuple[Web, Proxy]) -> None:
    """And is not shown as if it had been."""
    flow = web[0].flows()[4]
    assert flow["marked"] == "⚠" or flow["marked"] == "⚠️"
    assert flow["comment"].startswith("not scanned: the reply could not be read")
    said = web[0].view(flow, "response")["text"]
    assert "not scanned" in said and "reason: the reply could not be read" in said


def test_other_flows_keep_mitmproxys_views(web: tuple[Web, Proxy]) -> None:
    """What is not judged is not ours to draw."""
    site, _ = web
    other = next(f for f in site.get("/flows") if f["request"]["path"].startswith("/.inv"))
    assert site.view(other, "response")["view_name"] == "JSON"


def test_commands_say_what_is_known(web: tuple[Web, Proxy]) -> None:
    """At mitmproxy's prompt, and by mitmweb's API."""
    site, _ = web
    status = site.run("invariant.status")["value"]
    assert status[0] == (
        "calls: 6 seen, 2 judged, 3 blocked, 0 masked, 1 not scanned, 0 failed, 0 muted, "
        "0 partial, 0 harmless, 0 unfinished"
    )
    assert "block: bluebirds (file)" in status and "log: foxes (file)" in status
    found = site.run("invariant.findings", "~comment bluebirds")["value"]
    assert len(found) == 6 and found[0].endswith(": request blocked: no bluebirds here")
    assert found[1].startswith("blocked by bluebirds: no bluebirds here (message 1 (user), char")


def test_flows_are_judged_again_by_the_rules_as_they_are_now(web: tuple[Web, Proxy]) -> None:
    """Comes last: it changes the rules. What was answered stays as it was."""
    site, proxy = web
    (rule,) = proxy.rule_files
    since = proxy.log_size()
    rule.write_text(rules.NO_BLUEBIRD.replace("BLUEBIRD", "One two"))
    proxy.wait_log("judging by bluebirds", since=since)
    assert "error" in site.run("invariant.recheck", "~u .invariant")
    site.run("invariant.recheck", "~all & ~u /v1/")
    wait_until(lambda: "rechecked" in site.flows()[5]["comment"], 20, "the last one")
    clean, prompt, midway, *_, whole = site.flows()
    assert (
        "the response would be blocked: no bluebirds here (message 2 (assistant)"
        in clean["comment"]
    )
    assert clean["marked"] == "" and clean["response"]["status_code"] == 200
    assert prompt["comment"].endswith(": would pass") and prompt["marked"] == "⛔"
    assert "the response would be blocked" in midway["comment"]
    assert whole["comment"].endswith(": would pass")
    assert "rechecked /v1/chat/completions (6 of 6): would pass" in proxy.log(since)


def test_mitmdump_prints_it_too_and_one_line_for_a_block(
    upstream: Upstream, start_proxy: Any, tmp_path: Path
) -> None:
    """`--set flow_detail=3`; and nothing in it can steer the terminal."""
    proxy = start_proxy(rules={"bluebirds.inv": rules.NO_BLUEBIRD}, options={"flow_detail": 3})
    with RawClient.through(proxy) as client:
        client.post(CHAT, streams.chat("a BLUEBIRD \x1b[2J\x07 there", stream=False)).wait_end()
    proxy.wait_log("⟦BLUEBIRD⟧ ", timeout=10)
    log = proxy.log()
    assert "\x1b[2J" not in log and "\x07" not in log
    assert log.count("POST /v1/chat/completions: request blocked: no bluebirds here") == 1
