"""What an adversary puts into a chat body: too much of it, or text where nobody looks."""

import json
import sys

import pytest

from invariant_addon.core.chat import bodies as chat
from invariant_addon.core.chat import limits as chat_limits
from invariant_addon.core.conversation import Message, Part, ToolCall
from invariant_addon.core.draft import Need, Step
from invariant_addon.core.errors import NotUnderstoodError

FINE = {"role": "assistant", "content": "fine"}


def merged(*chunks):
    merger = chat.ChunkMerger()
    for chunk in chunks:
        merger.add(chunk if isinstance(chunk, str) else json.dumps(chunk))
    return merger


def streamed(*deltas):
    return merged(*({"choices": [{"index": 0, "delta": delta}]} for delta in deltas))


def calls(*entries):
    merger = streamed(*({"tool_calls": [entry]} for entry in entries))
    merger.end()
    return merger.snapshot().choices[0].tool_calls


def request(**fields):
    body = {"messages": [{"role": "user", "content": "hi"}], **fields}
    return chat.parse_request(json.dumps(body).encode()).conversation.messages


def whole(choice=None, **fields):
    body = {"choices": [{"index": 0, "message": FINE, **(choice or {})}], **fields}
    return chat.parse_reply(json.dumps(body).encode()).choices


def others(message):
    return [part.text for part in message.parts if part.kind == "other"]


def steps(work, *arguments):
    """How many functions a call of `work` enters: the same on any machine."""
    count = 0

    def seen(_frame, event, _value):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(seen)
    try:
        work(*arguments)
    finally:
        sys.setprofile(None)
    return count


# -- too much ---------------------------------------------------------------------------------


def test_a_name_in_many_pieces_has_few_readings():
    """2,000 pieces with 1 kB of arguments each became 7.7 GB."""
    pieces = [
        {"index": 0, "function": {"name": f"n{i}", "arguments": "x" * 1000}} for i in range(300)
    ]
    found = calls(*pieces)
    assert [call.name for call in found[1:]] == ["n0", "n299"]
    assert found[0].name == "".join(f"n{i}" for i in range(300))
    assert all(call.arguments is found[0].arguments for call in found)


def unnumbered(count):
    streamed(*({"tool_calls": [{"id": f"c{i}", "function": {"name": "x"}}]} for i in range(count)))


def unknown_keys(count):
    streamed(*({f"k{i}": "v", "content": "a "} for i in range(count)))


def fields_around(count):
    merged(*({"x_groq": {f"k{i}": i}} for i in range(count)))


@pytest.mark.parametrize("work", [unnumbered, unknown_keys, fields_around])
def test_twice_as_much_is_twice_the_work(work):
    """One odd stream must not stop the others."""
    assert steps(work, 400) < 2.5 * steps(work, 200)


def test_details_are_looked_for_in_order():
    """2,000 times looking through 2 MB took 12 seconds; and still nothing is said twice."""
    said = "one two\n\nthree"
    details = [{"text": t} for t in ("one ", "two", "three", "four", "one ")]
    [message] = request(messages=[{"reasoning": said, "reasoning_details": details}])
    assert [p.text for p in message.parts] == [said, "four", "one "]


def test_thousands_of_details_are_one_thought():
    """Clients keep each streamed piece as an entry; that is no reason to refuse a request."""
    [message] = request(messages=[{"reasoning_details": [{"text": "ab"}] * 3000}])
    assert message.parts == (Part("reasoning", "ab" * 3000),)


def choices(*indexes):
    return {"choices": [{"index": i, "delta": {"content": "a"}} for i in indexes]}


CALL = {"function": {"name": "f", "arguments": "{}"}}
TOO_MUCH = {
    "messages": lambda n: request(messages=[{}] * n),
    "parts": lambda n: request(messages=[{"content": ["a"] * n}]),
    "nested parts": lambda n: request(
        messages=[{"content": [{"type": "thinking", "thinking": ["a"] * n}]}]
    ),
    "calls": lambda n: request(messages=[{"tool_calls": [CALL] * n}]),
    "choices": lambda n: chat.parse_reply(json.dumps({"choices": [{}] * n}).encode()),
    "streamed choices": lambda n: merged(*(choices(i) for i in range(n))),
    "choices in a chunk": lambda n: merged(choices(*range(n))),
    "streamed calls": lambda n: streamed(*({"tool_calls": [{**CALL, "id": i}]} for i in range(n))),
    "calls in a chunk": lambda n: streamed({"tool_calls": [CALL] * n}),
    "calls of another choice": lambda n: merged(
        choices(0), {"choices": [{"index": 0, "message": {"tool_calls": [CALL] * n}}]}
    ),
}
LIMITS = {
    "messages": chat_limits.MAX_MESSAGES,
    "parts": chat_limits.MAX_PARTS,
    "nested": chat_limits.MAX_PARTS,
    "choices": chat_limits.MAX_CHOICES,
    "calls": chat_limits.MAX_CALLS,
}


