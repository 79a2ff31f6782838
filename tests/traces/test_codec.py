"""What is read back is what was written, whatever clients put into their messages."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invariant_addon.core.trace import Finding, Timing, Trace
from invariant_addon.core.verdict import Address
from invariant_addon.traces.codec import CodecError, complete, read, write

TEXTS = st.text(st.characters(exclude_categories=()), max_size=20)
NUMBERS = st.integers(-(2**80), 2**80) | st.floats(allow_nan=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(TEXTS, JSON, max_size=3)
PLACES = st.none() | st.integers(0, 10**6)
ADDRESSES = st.builds(Address, st.integers(0, 999), TEXTS, PLACES, PLACES)
FINDINGS = st.builds(
    Finding,
    st.dictionaries(TEXTS, TEXTS, max_size=3),
    TEXTS,
    st.sampled_from(("blocked", "masked", "noted", "shadow", "muted")),
    st.lists(ADDRESSES, max_size=3).map(tuple),
)
AMOUNTS = st.floats(0, 1e9)
TRACES = st.builds(
    Trace,
    id=TEXTS,
    started=st.floats(0, 1e11),
    status=st.sampled_from(("judged", "blocked", "not scanned", "partial", "error")),
    endpoint=TEXTS,
    model=TEXTS,
    stream=st.booleans(),
    parameters=OBJECTS,
    messages=st.lists(JSON, max_size=3).map(tuple),
    choices=st.lists(JSON, max_size=2).map(tuple),
    finishes=st.lists(st.none() | TEXTS, max_size=2).map(tuple),
    findings=st.lists(FINDINGS, max_size=2).map(tuple),
    timing=st.builds(Timing, AMOUNTS, st.none() | AMOUNTS, AMOUNTS, AMOUNTS, st.integers(0, 99)),
    reason=TEXTS,
    http_status=st.none() | st.integers(100, 599),
    response_id=TEXTS,
    usage=OBJECTS,
    delivered=st.integers(0, 10**9),
    withheld=st.integers(0, 10**9),
    dataset=TEXTS,
    client=TEXTS,
)


def trace_with(*messages: Any, **more: Any) -> Trace:
    return Trace("1", 1.0, "judged", "chat.completions", "m", False, {}, messages, **more)


def test_what_was_masked_is_read_as_it_was_written() -> None:
    """For an owner who wants to keep it."""
    finding = Finding({"name": "keys"}, "a key", "noted", (Address(0, "content", 1, 3),))
    original = trace_with({"content": "\ud800"}, timing=Timing(1.5, 0.5), findings=(finding,))
    both = replace(trace_with("masked"), original=original)
    assert read(write(both)) == both


@given(TRACES)
def test_a_trace_is_read_as_it_was_written(trace: Trace) -> None:
    """A store that rounds or drops something is worse than none: nobody notices."""
    assert read(write(trace)) == trace


@given(TRACES)
def test_a_trace_is_read_as_it_was_completed(trace: Trace) -> None:
    """Its end is written later than the rest, in whichever of the two ways the rest is."""
    begun = write(replace(trace, timing=Timing(0.0), client=""))
    try:
        done = complete(begun, trace.timing, trace.client)
    except CodecError:  # half a character in the name of a program
        assert not trace.client.isascii()
    else:
        assert read(done) == trace


def test_a_number_that_is_none_stays_what_it_was() -> None:
    """orjson writes it as null: then the message would be another one."""
    trace = read(write(trace_with({"role": "user", "content": None, "x": [math.nan, math.inf]})))
    assert math.isnan(trace.messages[0]["x"][0])
    assert trace.messages[0]["x"][1] == math.inf


def test_any_mapping_will_do() -> None:
    """The type says Mapping; a frozen one must not cost the trace."""
    trace = trace_with({"role": "user", "content": "\ud800"}, usage=MappingProxyType({"n": 1}))
    assert read(write(trace)).usage == {"n": 1}
    assert json.loads(write(trace_with(usage=MappingProxyType({"n": 1}))))["usage"] == {"n": 1}


def test_large_and_deep_bodies_survive() -> None:
    """A long agent run sends megabytes each turn, and nobody promised that JSON is flat."""
    deep: Any = "x"
    for _ in range(1000):
        deep = [deep]
    trace = trace_with({"role": "user", "content": "a\u2028é" * 1_700_000}, {"content": deep})
    assert write(read(write(trace))) == write(trace)
    assert read(write(trace)).messages[0] == trace.messages[0]


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"\xff", b'{"id":"1"}', b'{"python":1,'])
def test_what_is_no_trace_is_refused(data: bytes) -> None:
    """A reader has one error to expect, however the bytes were damaged."""
    with pytest.raises(CodecError):
        read(data)


def test_what_is_no_json_is_refused() -> None:
    """It is a bug of ours, and must not take the proxy down."""
    with pytest.raises(CodecError):
        write(trace_with({"role": {1, 2}}))


def test_a_later_version_may_add_fields() -> None:
    """Whoever goes back to an older version can still read the traces."""
    value = {**json.loads(write(trace_with("x"))), "weather": "fine"}
    assert read(json.dumps(value).encode()) == trace_with("x")
