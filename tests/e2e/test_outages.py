"""Explorer and guardrails service are down, slow, broken: what client, upstream and log see of it.

The module's proxies run with hurry.py, so that pauses between two tries are short.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from stage import streams
from stage.explorer import KEY, Explorer, policy
from stage.proxy import ROOT, Proxy
from stage.raw import CHAT, RawClient, Reply
from stage.script import Json, Stream, wait_until
from stage.service import Play, Service
from stage.upstream import Upstream

HURRY = ROOT / "tests" / "e2e" / "hurry.py"
DEADLINE = 1.2
SLACK = 4.0
"""Seconds that a busy machine may add."""
WAIT = 1.0
"""Seconds for which a call would have to wait for the Explorer if it did (hurry.py)."""
MARK = "MARKEDWORD"
"""In everything that is said to the model and by it."""
SECRET = "ghp_" + "x7Kq2Lm9Rt4Vw8Zc3Nb6Hd1Fs5Gj0PyQeUaI"
"""A starter rule knows it."""
REPLY = Json(streams.completion(f"fine {MARK}"))


type Options = dict[str, bool | str]


def rule(name: str) -> str:
    return f'raise "no {name}" if:\n    (m: Message)\n    "{name.upper()}WORD" in m.content\n'


@dataclass(frozen=True)
class Stage:
    """block, pass_: rules of a file and of the dataset of an Explorer that was seen, judged by a
    service. unseen_block, unseen_pass: the same rules, judged on this machine, and an Explorer
    that never answered."""

    explorer: Explorer
    unseen: Explorer
    service: Service
    block: Proxy
    pass_: Proxy
    unseen_block: Proxy
    unseen_pass: Proxy

    @property
    def proxies(self) -> tuple[Proxy, ...]:
        return self.block, self.pass_, self.unseen_block, self.unseen_pass


@pytest.fixture(scope="module")
def _the_stage(
    _the_upstream: Upstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    explorer, unseen, service = Explorer().start(), Explorer().start(), Service().start()
    for one in (explorer, unseen):
        one.set("ours", policy("set", rule("dataset")))
    unseen.status = 500

    def launch(name: str, explorer: Explorer, **options: bool | str) -> Proxy:
        given: dict[str, bool | int | str] = {
            "invariant_explorer": explorer.url,
            "invariant_dataset": "ours",
            "invariant_deadline_ms": int(DEADLINE * 1000),
        }
        return Proxy(
            _the_upstream,
            tmp_path_factory.mktemp(name),
            rules=[rule("file")],
            options=given | options,
            scripts=[HURRY],
            environment={"INVARIANT_API_KEY": KEY},
        ).launch()

    far: Options = {"invariant_engine": service.url}
    passing: Options = {"invariant_on_failure": "pass"}
    meanwhile: Options = {"invariant_request_check": "concurrent", "invariant_starter_rules": True}
    stage = Stage(
        explorer,
        unseen,
        service,
        launch("block", explorer, **far),
        launch("pass", explorer, **far, **passing, **meanwhile),
        launch("unseen-block", unseen),
        launch("unseen-pass", unseen, **passing),
    )
    for proxy in stage.proxies:
        proxy.wait_ready(60)
    _the_upstream.script(REPLY)
    for proxy in (stage.block, stage.pass_):  # what they judge for the first time takes long
        wait_well(proxy)
    yield stage
    for proxy in stage.proxies:
        proxy.tell_to_stop()
    for proxy in stage.proxies:
        proxy.stop()
    for fake in (explorer, unseen, service):
        fake.stop()


@pytest.fixture
def stage(
    upstream: Upstream, _the_stage: Stage, watch: Callable[[Proxy], Proxy]
) -> Iterator[Stage]:
    """All is well before a test; only the Explorer of `unseen` never was."""
    upstream.script(REPLY)
    for proxy in _the_stage.proxies:
        watch(proxy)
    yield _the_stage
    _the_stage.explorer.mend()
    mend(_the_stage.service)
    errors = [*_the_stage.explorer.errors, *_the_stage.unseen.errors, *_the_stage.service.errors]
    assert not errors, f"a fake itself failed: {errors}"


@pytest.fixture
def well(stage: Stage) -> Stage:
    """And the proxies know it."""
    for proxy in (stage.block, stage.pass_):
        wait_well(proxy)
    return stage


def mend(service: Service) -> None:
    service.keys = None
    service.play(Play())
    service.up()


_OPEN: list[RawClient] = []


@pytest.fixture(autouse=True)
def _hang_up() -> Iterator[None]:
    """Also where a test does not read its reply to the end."""
    yield
    while _OPEN:
        _OPEN.pop().close()


def post(proxy: Proxy, word: str = "hello", *, stream: bool = False) -> Reply:
    _OPEN.append(RawClient.through(proxy))
    return _OPEN[-1].post(CHAT, streams.chat(f"{MARK} {word}", stream=stream))


def end(reply: Reply) -> Reply:
    """Its end; nothing in a refusal tells a key, or what was said."""
    reply.wait_end()
    reply.client.close()
    if reply.status != 200:
        for secret in (KEY, MARK, "sk-stage", SECRET):
            assert secret.encode() not in reply.body
    return reply


def ask(proxy: Proxy, word: str = "hello") -> Reply:
    return end(post(proxy, word))


def code(reply: Reply) -> str:
    """Of the error; "" if there is none."""
    if reply.status == 200:
        assert reply.body == REPLY.body()
        return ""
    error = reply.json()["error"]
    assert reply.status == 400 and isinstance(error, dict)
    return str(error["code"])


def message(reply: Reply) -> str:
    error = reply.json()["error"]
    assert isinstance(error, dict)
    return str(error["message"])


def seconds(reply: Reply) -> float:
    assert reply.ended_at is not None
    return float(reply.ended_at - reply.sent_at)


def count(proxy: Proxy, what: str) -> int:
    calls = proxy.health()["calls"]
    assert isinstance(calls, dict)
    return int(calls[what])


def wait_well(proxy: Proxy) -> None:
    """It judges by all its rules."""

    def is_well() -> bool:
        replies = [post(proxy, word) for word in ("hello", "FILEWORD", "DATASETWORD")]
        codes = [code(end(reply)) for reply in replies]
        return codes == ["", "guardrail_violation", "guardrail_violation"]

    wait_until(is_well, 30, "verdicts")


def lines(log: str, part: str) -> list[str]:
    return [line for line in log.splitlines() if part in line]


# -- the Explorer

type Break = Callable[[Explorer], None]


def turn(**knobs: object) -> Break:
    def now(explorer: Explorer) -> None:
        for name, value in knobs.items():
            setattr(explorer, name, value)

    return now


EXPLORER: dict[str, tuple[Break, str]] = {
    "down": (Explorer.down, "cannot be reached"),
    "slow": (turn(delay=10.0), "gave no policies within 1 s"),
    "hang": (turn(hang=True), "gave no policies within 1 s"),
    "500": (turn(status=500), "answered with status 500"),
    "401": (turn(status=401), "did not accept the Invariant API key: set INVARIANT_API_KEY"),
    "not JSON": (turn(body=b"<html>"), "cannot be read: is that its address?"),
    "wrong shape": (turn(body=b'{"policies": [{"rule": 1}]}', only="/policy"), "cannot be read"),
    "truncated": (turn(cut=True), "broke"),
    "huge": (turn(body=b" " * (5 * 2**20)), "is larger than"),
}


@pytest.mark.parametrize("fault", EXPLORER)
def test_nobody_notices_that_the_explorer_fails_but_the_log(stage: Stage, fault: str) -> None:
    """Its policies were seen, so they stay in force, and no model call depends on it."""
    damage, reason = EXPLORER[fault]
    proxy, since, took = stage.block, stage.block.log_size(), []
    damage(stage.explorer)
    until = time.monotonic() + 20
    while time.monotonic() < until:
        clean, broken = ask(proxy), ask(proxy, "DATASETWORD")
        assert code(clean) == "" and code(broken) == "guardrail_violation"
        took += [seconds(clean), seconds(broken)]
        if lines(proxy.log(since), reason):
            until = min(until, time.monotonic() + 0.3)  # to see that it is not said again
        time.sleep(0.03)
    assert sorted(took)[len(took) // 2] < WAIT / 2
    stage.explorer.mend()
    wait_until(
        lambda: code(ask(proxy)) == "" and bool(lines(proxy.log(since), "again")), 20, "its return"
    )
    log = proxy.log(since)
    (line,) = lines(log, "in force")
    assert reason in line
    assert len(lines(log, " again")) == 1 and not lines(log, "no verdict")


@pytest.mark.parametrize("fault", EXPLORER)
def test_policies_that_were_never_seen_fail_as_configured(
    upstream: Upstream, stage: Stage, fault: str
) -> None:
    """Nobody knows what they forbid. The floor of files is judged all the same."""
    damage, reason = EXPLORER[fault]
    stage.unseen.mend()
    damage(stage.unseen)
    calls = len(upstream.calls)
    replies: list[Reply] = []

    def is_said() -> bool:
        replies.append(ask(stage.unseen_block))
        return reason in message(replies[-1])

    try:
        wait_until(is_said, 20, reason)
        assert {code(reply) for reply in replies} == {"guardrail_unavailable"}
        assert max(map(seconds, replies)) < DEADLINE + SLACK
        assert "dataset ours" in message(replies[-1]) and len(upstream.calls) == calls
        before = count(stage.unseen_pass, "not_scanned")
        passed, floor = ask(stage.unseen_pass), ask(stage.unseen_pass, "FILEWORD")
        assert code(passed) == "" and code(floor) == "guardrail_violation"
        assert max(seconds(passed), seconds(floor)) < DEADLINE + SLACK
        assert count(stage.unseen_pass, "not_scanned") == before + 1
    finally:
        stage.unseen.status = 500
        stage.unseen.up()


def test_an_outage_from_the_start_is_in_the_log_once(stage: Stage) -> None:
    """Under `pass` nothing else tells the owner that calls go out unjudged."""
    log = stage.unseen_pass.log()
    began, _, _ = log.partition("/v1/chat/completions")
    (line,) = lines(began, "none from before")
    assert "dataset ours" in line and "status 500" in line


# -- the guardrails service

type Ruin = Callable[[Service], None]


def played(play: Play) -> Ruin:
    return lambda service: service.play(play)


def lock(service: Service) -> None:
    service.keys = {"Bearer another"}


SERVICE: dict[str, tuple[Ruin, str]] = {
    "down": (Service.down, "is not there: connection refused"),
    "slow": (played(Play(delay=10)), "within 1200 ms"),
    "hang": (played(Play(how="hang")), "within 1200 ms"),
    "500": (played(Play(status=500, body={"detail": MARK})), "failed (500)"),
    "401": (lock, "did not accept the Invariant API key (401): set INVARIANT_API_KEY"),
    "not JSON": (played(Play(body=b"<html>" + MARK.encode())), "else than JSON"),
    "wrong shape": (played(Play(body={"errors": [MARK]})), "without a list of results"),
    "truncated": (played(Play(body={"result": []}, how="truncate")), "broke the connection"),
    "huge": (played(Play(body={}, how="huge")), "more than 8388608 bytes"),
}


@pytest.mark.parametrize("fault", SERVICE)
def test_a_service_that_fails_is_an_outage_in_time(stage: Stage, fault: str) -> None:
    """`block` refuses and says why; `pass` passes, marked, what this machine finds clean. When it
    is back, so are the verdicts."""
    damage, reason = SERVICE[fault]
    both = (stage.block, stage.pass_)
    since = [proxy.log_size() for proxy in both]
    before = count(stage.pass_, "not_scanned")
    damage(stage.service)
    replies = post(stage.block), post(stage.pass_), post(stage.pass_, SECRET)
    blocked, passed, secret = map(end, replies)
    assert code(blocked) == "guardrail_unavailable" and reason in message(blocked)
    assert code(passed) == "" and code(secret) == "guardrail_violation"
    assert seconds(blocked) < DEADLINE + SLACK
    assert max(seconds(passed), seconds(secret)) < 2 * DEADLINE + SLACK  # request and reply
    assert count(stage.pass_, "not_scanned") == before + 1
    mend(stage.service)
    for proxy, start in zip(both, since, strict=True):
        wait_well(proxy)
        (line,) = lines(proxy.log(start), "the guardrails gave no verdict")
        assert reason in line
        assert len(lines(proxy.log(start), "the guardrails give verdicts again")) == 1


# -- streams

WORDS = [f"{MARK}{n} " for n in range(12)]


@pytest.mark.parametrize("fault", ["down", "500", "not JSON", "hang"])
def test_a_service_that_fails_midway_holds_the_rest(
    upstream: Upstream, well: Stage, fault: str
) -> None:
    """What was judged is out; of the rest the last check decides, as configured."""
    gate = threading.Event()
    stage, answer = well, Stream(streams.text_stream(WORDS), wait=gate, wait_after=6)
    upstream.script(answer)
    before = count(stage.pass_, "not_scanned")
    blocked, passed = post(stage.block, stream=True), post(stage.pass_, stream=True)
    for reply in (blocked, passed):
        reply.wait_body(WORDS[3].encode())
    SERVICE[fault][0](stage.service)
    gate.set()
    blocked.wait_end()
    assert b"guardrail_unavailable" in blocked.body
    assert SERVICE[fault][1].encode() in blocked.body or b"in a row" in blocked.body
    assert WORDS[6].encode() not in blocked.body and KEY.encode() not in blocked.body
    assert passed.wait_end().body == answer.body()
    assert count(stage.pass_, "not_scanned") == before + 1


def test_a_stream_goes_on_when_the_service_is_back(upstream: Upstream, well: Stage) -> None:
    """A short outage costs a pause, and nothing else."""
    first, second = threading.Event(), threading.Event()
    answer = Stream(streams.text_stream(WORDS), gates={6: first, 10: second})
    upstream.script(answer)
    reply = post(well.block, stream=True)
    reply.wait_body(WORDS[3].encode())
    well.service.down()
    first.set()
    reply.listen(0.5)
    assert WORDS[7].encode() not in reply.body and not reply.end
    well.service.up()
    reply.wait_body(WORDS[7].encode())
    second.set()
    assert reply.wait_end().body == answer.body()


# -- a service that is only far away


def think(seconds: float) -> Callable[..., Json]:
    """An upstream that thinks for so long before it answers."""

    def answer(_: object) -> Json:
        thought = threading.Event()
        threading.Timer(seconds, thought.set).start()
        return Json(REPLY.obj, wait=thought)

    return answer


def test_concurrent_hides_what_before_shows(upstream: Upstream, well: Stage) -> None:
    """200 ms of judging behind 400 ms of thinking, instead of in front of them."""
    stage = well
    upstream.script(think(0.4))
    stage.service.play(Play(delay=0.2))
    took: dict[Proxy, list[tuple[float, float]]] = {stage.block: [], stage.pass_: []}
    for _ in range(2):
        for proxy, found in took.items():
            reply = ask(proxy)
            assert code(reply) == ""
            found.append((upstream.last().at - reply.sent_at, seconds(reply)))
    before, concurrent = (map(min, zip(*took[p], strict=True)) for p in (stage.block, stage.pass_))
    (sent_before, all_before), (sent_concurrent, all_concurrent) = before, concurrent
    assert sent_before > 0.2 and sent_concurrent < sent_before - 0.1
    assert all_before > 0.8 and all_concurrent < all_before - 0.1


def test_a_stream_asks_a_slow_service_less_often(upstream: Upstream, well: Stage) -> None:
    """Windows grow with the latency, so that a service is not buried under prefixes."""
    answer = Stream(streams.text_stream([f"{MARK}{n} " for n in range(40)]), pace=0.02)
    upstream.script(answer)
    asked = []
    for delay in (0.0, 0.2):
        well.service.play(Play(delay=delay))
        before = well.service.count
        assert end(post(well.block, stream=True)).body == answer.body()
        asked.append(well.service.count - before)
    fast, slow = asked
    assert slow < fast / 2 and slow < 10


# -- what nobody may read


def test_no_key_and_nothing_that_was_said_is_in_a_log(stage: Stage) -> None:
    """All that the proxies wrote during all of this. (Refusals: see `end`.)"""
    SERVICE["500"][0](stage.service)
    assert code(ask(stage.block, SECRET)) == "guardrail_unavailable"
    mend(stage.service)
    for proxy in stage.proxies:
        log = proxy.log()
        assert lines(log, "status 500" if proxy.folder.name.startswith("unseen") else "(500)")
        for secret in (KEY, MARK, "sk-stage", SECRET, "Traceback"):
            assert secret not in log