@pytest.mark.parametrize("what", TOO_MUCH)
def test_more_than_the_limit_is_not_understood(what):
    """invariant_on_failure decides: cut short, the rest would pass unjudged."""
    limit = LIMITS[what.removeprefix("streamed ").split()[0]]
    TOO_MUCH[what](limit)
    with pytest.raises(NotUnderstoodError, match=str(limit)):
        TOO_MUCH[what](limit + 1)


def test_at_the_limit_a_call_still_goes_on():
    """The limit is one of calls, and not of pieces; and what is refused changes nothing."""
    merger = chat.ChunkMerger()

    def add(*entries):
        return merger.add(json.dumps({"choices": [{"delta": {"tool_calls": entries}}]}))

    for i in range(chat_limits.MAX_CALLS):
        add({"index": i, **CALL})
    add({"index": 3, "function": {"arguments": " "}})
    before = merger.completion()
    with pytest.raises(NotUnderstoodError):
        add({"index": 3, "function": {"arguments": "lost"}}, {"index": 999, **CALL})
    assert merger.completion() == before


def test_unknown_keys_beyond_the_limit_share_a_text():
    """10,000 keys were 10,000 texts that each event looked at; none may be lost."""
    limit = chat_limits.MAX_UNKNOWN_CHANNELS
    merger = streamed(*({f"k{i}": f"<{i}>"} for i in range(limit + 2)), {f"k{limit + 1}": "more"})
    assert len(merger.choices[0].channels) == limit + 1
    shared = merger.choices[0].channels["other:*"].text()
    assert shared == f"<{limit}>\n<{limit + 1}>more"


def test_thoughts_in_thoughts_are_read():
    """Each level took some of Python's stack: a RecursionError is not in the contract."""
    value = "BLUEBIRD"
    for _ in range(450):
        value = {"type": "thinking", "thinking": [value]}
    [message] = request(messages=[{"content": [value]}])
    assert "BLUEBIRD" in message.parts[0].text
    assert "BLUEBIRD" in streamed({"content": [value]}).snapshot().choices[0].parts[0].text


# -- who speaks -------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["tool", "function", "system", "user"])
def test_a_reply_is_the_assistants(role):
    """As a tool's output it would be no Message, and rules about messages would not match."""
    message = {"role": role, "content": "BLUEBIRD"}
    expected = (Message("assistant", (Part("text", "BLUEBIRD"),)),)
    assert whole({"message": message}) == expected
    merger = streamed(message)
    assert merger.snapshot().choices == expected
    assert merger.completion()["choices"][0]["message"]["role"] == role


def test_a_role_that_nobody_has_is_text():
    """The role is not judged, so it must not carry anything."""
    message = {"role": "BLUEBIRD", "content": "x"}
    assert others(whole({"message": message})[0]) == ["BLUEBIRD"]
    chunk = {"choices": [{"delta": message}]}
    assert Need(0, "other:role", 8) in merged().add(json.dumps(chunk)).needs
    again = {"choices": [{"delta": {"role": "assistant"}}, {"index": 0, "delta": message}]}
    assert others(merged(again).snapshot().choices[0]) == ["BLUEBIRD"]


# -- names of tools ---------------------------------------------------------------------------


@pytest.mark.parametrize("pieces", ["delete_all", ["delete", "_al", "l"], ["delete_", "all"]])
def test_all_pieces_of_a_name_are_joined(pieces):
    """openai-python joins them, equal ones as well: "delete_al" is a tool that nobody forbids."""
    found = calls(*({"index": 0, "id": "a", "function": {"name": p}} for p in pieces))
    assert "delete_all" in [call.name for call in found]
    assert len(found) <= 3


def test_a_name_that_is_repeated_is_one_name():
    """Vendors send it with each piece; a rule that allows only some tools must not see "ff"."""
    piece = {"index": 0, "id": "a", "function": {"name": "f", "arguments": "{"}}
    assert calls(piece, piece) == (ToolCall("a", "f", "{{"),)


