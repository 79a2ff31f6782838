"""Traces to any backend that takes OpenTelemetry: OTLP over HTTP, one trace in a request.

The messages of the protocol come from opentelemetry-proto, which only this needs. The SDK's own
exporter is not used: it waits and tries again by itself, for some seconds, and then tells neither
the status nor how long the receiver wants us to wait. Here a trace stays in the outbox until it has
arrived.

What a status means: https://opentelemetry.io/docs/specs/otlp/#otlphttp-response. A note never holds
what was sent, nor a key.
"""

from __future__ import annotations

import importlib
import logging
import math
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any
from urllib.parse import unquote

import httpx

from ..core.errors import InvariantError
from ..core.trace import Trace
from ..outgoing import base_url, quieten, trust
from . import otlp_form
from .otlp_form import Span, Value
from .sink import Dead, Outcome, Retry, Sent

PACKAGE = "opentelemetry-proto>=1.30,<2"
"""As in pyproject.toml."""
MAX_REQUEST = 20 * 2**20
"""Bytes that the specification recommends as a limit, for receivers and for senders."""
MAX_ANSWER = 64 * 2**10
MAX_WAIT = 3600.0
_RETRYABLE = frozenset((429, 502, 503, 504))
_NOTE = 300
SLOW = 60.0
"""Seconds until the next try, where a person has to do something."""
_KEY_ADVICE = "look at OTEL_EXPORTER_OTLP_HEADERS, and restart"
_URL_ADVICE = "check invariant_otlp"

logger = logging.getLogger(__name__)


class MissingPackageError(InvariantError):
    """This sink is wanted, and what it needs is not installed. The text says how to install it."""


