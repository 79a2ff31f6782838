"""A trace -> spans, as plain values, in OpenTelemetry's conventions for generative AI.

One span for the call, and below it one for each finding. Names and values are those of
https://github.com/open-telemetry/semantic-conventions-genai, written out: the packages that have
them change with each version. There is no convention for guardrails yet; a finding is written as an
evaluation (gen_ai.evaluation.*), and as what OpenInference's backends show
(openinference.span.kind).

The ids come from the trace's own and from what a finding says: who sends a trace again, perhaps
with findings that came late, sends the same spans.
Without `content` there is nothing in the spans that the user, the model or a tool said; the rules'
own words are there.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeGuard

from ..core.errors import NotUnderstoodError
from ..core.json_text import encode
from ..core.refusal import place
from ..core.trace import Finding, Json, Trace
from ..core.verdict import Address, most_specific
from .otlp_messages import input_messages, instructions, output_messages

type Value = str | bool | int | float | tuple[str, ...]
type Attributes = dict[str, Value]

RULE_BROKEN = "guardrail_violation"
"""error.type of a blocked call: the code in the error that the client got."""
_OTHER = "_OTHER"
"""error.type where there is no better one:
https://opentelemetry.io/docs/specs/semconv/registry/attributes/error/"""
_INT64 = 2**63
_TEXT_LIMIT = 4096

# Parameters of a request -> attributes, and what a value has to be.
_NUMBERS = {
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "presence_penalty": "gen_ai.request.presence_penalty",
}
_COUNTS = {
    "max_tokens": "gen_ai.request.max_tokens",
    "max_completion_tokens": "gen_ai.request.max_tokens",
    "max_output_tokens": "gen_ai.request.max_tokens",
    "seed": "gen_ai.request.seed",
}
# Both dialects: chat completions, responses.
_USAGE = {
    ("prompt_tokens",): "gen_ai.usage.input_tokens",
    ("input_tokens",): "gen_ai.usage.input_tokens",
    ("completion_tokens",): "gen_ai.usage.output_tokens",
    ("output_tokens",): "gen_ai.usage.output_tokens",
    ("prompt_tokens_details", "cached_tokens"): "gen_ai.usage.cache_read.input_tokens",
    ("input_tokens_details", "cached_tokens"): "gen_ai.usage.cache_read.input_tokens",
    ("completion_tokens_details", "reasoning_tokens"): "gen_ai.usage.reasoning.output_tokens",
    ("output_tokens_details", "reasoning_tokens"): "gen_ai.usage.reasoning.output_tokens",
}
_OPERATIONS = {"chat.completions": "chat", "responses": "chat", "embeddings": "embeddings"}


@dataclass(frozen=True, slots=True)
class Event:
    """Something at a time (nanoseconds since 1970) in a span."""

    name: str
    at: int
    attributes: Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Span:
    """start, end: nanoseconds since 1970. error: why it failed, None if it did not."""

    trace_id: bytes
    span_id: bytes
    name: str
    kind: Literal["client", "internal"]
    start: int
    end: int
    attributes: Mapping[str, Value]
    parent_id: bytes = b""
    events: tuple[Event, ...] = ()
    error: str | None = None


@dataclass(slots=True)
class _Ids:
    trace: str
    trace_id: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.trace_id = self._digest("trace", 16)

    def span_id(self, which: str) -> bytes:
        return self._digest(f"span {which}", 8)

    def of_findings(self, findings: Iterable[Finding]) -> list[bytes]:
        seen: Counter[str] = Counter()
        ids = []
        for found in findings:
            said = (found.guardrail.get("id"), found.guardrail.get("name"), found.words)
            which = repr((*said, found.effect, found.addresses))
            ids.append(self.span_id(f"finding {seen[which]} {which}"))
            seen[which] += 1
        return ids

    def _digest(self, what: str, size: int) -> bytes:
        # Never all zeros, which OpenTelemetry takes for "no id", within the age of the universe.
        data = f"invariant {what} {self.trace}".encode("utf-8", "surrogatepass")
        return hashlib.blake2b(data, digest_size=size).digest()