def test_calls_with_one_index_are_read_as_one_too():
    """openai-python goes by the index, whatever the ids say."""
    assert calls(
        {"index": 0, "id": "a", "function": {"name": "delete", "arguments": ""}},
        {"index": 0, "id": "b", "function": {"name": "_all", "arguments": "{}"}},
    ) == (
        ToolCall("a", "delete", ""),
        ToolCall("b", "_all", "{}"),
        ToolCall("a", "delete_all", "{}"),
    )


# -- text where nobody looks ------------------------------------------------------------------

OK = {"choices": [{"index": 0, "delta": {"content": "ok"}}]}


def beside(**fields):
    return {"choices": [{"index": 0, "delta": {"content": "ok"}, **fields}]}


PLACES = {
    "top": ({**OK, "text": "BLUEBIRD"}, "other:text"),
    "top, no choices": ({"text": "BLUEBIRD"}, "other:text"),
    "top object": ({**OK, "output": [{"a": "BLUEBIRD"}]}, "other:output"),
    "citations": ({**OK, "citations": ["BLUEBIRD"]}, "other:citations"),
    "error": ({"error": {"message": "x", "failed_generation": "BLUEBIRD"}}, "other:error"),
    "choice": (beside(text="BLUEBIRD"), "other:text"),
    "Delta": ({"choices": [{"index": 0, "Delta": {"content": "BLUEBIRD"}}]}, "other:Delta"),
    "Choices": ({"Choices": [{"delta": {"content": "BLUEBIRD"}}]}, "other:Choices"),
    "Content": ({"choices": [{"delta": {"Content": "BLUEBIRD"}}]}, "other:Content"),
    "tokens": (beside(logprobs={"content": [{"token": "BLUEBIRD"}]}), "other:logprobs"),
    "sound": ({"choices": [{"delta": {"audio": {"data": "a BLUEBIRD!"}}}]}, "other:audio"),
}


@pytest.mark.parametrize("what", PLACES)
def test_text_in_any_place_of_a_chunk_is_judged(what):
    """Some client reads it; so it waits, and is seen."""
    chunk, channel = PLACES[what]
    merger = chat.ChunkMerger()
    needs = merger.add(json.dumps(chunk)).needs
    assert channel in [need.channel for need in needs]
    [found] = [t for t in others(merger.snapshot().choices[0]) if "BLUEBIRD" in t]
    assert merger.choices[0].channels[channel].atomic
    assert Need(0, channel, len(found)) in needs


def test_text_beside_choices_is_the_first_choices():
    """And makes no choice in the completion that the wire does not have."""
    merger = merged({"text": "BLUE"}, {"text": "BIRD"})
    assert merger.completion()["choices"] == []
    assert others(merger.snapshot().choices[0]) == ["BLUEBIRD"]
    merger.add(json.dumps(choices(0)))
    assert len(merger.completion()["choices"]) == 1
    assert [list(c.channels) for c in merged(choices(3), {"a": "b"}).choices.values()] == [
        ["content", "other:a"]
    ]


WHOLE = {
    "top": lambda: whole(text="BLUEBIRD"),
    "no choices": lambda: chat.parse_reply(b'{"choices": [], "output": "BLUEBIRD"}').choices,
    "error": lambda: whole(error={"failed_generation": "BLUEBIRD"}),
    "choice": lambda: whole({"text": "BLUEBIRD"}),
    "delta": lambda: whole({"delta": {"content": "BLUEBIRD"}}),
    "Message": lambda: whole({"Message": {"content": "BLUEBIRD"}}),
    "tokens": lambda: whole({"logprobs": {"content": [{"token": "BLUE"}, {"token": "BIRD"}]}}),
    "sound": lambda: whole({"message": {"audio": {"data": "a BLUEBIRD!"}}}),
    "odd sound": lambda: whole({"message": {"audio": {"data": ["BLUEBIRD"]}}}),
}


@pytest.mark.parametrize("what", WHOLE)
def test_text_in_any_place_of_a_reply_is_judged(what):
    """The same for a reply that is no stream."""
    assert "BLUEBIRD" in "".join(others(WHOLE[what]()[0]))


def test_what_says_nothing_is_no_text():
    """Else each reply had a part in which rules find the model's name."""
    around = {"id": "a", "object": "b", "model": "c", "usage": {"d": 1}, "provider": "e"}
    tokens = {"content": [{"token": "fi"}, {"token": "ne"}]}
    [message] = whole({"finish_reason": "stop", "logprobs": tokens}, **around)
    assert message == Message("assistant", (Part("text", "fine"),))
    assert merged().add(json.dumps(around)) == Step()
    choice = {"delta": {"content": "fine"}, "logprobs": tokens, "native_finish_reason": "STOP"}
    step = merged().add(json.dumps({**around, "choices": [choice]}))
    assert step.needs == (Need(0, "content", 4),)


