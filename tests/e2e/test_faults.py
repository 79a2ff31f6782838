"""What goes wrong: engines that hang or die, clients that leave, upstreams that break off."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stage import raw, rules, streams
from stage.proxy import Proxy, StartProxy
from stage.raw import CHAT, RawClient
from stage.script import Json, Stream, wait_until
from stage.upstream import Upstream

WORDS = ["One", " two", " three", " four", "."]
VERSIONS: list[raw.Version] = ["1.1", "2"]
both_versions = pytest.mark.parametrize("version", VERSIONS)
ADDON = Path(__file__).resolve().parents[2] / "addon"
HANGS = "a" * 40 + "!"
"""The rule SLOW does not end on this, in anybody's lifetime."""


def exchange(proxy: Proxy, content: str = "hello", **more: object) -> raw.Reply:
    with RawClient.through(proxy) as client:
        return client.post(CHAT, streams.chat(content, **more)).wait_end()


@pytest.fixture
def quick(proxy_for: StartProxy) -> Proxy:
    """Gives up soon."""
    return proxy_for(
        rules=[rules.NO_BLUEBIRD, rules.SLOW, rules.LOOPS], options={"invariant_deadline_ms": 500}
    )


@pytest.fixture
def patient(proxy_for: StartProxy) -> Proxy:
    """Whatever ends a check here, it is not the deadline."""
    return proxy_for(
        rules=[rules.NO_BLUEBIRD, rules.SLOW, rules.HUNGRY],
        options={"invariant_deadline_ms": 20_000, "invariant_worker_memory_mb": 1024},
    )


@pytest.fixture
def holding(proxy_for: StartProxy) -> Proxy:
    """A verdict about the end only, and little room until then."""
    return proxy_for(
        rules=[rules.ENDS_WITH_END, rules.SLOW],
        options={
            "invariant_deadline_ms": 1500,
            "invariant_keep_alive_ms": 200,
            "invariant_hold_limit_bytes": 20_000,
        },
    )


# -- the engine ------------------------------------------------------------------------------


def test_a_rule_that_hangs_fails_closed_and_the_next_call_works(
    upstream: Upstream, quick: Proxy
) -> None:
    """A regular expression that does not end costs its own call, at the deadline, and no more."""
    stream = Stream(streams.text_stream(WORDS))
    upstream.script(stream)
    refused = exchange(quick, HANGS)
    assert refused.status == 400 and b"guardrail_unavailable" in refused.body
    assert not upstream.calls
    assert exchange(quick).body == stream.body()


def test_a_rule_that_loops_fails_closed_and_the_next_call_works(
    upstream: Upstream, quick: Proxy
) -> None:
    """Four variables over a long history: the engine's own limit or the deadline ends it."""
    stream = Stream(streams.text_stream(WORDS))
    upstream.script(stream)
    history = [{"role": "user", "content": f"turn {n}"} for n in range(60)]
    refused = exchange(quick, messages=history)
    assert refused.status == 400 and b"guardrail_unavailable" in refused.body
    assert exchange(quick).body == stream.body()


def test_a_rule_that_hangs_on_a_reply_withholds_it(upstream: Upstream, quick: Proxy) -> None:
    """The same in the middle of a stream: nothing unjudged is delivered."""
    upstream.script(Stream(streams.text_stream([HANGS, " more"])))
    reply = exchange(quick)
    assert reply.is_complete and b"guardrail_unavailable" in reply.body
    assert HANGS.encode() not in reply.body


def test_fail_open_passes_and_says_so(upstream: Upstream, proxy_for) -> None:
    """A choice of the user's; it leaves its mark in the count."""
    proxy = proxy_for(
        rules=[rules.SLOW],
        options={"invariant_deadline_ms": 500, "invariant_on_failure": "pass"},
    )
    stream = Stream(streams.text_stream(WORDS))
    upstream.script(stream)
    before = proxy.health()["calls"]
    assert exchange(proxy, HANGS).body == stream.body()
    assert proxy.health()["calls"]["not_scanned"] == before["not_scanned"] + 1


def test_a_rule_that_wants_all_the_memory_costs_its_own_call(
    upstream: Upstream, patient: Proxy
) -> None:
    """The worker has a limit; the proxy and the machine never notice."""
    proxy = patient
    stream = Stream(streams.text_stream(WORDS))
    upstream.script(stream)
    refused = exchange(proxy, "hungry")
    assert refused.status == 400 and b"guardrail_unavailable" in refused.body
    assert exchange(proxy).body == stream.body()
    assert exchange(proxy, "BLUEBIRD").status == 400