def spans(
    trace: Trace, *, content: bool = False, server: str = "", port: int | None = None
) -> tuple[Span, ...]:
    """The call first, then a span for each finding.

    content: with what was said. server, port: whom the call was for.
    """
    ids = _Ids(trace.id)
    start, end = _nanoseconds(trace)
    call_id = ids.span_id("call")
    attributes = _call(trace)
    if server:
        attributes["server.address"] = server
        if port is not None:
            attributes["server.port"] = port
    if content:
        attributes |= _content(trace)
    findings = [_finding(found, trace, keys=content) for found in trace.findings]
    operation = attributes["gen_ai.operation.name"]
    return (
        Span(
            trace_id=ids.trace_id,
            span_id=call_id,
            name=clean(f"{operation} {trace.model}").strip(),
            kind="client",
            start=start,
            end=end,
            attributes=attributes,
            events=tuple(Event("gen_ai.evaluation.result", end, _event(each)) for each in findings),
            error=_error(trace),
        ),
        *(
            Span(
                trace_id=ids.trace_id,
                span_id=span_id,
                parent_id=call_id,
                name=f"run_guardrail {each['gen_ai.evaluation.name']}",
                kind="internal",
                start=end,  # when each was judged is not kept; how long all took is at the call
                end=end,
                attributes=each,
            )
            for span_id, each in zip(ids.of_findings(trace.findings), findings, strict=True)
        ),
    )


