"""However calls end, each is counted once, and each that was not judged has a trace."""

from __future__ import annotations

from pathlib import Path

from stage import responses, rules, streams
from stage.proxy import StartProxy
from stage.raw import CHAT, RawClient
from stage.script import Die, Json, wait_until
from stage.traces import traces
from stage.upstream import Upstream

OUTCOMES = ("judged", "blocked", "not_scanned", "failed", "partial", "harmless", "unfinished")


def test_the_outcomes_of_calls_add_up_to_all_calls(
    upstream: Upstream, start_proxy: StartProxy, tmp_path: Path
) -> None:
    """Else `scripts/run` tells of calls whose end nobody knows."""
    proxy = start_proxy(rules=rules.USUAL, options={"invariant_data": str(tmp_path)})
    stored = f"{responses.PATH}/resp_1"
    upstream.script(Json(streams.completion("fine")), Die())
    upstream.script(Json({"no": "reply"}), path=stored)
    upstream.script(Json({"data": []}), Die(), path="/v1/models")
    for content in ("hello", "hello", "BLUEBIRD"):
        with RawClient.through(proxy) as client:
            client.post(CHAT, streams.chat(content, stream=False)).wait_end()
    for path in (stored, "/v1/models", "/v1/models", "/v1/nowhere"):
        with RawClient.through(proxy) as client:
            client.send("GET", path, [("authorization", "Bearer sk-x")]).wait_end()
    with RawClient.through(proxy) as client:  # half a request, and away
        head = f"POST {CHAT} HTTP/1.1\r\nhost: api.openai.com\r\ncontent-length: 99\r\n\r\n"
        client._write(head.encode() + b'{"messages')
    calls: dict[str, int] = {}

    def is_at_rest() -> bool:
        health = proxy.health()
        calls.update(health["calls"])
        return not health["pending"] and sum(calls[name] for name in OUTCOMES) >= 7

    wait_until(is_at_rest, 10, f"the end of all calls: {calls}")
    assert {name: calls[name] for name in ("seen", *OUTCOMES) if calls[name]} == {
        "seen": 7,
        "judged": 1,
        "blocked": 1,
        "failed": 2,
        "harmless": 1,
        "unfinished": 2,
    }
    kept = traces(tmp_path / "traces.db", 6)
    assert [each.status for each in kept] == [
        *("judged", "partial", "blocked", "error", "partial", "error"),
    ]
    reasons = [each.reason for each in kept]
    assert "server closed connection" in reasons[1]
    assert "could not be read" in reasons[3] and "/v1/nowhere does is not known" in reasons[5]