def test_a_worker_killed_in_the_middle_of_a_check(upstream: Upstream, patient: Proxy) -> None:
    """That check fails closed; the next one is judged by a new worker."""
    proxy = patient
    stream = Stream(streams.text_stream(WORDS))
    upstream.script(stream)
    before = proxy.workers()
    assert before
    with RawClient.through(proxy) as client:
        reply = client.post(CHAT, streams.chat(HANGS))
        reply.listen(0.5)
        assert not reply.end
        for pid in proxy.workers():
            os.kill(pid, signal.SIGKILL)
        reply.wait_end()
    assert reply.status == 400 and b"guardrail_unavailable" in reply.body
    assert exchange(proxy).body == stream.body()
    assert exchange(proxy, "BLUEBIRD").status == 400
    wait_until(lambda: len(proxy.workers()) == len(before), 15, "the workers to be back")
    assert not set(proxy.workers()) & set(before)


def test_slow_verdicts_do_not_hold_the_others(upstream: Upstream, start_proxy) -> None:
    """Three streams whose verdicts take a second each; forty-seven others go by them."""
    proxy = start_proxy(
        rules=[rules.NO_BLUEBIRD, rules.SLOW],
        # As many workers as by default; and limits that a busy machine does not reach.
        options={
            "invariant_deadline_ms": 60_000,
            "invariant_wait_ms": 30_000,
            "invariant_workers": 0,
        },
    )
    quick = Stream(streams.text_stream(WORDS * 4), pace=0.03)
    upstream.script(quick)
    with RawClient.through(proxy, "2", timeout=60) as slow_side:
        slow = [slow_side.post(CHAT, streams.chat(HANGS)) for _ in range(3)]
        slow_side.pump(time.monotonic() + 0.3)
        with RawClient.through(proxy, "2", timeout=60) as client:
            replies = [client.post(CHAT, streams.chat(f"n {n}")) for n in range(47)]
            for reply in replies:
                reply.wait_end()
        assert all(reply.body == quick.body() for reply in replies)
        slow_side.pump(time.monotonic() + 0.01)
        assert not any(reply.end for reply in slow), "the slow ones were not slow"
    assert len(upstream.calls) == 47


# -- clients ---------------------------------------------------------------------------------


def test_a_client_that_leaves_while_its_verdict_is_awaited(
    upstream: Upstream, patient: Proxy
) -> None:
    """The check and upstream are given up at once, not when the verdict comes."""
    proxy = patient
    go = threading.Event()
    upstream.script(Stream(streams.text_stream([HANGS, " more"]), wait=go, wait_after=3))
    client = RawClient.through(proxy)
    client.post(CHAT, streams.chat()).wait_head().listen(0.3)
    client.vanish()
    assert upstream.last().wait_ended(5).state == "cancelled"
    go.set()
    assert proxy.is_running


def test_no_worker_outlives_the_proxy(patient: Proxy) -> None:
    """Not even when it is killed while one of them is busy, as it may still be with the call
    before. (So this is the last test of that proxy.)"""
    pids = patient.workers()
    assert pids
    os.kill(patient.pid, signal.SIGKILL)
    wait_until(lambda: not any(_lives(pid) for pid in pids), 10, "the workers to end")


def _lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_a_waiting_client_gets_comments(upstream: Upstream, holding: Proxy) -> None:
    """A slow verdict must not look like a dead connection."""
    upstream.script(Stream(streams.text_stream([HANGS, " more"])))
    reply = exchange(holding)
    assert reply.body.count(b": held\n\n") >= 2
    assert b"guardrail_unavailable" in reply.body


# -- upstream --------------------------------------------------------------------------------


def test_an_upstream_that_dies_after_a_forbidden_word(upstream: Upstream, proxy_for) -> None:
    """Breaking off is no way around the last check."""
    proxy = proxy_for(rules=rules.USUAL)
    events = streams.text_stream(["a", " BLUEBIRD", " x"])
    upstream.script(Stream(events, die_after=3))
    reply = exchange(proxy)
    assert b"BLUE" not in reply.body and b"no bluebirds here" in reply.body


def test_a_stream_that_stalls_delivers_what_it_has(upstream: Upstream, proxy_for) -> None:
    """Text is not kept until the next byte comes: only the unfinished word is."""
    proxy = proxy_for(rules=rules.USUAL)
    go = threading.Event()
    events = streams.text_stream(["One ", "two ", "three ", "four ", "five"])
    upstream.script(Stream(events, wait=go, wait_after=5))
    with RawClient.through(proxy) as client:
        reply = client.post(CHAT, streams.chat())
        reply.wait_body(events[4])
        go.set()
        reply.wait_end()
    assert reply.body == b"".join(events)


def test_too_much_to_hold_is_refused(upstream: Upstream, holding: Proxy) -> None:
    """The cap counts what waits, and the on-failure rule decides."""
    upstream.script(Stream(streams.text_stream([" word"] * 500)))
    reply = exchange(holding)
    assert b"guardrail_unavailable" in reply.body and b" word" not in reply.body
    assert upstream.last().wait_ended()


# -- the proxy itself ------------------------------------------------------------------------


