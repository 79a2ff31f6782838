"""Traces as spans: what a backend is told, and what it is never told."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invariant_addon.core.trace import Finding, Timing, Trace
from invariant_addon.core.verdict import Address
from invariant_addon.traces.otlp_form import Span, spans

SECRET = "bluebird"
KEYS = Finding(
    {"id": "7", "name": "api_keys", "action": "block", "source": "file"},
    "a key leaves",
    "blocked",
    (Address(1), Address(1, "content", 4, 12)),
)
MAIL = Finding(
    {"name": "mail", "action": "log"},
    "mail to a stranger",
    "noted",
    (Address(2, f"tool_calls.0.function.arguments.to.the {SECRET}"),),
)
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "send", "arguments": f'{{"to":"{SECRET}"}}'},
}
TRACE = Trace(
    id="inv_0123456789abcdef",
    started=1_700_000_000.25,
    status="judged",
    endpoint="chat.completions",
    model="gpt-4o",
    stream=True,
    parameters={"temperature": 1, "max_tokens": 50, "n": 2, "tools": [{"name": SECRET}]},
    messages=(
        {"role": "system", "content": f"be a {SECRET}"},
        {"role": "user", "content": f"the {SECRET}"},
    ),
    choices=({"role": "assistant", "content": SECRET, "tool_calls": [CALL]},),
    finishes=("tool_calls",),
    timing=Timing(1500.0, first=250.0, held=30.0, judged=12.5, checks=3),
    http_status=200,
    response_id="chatcmpl-1",
    usage={
        "prompt_tokens": 9,
        "completion_tokens": 4,
        "prompt_tokens_details": {"cached_tokens": 3},
        "completion_tokens_details": {"reasoning_tokens": 2},
    },
)


def messages(span: Span, which: str) -> Any:
    value = span.attributes[f"gen_ai.{which}"]
    assert isinstance(value, str)
    return json.loads(value)


def test_a_call_is_a_chat_span() -> None:
    """The names that every backend for generative AI looks for."""
    (call,) = spans(TRACE, server="api.openai.com", port=443)
    assert (call.name, call.kind, call.error) == ("chat gpt-4o", "client", None)
    assert (call.start, call.end) == (1_700_000_000_250_000_000, 1_700_000_001_750_000_000)
    assert call.attributes == {
        "openinference.span.kind": "LLM",
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.request.stream": True,
        "gen_ai.request.temperature": 1.0,
        "gen_ai.request.max_tokens": 50,
        "gen_ai.request.choice.count": 2,
        "gen_ai.response.id": "chatcmpl-1",
        "gen_ai.response.finish_reasons": ("tool_calls",),
        "gen_ai.response.time_to_first_chunk": 0.25,
        "gen_ai.usage.input_tokens": 9,
        "gen_ai.usage.output_tokens": 4,
        "gen_ai.usage.cache_read.input_tokens": 3,
        "gen_ai.usage.reasoning.output_tokens": 2,
        "http.response.status_code": 200,
        "server.address": "api.openai.com",
        "server.port": 443,
        "invariant.trace_id": "inv_0123456789abcdef",
        "invariant.status": "judged",
        "invariant.checks": 3,
        "invariant.judged_ms": 12.5,
        "invariant.held_ms": 30.0,
    }


def test_a_finding_is_a_span_below_the_call() -> None:
    """So it is seen in the tree, and an event at the call, for backends that count those."""
    call, keys, mail = spans(replace(TRACE, status="blocked", findings=(KEYS, MAIL)))
    assert (keys.name, keys.kind, mail.name) == (
        "run_guardrail api_keys",
        "internal",
        "run_guardrail mail",
    )
    assert keys.trace_id == call.trace_id and keys.parent_id == call.span_id
    assert keys.attributes == {
        "openinference.span.kind": "GUARDRAIL",
        "gen_ai.operation.name": "run_guardrail",
        "gen_ai.evaluation.name": "api_keys",
        "gen_ai.evaluation.score.label": "blocked",
        "gen_ai.evaluation.score.value": 0.0,
        "gen_ai.evaluation.explanation": "a key leaves",
        "gen_ai.response.id": "chatcmpl-1",
        "invariant.trace_id": "inv_0123456789abcdef",
        "invariant.guardrail.id": "7",
        "invariant.guardrail.action": "block",
        "invariant.guardrail.source": "file",
        "invariant.addresses": ("messages.1.content:4-12",),
    }
    assert [event.name for event in call.events] == ["gen_ai.evaluation.result"] * 2
    assert call.events[0].attributes == {
        "gen_ai.evaluation.name": "api_keys",
        "gen_ai.evaluation.score.label": "blocked",
        "gen_ai.evaluation.score.value": 0.0,
        "gen_ai.evaluation.explanation": "a key leaves",
        "gen_ai.response.id": "chatcmpl-1",
    }


def test_without_content_nothing_that_was_said_leaves() -> None:
    """A backend is often somebody else's machine. The keys of arguments are the model's words."""
    told = repr(spans(replace(TRACE, status="blocked", findings=(KEYS, MAIL))))
    assert SECRET not in told
    assert "messages.2.tool_calls.0.function.arguments.to.*" in told


def test_what_was_masked_leaves_with_no_option() -> None:
    """What its owner keeps for himself stays on his machine."""
    original = replace(TRACE, messages=({"role": "user", "content": "my key is sk-1"},))
    assert spans(replace(TRACE, original=original), content=True) == spans(TRACE, content=True)


def test_with_content_the_conversation_is_there() -> None:
    """In the conventions' shape: roles and parts."""
    (call,) = spans(TRACE, content=True)
    assert messages(call, "input.messages") == [
        {"role": "system", "parts": [{"type": "text", "content": f"be a {SECRET}"}]},
        {"role": "user", "parts": [{"type": "text", "content": f"the {SECRET}"}]},
    ]
    assert messages(call, "output.messages") == [
        {
            "role": "assistant",
            "parts": [
                {"type": "text", "content": SECRET},
                {
                    "type": "tool_call",
                    "id": "call_1",
                    "name": "send",
                    "arguments": {"to": SECRET},
                },
            ],
            "finish_reason": "tool_call",
        }
    ]
    assert messages(call, "tool.definitions") == [{"name": SECRET}]
    assert "gen_ai.system_instructions" not in call.attributes
    (call,) = spans(replace(TRACE, parameters={"instructions": "be kind"}), content=True)
    assert messages(call, "system_instructions") == [{"type": "text", "content": "be kind"}]