class OtlpSink:
    """Sends traces to one receiver. For several threads.

    url: with or without /v1/traces. headers: for keys. content: also what was said. server: the
    host that the calls are for. timeout: seconds for each step. Raises ValueError for what cannot
    be a URL or a header, MissingPackageError.
    """

    name = "otlp"

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: bool = False,
        server: str = "",
        timeout: float = 10.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._url = endpoint(url)
        self._headers = _checked_headers(headers or {})
        self._with_content = content
        self._server = server
        self._timeout = timeout
        self._clock = clock
        self._wire = _Wire()
        self._lock = threading.Lock()
        self._client: httpx.Client | None = None

    @property
    def host(self) -> str:
        return self._url.netloc.decode("ascii")

    def deliver(self, trace: Trace, tries: int) -> Outcome:
        """Send once. What is sent again has the same ids, so nobody has to look whether it is
        there already. A conversation that is too large is left out; the rest is sent."""
        spans = otlp_form.spans(trace, content=self._with_content, server=self._server)
        outcome = self._post(spans)
        if outcome is None and self._with_content:
            call, *findings = otlp_form.spans(trace, server=self._server)
            marked = {**call.attributes, "invariant.content_omitted": True}
            outcome = self._post((replace(call, attributes=marked), *findings))
        return outcome or Dead(f"too large for {self.host}")

    def close(self) -> None:
        """It may be used again afterwards."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _post(self, spans: tuple[Span, ...]) -> Outcome | None:
        """None: too large."""
        body = self._wire.encode(spans)
        if len(body) > MAX_REQUEST:
            return None
        try:
            with self._open().stream("POST", self._url, content=body) as response:
                answer = self._read(response)
        except httpx.TimeoutException:
            return Retry(f"no answer from {self.host} within {self._timeout:g} s", is_outage=True)
        except httpx.ConnectError as error:
            return Retry(_line(f"{self.host} cannot be reached: {error}"), is_outage=True)
        except (httpx.HTTPError, httpx.StreamError) as error:
            return Retry(
                f"the connection to {self.host} broke ({type(error).__name__})", is_outage=True
            )
        if response.status_code == 413:
            return None
        if not response.is_success:
            wait = response.headers.get("retry-after", "")
            return refused(response.status_code, wait, self.host, self._clock())
        if response.headers.get("content-type", "").startswith("text/html"):
            # A page for people, by a server that answers anything with it.
            return _misled(f"{self.host} answered with a web page", _URL_ADVICE)
        if reason := self._wire.rejection(answer):
            return Dead(_line(f"{self.host} rejected it: {reason}"))
        return Sent(spans[0].trace_id.hex())

    def _read(self, response: httpx.Response) -> bytes:
        """The beginning of the answer: all of it, if the receiver is sane."""
        until = time.monotonic() + self._timeout
        body = bytearray()
        for piece in response.iter_raw():
            body += piece
            if len(body) > MAX_ANSWER:
                break
            if time.monotonic() > until:
                raise httpx.ReadTimeout("the answer does not end")
        return bytes(body)

    def _open(self) -> httpx.Client:
        with self._lock:
            if self._client is None:
                quieten()
                self._client = httpx.Client(
                    # The environment may name a proxy, and that proxy may be us.
                    trust_env=False,
                    verify=trust(),
                    cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
                    timeout=self._timeout,
                    headers={
                        "Accept-Encoding": "identity",
                        **self._headers,
                        "Content-Type": "application/x-protobuf",
                    },
                )
            return self._client


def refused(status: int, retry_after: str, host: str, now: float) -> Retry | Dead:
    """What a status that is no success means. retry_after: the header, "" if there was none."""
    if status in _RETRYABLE:
        pause = _seconds(retry_after, now) or 0.0
        return Retry(f"{host} is busy or down ({status})", is_outage=True, pause=pause)
    if status in (401, 403):
        return _misled(f"{host} did not accept the key ({status})", _KEY_ADVICE)
    if status in (301, 302, 303, 307, 308, 404, 405):
        return _misled(f"{host} takes no traces there ({status})", _URL_ADVICE)
    if status == 415:
        return _misled(f"{host} does not read protobuf (415)", _URL_ADVICE)
    return Dead(f"{host} refused it ({status})")


def _misled(note: str, advice: str) -> Retry:
    """No trace would fare better, until a person has mended it."""
    return Retry(note, is_outage=True, advice=advice, pause=SLOW)


def read_headers(text: str) -> dict[str, str]:
    """`api-key=abc,x=y`, as in OTEL_EXPORTER_OTLP_HEADERS; values are percent-decoded.

    Raises ValueError, which quotes no value.
    """
    found = {}
    for number, entry in enumerate(filter(str.strip, text.split(",")), 1):
        name, equals, value = entry.partition("=")
        if not equals or not name.strip():
            raise ValueError(f"header {number}: expected name=value")
        found[name.strip()] = unquote(value.strip())
    return _checked_headers(found)


class _Wire:
    """Spans -> the bytes of a request. Raises MissingPackageError when it is made."""

    def __init__(self) -> None:
        base = "opentelemetry.proto"
        try:
            self._service = importlib.import_module(f"{base}.collector.trace.v1.trace_service_pb2")
            self._trace = importlib.import_module(f"{base}.trace.v1.trace_pb2")
            self._decode_error = importlib.import_module("google.protobuf.message").DecodeError
        except ImportError as error:
            raise MissingPackageError(
                "sending traces by OTLP needs a package that is not installed "
                f"({error.name or error}): {sys.executable} -m pip install '{PACKAGE}'"
            ) from error

    def encode(self, spans: Iterable[Span]) -> bytes:
        request = self._service.ExportTraceServiceRequest()
        resource = request.resource_spans.add()
        _write(resource.resource.attributes, {"service.name": "invariant"})
        scope = resource.scope_spans.add()
        scope.scope.name = "invariant"
        for span in spans:
            self._add(scope.spans.add(), span)
        encoded: bytes = request.SerializeToString()
        return encoded

    def rejection(self, answer: bytes) -> str:
        """Why spans were not taken, by an answer of status 200; "" if all were."""
        response = self._service.ExportTraceServiceResponse()
        try:
            response.ParseFromString(answer)
        except self._decode_error:
            return ""  # an answer in JSON, or nothing of use; the status says that it was taken
        if response.partial_success.rejected_spans <= 0:
            return ""
        return str(response.partial_success.error_message) or "no reason given"

    def _add(self, written: Any, span: Span) -> None:
        kinds = {
            "client": self._trace.Span.SPAN_KIND_CLIENT,
            "internal": self._trace.Span.SPAN_KIND_INTERNAL,
        }
        written.trace_id, written.span_id = span.trace_id, span.span_id
        written.parent_span_id = span.parent_id
        written.flags = 1  # sampled
        written.name = span.name
        written.kind = kinds[span.kind]
        written.start_time_unix_nano, written.end_time_unix_nano = span.start, span.end
        _write(written.attributes, span.attributes)
        for event in span.events:
            added = written.events.add()
            added.name, added.time_unix_nano = event.name, event.at
            _write(added.attributes, event.attributes)
        if span.error is not None:
            written.status.code = self._trace.Status.STATUS_CODE_ERROR
            written.status.message = span.error


def _write(attributes: Any, values: Mapping[str, Value]) -> None:
    for key, value in values.items():
        entry = attributes.add()
        entry.key = key
        if isinstance(value, tuple):
            entry.value.array_value.SetInParent()  # an empty one is one, too
            for item in value:
                entry.value.array_value.values.add().string_value = item
        elif isinstance(value, bool):  # before int: it is one
            entry.value.bool_value = value
        elif isinstance(value, int):
            entry.value.int_value = value
        elif isinstance(value, float):
            entry.value.double_value = value
        else:
            entry.value.string_value = value


def endpoint(url: str) -> httpx.URL:
    """Where traces go: with the path of the specification, if the URL has none for traces.

    Raises ValueError, which does not quote it: it may hold a password.
    """
    parsed = httpx.URL(base_url(url))
    if parsed.path.endswith("/traces"):
        return parsed
    return parsed.copy_with(path=parsed.path.rstrip("/") + "/v1/traces")


def _checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    for number, (name, value) in enumerate(headers.items(), 1):
        if not name.isascii() or not name.replace("-", "").replace("_", "").isalnum():
            raise ValueError(f"header {number}: its name has characters that no header has")
        if not value.isascii() or not value.isprintable():
            raise ValueError(f"header {number}: its value has characters that no header has")
    return dict(headers)


def _seconds(retry_after: str, now: float) -> float | None:
    """RFC 9110, 10.2.3: seconds, or a date."""
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(retry_after).timestamp() - now
        except (ValueError, TypeError, OverflowError):
            return None
    if not math.isfinite(seconds):
        return None
    return min(max(seconds, 0.0), MAX_WAIT)


def _line(text: str) -> str:
    """One line that a terminal may see."""
    return "".join(c if c.isprintable() else " " for c in text)[:_NOTE]
