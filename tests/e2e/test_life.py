"""What a person does to a running proxy: change rules, kill, hold and replay flows."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from stage import raw, rules, streams
from stage.proxy import Proxy
from stage.raw import CHAT, RawClient
from stage.script import Json, Stream, wait_until
from stage.upstream import Upstream

CONTROL = """
import asyncio, os, pathlib
from mitmproxy import ctx
from mitmproxy.utils import asyncio_utils

class Control:
    def __init__(self):
        self.box, self.flows = pathlib.Path(os.environ["BOX"]), []

    def running(self):
        asyncio_utils.create_task(self.obey(), name="control", keep_ref=True)

    async def obey(self):
        while True:
            await asyncio.sleep(0.02)
            for order in self.box.glob("order-*"):
                exec(order.read_text(), {"ctx": ctx, "flows": self.flows})
                order.rename(self.box / order.name.replace("order", "done"))

    def requestheaders(self, flow):
        if "health" not in flow.request.path:
            self.flows.append(flow)

    def request(self, flow):
        if (self.box / "hold").exists():
            flow.intercept()

    response = request

addons = [Control()]
"""
REPLAY = "f.response = None; ctx.master.commands.call('replay.client', [f])"


class Hand:
    """A person at the console of mitmproxy, played by an addon that takes orders."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        self.script = folder / "control.py"
        self.script.write_text(CONTROL)

    def do(self, code: str) -> None:
        draft = self.folder / "draft"
        draft.write_text(code)
        draft.rename(self.folder / f"order-{self.count}")
        wait_until((self.folder / f"done-{self.count}").exists, 10, code)
        self.count += 1


@pytest.fixture(scope="module")
def hand(tmp_path_factory: pytest.TempPathFactory) -> Hand:
    return Hand(tmp_path_factory.mktemp("hand"))


@pytest.fixture
def proxy(proxy_for, hand: Hand) -> Iterator[Proxy]:
    proxy = proxy_for(
        rules=rules.USUAL, scripts=[hand.script], environment={"BOX": str(hand.folder)}
    )
    since = proxy.log_size()
    yield proxy
    (hand.folder / "hold").unlink(missing_ok=True)
    hand.do("flows.clear()")
    said = proxy.log(since)
    assert "Traceback" not in said and "crashed" not in said


def status(proxy: Proxy, content: str, path: str = CHAT) -> int:
    with RawClient.through(proxy) as client:
        return int(client.post(path, streams.chat(content, stream=False)).wait_end().status)


def test_rules_change_while_it_runs(upstream: Upstream, proxy: Proxy, hand: Hand) -> None:
    """The next call is judged by the new ones; a bad file changes nothing, and says so."""
    new, bad = hand.folder / "new.inv", hand.folder / "bad.inv"
    before = [str(file) for file in proxy.rule_files]
    new.write_text(rules.NO_BLUEBIRD.replace("BLUEBIRD", "REDFOX"))
    bad.write_text("raise if if")
    upstream.script(Json(streams.completion("fine")))
    since = proxy.log_size()
    hand.do(f"ctx.options.update(invariant_rules=[{str(bad)!r}])")
    proxy.wait_log("rule file bad cannot be used", since=since)
    assert status(proxy, "BLUEBIRD") == 400
    hand.do(f"ctx.options.update(invariant_rules=[{str(new)!r}])")
    proxy.wait_log("judging by new", since=since)
    assert status(proxy, "REDFOX") == 400
    assert status(proxy, "BLUEBIRD") == 200
    hand.do(f"ctx.options.update(invariant_rules={before!r})")
    proxy.wait_log("judging by rules-1", since=since)
    assert status(proxy, "BLUEBIRD") == 400


def test_a_replayed_call_is_judged_too(upstream: Upstream, proxy: Proxy, hand: Hand) -> None:
    """Edited and sent again by hand: it is a call like any other."""
    upstream.script(Json(streams.completion("fine")), Json(streams.completion("BLUEBIRD")))
    assert status(proxy, "hello") == 200
    since = proxy.log_size()
    edit = "f.request.text = f.request.text.replace('hello', 'BLUEBIRD')"
    hand.do(f"f = flows[0].copy(); {edit}; {REPLAY}")
    proxy.wait_log("request blocked: no bluebirds here", since=since)
    assert len(upstream.calls) == 1
    hand.do(f"f = flows[0].copy(); {REPLAY}")
    proxy.wait_log("response blocked: no bluebirds here", since=since)


def test_a_replayed_stream_is_not_delivered_unjudged(
    upstream: Upstream, proxy: Proxy, hand: Hand
) -> None:
    """Replay has its own layer, which cannot await a verdict."""
    upstream.script(Stream(streams.text_stream(["a ", "b "])))
    with RawClient.through(proxy) as client:
        client.post(CHAT, streams.chat()).wait_end()
    since = proxy.log_size()
    hand.do(f"f = flows[0].copy(); {REPLAY}")
    proxy.wait_log("replayed streams cannot be judged", since=since)


@pytest.mark.parametrize("version", ["1.1", "2"])
def test_a_flow_that_is_killed_ends(
    upstream: Upstream, proxy: Proxy, hand: Hand, version: raw.Version
) -> None:
    """... and the proxy lives on."""
    go = threading.Event()
    upstream.script(Stream(streams.text_stream(["a ", "b ", "c "]), wait=go, wait_after=2))
    with RawClient.through(proxy, version) as client:
        reply = client.post(CHAT, streams.chat()).wait_body(b"a ")
        hand.do("flows[0].kill()")
        go.set()
        reply.wait_end(5)
    assert status(proxy, "BLUEBIRD") == 400


def test_a_flow_that_is_held_and_resumed_arrives(
    upstream: Upstream, proxy: Proxy, hand: Hand
) -> None:
    """The person at the console takes their time."""
    stream = Stream(streams.text_stream(["a ", "b "]))
    upstream.script(stream)
    (hand.folder / "hold").touch()
    with RawClient.through(proxy) as client:
        reply = client.post(CHAT, streams.chat())
        assert not reply.listen(0.5).status, "it was not held"
        while not reply.end:
            hand.do("[f.resume() for f in flows]")
            reply.listen(0.2)
    assert reply.is_complete and reply.body == stream.body()


def test_a_client_that_left_is_not_counted_as_judged(upstream: Upstream, proxy: Proxy) -> None:
    """The last verdict never came."""
    before = proxy.health()["calls"]["judged"]
    go = threading.Event()
    upstream.script(Stream(streams.text_stream(["a ", "b ", "c "]), wait=go, wait_after=2))
    with RawClient.through(proxy) as client:
        client.post(CHAT, streams.chat()).wait_body(b"a ")
    upstream.last().wait_ended()
    go.set()
    assert proxy.health()["calls"]["judged"] == before


def test_a_key_in_the_query_is_not_logged(proxy: Proxy) -> None:
    """Some clients put them there."""
    since = proxy.log_size()
    assert status(proxy, "BLUEBIRD", CHAT + "?api-key=sk-SECRETKEY") == 400
    proxy.wait_log("request blocked", since=since)
    assert "sk-SECRETKEY" not in "\n".join(
        line for line in proxy.log(since).splitlines() if "blocked" in line
    )
