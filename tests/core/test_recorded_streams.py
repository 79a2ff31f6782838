"""Streams that real servers sent, if they are there.

They belong to other projects and are not committed. Put them in ../shared/fixtures or name their
folder in INVARIANT_RECORDED_STREAMS: index.json, and for each stream its .sse and .expected.json.
"""

import itertools
import os
import random
import re
from pathlib import Path

import orjson
import pytest

from invariant_addon.core import sse
from invariant_addon.core.dialects import CHAT, RESPONSES

ROOT = Path(__file__).parents[2]
FOLDER = Path(os.environ.get("INVARIANT_RECORDED_STREAMS", ROOT.parent / "shared" / "fixtures"))
INDEX = FOLDER / "index.json"
DIALECTS = {"chat": CHAT, "responses": RESPONSES}
APIS = (
    {s["id"]: s["api"] for s in orjson.loads(INDEX.read_bytes()) if s["api"] in DIALECTS}
    if INDEX.is_file()
    else {}
)
STREAMS = list(APIS)

pytestmark = pytest.mark.skipif(not STREAMS, reason=f"no recorded streams in {FOLDER}")
each_stream = pytest.mark.parametrize("name", STREAMS)


def decode(pieces):
    decoder = sse.Decoder(2**24)
    events = [event for piece in pieces for event in decoder.feed(piece)]
    return events + decoder.end()


def split(data, cuts):
    return [data[a:b] for a, b in itertools.pairwise([0, *sorted(cuts), len(data)])]


def raw(name):
    return (FOLDER / f"{name}.sse").read_bytes()


def merged(name, events):
    merger = DIALECTS[APIS[name]].merger()
    for event in events:
        if event.data is not None:
            merger.add(event.data)
    return merger


def completion(name, events):
    return merged(name, events).completion()


def full(value):
    """Without null and [] keys: a body that is no stream has more of them."""
    if isinstance(value, dict):
        return {k: full(v) for k, v in value.items() if v is not None and v != []}
    return [full(item) for item in value] if isinstance(value, list) else value


def comparable(merged, expected):
    """`merged` without what the expectation, made by a simpler merge, has otherwise.

    It drops fields of a choice that OpenAI does not have, takes the last of several values of
    `created`, joins repeated labels and replaces an object that comes twice.
    """
    if "choices" not in merged:  # the final event of a Responses stream is the expectation
        return merged
    for key in ("created", "x_groq"):
        if key in expected and merged[key] != expected[key]:
            assert key == "created" or expected[key].items() <= merged[key].items()
            merged[key] = expected[key]
    for choice, wanted in zip(merged["choices"], expected["choices"], strict=True):
        for key in ("content_filter_results", "content_filter_offsets", "native_finish_reason"):
            choice.pop(key, None)
        if label := choice["message"].get("channel"):
            assert set(wanted["message"]["channel"].split(label)) == {""}
            choice["message"]["channel"] = wanted["message"]["channel"]
    return merged


@each_stream
def test_a_recorded_stream_merges_to_its_completion(name):
    """What servers send decides whether rules see the whole message, and not what we imagine."""
    expected = full(orjson.loads((FOLDER / f"{name}.expected.json").read_bytes()))
    assert comparable(full(completion(name, decode([raw(name)]))), expected) == expected


@each_stream
def test_single_bytes_change_nothing(name):
    """The slowest network there can be."""
    data = raw(name)
    whole = decode([data])
    assert b"".join(event.raw for event in whole) == data
    assert decode([data[i : i + 1] for i in range(len(data))]) == whole


def telling(event):
    """Where a cut may matter: near ends of lines, names of fields and characters of several bytes;
    and here and there in the long rest, of which one byte is like the other (and all of them are
    cut at once above)."""
    near = {0, len(event)}
    near |= {found.start() for found in re.finditer(rb"[\r\n\x80-\xff]", event)}
    cuts = {cut for place in near for cut in range(place - 8, place + 9)}
    return [cut for cut in range(len(event) + 1) if cut in cuts or cut % 29 == 0]


@each_stream
def test_no_cut_in_two_changes_anything(name):
    """Each cut is tried in its event and the next one: between events the decoder holds nothing
    (asserted), so that the rest of the stream cannot make a difference."""
    data = raw(name)
    decoder = sse.Decoder(2**24)
    whole = []
    for event in decode([data]):
        whole += decoder.feed(event.raw)
        assert decoder.pending == 0 or event.raw[-2:] != b"\n\n"
    whole += decoder.end()
    assert whole == decode([data])
    for i, event in enumerate(whole):
        around = whole[i : i + 2] if i else whole[:2]
        window = b"".join(e.raw for e in around)
        for cut in telling(event.raw):
            assert decode([window[:cut], window[cut:]]) == around


@each_stream
def test_fifty_random_ways_to_cut_change_nothing(name):
    """Real networks cut in many places at once; whole streams, merged again."""
    data = raw(name)
    whole = decode([data])
    expected = completion(name, whole)
    rng = random.Random(name)
    for turn in range(50):
        cuts = [rng.randrange(len(data) + 1) for _ in range(rng.randrange(1, 60))]
        events = decode(split(data, cuts))
        assert events == whole
        if turn % 10 == 0:  # equal events merge equally: this only makes sure
            assert completion(name, events) == expected


RESPONSES_STREAMS = [name for name in STREAMS if APIS[name] == "responses"]


LONGER = (
    "responses_reasoning_encrypted_function_call_01",  # four responses in one file
    "responses_shell_container_01",  # its deltas were abridged: they differ from the final text
)


@pytest.mark.parametrize("name", RESPONSES_STREAMS)
def test_a_responses_stream_reads_as_its_final_response(name):
    """Rules see the same message, streamed or not: else switching would be a way around them."""
    merger = merged(name, decode([raw(name)]))
    merger.end()
    (streamed,) = merger.snapshot().turns
    (whole,) = RESPONSES.parse_reply(orjson.dumps(merger.completion())).turns
    if name in LONGER:
        assert set(whole.parts) < set(streamed.parts) or len(streamed.tool_calls) > 1
        assert set(whole.tool_calls) <= set(streamed.tool_calls)
    else:
        assert streamed == whole


@pytest.mark.parametrize("name", RESPONSES_STREAMS)
def test_a_responses_stream_without_its_end_adds_up_from_its_items(name):
    """A connection that broke just before the end has delivered everything all the same."""
    events = decode([raw(name)])
    kept = [e for e in events if e.data and not is_final(e.data)]
    if len(kept) == len(events) or name == LONGER[0]:
        pytest.skip("no final event")
    merger = merged(name, kept)
    merger.end()
    (whole,) = merged(name, events).snapshot().turns
    (cut,) = merger.snapshot().turns
    said = {part.text for part in cut.parts}
    assert {part.text for part in whole.parts if part.kind != "other"} <= said | {
        "".join(part.text for part in whole.parts if part.kind == "text")
    }
    assert set(cut.tool_calls) == set(whole.tool_calls)
    output = merger.completion()["output"]
    assert [item["type"] for item in output] == [
        item["type"] for item in merged(name, events).completion()["output"][: len(output)]
    ]


def is_final(data):
    kind = orjson.loads(data).get("type") if data.startswith("{") else ""
    return kind in ("response.completed", "response.failed", "response.incomplete")