def clean(text: str) -> str:
    """As UTF-8 can say it: no lone surrogates."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


# -- the call -------------------------------------------------------------------------------------


def _call(trace: Trace) -> Attributes:
    found: Attributes = {
        "openinference.span.kind": "LLM",
        "gen_ai.operation.name": _OPERATIONS.get(trace.endpoint, "chat"),
        "gen_ai.provider.name": "openai",
        "invariant.trace_id": clean(trace.id),
        "invariant.status": trace.status,
        "invariant.checks": trace.timing.checks,
        "invariant.judged_ms": float(trace.timing.judged),
        "invariant.held_ms": float(trace.timing.held),
    }
    if trace.model:
        found["gen_ai.request.model"] = clean(trace.model)
    if trace.stream:
        found["gen_ai.request.stream"] = True
        if trace.timing.first is not None:
            found["gen_ai.response.time_to_first_chunk"] = trace.timing.first / 1000  # seconds
    if trace.response_id:
        found["gen_ai.response.id"] = clean(trace.response_id)
    if reasons := tuple(clean(reason) for reason in trace.finishes if reason):
        found["gen_ai.response.finish_reasons"] = reasons
    if trace.http_status is not None:
        found["http.response.status_code"] = trace.http_status
    if trace.withheld:
        found["invariant.withheld_characters"] = trace.withheld
        found["invariant.delivered_characters"] = trace.delivered
    if trace.dataset:
        found["invariant.dataset"] = clean(trace.dataset)
    if trace.reason:
        found["invariant.reason"] = _short(trace.reason)
    if kind := _error_type(trace):
        found["error.type"] = kind
    return found | dict(_parameters(trace.parameters)) | dict(_usage(trace.usage))


def _parameters(parameters: Mapping[str, Json]) -> Iterator[tuple[str, Value]]:
    """Those that the conventions name, and that are what they should be: a client may send
    anything."""
    for name, attribute in _NUMBERS.items():
        value = parameters.get(name)
        if (isinstance(value, float) and math.isfinite(value)) or _is_count(value):
            yield attribute, float(value)
    for name, attribute in _COUNTS.items():
        if _is_count(value := parameters.get(name)):
            yield attribute, value
    if _is_count(n := parameters.get("n")) and n != 1:
        yield "gen_ai.request.choice.count", n
    form = parameters.get("response_format")
    if isinstance(form, Mapping) and isinstance(kind := form.get("type"), str):
        yield "gen_ai.output.type", "json" if kind.startswith("json") else _short(kind)
    if isinstance(tier := parameters.get("service_tier"), str):
        yield "openai.request.service_tier", _short(tier)


def _usage(usage: Mapping[str, Json]) -> Iterator[tuple[str, Value]]:
    for path, attribute in _USAGE.items():
        value: Json = usage
        for step in path:
            value = value.get(step) if isinstance(value, Mapping) else None
        if _is_count(value):
            yield attribute, value


def _error_type(trace: Trace) -> str | None:
    if trace.status == "blocked":
        return RULE_BROKEN
    if trace.http_status is not None and trace.http_status >= 400:
        return str(trace.http_status)
    return _OTHER if trace.status == "error" else None


def _error(trace: Trace) -> str | None:
    if _error_type(trace) is None:
        return None
    blocking = (found.words for found in trace.findings if found.effect == "blocked")
    return _short("; ".join(dict.fromkeys(blocking)) or trace.reason)


def _content(trace: Trace) -> Attributes:
    """As JSON texts: attributes of spans cannot nest everywhere yet."""
    found: Attributes = {}
    for name, value in (
        ("gen_ai.system_instructions", instructions(trace)),
        ("gen_ai.input.messages", input_messages(trace)),
        ("gen_ai.output.messages", output_messages(trace)),
        ("gen_ai.tool.definitions", trace.parameters.get("tools")),
    ):
        if value:
            try:
                found[name] = clean(encode(value))
            except NotUnderstoodError:  # nested too deeply to be written again
                found["invariant.content_omitted"] = True
    return found


# -- findings -------------------------------------------------------------------------------------


def _finding(found: Finding, trace: Trace, *, keys: bool) -> Attributes:
    """keys: with the keys of a tool call's arguments, which are the model's own text."""
    guardrail = found.guardrail
    attributes: Attributes = {
        "openinference.span.kind": "GUARDRAIL",
        "gen_ai.operation.name": "run_guardrail",
        "gen_ai.evaluation.name": _short(guardrail.get("name", "") or "guardrail"),
        "gen_ai.evaluation.score.label": found.effect,
        "gen_ai.evaluation.score.value": 0.0,  # 1.0 would be a guardrail that holds
        "gen_ai.evaluation.explanation": _short(found.words),
        "invariant.trace_id": clean(trace.id),
    }
    for key in ("id", "action", "source"):
        if guardrail.get(key):
            attributes[f"invariant.guardrail.{key}"] = _short(guardrail[key])
    if trace.response_id:
        attributes["gen_ai.response.id"] = clean(trace.response_id)
    if places := dict.fromkeys(_place(a, keys=keys) for a in most_specific(found.addresses)):
        attributes["invariant.addresses"] = tuple(places)
    return attributes


def _event(attributes: Attributes) -> Attributes:
    wanted = ("gen_ai.evaluation.", "gen_ai.response.id")
    return {key: value for key, value in attributes.items() if key.startswith(wanted)}


def _place(address: Address, *, keys: bool) -> str:
    """`messages.1.content:11-20`; the range in code points."""
    if not keys:
        return place(address)
    path = f".{address.path}" if address.path else ""
    span = "" if address.start is None else f":{address.start}-{address.end}"
    return clean(f"messages.{address.message}{path}{span}")


# -- values ---------------------------------------------------------------------------------------


def _nanoseconds(trace: Trace) -> tuple[int, int]:
    # A float of today's seconds is exact to a microsecond, and not below.
    start = max(round(trace.started * 1e6), 0) * 1000
    return start, start + max(round(trace.timing.total * 1e3), 0) * 1000


def _is_count(value: Json) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and -_INT64 <= value < _INT64


def _short(text: str) -> str:
    return clean(text if len(text) <= _TEXT_LIMIT else text[: _TEXT_LIMIT - 1] + "…")