# -- requests ---------------------------------------------------------------------------------


def test_what_the_model_reads_beside_the_messages_is_read():
    """A predicted output and a system text reach the model like any message."""
    parts = [{"type": "text", "text": "BLUE"}]
    assert request(prediction={"type": "content", "content": parts})[1:] == (
        Message("other", (Part("text", "BLUE"),)),
    )
    assert request(prediction="BLUE")[1:] == (Message("other", (Part("text", "BLUE"),)),)
    assert request(system="BLUE")[1:] == (Message("system", (Part("text", "BLUE"),)),)
    assert request(system="", prediction=None) == request()


AMBIGUOUS = {
    "Messages": {"Messages": []},
    "long s": {"meſſages": []},
    "System": {"System": "x"},
    "Content": {"messages": [{"role": "user", "content": "a", "Content": "b"}]},
    "ROLE": {"messages": [{"ROLE": "user"}]},
    "Tool_Calls": {"messages": [{"Tool_Calls": []}]},
    "Function": {"messages": [{"tool_calls": [{"Function": {}}]}]},
    "Arguments": {"messages": [{"tool_calls": [{"function": {"Arguments": "{}"}}]}]},
    "legacy": {"messages": [{"function_call": {"Name": "f"}}]},
}


@pytest.mark.parametrize("what", AMBIGUOUS)
def test_a_key_in_other_letters_is_ambiguous(what):
    """Servers in Go and .NET read it; we would judge another request than they answer."""
    with pytest.raises(NotUnderstoodError, match="ambiguous key"):
        request(**AMBIGUOUS[what])


@pytest.mark.parametrize(
    "chunk",
    [
        '{"choices":[{"delta":{"content":"BLUEBIRD","content":"ok"}}]}',
        '{"choices":[{"delta":{"c\\u006fntent":"BLUEBIRD","content":"ok"}}]}',
        '{"choices":[{"delta":{"content":"BLUEBIRD"},"delta":{}}]}',
        '{"choices":[{"delta":{"content":"BLUEBIRD"}}],"choices":[]}',
        '{"choices":[{"delta":{"tool_calls":[{"function":{"name":"a","name":"b"}}]}}]}',
    ],
)
def test_a_key_that_comes_twice_is_not_understood(chunk):
    """Some languages take the first one, and we read the last."""
    with pytest.raises(NotUnderstoodError, match="twice"):
        merged(chunk)
    for parse in (chat.parse_reply, chat.parse_request):
        text = chunk if parse == chat.parse_reply else chunk.replace("choices", "messages")
        with pytest.raises(NotUnderstoodError, match="twice"):
            parse(text.encode())


@pytest.mark.parametrize(
    "message",
    [
        '{"role":"user","content":"a","x":"BLUEBIRD","x":"b"}',
        '{"role":"user","content":[{"type":"image_url","image_url":{"url":"BLUEBIRD"},"image_url":1}]}',
        '{"role":"assistant","audio":{"transcript":"BLUEBIRD","transcript":"a"}}',
    ],
)
def test_no_key_of_a_request_comes_twice(message):
    """What only one of two readers sees would leave unjudged; no encoder writes such a thing."""
    with pytest.raises(NotUnderstoodError, match="twice") as caught:
        chat.parse_request(b'{"messages":[' + message.encode() + b"]}")
    assert '"' not in str(caught.value)  # it would be the caller's own text


def test_a_key_that_repeats_itself_says_nothing_else():
    """Careless servers do that; whoever reads it reads the same."""
    text = '{"choices":[{"delta":{"content":"a","content":"a"}},{"index":1,"delta":{"x":1}}]}'
    assert merged(text).snapshot().choices[0].text == "a"


# -- words over parts -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "joined"),
    [
        ([], None),
        (["BLUE"], None),
        (["BLUE", "BIRD"], "BLUEBIRD"),
        (["BLUE", "", "BIRD"], "BLUEBIRD"),
        (["BLUE ", "BIRD"], None),
        (["BLUE", "\nBIRD"], None),
        (["a ", "BLUE", "BIRD"], "a BLUEBIRD"),
    ],
)
def test_parts_that_make_one_word_are_joined(texts, joined):
    """`text` puts a line end between them, and a model may not."""
    parts = tuple(Part("text", text) for text in texts)
    assert Message("user", (*parts, Part("image", "x"))).joined == joined