@pytest.mark.parametrize(
    ("message", "parts"),
    [
        ({"role": "user", "content": None}, []),
        (
            {"role": "user", "content": [{"type": "text", "text": "a"}, "b"]},
            [{"type": "text", "content": "a"}, {"type": "text", "content": "b"}],
        ),
        (
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": "http://x/y"}}],
            },
            [{"type": "uri", "modality": "image", "uri": "http://x/y"}],
        ),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:AAAA"}}]},
            [{"type": "text", "content": "[image]"}],
        ),
        (
            {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AAAA"}}]},
            [{"type": "text", "content": "[audio]"}],
        ),
        (
            {"role": "user", "content": [{"type": "new", "x": 1}, 5]},
            [
                {"type": "new", "content": '{"type":"new","x":1}'},
                {"type": "other", "content": "5"},
            ],
        ),
        (
            {"role": "tool", "tool_call_id": "c", "content": "42"},
            [{"type": "tool_call_response", "id": "c", "response": "42"}],
        ),
        (
            {"role": "function", "name": "f", "content": "42"},
            [{"type": "tool_call_response", "id": None, "response": "42"}],
        ),
        (
            {"role": "assistant", "function_call": {"name": "f", "arguments": "{"}},
            [{"type": "tool_call", "id": None, "name": "f", "arguments": "{"}],
        ),
        (
            {
                "role": "assistant",
                "tool_calls": [{"id": "c", "custom": {"name": "f", "input": "x"}}],
            },
            [{"type": "tool_call", "id": "c", "name": "f", "arguments": "x"}],
        ),
        (
            {"role": "assistant", "reasoning_content": "hm", "refusal": "no"},
            [{"type": "reasoning", "content": "hm"}, {"type": "text", "content": "no"}],
        ),
        ("what", [{"type": "text", "content": '"what"'}]),
    ],
)
def test_every_kind_of_message_has_a_form(message: Any, parts: Any) -> None:
    """Nothing is dropped but pictures and sound, and those are named."""
    (call,) = spans(replace(TRACE, messages=(message,)), content=True)
    assert messages(call, "input.messages")[0]["parts"] == parts


