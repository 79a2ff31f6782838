"""The gate: what of a streamed reply may go on, and when."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from invariant_addon.core.aside import KEY
from invariant_addon.core.chat.bodies import ChunkMerger
from invariant_addon.core.chat.limits import MAX_ASIDES
from invariant_addon.core.gate import HELD, Gate
from invariant_addon.core.responses.merge import EventMerger
from invariant_addon.core.terms import Limits, Mode, Query
from invariant_addon.core.verdict import Address, Guardrail, Outcome, Verdict, Violation

RULE = Guardrail("id", "no-secret", "...")
CLEAN = Verdict((Outcome(RULE),))
BROKEN = Verdict((Outcome(RULE, error="the rule broke"),))


def hit(*, final: bool) -> Verdict:
    return Verdict((Outcome(RULE, (Violation(RULE, "a secret", final=final),)),))


def chunk(delta: dict[str, object], index: int = 0, finish: str | None = None) -> bytes:
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    body = {"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": [choice]}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def text(content: str, index: int = 0) -> bytes:
    return chunk({"content": content}, index)


ROLE = chunk({"role": "assistant", "content": ""})
STOP = chunk({}, finish="stop")
DONE = b"data: [DONE]\n\n"


def call_piece(arguments: str, index: int = 0, name: str | None = None) -> bytes:
    function: dict[str, str] = {"arguments": arguments}
    first: dict[str, object] = {}
    if name:
        function["name"] = name
        first = {"id": f"call_{index}", "type": "function"}
    return chunk({"tool_calls": [{"index": index, **first, "function": function}]})


class Stream:
    """A gate with a clock and a judge of its own: what a stream layer does, in one thread."""

    def __init__(self, mode: Mode = Mode.VERIFIED, **limits: object) -> None:
        self.now = 100.0
        self.gate = Gate(ChunkMerger(), mode, Limits(**limits), self.now)  # type: ignore[arg-type]
        self.sent = b""
        self.query: Query | None = None
        self.asked: list[Query] = []

    def feed(self, *events: bytes) -> Stream:
        for event in events:
            self.gate.feed(event, self.now)
            self.turn()
        return self

    def end(self, *, cut: bool = False) -> Stream:
        self.gate.end(self.now, cut=cut)
        return self.turn()

    def turn(self) -> Stream:
        query = self.gate.next_query(self.now)
        if query is not None:
            self.query = query
            self.asked.append(query)
        self.sent += self.gate.take(self.now)
        return self

    def answer(self, verdict: Verdict | None = CLEAN) -> Stream:
        assert self.query is not None, "no check is under way"
        query, self.query = self.query, None
        self.gate.answer(query, verdict, "" if verdict else "no engine", self.now)
        return self.turn()

    def wait(self, seconds: float) -> Stream:
        self.now += seconds
        return self.turn()

    @property
    def asked_text(self) -> list[str]:
        return [q.reply.choices[0].text if q.reply.choices else "" for q in self.asked]


def test_the_role_chunk_goes_at_once() -> None:
    """The request was judged already, and there is nothing in it to judge."""
    assert Stream().feed(ROLE).sent == ROLE


def test_text_waits_for_its_verdict() -> None:
    """The first promise: nothing is delivered before it was judged."""
    stream = Stream().feed(ROLE, text("Hello "))
    assert stream.sent == ROLE
    assert stream.answer().sent == ROLE + text("Hello ")


def test_the_unfinished_word_at_the_end_is_held() -> None:
    """A key that has half arrived must not be half delivered."""
    stream = Stream().feed(text("my key: "), text("sk-ab")).answer()
    assert stream.sent == text("my key: ")
    stream.wait(1).feed(text("cd "))
    assert stream.asked_text[-1] == "my key: sk-abcd "
    assert stream.answer().sent == text("my key: ") + text("sk-ab") + text("cd ")


def test_the_first_check_does_not_wait_and_the_second_does() -> None:
    """Time to the first token is what people feel; after that the engine is shared."""
    stream = Stream().feed(text("a "))
    assert len(stream.asked) == 1
    stream.answer().feed(text("b "))
    assert len(stream.asked) == 1
    assert stream.gate.wake_at(stream.now) == pytest.approx(stream.now + 0.05)
    assert len(stream.wait(0.05).asked) == 2


def test_the_interval_follows_the_cost_of_a_check() -> None:
    """A long history must not keep a worker busy all the time."""
    stream = Stream().feed(text("a ")).wait(1.0).answer().feed(text("b "))
    assert len(stream.wait(0.9).asked) == 1
    assert len(stream.wait(0.2).asked) == 2


def test_one_check_at_a_time_covers_all_that_has_come() -> None:
    """The window adapts by itself: what came meanwhile is judged together."""
    stream = Stream().feed(text("a "), text("b "), text("c ")).answer()
    assert stream.sent == text("a ")
    stream.wait(1)
    assert stream.asked_text == ["a ", "a b c "]
    assert stream.answer().sent == text("a ") + text("b ") + text("c ")


def test_a_final_hit_refuses_at_once() -> None:
    """What can only stay violated need not be waited for."""
    stream = Stream().feed(text("fine. "), text("SECRET ")).answer().wait(1)
    stream.answer(hit(final=True))
    assert stream.gate.done and stream.gate.refusal
    assert stream.gate.refusal.violations[0].message == "a secret"
    assert stream.feed(text("more "), DONE).sent == text("fine. ")


def test_a_suspicious_hit_holds_until_the_end_and_is_then_cleared() -> None:
    """`must end with END` is violated by every prefix, and holds in the end."""
    stream = Stream().feed(text("one "))
    stream.answer(hit(final=False)).wait(1).feed(text("two "), text("END"), STOP)
    assert stream.sent == b"" and len(stream.asked) == 1
    stream.feed(DONE)
    assert stream.asked[-1].last
    stream.answer(CLEAN).end()
    assert stream.sent == text("one ") + text("two ") + text("END") + STOP + DONE
    assert stream.gate.done and not stream.gate.refusal


def test_a_suspicious_hit_that_stays_is_refused_at_the_end() -> None:
    """... and does not hold if the reply ends otherwise; then nothing was delivered."""
    stream = Stream().feed(text("one ")).answer(hit(final=False)).feed(STOP, DONE)
    stream.answer(hit(final=False))
    assert stream.gate.refusal and stream.sent == b""


def test_the_end_supersedes_a_check_of_a_prefix() -> None:
    """The last verdict covers it, and somebody waits for that one."""
    stream = Stream().feed(text("a "))
    prefix = stream.asked[0]
    stream.feed(STOP, DONE)
    assert stream.asked[-1].last
    stream.gate.answer(prefix, hit(final=True), "", stream.now)
    assert not stream.gate.done
    stream.answer(CLEAN).end()
    assert stream.sent == text("a ") + STOP + DONE


@pytest.mark.parametrize("terminal", [b"", DONE])
def test_the_last_check_runs_with_and_without_done(terminal: bytes) -> None:
    """A stream that forgets [DONE] must not be the way around the last check."""
    stream = Stream().feed(text("SECRET"))
    if terminal:
        stream.feed(terminal)
    stream.end()
    assert stream.asked[-1].last and stream.asked_text[-1] == "SECRET"
    assert stream.answer(hit(final=False)).gate.refusal
    assert stream.sent == b""


def test_it_is_through_when_all_of_the_reply_went_on() -> None:
    """Before the message ends: clients hang up at [DONE], and their call was judged."""
    stream = Stream().feed(text("a "), STOP)
    assert not stream.gate.is_through
    stream.feed(DONE)
    assert not stream.gate.is_through  # the last verdict is still to come
    stream.answer()
    assert stream.gate.is_through and not stream.gate.done
    stream.feed(text("b "))
    assert not stream.gate.is_through
    stream.answer(hit(final=True))
    assert not stream.gate.is_through and stream.gate.refusal


def test_text_after_done_is_judged_too() -> None:
    """Some clients read on after [DONE]."""
    stream = Stream().feed(text("a "), STOP, DONE).answer().feed(text("SECRET "))
    assert stream.sent == text("a ") + STOP + DONE
    assert stream.asked[-1].last and "SECRET" in stream.asked_text[-1]
    stream.answer(hit(final=True))
    assert b"SECRET" not in stream.sent and stream.gate.refusal


def test_a_tool_call_is_held_whole_while_text_before_it_goes() -> None:
    """A client cannot act on half a call, and must not act on a forbidden one."""
    pieces = [call_piece("", name="rm"), call_piece('{"path":'), call_piece('"/"}')]
    stream = Stream().feed(text("I will clean up"), *pieces).answer()
    stream.wait(1).answer()
    assert stream.sent == text("I will clean up")
    assert not stream.asked[1].reply.choices[0].tool_calls
    stream.wait(1).feed(chunk({}, finish="tool_calls"))
    assert stream.asked[-1].reply.choices[0].tool_calls[0].arguments == '{"path":"/"}'
    assert b"rm" not in stream.sent
    refused = stream.answer(hit(final=True))
    assert refused.gate.refusal and refused.sent == text("I will clean up")


def test_an_allowed_tool_call_arrives_whole_and_unchanged() -> None:
    """Held is not altered."""
    pieces = [call_piece("", name="ls"), call_piece('{"path":"/"}'), chunk({}, finish="tool_calls")]
    stream = Stream().feed(ROLE, *pieces, DONE).answer().end()
    assert stream.sent == b"".join([ROLE, *pieces, DONE])


def test_a_piece_of_a_call_after_its_end_is_judged_for_itself() -> None:
    """It comes while its call is judged, and the verdict knows nothing of it."""
    good = [call_piece("{}", name="ls"), chunk({}, finish="tool_calls")]
    stream = Stream().feed(*good, call_piece("{}", index=1, name="rm")).answer()
    assert stream.sent == b"".join(good)
    stream.end()
    assert [call.name for call in stream.asked[-1].reply.choices[0].tool_calls] == ["ls", "rm"]
    assert stream.answer(hit(final=True)).gate.refusal and stream.sent == b"".join(good)


def test_late_pieces_of_two_calls_are_not_one() -> None:
    """The same after the terminal event, where the last check knows the first of them alone."""
    end = [call_piece("{}", name="ls"), chunk({}, finish="tool_calls"), DONE]
    stream = Stream().feed(*end).answer().feed(call_piece("{}", index=1, name="cat"))
    assert stream.query and stream.query.last
    stream.feed(call_piece("{}", index=2, name="rm")).answer()
    assert b"cat" in stream.sent and b"rm" not in stream.sent
    assert stream.answer(hit(final=True)).gate.refusal and b"rm" not in stream.sent


def test_a_call_that_never_finishes_is_judged_at_the_end() -> None:
    """No finish_reason, no [DONE]: the end of the message is the end of the call."""
    stream = Stream().feed(call_piece("{}", name="rm")).end()
    assert stream.asked[-1].last
    assert stream.asked[-1].reply.choices[0].tool_calls[0].name == "rm"
    assert stream.answer(hit(final=True)).sent == b""


def test_order_is_kept_between_choices() -> None:
    """Events are never rewritten or re-ordered, so one held choice holds what follows."""
    stream = Stream().feed(text("one"), text("zwei. ", 1)).answer()
    assert stream.sent == b""
    stream.wait(1).feed(text(" ")).answer()
    assert stream.sent == text("one") + text("zwei. ", 1) + text(" ")
    assert [m.text for m in stream.asked[-1].reply.choices] == ["one ", "zwei. "]


def test_a_prefix_without_a_verdict_means_hold_on() -> None:
    """The engine may be back before the end; only the last check decides."""
    stream = Stream().feed(text("a ")).answer(None)
    assert stream.sent == b"" and not stream.gate.done
    stream.wait(1).answer(BROKEN)
    assert stream.sent == b"" and not stream.gate.done
    stream.feed(DONE).answer(CLEAN)
    assert stream.sent == text("a ") + DONE


@pytest.mark.parametrize("verdict", [None, BROKEN])
def test_no_last_verdict_fails_closed(verdict: Verdict | None) -> None:
    """Never silently unscanned: closed is the default."""
    stream = Stream().feed(text("a "), DONE).answer(verdict)
    assert stream.sent == b"" and stream.gate.refusal and stream.gate.refusal.reason


@pytest.mark.parametrize("verdict", [None, BROKEN])
def test_no_last_verdict_passes_and_says_so_if_told_to(verdict: Verdict | None) -> None:
    """Fail open is a choice, and it leaves a mark."""
    stream = Stream(fail_open=True).feed(text("a "), DONE).answer(verdict).end()
    assert stream.sent == text("a ") + DONE and stream.gate.unjudged


def test_what_cannot_be_read_is_not_passed_on() -> None:
    """Clients differ in what they make of a broken event; so nobody gets it."""
    stream = Stream().feed(text("a "), b"data: {broken\n\n", text("b "))
    assert stream.asked[-1].last
    stream.answer(CLEAN)
    assert stream.sent == text("a ")
    assert stream.gate.refusal and "broken" not in stream.gate.refusal.reason


def test_what_cannot_be_read_passes_if_told_to() -> None:
    """Fail open, with a mark; the rest of the stream is judged all the same."""
    stream = Stream(fail_open=True).feed(b"data: {broken\n\n", text("b "), DONE).answer().end()
    assert stream.sent == b"data: {broken\n\n" + text("b ") + DONE
    assert stream.gate.unjudged


def test_half_an_event_is_dropped_when_the_connection_broke() -> None:
    """The clean part is released; the news that it broke is the layer's to pass on."""
    stream = Stream().feed(text("a b"), b'data: {"choices":[{"ind').end(cut=True)
    stream.answer(CLEAN)
    assert stream.sent == text("a b") and stream.gate.done and not stream.gate.refusal


