"""The stream layer, without sockets: events in, commands out, hooks answered by hand."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Callable

import pytest
from mitmproxy import connection, http
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.addons.tlsconfig import TlsConfig
from mitmproxy.connection import ConnectionState
from mitmproxy.proxy import commands, context, events
from mitmproxy.proxy.layers.http import HTTPMode
from mitmproxy.test import taddons, tflow

from invariant_addon.layers.hooks import PATIENCE, InvariantVerdictHook, PendingCheck
from invariant_addon.layers.http import GuardedHttpLayer
from invariant_addon.layers.seals import SEALED, seal
from invariant_addon.layers.stream import LONGEST_SLEEP

REQUEST = b"POST http://api.openai.com/v1/x HTTP/1.1\r\nHost: api.openai.com\r\n\r\n"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


class Scripted:
    """A guard that does what the test says: asks for a check at each read, releases on verdict."""

    def __init__(self, *, withholds_head: bool = False) -> None:
        self.withholds_head = withholds_head
        self.held = b""
        self.ready = b""
        self.asks = False
        self.ended = False
        self.cut = False
        self.refused = False
        self.over = False
        self.why_lost = ""
        self.wake: float | None = None

    def __call__(self, data: bytes) -> list[bytes]:
        return []

    def feed(self, data: bytes, now: float) -> None:
        self.held += data
        self.asks = True

    def end(self, now: float, *, cut: bool) -> None:
        self.ended, self.cut, self.asks = True, cut, True

    def next_query(self, now: float) -> object | None:
        wanted, self.asks = self.asks, False
        return object() if wanted else None

    def take(self, now: float) -> bytes:
        ready, self.ready = self.ready, b""
        return ready

    def wake_at(self, now: float) -> float | None:
        return self.wake

    @property
    def done(self) -> bool:
        return self.over

    def refusal_event(self) -> bytes:
        return b"data: refused\n\n"

    def refusal_response(self) -> http.Response:
        return http.Response.make(400, b"refused")

    def lost(self, reason: str) -> None:
        self.why_lost = reason

    # what the test says
    def allow(self) -> None:
        self.ready, self.held = self.ready + self.held, b""
        self.over = self.ended

    def refuse(self) -> None:
        self.refused = self.over = True


class Wire:
    """A GuardedHttpLayer between a client and an upstream that are only bytes."""

    def __init__(self, guard: Scripted) -> None:
        self.guard = guard
        self.client = tflow.tclient_conn()
        self.client.alpn = None
        self.client.state = ConnectionState.OPEN
        with taddons.context(Proxyserver(), TlsConfig()) as tctx:
            opts = tctx.options
        self.context = context.Context(self.client, opts)
        self.layer = GuardedHttpLayer(self.context, HTTPMode.regular)
        self.server: connection.Server | None = None
        self.to_client = b""
        self.to_server = b""
        self.checks: list[InvariantVerdictHook] = []
        self.wakeups: list[commands.RequestWakeup] = []
        self.hooks: list[str] = []
        self.closed: list[connection.Connection] = []
        self.held_hook: commands.StartHook | None = None
        self.hold = ""
        self.flow: http.HTTPFlow | None = None
        self.feed(events.Start())

    def feed(self, event: events.Event) -> None:
        todo = [event]
        while todo:
            for command in self.layer.handle_event(todo.pop(0)):
                todo.extend(self._do(command))

    def _do(self, command: commands.Command) -> list[events.Event]:
        if isinstance(command, InvariantVerdictHook):
            self.checks.append(command)
        elif isinstance(command, commands.StartHook):
            self.hooks.append(command.name)
            flow = command.args()[0]
            if isinstance(flow, http.HTTPFlow):
                self.flow = flow
                if command.name == "responseheaders" and flow.response:
                    flow.response.stream = self.guard
            if command.name == self.hold:
                self.held_hook = command
            elif command.blocking:
                return [events.HookCompleted(command)]
        elif isinstance(command, commands.OpenConnection):
            self.server = command.connection
            self.server.state = ConnectionState.OPEN
            return [events.OpenConnectionCompleted(command, None)]
        elif isinstance(command, commands.SendData):
            if command.connection is self.client:
                self.to_client += command.data
            else:
                self.to_server += command.data
        elif isinstance(command, commands.CloseConnection):
            self.closed.append(command.connection)
            command.connection.state = ConnectionState.CLOSED
        elif isinstance(command, commands.RequestWakeup):
            self.wakeups.append(command)
        return []

    def request(self) -> Wire:
        self.feed(events.DataReceived(self.client, REQUEST))
        return self

    def upstream(self, data: bytes) -> Wire:
        assert self.server
        self.feed(events.DataReceived(self.server, data))
        return self

    def upstream_gone(self) -> Wire:
        assert self.server
        self.server.state = ConnectionState.CLOSED
        self.feed(events.ConnectionClosed(self.server))
        return self

    def client_gone(self) -> Wire:
        self.client.state = ConnectionState.CLOSED
        self.feed(events.ConnectionClosed(self.client))
        return self

    def verdict(self, decide: Callable[[], None], check: int = -1) -> Wire:
        decide()
        self.feed(events.HookCompleted(self.checks[check]))
        return self

    @property
    def body(self) -> bytes:
        return self.to_client.partition(b"\r\n\r\n")[2]


@pytest.fixture
def guard() -> Scripted:
    return Scripted()


@pytest.fixture
def wire(guard: Scripted) -> Wire:
    return Wire(guard).request()


def test_nothing_goes_on_before_the_verdict(wire: Wire, guard: Scripted) -> None:
    """What the whole layer is for."""
    wire.upstream(HEAD + chunked(b"one"))
    assert wire.to_client == HEAD
    wire.verdict(guard.allow)
    assert wire.body == chunked(b"one")


def test_data_is_taken_in_while_a_verdict_is_awaited(wire: Wire, guard: Scripted) -> None:
    """The stream is not paused: the guard counts and batches what comes meanwhile."""
    wire.upstream(HEAD + chunked(b"one")).upstream(chunked(b"two"))
    assert guard.held == b"onetwo"
    assert len(wire.checks) == 2 and wire.checks[0].check.cancelled


def test_the_answer_to_a_superseded_check_changes_nothing(wire: Wire, guard: Scripted) -> None:
    """Only the newest check may move the stream."""
    wire.upstream(HEAD + chunked(b"one")).upstream(chunked(b"two"))
    wire.verdict(guard.allow, check=0)
    assert wire.body == b""
    wire.verdict(lambda: None, check=1)
    assert wire.body == chunked(b"onetwo")


def test_the_end_waits_for_the_last_verdict(wire: Wire, guard: Scripted) -> None:
    """mitmproxy could send nothing after it."""
    wire.upstream(HEAD + chunked(b"one") + END)
    assert wire.body == b"" and "response" not in wire.hooks
    wire.verdict(guard.allow)
    assert wire.body == chunked(b"one") + END
    assert wire.hooks[-1] == "response"


def test_a_refusal_ends_the_stream_and_cancels_upstream(wire: Wire, guard: Scripted) -> None:
    """Nobody pays for tokens that nobody reads."""
    wire.upstream(HEAD + chunked(b"one")).verdict(guard.refuse)
    assert wire.body == chunked(b"data: refused\n\n") + END
    assert wire.server in wire.closed and wire.client not in wire.closed


def test_what_upstream_still_sends_after_a_refusal_is_ignored(guard: Scripted) -> None:
    """It was under way when the cancellation left, even while the response hook runs."""
    wire = Wire(guard)
    wire.hold = "response"
    wire.request().upstream(HEAD + chunked(b"one")).verdict(guard.refuse)
    wire.upstream(chunked(b"two") + END).upstream_gone()
    assert wire.held_hook
    wire.feed(events.HookCompleted(wire.held_hook))
    assert wire.body == chunked(b"data: refused\n\n") + END


def test_the_connection_serves_another_request_after_a_refusal(guard: Scripted) -> None:
    """Clients keep connections: a refusal is an answer, not an accident."""
    wire = Wire(guard).request().upstream(HEAD + chunked(b"one")).verdict(guard.refuse)
    wire.guard = Scripted()
    wire.to_client = b""
    wire.request().upstream(HEAD + chunked(b"fine") + END).verdict(wire.guard.allow)
    assert wire.body == chunked(b"fine") + END


def test_a_refused_reply_leaves_no_connection_behind(guard: Scripted) -> None:
    """A client that keeps its connection for a day: each refusal costs one to upstream."""
    wire = Wire(guard)
    for _ in range(3):
        wire.guard = Scripted()
        wire.request().upstream(HEAD + chunked(b"one")).verdict(wire.guard.refuse)
        assert wire.server in wire.closed
        wire.feed(events.ConnectionClosed(wire.server))  # that it is closed is no news
    assert len(wire.layer.connections) <= 2
    wire.guard, wire.to_client = Scripted(), b""
    wire.request().upstream(HEAD + chunked(b"fine") + END).verdict(wire.guard.allow)
    assert wire.body == chunked(b"fine") + END


def test_a_closed_connection_waits_for_the_stream_that_goes_by_it(
    wire: Wire, guard: Scripted
) -> None:
    """What it still says to upstream has to find it."""
    wire.upstream(HEAD + chunked(b"one")).upstream_gone()
    assert wire.server in wire.layer.connections
    wire.verdict(guard.refuse)
    assert wire.body == chunked(b"data: refused\n\n") + END


def test_a_withheld_head_makes_a_refusal_a_whole_response() -> None:
    """Mode buffer: 400 and not an error event."""
    guard = Scripted(withholds_head=True)
    wire = Wire(guard).request().upstream(HEAD + chunked(b"one"))
    assert wire.to_client == b""
    wire.verdict(guard.refuse)
    assert wire.to_client.startswith(b"HTTP/1.1 400 ") and wire.body == b"refused"


def test_a_withheld_head_goes_out_with_the_last_verdict() -> None:
    """... and otherwise the stream arrives as it was."""
    guard = Scripted(withholds_head=True)
    wire = Wire(guard).request().upstream(HEAD + chunked(b"one") + END)
    wire.verdict(guard.allow)
    assert wire.to_client == HEAD + chunked(b"one") + END


def test_an_upstream_that_breaks_off_is_judged_and_passed_on(wire: Wire, guard: Scripted) -> None:
    """The clean part is released; the client learns that it was not all."""
    wire.upstream(HEAD + chunked(b"one")).upstream_gone()
    assert guard.cut and wire.body == b"" and wire.client not in wire.closed
    wire.verdict(guard.allow)
    assert wire.body == chunked(b"one")
    assert wire.client in wire.closed and "error" in wire.hooks


def test_an_upstream_that_breaks_off_can_still_be_refused(wire: Wire, guard: Scripted) -> None:
    """A reset is no way around the last check."""
    wire.upstream(HEAD + chunked(b"one")).upstream_gone().verdict(guard.refuse)
    assert wire.body == chunked(b"data: refused\n\n") + END


def test_a_client_that_leaves_cancels_check_and_upstream(wire: Wire, guard: Scripted) -> None:
    """At once, not when the verdict comes."""
    wire.upstream(HEAD + chunked(b"one"))
    cancelled: list[bool] = []
    wire.checks[0].check.on_cancel = lambda: cancelled.append(True)
    wire.client_gone()
    assert cancelled and wire.checks[0].check.cancelled
    assert wire.server in wire.closed and guard.why_lost
    assert wire.hooks[-1] == "error"
    wire.verdict(guard.allow)
    assert wire.body == b""


def test_the_guard_is_woken_when_upstream_idles(wire: Wire, guard: Scripted) -> None:
    """Text must not wait for the next byte to be checked."""
    guard.wake = 0.0
    wire.upstream(HEAD + chunked(b"one"))
    wire.verdict(lambda: None)
    guard.ready = b": held\n\n"
    assert wire.wakeups
    wire.feed(events.Wakeup(wire.wakeups[-1]))
    assert wire.body == chunked(b": held\n\n")


def test_no_timer_is_there_for_long(wire: Wire, guard: Scripted) -> None:
    """Each is a task of mitmproxy's that nobody takes back: ten seconds of them were there at any
    time. Whoever wants to be woken later sleeps on."""
    guard.wake = time.monotonic() + 10
    wire.upstream(HEAD + chunked(b"one"))
    for count in (1, 2, 3):
        timers = [t for t in wire.wakeups if t.delay <= LONGEST_SLEEP]
        assert len(timers) == len(wire.wakeups) == count
        wire.feed(events.Wakeup(wire.wakeups[-1]))


def test_a_late_wakeup_of_a_finished_stream_does_nothing(wire: Wire, guard: Scripted) -> None:
    """The stream id belongs to the next request by then."""
    guard.wake = 0.0
    wire.upstream(HEAD + chunked(b"one") + END)
    wire.verdict(guard.allow)
    before = wire.to_client
    guard.ready = b"late"
    wire.feed(events.Wakeup(wire.wakeups[-1]))
    assert wire.to_client == before


def answered(wire: Wire) -> None:
    wire.guard.wake = time.monotonic() + 10  # a timer that is still to fire
    wire.upstream(HEAD + chunked(b"one") + END).verdict(wire.guard.allow)


def refused(wire: Wire) -> None:
    wire.upstream(HEAD + chunked(b"one")).verdict(wire.guard.refuse)


def left(wire: Wire) -> None:
    wire.upstream(HEAD + chunked(b"one")).client_gone().verdict(lambda: None)


def broken(wire: Wire) -> None:
    wire.upstream(HEAD + chunked(b"one")).upstream_gone()
    wire.verdict(lambda: None, check=0).verdict(wire.guard.allow)


def killed(wire: Wire) -> None:
    assert wire.flow
    wire.flow.kill()
    wire.upstream(HEAD)


@pytest.mark.parametrize("end", [answered, refused, left, broken, killed])
def test_a_stream_that_is_over_is_gone_at_once(
    end: Callable[[Wire], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its bodies. It waited for Python's search for garbage, which comes seldom: hundreds of
    streams were there at any time, a hundred megabytes."""
    # Its errors keep the frames that are there; dispatch.py has it done once for each kind.
    monkeypatch.setattr(http.MessageData, "__post_init__", lambda _: None)
    gc.disable()
    try:
        wire = Wire(Scripted()).request()
        end(wire)
        assert wire.flow
        flow = weakref.ref(wire.flow)
        wire.flow = None
        wire.checks.clear()
        assert flow() is None
    finally:
        gc.enable()