def test_a_second_try_is_the_same() -> None:
    """Backends that know a span by its id keep one, however often it is sent."""
    trace = replace(TRACE, findings=(KEYS, MAIL))
    assert spans(trace) == spans(trace)
    ids = [span.span_id for span in spans(trace)]
    assert len(set(ids)) == 3 and {len(one) for one in ids} == {8}
    other = spans(replace(trace, id="inv_2"))
    assert other[0].trace_id != spans(trace)[0].trace_id and other[0].span_id not in ids
    assert len(other[0].trace_id) == 16


def test_a_late_finding_changes_nothing_that_was_sent() -> None:
    """Many backends keep the first span of an id: a new finding under an old id would be lost."""
    early = spans(replace(TRACE, findings=(KEYS, KEYS)))
    late = spans(replace(TRACE, findings=(MAIL, KEYS, KEYS)))
    assert [span.span_id for span in early[1:]] == [span.span_id for span in late[2:]]
    assert len({span.span_id for span in late}) == 4


@pytest.mark.parametrize(
    ("status", "http_status", "kind", "said"),
    [
        ("judged", 200, None, None),
        ("not scanned", 200, None, None),
        ("partial", None, None, None),
        ("judged", 401, "401", ""),
        ("blocked", None, "guardrail_violation", "a key leaves"),
        ("error", 503, "503", "upstream was silent"),
        ("error", None, "_OTHER", "upstream was silent"),
    ],
)
def test_the_status_says_what_failed(
    status: Any, http_status: int | None, kind: str | None, said: str | None
) -> None:
    """Red in a backend is a call that its client could not use."""
    reason = "upstream was silent" if status == "error" else ""
    findings = (KEYS,) if status == "blocked" else (MAIL,)
    trace = replace(TRACE, status=status, http_status=http_status, reason=reason, findings=findings)
    call = spans(trace)[0]
    assert call.attributes.get("error.type") == kind
    assert call.error == said
    assert call.attributes["invariant.status"] == status


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
NAMES = ["temperature", "max_tokens", "seed", "n", "response_format", "service_tier", "tools"]


@given(
    parameters=st.dictionaries(st.sampled_from([*NAMES, "instructions"]), json_values),
    message=json_values
    | st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("role", "content", "tool_calls", "name"), json_values)
    ),
    usage=st.dictionaries(st.sampled_from(["prompt_tokens", "input_tokens_details"]), json_values),
    text=st.text(st.characters(codec=None)),
)
def test_whatever_was_sent_can_be_said(
    parameters: Any, message: Any, usage: Any, text: str
) -> None:
    """Values are what strangers put into a request; a trace that fails here is never delivered."""
    hostile = replace(
        TRACE,
        model=text,
        parameters=parameters,
        messages=(message,),
        choices=(message,),
        usage=usage,
        findings=(Finding({"name": text}, text, "noted", (Address(0, text),)),),
    )
    for span in spans(hostile, content=True):
        span.name.encode()
        for value in span.attributes.values():
            for one in value if isinstance(value, tuple) else (value,):
                assert isinstance(one, str | bool | int | float)
                if isinstance(one, str):
                    one.encode()
                elif isinstance(one, int):
                    assert -(2**63) <= one < 2**63
