"""What is over leaves nothing behind in the proxy."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from stage import rules, streams
from stage.proxy import Proxy, StartProxy
from stage.raw import CHAT, RawClient, Version
from stage.script import Json, Stream
from stage.upstream import Upstream

CENSUS = Path(__file__).with_name("census.py")
CALLS = 12
"""Of each kind, which is many more than are alive at a time."""


@pytest.fixture
def proxy(proxy_for: StartProxy) -> Proxy:
    return proxy_for(rules=(rules.NO_BLUEBIRD,), scripts=(CENSUS,))


def alive(proxy: Proxy) -> dict[str, int]:
    since = proxy.log_size()
    os.kill(proxy.pid, signal.SIGUSR1)
    line = proxy.wait_log("census: ", since=since)
    return {kind: int(count) for kind, count in re.findall(r"(\w+)=(\d+)", line)}


def ask(client: RawClient, content: str = "hi", *, stream: bool = False) -> None:
    message = {"role": "user", "content": content}
    client.post(CHAT, {"model": "m", "messages": [message], "stream": stream}).wait_end()


@pytest.mark.parametrize("version", ["1.1", "2"])
def test_calls_that_are_over_leave_nothing_behind(
    upstream: Upstream, proxy: Proxy, version: Version
) -> None:
    """A client may keep its connection for days. Calls that were over waited for Python's search
    for garbage, with their bodies; a refused stream left its connection to upstream behind."""
    words = streams.text_stream([f"word{n} " for n in range(20)])
    refused = streams.text_stream(["word ", "BLUEBIRD ", *(f"word{n} " for n in range(20))])
    with RawClient.through(proxy, version) as client:
        ask(client)
        before = alive(proxy)
        for answer, content, stream in (
            (Json(streams.completion()), "hi", False),
            (Stream(words), "hi", True),
            (Stream(refused), "hi", True),
            (Json(streams.completion()), "a BLUEBIRD", False),
        ):
            upstream.script(answer)
            for _ in range(CALLS):
                ask(client, content, stream=stream)
        after = alive(proxy)
    grown = {kind: count - before[kind] for kind, count in after.items()}
    assert {kind: by for kind, by in grown.items() if by > CALLS // 3} == {}