def test_a_stream_without_a_guard_is_mitmproxys_own(guard: Scripted) -> None:
    """Everything else on the host works as ever."""
    wire = Wire(True)  # type: ignore[arg-type]  # stream = True: mitmproxy's pass-through
    wire.request().upstream(HEAD + chunked(b"one"))
    assert wire.body == chunked(b"one") and not wire.checks


def test_pending_check_tells_whoever_runs_it() -> None:
    """A check that nobody waits for must not keep a worker."""
    check = PendingCheck(Scripted(), object())
    told: list[bool] = []
    check.on_cancel = lambda: told.append(True)
    check.cancel()
    assert check.cancelled and told


def test_what_one_read_brought_goes_out_at_once() -> None:
    """A record of TLS and a write for each of its events would cost more than all else."""

    class Open(Scripted):
        def feed(self, data: bytes, now: float) -> None:
            self.ready += data

    wire = Wire(guard := Open()).request()
    wire.upstream(HEAD + chunked(b"one") + chunked(b"two"))
    assert wire.body == chunked(b"onetwo")
    wire.upstream(chunked(b"three"))
    assert wire.body == chunked(b"onetwo") + chunked(b"three")
    wire.upstream(chunked(b"four") + END)
    assert guard.ended and wire.body.endswith(chunked(b"four"))