def test_half_an_event_at_a_regular_end_is_refused() -> None:
    """openai-node delivers an unterminated event, so it cannot be passed on unread."""
    stream = Stream().feed(text("a "), b"data: {broken").end().answer(CLEAN)
    assert stream.sent == text("a ") and stream.gate.refusal


def test_an_unterminated_last_event_is_judged() -> None:
    """... and if it can be read it is text like any other."""
    stream = Stream().feed(text("SECRET").rstrip(b"\n")).end()
    assert stream.asked_text == ["SECRET"]
    assert stream.answer(hit(final=True)).sent == b""


def test_too_much_to_hold_is_refused() -> None:
    """A slow engine must not fill the memory."""
    stream = Stream(held_bytes=2000).feed(*[text("word " * 20)] * 20)
    assert stream.gate.refusal and "2000 bytes" in stream.gate.refusal.reason
    assert stream.sent == b""


def test_too_much_to_hold_passes_whole_if_told_to() -> None:
    """Fail open loses not a byte."""
    events = [text("word " * 20)] * 20
    stream = Stream(held_bytes=2000, fail_open=True).feed(*events, DONE).end()
    assert stream.sent == b"".join(events) + DONE
    assert stream.gate.unjudged and stream.gate.done


@pytest.mark.parametrize("pieces", [1, 7])
def test_one_event_that_is_too_large_is_refused_or_passes_whole(pieces: int) -> None:
    """An event without an end is held as well."""
    big = text("x" * 5000)
    parts = [
        big[i::1][: len(big) // pieces + 1] for i in range(0, len(big), len(big) // pieces + 1)
    ]
    assert b"".join(parts) == big
    assert Stream(held_bytes=2000).feed(text("a "), *parts).gate.refusal
    stream = Stream(held_bytes=2000, fail_open=True).feed(text("a "), *parts, DONE).end()
    assert stream.sent == text("a ") + big + DONE and stream.gate.unjudged


def test_buffer_sends_nothing_before_the_last_verdict() -> None:
    """Then a refusal can still be a clean 400."""
    stream = Stream(Mode.BUFFER).feed(ROLE, text("a ")).answer(CLEAN)
    assert stream.sent == b""
    stream.feed(STOP, DONE).answer(CLEAN).end()
    assert stream.sent == ROLE + text("a ") + STOP + DONE


def test_buffer_refuses_early_on_a_final_hit() -> None:
    """Nobody pays for tokens that nobody will read."""
    stream = Stream(Mode.BUFFER).feed(ROLE, text("SECRET ")).answer(hit(final=True))
    assert stream.gate.refusal and stream.sent == b""


def test_buffer_delivers_nothing_of_a_reply_that_breaks_off_unreadably() -> None:
    """Not even the clean part: the answer is a 400."""
    stream = Stream(Mode.BUFFER).feed(text("a "), b"data: {broken\n\n").answer(CLEAN)
    assert stream.gate.refusal and stream.sent == b""


def test_observe_lets_all_flow_but_the_end() -> None:
    """The way of invariant-gateway: the error comes before [DONE]."""
    stream = Stream(Mode.OBSERVE).feed(ROLE + text("SECRET ") + STOP + DONE)
    assert stream.sent == ROLE + text("SECRET ") + STOP
    stream.answer(hit(final=True))
    assert stream.sent == ROLE + text("SECRET ") + STOP and stream.gate.refusal


def test_a_comment_keeps_a_waiting_client_alive() -> None:
    """A slow verdict must not look like a dead connection."""
    stream = Stream().feed(ROLE, text("a "))
    assert stream.gate.wake_at(stream.now) == stream.now + 10
    stream.wait(10)
    assert stream.sent == ROLE + HELD
    stream.answer()
    assert stream.sent == ROLE + HELD + text("a ")


def test_no_comment_when_upstream_is_the_slow_one() -> None:
    """We add nothing that is not because of us."""
    stream = Stream().feed(ROLE)
    assert stream.gate.wake_at(stream.now) is None
    assert stream.wait(100).sent == ROLE


def test_an_empty_stream_needs_no_verdict_of_text() -> None:
    """Nothing came, so there is nothing to judge: but the check that always runs, ran."""
    stream = Stream().end()
    assert stream.asked and stream.answer().gate.done and stream.sent == b""


def test_an_upstream_error_event_reaches_the_client() -> None:
    """A vendor's error in the stream is news for the client, not for us."""
    error = b'data: {"error":{"message":"overloaded"}}\n\n'
    stream = Stream().feed(text("a "), error).end().answer()
    assert stream.sent == text("a ") + error


WORDS = st.sampled_from(
    ["a ", "b", "word. ", "SEC", "RET", "SECRET", " ", "日本", "\n", "x-", "END"]
)
VERDICT = Callable[[str], Verdict]


def judge_secret(seen: str) -> Verdict:
    return hit(final=True) if "SECRET" in seen else CLEAN


def judge_end(seen: str) -> Verdict:
    return CLEAN if seen.rstrip().endswith("END") else hit(final=False)


def drive(words: Iterable[str], delays: list[int], judge: VERDICT, *, done: bool) -> Stream:
    """Feed words while verdicts take as many steps as `delays` says."""
    stream = Stream()
    waiting = 0
    events = [ROLE, *(text(w) for w in words), STOP, *([DONE] if done else [])]
    for number, event in enumerate(events):
        known = stream.query
        stream.feed(event)
        stream.wait(0.03)
        if stream.query is not known and stream.query is not None:
            waiting = delays[number % len(delays)] if delays else 0
        if stream.query is not None and waiting == 0:
            stream.answer(judge(stream.asked_text[-1]))
        waiting = max(0, waiting - 1)
    stream.end()
    while stream.query is not None:
        stream.answer(judge(stream.asked_text[-1]))
    return stream


def delivered(stream: Stream) -> str:
    merger = ChunkMerger()
    for data in re.findall(rb"data: (.*)\n\n", stream.sent):
        merger.add(data.decode())
    reply = merger.snapshot()
    return reply.choices[0].text if reply.choices else ""


@settings(max_examples=300, deadline=None)
@given(st.lists(WORDS, max_size=30), st.lists(st.integers(0, 5), max_size=5), st.booleans())
def test_no_word_that_breaks_a_rule_is_ever_delivered(
    words: list[str], delays: list[int], done: bool
) -> None:
    """The first promise, whatever comes and however slow the verdicts are."""
    whole = "".join(words)
    stream = drive(words, delays, judge_secret, done=done)
    assert stream.gate.done
    if "SECRET" in whole:
        assert stream.gate.refusal
        assert "SECRET" not in delivered(stream) and whole.startswith(delivered(stream))
    else:
        assert not stream.gate.refusal
        assert stream.sent == b"".join(
            [ROLE, *(text(w) for w in words), STOP, *([DONE] if done else [])]
        )


@settings(max_examples=200, deadline=None)
@given(st.lists(WORDS, max_size=20), st.lists(st.integers(0, 5), max_size=5), st.booleans())
def test_no_rule_about_the_end_is_ever_misjudged(
    words: list[str], delays: list[int], done: bool
) -> None:
    """A rule that only the whole reply can satisfy gives what it gives for the whole reply."""
    stream = drive(words, delays, judge_end, done=done)
    assert bool(stream.gate.refusal) == (not "".join(words).rstrip().endswith("END"))


def spot(start: int, path: str = "content") -> Verdict:
    violation = Violation(RULE, "a secret", (Address(0, path, start, start + 6),), final=True)
    return Verdict((Outcome(RULE, (violation,)),))


def test_the_clean_text_before_a_violation_is_delivered_in_a_burst_too() -> None:
    """What is delivered must not depend on how fast the reply came."""
    burst = [text("one "), text("two "), text("key="), text("SECRET "), text("three ")]
    stream = Stream()
    stream.gate.feed(b"".join(burst), stream.now)
    stream.turn().answer(spot(12))
    assert stream.asked_text == ["one two key=SECRET three ", "one two "]
    stream.feed(text("ignored "), DONE).answer(CLEAN)
    assert stream.sent == text("one ") + text("two ")
    assert stream.gate.refusal and stream.gate.done


def test_the_text_before_a_forbidden_call_is_delivered_in_a_burst_too() -> None:
    """Also if the verdict on all of it is the last one."""
    stream = Stream()
    finish = chunk({}, finish="tool_calls")
    stream.gate.feed(text("Let me") + call_piece("{}", name="rm") + finish + DONE, stream.now)
    stream.turn().answer(spot(0, "tool_calls.0.function.arguments.path")).answer(CLEAN)
    assert stream.sent == text("Let me") and stream.gate.refusal


@pytest.mark.parametrize("verdict", [None, BROKEN, hit(final=False)])
def test_text_before_a_violation_that_is_not_clean_itself_stays(verdict: Verdict | None) -> None:
    """It is judged like anything else; without a clean verdict it does not go."""
    stream = Stream().feed(text("one SECRET ")).answer(spot(4))
    assert stream.sent == b"" and stream.gate.refusal
    stream = Stream()
    stream.gate.feed(text("one ") + text("SECRET "), stream.now)
    stream.turn().answer(spot(4)).answer(verdict)
    assert stream.sent == b"" and stream.gate.refusal


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("tail", [b"\n", b":\n\n", DONE])
@pytest.mark.parametrize("early", [True, False])
def test_what_comes_after_the_end_and_says_nothing_goes_too(
    mode: Mode, tail: bytes, early: bool
) -> None:
    """It came after the question of the last check, or after its answer: the stream once hung."""
    stream = Stream(mode).feed(text("a "), STOP, DONE)
    if early:
        stream.feed(tail).answer().end()
    else:
        stream.answer().feed(tail).end()
    assert stream.gate.done and stream.sent == text("a ") + STOP + DONE + tail


@pytest.mark.parametrize(
    "odd",
    [
        b'{"choices":[{"message":{"content":"SECRET"}}]}\n\n',
        b' data: {"choices":[]}\n\n',
        b"DATA: x\n\n",
        ": x\u2028data: {}\n\n".encode(),
        b"id: data: x\n\n",
    ],
)
def test_a_line_that_is_not_of_the_format_is_not_passed_on(odd: bytes) -> None:
    """A client that is less strict than the standard could read something in it."""
    stream = Stream().feed(text("a "), odd).answer(CLEAN)
    assert stream.sent == text("a ") and stream.gate.refusal


def test_many_events_without_text_are_held_as_one() -> None:
    """Four million blank lines must not be four million objects."""
    for nothing, most in ((b"\n", 1), (b":\n\n", 1), (b": x\n\n", 2)):
        stream = Stream().feed(text("word")).feed(*[nothing] * 1000)
        assert len(stream.gate._held) == most
        assert stream.feed(DONE).answer().end().sent == text("word") + nothing * 1000 + DONE


# -- what is beside the data ------------------------------------------------------------------


@pytest.mark.parametrize(
    "block",
    [b": SECRET\n\n", b"id: SECRET\ndata: {}\n\n", b"event: SECRET\ndata: {}\n\n",
     b"retry: SECRET\n\n", b'event: a SECRET\ndata: {"a SECRET": 1}\n\n',
     b'data: {"error": {"message": "SECRET"}}\n\n', b'data: {"error": "SECRET"}\n\n'],
)  # fmt: skip
@pytest.mark.parametrize("mode", [Mode.VERIFIED, Mode.BUFFER])
def test_what_is_beside_the_data_waits_for_its_verdict(mode: Mode, block: bytes) -> None:
    """A client that reads the bytes, or shows an error, would have it before anybody judged it."""
    stream = Stream(mode).feed(text("a ")).answer().wait(1).feed(block)
    assert block not in stream.sent
    if mode is Mode.VERIFIED:
        assert stream.query and "SECRET" in stream.query.reply.choices[-1].text
    stream.end()
    assert stream.query and stream.query.last and stream.query.reply.choices[-1].role == "error"
    stream.answer(spot(0))
    if stream.query:  # what comes before the finding, for itself: here it is the same
        stream.answer(spot(0))
    assert block not in stream.sent and stream.gate.refusal


def test_a_heartbeat_is_judged_once_and_flows() -> None:
    """Comments keep a connection alive while the model thinks."""
    beat = b": OPENROUTER PROCESSING\n\n"
    stream = Stream().feed(beat)
    assert stream.sent == b"" and stream.query is not None
    stream.answer().wait(1).feed(*[beat] * 5)
    assert stream.sent == beat * 6 and len(stream.asked) == 1
    stream.wait(1).feed(text("one "))  # what waits is not overtaken, and does not stop for good
    stream.feed(beat)
    assert stream.sent == beat * 6
    assert stream.answer().sent == beat * 6 + text("one ") + beat


def test_names_that_the_data_has_too_are_no_words() -> None:
    """As OpenAI sends them: no check more than before."""
    event = b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta"}\n\n'
    stream = Stream()
    stream.gate.merger = EventMerger()
    stream.feed(event, event, b"id: 17\nretry: 3000\n\n")
    assert stream.sent == event * 2 + b"id: 17\nretry: 3000\n\n" and not stream.asked


def test_a_comment_after_the_end_is_judged_too() -> None:
    """And the stream does not hang."""
    for early in (True, False):
        stream = Stream().feed(text("a "), STOP, DONE)
        if early:
            stream.feed(b": bye\n\n").answer()
        else:
            stream.answer().feed(b": bye\n\n")
        stream.end()
        assert b"bye" not in stream.sent and stream.query and stream.query.last
        stream.answer()
        assert stream.gate.done and stream.sent == text("a ") + STOP + DONE + b": bye\n\n"


@pytest.mark.parametrize("index", [KEY, 2**64, -(2**53) - 1])
def test_no_choice_takes_the_place_of_what_is_beside_it(index: int) -> None:
    """What stands there may go on as soon as its words are known. Python reads such a number in a
    chunk that orjson does not read."""

    def odd(delta: dict[str, object], finish: str | None = None) -> bytes:
        return chunk(delta, index, finish)[:-3] + b', "x": NaN}\n\n'

    function = {"name": "rm", "arguments": "{}"}
    call: dict[str, object] = {
        "tool_calls": [{"index": 0, "id": "c", "type": "function", "function": function}]
    }
    stream = Stream().feed(odd(call), odd({}, "tool_calls"))
    if stream.query:
        stream.answer()
    stream.feed(odd(call))
    assert stream.gate.refusal and stream.sent == b""


def test_too_many_different_comments_are_not_read() -> None:
    """Each costs more than its bytes."""
    stream = Stream()
    for start in range(0, MAX_ASIDES + 2, 1000):
        stream.gate.feed(b"".join(b": %d\n\n" % n for n in range(start, start + 1000)), 0.0)
    stream.turn().answer()
    assert stream.gate.refusal and b": %d" % MAX_ASIDES not in stream.sent