BAD_OPTIONS = (
    ({"invariant_rules": ["/nonexistent/rules.iv"]}, "No such file"),
    ({"invariant_on_failure": "maybe"}, "got 'maybe', expected 'block' or 'pass'"),
    ({"invariant_stream": "fast"}, "got 'fast'"),
    ({"invariant_deadline_ms": 0}, "invariant_deadline_ms: got 0, expected 1 or more"),
    ({"invariant_hosts": ["https://x/"]}, "expected a host name"),
    ({"stream_large_bodies": "1m"}, "stream_large_bodies"),
    ({"invariant_rule": "forgot-the-s.inv"}, "no such option; did you mean invariant_rules?"),
)


@pytest.fixture(scope="module")
def bad_starts(
    _the_upstream: Upstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Proxy]]:
    """All at once: one alone leaves the other core idle."""
    started = [
        Proxy(_the_upstream, tmp_path_factory.mktemp("bad"), options=options).launch()
        for options, _ in BAD_OPTIONS
    ]
    yield started
    for proxy in started:
        proxy.stop()


@pytest.mark.parametrize(("number", "says"), list(enumerate(says for _, says in BAD_OPTIONS)))
def test_a_bad_option_stops_the_start(bad_starts: list[Proxy], number: int, says: str) -> None:
    """Which option, what it was, what was expected; and no proxy that does not guard."""
    ended = bad_starts[number].wait_ended()
    assert ended.code != 0 and says in ended.log


def test_a_rule_file_that_cannot_be_parsed_stops_the_start(upstream: Upstream, start_proxy) -> None:
    """A proxy without the rules that were asked for would be worse than none."""
    ended = start_proxy(rules={"broken.iv": 'raise "x" if: (('}, wait=False).wait_ended()
    assert ended.code != 0 and "broken" in ended.log


def test_a_reverse_target_that_is_not_guarded_stops_the_start(
    upstream: Upstream, start_proxy
) -> None:
    """mitmproxy would tunnel it: everything would pass unscanned."""
    proxy = start_proxy(mode="reverse:https://example.com@0", wait=False)
    ended = proxy.wait_ended()
    assert ended.code != 0 and "not guarded" in ended.log


def test_a_reload_in_the_middle_of_a_stream_changes_nothing_for_it(
    upstream: Upstream, start_proxy, tmp_path: Path
) -> None:
    """What a stream needs it carries itself; the old engine serves it to its end."""
    copy = tmp_path / "addon"
    shutil.copytree(ADDON, copy, ignore=shutil.ignore_patterns("*.pyc.*"))  # being written
    rule = tmp_path / "rule.iv"
    rule.write_text(rules.NO_BLUEBIRD)
    proxy = start_proxy(
        addon=False,
        scripts=[copy / "invariant.py"],
        options={
            "invariant_rules": str(rule),
            "invariant_starter_rules": False,  # a second to read, twice
            "invariant_workers": 2,
            "invariant_certs": str(tmp_path / "certs"),
        },
        environment={"STAGE_BARE": ""},
        wait=False,
    )
    proxy.certs = tmp_path / "certs"
    proxy.addon = True
    proxy.wait_ready()
    first = set(proxy.workers())
    go = threading.Event()
    held = Stream(streams.text_stream(["a ", "b ", "BLUEBIRD "]), wait=go, wait_after=3)
    slow = Json(streams.completion("whole"), wait=go)
    upstream.script(lambda call: held if json.loads(call.body)["stream"] else slow)
    with RawClient.through(proxy) as client, RawClient.through(proxy) as other:
        whole = other.post(CHAT, streams.chat(stream=False))
        reply = client.post(CHAT, streams.chat()).wait_body(b"a ")
        since = proxy.log_size()
        os.utime(copy / "invariant.py", (time.time() + 5, time.time() + 5))
        proxy.wait_log("judging by rule", 30, since=since)
        assert exchange(proxy, "BLUEBIRD").status == 400
        assert first <= set(proxy.workers()), "the old engine was ended too early"
        go.set()
        reply.wait_end()
        assert whole.wait_end().status == 200
    assert b"no bluebirds here" in reply.body and b"BLUE" not in reply.body
    wait_until(lambda: not first & set(proxy.workers()), 15, "the old engine to be drained")


def test_a_worker_that_is_stopped_is_replaced_at_the_deadline(
    upstream: Upstream, quick: Proxy
) -> None:
    """Suspended, or swapped out for good: it neither answers nor dies by itself. (The last test of
    that proxy: one of two may stay stopped.)"""
    stream = Stream(streams.text_stream(WORDS))
    upstream.script(stream)
    for pid in quick.workers():
        os.kill(pid, signal.SIGSTOP)
    replies = [exchange(quick) for _ in range(4)]
    assert replies[0].status == 400 and b"no verdict within 500 ms" in replies[0].body
    assert replies[-1].body == stream.body()
