"""Sending by OTLP: what a receiver gets, and what each of its answers means."""

from __future__ import annotations

import sys
import threading
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from invariant_addon.core.trace import Finding, Timing, Trace
from invariant_addon.core.verdict import Address
from invariant_addon.traces import otlp, otlp_form
from invariant_addon.traces.otlp import (
    PACKAGE,
    MissingPackageError,
    OtlpSink,
    read_headers,
    refused,
)
from invariant_addon.traces.sink import Dead, Retry, Sent

ROOT = Path(__file__).parents[2]
KEY = "a-very-secret-key"
NOW = 1_700_000_000.0
TRACE = Trace(
    id="inv_1",
    started=NOW,
    status="blocked",
    endpoint="chat.completions",
    model="gpt-4o",
    stream=True,
    parameters={"temperature": 0.5, "max_tokens": 7},
    messages=({"role": "user", "content": "the \ud800 bluebird 😀"},),
    choices=({"role": "assistant", "content": "flies"},),
    finishes=("stop",),
    findings=(
        Finding({"id": "7", "name": "birds"}, "a bird", "blocked", (Address(0, "content", 6, 14),)),
    ),
    timing=Timing(20.0),
)


@dataclass
class Receiver:
    """Answers as it is told, and keeps what it got."""

    url: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    answer: bytes = b""
    limit: int = 2**30
    got: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    told = Receiver()

    class Answering(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            told.got.append((self.path, headers, body))
            self.send_response(413 if len(body) > told.limit else told.status)
            for name, value in told.headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(told.answer)))
            self.end_headers()
            self.wfile.write(told.answer)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    told.url = f"http://127.0.0.1:{server.server_port}"
    yield told
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def service() -> Any:
    """The protocol's messages."""
    return pytest.importorskip(
        "opentelemetry.proto.collector.trace.v1.trace_service_pb2",
        reason="opentelemetry-proto (the extra `otlp`) is not installed",
    )


def send(receiver: Receiver, trace: Trace = TRACE, **more: Any) -> Any:
    sink = OtlpSink(receiver.url, clock=lambda: NOW, timeout=2, **more)
    try:
        return sink.deliver(trace, 1)
    finally:
        sink.close()


def spans_of(service: Any, body: bytes) -> list[Any]:
    request = service.ExportTraceServiceRequest.FromString(body)
    (resource,) = request.resource_spans
    (scope,) = resource.scope_spans
    return list(scope.spans)


def values_of(span: Any) -> dict[str, Any]:
    found = {}
    for entry in span.attributes:
        kind = entry.value.WhichOneof("value")
        value = getattr(entry.value, kind)
        if kind == "array_value":
            value = tuple(item.string_value for item in value.values)
        found[entry.key] = value
    return found


def test_a_receiver_reads_what_the_form_says(receiver: Receiver, service: Any) -> None:
    """Every value with its type, as OTLP/HTTP wants it."""
    outcome = send(receiver, content=True, headers={"api-key": KEY}, server="api.openai.com")
    wanted = otlp_form.spans(TRACE, content=True, server="api.openai.com")
    assert outcome == Sent(wanted[0].trace_id.hex())
    ((path, headers, body),) = receiver.got
    assert path == "/v1/traces"
    assert headers["content-type"] == "application/x-protobuf"
    assert headers["api-key"] == KEY
    call, finding = spans_of(service, body)
    for span, plain in zip((call, finding), wanted, strict=True):
        assert span.name == plain.name
        assert (span.trace_id, span.span_id) == (plain.trace_id, plain.span_id)
        assert (span.start_time_unix_nano, span.end_time_unix_nano) == (plain.start, plain.end)
        assert values_of(span) == plain.attributes
    assert finding.parent_span_id == call.span_id and call.parent_span_id == b""
    assert (call.kind, finding.kind) == (call.SPAN_KIND_CLIENT, call.SPAN_KIND_INTERNAL)
    assert (call.status.code, call.status.message) == (2, "a bird")
    assert [event.name for event in call.events] == ["gen_ai.evaluation.result"]


def test_a_second_try_sends_the_same_bytes(receiver: Receiver, service: Any) -> None:
    """The receiver can tell that it has it already."""
    receiver.status = 503
    assert send(receiver) == Retry(f"{receiver.url[7:]} is busy or down (503)", is_outage=True)
    receiver.status = 200
    assert isinstance(send(receiver), Sent)
    first, second = (body for _, _, body in receiver.got)
    assert first == second
    assert b"bluebird" not in first


def test_a_rejection_with_status_200_is_a_rejection(receiver: Receiver, service: Any) -> None:
    """Partial success: the specification forbids to try again."""
    response = service.ExportTraceServiceResponse()
    response.partial_success.rejected_spans = 2
    response.partial_success.error_message = "no\x1b[2Jroom"
    receiver.answer = response.SerializeToString()
    assert send(receiver) == Dead(f"{receiver.url[7:]} rejected it: no [2Jroom")
    response.partial_success.rejected_spans = 0
    receiver.answer = response.SerializeToString()
    assert isinstance(send(receiver), Sent)  # a warning
    receiver.answer = b'{"partialSuccess":{}}'
    assert isinstance(send(receiver), Sent)
    receiver.answer = b"<html>hello"
    receiver.headers = {"content-type": "text/html; charset=utf-8"}
    assert "web page" in send(receiver).note


