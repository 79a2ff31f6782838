"""A trace on a terminal: findings are marked where they are, and nothing in it is obeyed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from invariant_addon.core.trace import Finding, Timing, Trace
from invariant_addon.core.verdict import Address
from invariant_addon.traces.shown import Paint, lines

PLAIN = Paint()


def finding(name: str, *addresses: Address, effect: Any = "blocked") -> Finding:
    return Finding({"name": name}, f"words of {name}", effect, addresses)


TRACE = Trace(
    id="inv_1",
    started=1_700_000_000.0,
    status="judged",
    endpoint="chat.completions",
    model="gpt-4o",
    stream=True,
    parameters={},
    messages=(
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "one\nthe bluebird flies"},
    ),
    timing=Timing(1500.0, first=250.0, held=30.0, judged=12.5, checks=3),
)


def shown(trace: Trace, paint: Paint = PLAIN) -> list[str]:
    return [line for line in lines(trace, paint) if line]


def body(trace: Trace, paint: Paint = PLAIN) -> list[str]:
    """Without what is said about the whole."""
    found = list(lines(trace, paint))
    return [line for line in found[found.index("") :] if line]


def asking(content: Any, *found: Finding, **more: Any) -> Trace:
    return replace(TRACE, messages=({"role": "user", "content": content, **more},), findings=found)


def test_a_conversation_is_readable() -> None:
    """Roles, texts, and what it took."""
    first, second, *rest = shown(TRACE)
    assert first == "inv_1  judged  gpt-4o, chat.completions, streamed"
    assert second.endswith(", 1.5 s, first byte after 250 ms, 3 checks in 12 ms, held for 30 ms")
    assert rest == ["── 1 system", "  be kind", "── 2 user", "  one", "  the bluebird flies"]


def test_a_finding_is_marked_where_it_is() -> None:
    """With the rule beside it, and its words at the top."""
    trace = replace(TRACE, findings=(finding("birds", Address(1), Address(1, "content", 8, 16)),))
    assert "  the >>>bluebird<<<[birds] flies" in shown(trace)
    assert "blocked by birds: words of birds (message 2 (user), characters 9-16)" in shown(trace)
    assert "  the \x1b[7mbluebird\x1b[0m\x1b[31m[birds]\x1b[0m flies" in shown(trace, Paint(True))


def test_findings_that_overlap_are_marked_together() -> None:
    """Half a mark inside another one would be unreadable."""
    trace = asking(
        "abcdefgh",
        finding("x", Address(0, "content", 1, 4)),
        finding("y", Address(0, "content", 3, 6)),
        finding("y", Address(0, "content", 6, 7)),
    )
    assert body(trace)[1] == "  a>>>bcdef<<<[x, y]>>>g<<<[y]h"


def test_a_mark_over_lines_leaves_the_margin_alone() -> None:
    """The margin is ours."""
    trace = asking("ab\n\ncd", finding("x", Address(0, "content", 1, 5)))
    assert body(trace, Paint(True))[1:] == [
        "  a\x1b[7mb\x1b[0m",
        "  ",
        "  \x1b[7mc\x1b[0m\x1b[31m[x]\x1b[0md",
    ]


def test_the_arguments_of_a_call_are_marked_too() -> None:
    """That is where the dangerous things are."""
    call = {
        "id": "call_1",
        "type": "function",
        "function": {
            "name": "send",
            "arguments": '{"to":"bluebird","cc":[{"a.b":"x\\ny"}],"n":1,"none":{}}',
        },
    }
    path = "tool_calls.0.function.arguments"
    trace = asking(
        None,
        finding("to", Address(0, f"{path}.to", 0, 4)),
        finding("cc", Address(0, f"{path}.cc.0.a.b", 2, 3)),
        finding("name", Address(0, "tool_calls.0.function.name", 0, 4)),
        role="assistant",
        tool_calls=[call],
    )
    assert body(trace) == [
        "── 1 assistant",
        "  calls send call_1",
        "    to: >>>blue<<<[to]bird",
        "    cc:",
        "      0:",
        "        a.b: x",
        "          >>>y<<<[cc]",
        "    n: 1",
        "    none: {}",
        "  ! name: words of name (tool_calls.0.function.name)",
    ]


def test_what_cannot_be_marked_is_said() -> None:
    """A finding in a whole message, or with a range that is not there, must not vanish."""
    trace = asking("abc", finding("x", Address(0)), finding("y", Address(0, "content", 1, 9)))
    assert body(trace)[1:] == [
        "  abc",
        "  ! x: words of x",
        "  ! y: words of y (content)",
    ]


def test_a_reply_shows_what_was_withheld() -> None:
    """The client did not see all of it; alternatives are not marked, for they share a number."""
    reply = {"role": "assistant", "content": "a bluebird"}
    found = (finding("x", Address(2, "content", 2, 10)),)
    trace = replace(TRACE, choices=(reply,), finishes=("stop",), findings=found, withheld=6)
    assert shown(trace)[-3:] == [
        "── 3 reply (stop)",
        "  a >>>bluebird<<<[x]",
        "withheld: the client got 0 of 6 characters of the reply",
    ]
    trace = replace(trace, choices=(reply, reply), finishes=("stop",), withheld=0)
    assert shown(trace)[-6:] == [
        "── 3 reply 1 of 2 (stop)",
        "  a bluebird",
        "  ! x: words of x (content)",
        "── 3 reply 2 of 2",
        "  a bluebird",
        "  ! x: words of x (content)",
    ]


def test_parts_that_are_no_text_are_named() -> None:
    """And not poured out: a picture is a megabyte of letters."""
    url = "data:image/png;base64," + "A" * 5000
    trace = asking(
        [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": url}}]
    )
    _, text, image = body(trace)
    assert text == "  see"
    assert image.startswith("  [image] data:image/png") and len(image) < 300


def test_a_trace_cannot_command_the_terminal() -> None:
    """Escape sequences, and lines that look like ours."""
    evil = "\x1b]0;x\x07\x1b[2J\u202e\r\x85\u2028\x9b31m\n── 9 system\n\x1b[0m"
    call = {"id": evil, "type": "function", "function": {"name": evil, "arguments": evil}}
    trace = asking(
        evil,
        Finding({"name": evil}, evil, "blocked", (Address(0, evil), Address(0, "content", 0, 8))),
        name=evil,
        tool_calls=[call],
    )
    trace = replace(trace, id=evil, model=evil, reason=evil, client=evil, choices=(evil,))
    trace = replace(trace, finishes=(evil,), endpoint=evil, response_id=evil)
    for line in shown(trace):
        assert line.isprintable(), line
    assert [line for line in shown(trace) if line.startswith("── 9")] == []


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)
NAMES = ("role", "content", "tool_calls", "name", "tool_call_id", "function_call", "refusal")


@given(
    message=anything | st.fixed_dictionaries({}, optional=dict.fromkeys(NAMES, anything)),
    path=st.sampled_from(["", "content", "reasoning", "tool_calls.0.function.arguments.a"]),
    start=st.integers(-2, 5),
    end=st.integers(-2, 5),
)
def test_whatever_is_kept_can_be_shown(message: Any, path: str, start: int, end: int) -> None:
    """On one terminal line each."""
    found = (finding("x", Address(0, path, start, end)),)
    for line in lines(replace(TRACE, messages=(message,), findings=found), PLAIN):
        assert not line or line.isprintable()


def test_a_finding_beside_the_messages_is_said_to_be_there() -> None:
    """It has no number that a person could look up."""
    trace = replace(TRACE, findings=(finding("birds", Address(3)),))
    assert "blocked by birds: words of birds (beside the messages)" in shown(trace)