def test_one_timer_watches_all_requests_of_a_connection(
    guard: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A timer is a task of mitmproxy's, and keeps a call with its bodies until it fires."""
    monkeypatch.setattr(Patient, "patience", 600.0)
    wire = Patient(guard)
    for _ in range(5):
        wire.request().upstream(HEAD + chunked(b"one") + END).verdict(wire.guard.allow)
        wire.guard = Scripted()
    assert len(wire.wakeups) == 1
    wire.feed(events.Wakeup(wire.wakeups[0]))
    assert len(wire.wakeups) == 1  # nobody waits
    wire.request()
    wire.feed(events.Wakeup(wire.wakeups[1]))
    assert len(wire.wakeups) == 3 and not wire.closed


def test_a_silent_upstream_is_given_up_whoever_set_the_timer(
    guard: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first call set it; the second is the one that waits."""
    monkeypatch.setattr(Patient, "patience", 0.01)
    wire = Patient(guard).request()
    wire.upstream(HEAD + chunked(b"one") + END).verdict(guard.allow)
    wire.request()
    end = time.monotonic() + 10
    while wire.server not in wire.closed and time.monotonic() < end:
        time.sleep(0.01)
        wire.feed(events.Wakeup(wire.wakeups[-1]))
    assert wire.server in wire.closed and "error" in wire.hooks


class Patient(Wire):
    """Its addon says how long upstream may be silent."""

    patience = 0.0

    def _do(self, command: commands.Command) -> list[events.Event]:
        if isinstance(command, commands.StartHook) and command.name == "request":
            command.args()[0].metadata[PATIENCE] = self.patience
            command.args()[0].metadata[SEALED] = seal(command.args()[0].request)
        return super()._do(command)


@pytest.mark.parametrize(
    ("change", "is_seen"),
    [
        (lambda _: None, False),
        (lambda request: request.headers.update({"x-other": "1"}), False),
        (lambda request: setattr(request, "content", b"other"), True),
        (lambda request: setattr(request, "path", "/v1/other"), True),
        (lambda request: setattr(request, "method", "PUT"), True),
        (lambda request: setattr(request, "port", 1), True),
        (lambda request: setattr(request, "host", "other"), True),
        (lambda request: setattr(request, "scheme", "ftp"), True),
        (lambda request: setattr(request, "host_header", "other"), True),
        (lambda request: setattr(request, "authority", "other"), True),
        (lambda request: request.headers.add("Host", "other"), True),
        (lambda request: request.headers.update({"Content-Type": "text/plain"}), True),
        (lambda request: request.headers.add("content-encoding", "gzip"), True),
    ],
)
def test_a_seal_shows_whatever_would_be_read_otherwise(
    change: Callable[[http.Request], object], is_seen: bool
) -> None:
    """What another addon changes after the verdict must not go on unjudged."""
    request = tflow.tflow().request
    before = seal(request)
    change(request)
    assert (seal(request) != before) is is_seen


def test_a_connection_that_cannot_go_on_is_closed(wire: Wire) -> None:
    """mitmproxy raises on what it does not implement (trailers of HTTP/1), logs that, and does
    nothing more: the client waited for ever."""
    wire.request().upstream(HEAD + chunked(b"data: x\n\n"))
    with pytest.raises(NotImplementedError):
        wire.upstream(b"0\r\nX-Sum: 1\r\n\r\n")
    assert wire.client in wire.closed