def test_what_was_said_is_left_out_where_it_is_too_large(receiver: Receiver, service: Any) -> None:
    """That a call was blocked must arrive, however long the conversation is."""
    long = replace(TRACE, messages=({"role": "user", "content": "x" * 50_000},))
    receiver.limit = 40_000
    assert isinstance(send(receiver, long, content=True), Sent)
    assert len(receiver.got) == 2
    call, _ = spans_of(service, receiver.got[1][2])
    assert values_of(call)["invariant.content_omitted"] is True
    assert "gen_ai.input.messages" not in values_of(call)
    receiver.limit = 10
    assert send(receiver, long, content=True) == Dead(f"too large for {receiver.url[7:]}")


def test_what_no_receiver_takes_is_not_sent(
    receiver: Receiver, service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The specification's limit holds for senders, too."""
    monkeypatch.setattr(otlp, "MAX_REQUEST", 3_000)
    long = replace(TRACE, messages=({"role": "user", "content": "x" * 5_000},))
    assert isinstance(send(receiver, long, content=True), Sent)
    ((_, _, body),) = receiver.got
    assert len(body) <= 3_000


def test_a_receiver_that_is_away_is_asked_later(service: Any) -> None:
    """Nothing is lost while it restarts."""
    outcome = OtlpSink("http://127.0.0.1:9", timeout=1).deliver(TRACE, 1)
    assert isinstance(outcome, Retry) and "127.0.0.1:9 cannot be reached" in outcome.note


def test_the_environment_cannot_lead_it_through_the_proxy(
    receiver: Receiver, service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HTTPS_PROXY may be this very proxy."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    assert isinstance(send(receiver), Sent)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that helps: this is an extra, and most people do not have it."""
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    for name in [name for name in sys.modules if name.startswith("opentelemetry.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(MissingPackageError, match=r"-m pip install 'opentelemetry-proto"):
        OtlpSink("http://127.0.0.1:4318")


def test_the_package_is_the_one_of_the_extra() -> None:
    """Two places name it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["optional-dependencies"]["otlp"] == [PACKAGE]


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_busy_receiver_says_how_long_to_wait(status: int) -> None:
    """In seconds or as a date; what is neither, or absurd, is the sender's to decide."""
    after = formatdate(NOW + 90, usegmt=True)
    for header, seconds in [
        ("", None),
        ("7", 7.0),
        ("-5", 0.0),
        ("99999999", 3600.0),
        ("nan", None),
        ("soon", None),
        (after, 90.0),
    ]:
        outcome = refused(status, header, "h", NOW)
        assert outcome == Retry(
            f"h is busy or down ({status})", is_outage=True, pause=seconds or 0.0
        )


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "did not accept the key"),
        (403, "did not accept the key"),
        (302, "takes no traces there"),
        (404, "takes no traces there"),
        (415, "does not read protobuf"),
    ],
)
def test_what_a_person_has_to_mend_costs_no_trace(status: int, said: str) -> None:
    """A wrong key or URL refuses them all: they wait, and one of them asks now and then."""
    outcome = refused(status, "7", "h", NOW)
    assert isinstance(outcome, Retry) and said in outcome.note
    assert outcome.is_outage and outcome.advice and outcome.pause >= 60


@pytest.mark.parametrize("status", [400, 408, 500])
def test_other_refusals_are_final(status: int) -> None:
    """The specification: all other 4xx and 5xx must not be tried again."""
    assert refused(status, "7", "h", NOW) == Dead(f"h refused it ({status})")


@pytest.mark.parametrize(
    ("url", "sent_to"),
    [
        ("http://h:4318", "http://h:4318/v1/traces"),
        ("http://h:4318/", "http://h:4318/v1/traces"),
        ("https://h/api/public/otel", "https://h/api/public/otel/v1/traces"),
        ("https://h/v1/traces", "https://h/v1/traces"),
        ("https://h/api/v0.2/traces", "https://h/api/v0.2/traces"),
    ],
)
def test_the_path_is_added_where_it_is_missing(url: str, sent_to: str) -> None:
    """Backends print either in their manuals."""
    assert str(otlp.endpoint(url)) == sent_to


@pytest.mark.parametrize(
    "url",
    ["", "h:4318", "ftp://h", "http://", f"http://u:{KEY}@h", f"http://h?key={KEY}", "ht\x00"],
)
def test_a_wrong_url_is_refused_and_not_quoted(url: str) -> None:
    """It may hold a password."""
    with pytest.raises(ValueError, match="expected") as caught:
        otlp.endpoint(url)
    assert KEY not in str(caught.value)


def test_headers_are_read_as_opentelemetry_does() -> None:
    """So the line of the backend's manual can be pasted."""
    assert read_headers("") == {}
    assert read_headers("api-key=a%20b, x=Basic YQ==,") == {"api-key": "a b", "x": "Basic YQ=="}
    for wrong in (f"={KEY}", KEY, f"a b={KEY}", f"x={KEY}%0d%0aY: 1", f"ü={KEY}"):
        with pytest.raises(ValueError, match="header 1") as caught:
            read_headers(wrong)
        assert KEY not in str(caught.value)
