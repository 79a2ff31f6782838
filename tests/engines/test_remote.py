"""The engine that asks a service: what it says, what it understands, and what it does when the
service is down, slow, broken or full of nonsense. The service is the stage's, on a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import logging
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invariant_addon.core.conversation import Conversation, Message, Part, ToolCall
from invariant_addon.core.verdict import Address, Guardrail, Outcome, Verdict
from invariant_addon.engines import remote, wire
from invariant_addon.engines.base import (
    Caller,
    DeadlineError,
    Defect,
    EngineClosedError,
    EngineError,
    KeyRejectedError,
    Question,
)
from invariant_addon.engines.breaker import Breaker, Budget, ServiceError
from invariant_addon.engines.normalise import Place
from invariant_addon.engines.remote import RemoteEngine
from invariant_addon.engines.service import MAX_ANSWER

from .conftest import assistant, question, rule, user

# --import-mode=importlib puts no test folder on sys.path.
sys.path.append(str(Path(__file__).resolve().parents[1] / "e2e"))
from stage.authority import make_authority  # only now can it be found
from stage.service import CHECK, Play, Service, error, result  # the same

KEY = "Bearer inv-s3cret-key"
SAID = "s3cret words"
WORD = rule("(m: Message)", '"forbidden" in m.content', says="a forbidden word")
FIND = rule("(m: Message)", 'any(find("f\\\\w+n", m.content))', says="found")
TOOL = rule("(c: ToolCall)", 'c is tool:bash({cmd: ".*rm -rf.*"})', says="no rm")
ARGUMENT = rule("(c: ToolCall)", '"rm" in c.function.arguments.cmd', says="rm")
FLOW = rule(
    "(o: ToolOutput) -> (c: ToolCall)", "o is tool:read_mail", "c is tool:send_mail", says="leak"
)
TWO = WORD + rule("(m: Message)", 'm.role == "reasoning"', says="thinking")
RULES = (WORD, FIND, TOOL, ARGUMENT, FLOW, TWO)
CLEAN = {"result": [result(WORD)]}


class Reader:
    """An engine that finds fault with texts that say BAD. log: what it was told to do."""

    def __init__(self) -> None:
        self.log: list[str] = []

    async def start(self) -> None:
        self.log.append("start")

    async def load(
        self, guardrails: Sequence[Guardrail], *, everywhere: bool = True
    ) -> tuple[Defect, ...]:
        self.log.append("load" if everywhere else "load once")
        return tuple(Defect(g, "line 2: it is BAD") for g in guardrails if "BAD" in g.text)

    async def check(self, asked: Question) -> tuple[Verdict, ...]:
        raise AssertionError("judging happens elsewhere")

    async def aclose(self) -> None:
        self.log.append("close")


class Far:
    """A remote engine with a loop of its own."""

    def __init__(self, url: str, **options: Any) -> None:
        self.loop = asyncio.new_event_loop()
        options = {"reader": Reader(), "deadline_ms": 2000, "authorization": KEY, **options}
        self.engine = RemoteEngine(url, **options)
        self.run(self.engine.start())

    def run[T](self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def check(self, asked: Question) -> tuple[Verdict, ...]:
        return self.run(self.engine.check(asked))

    def judge(self, messages: list[Message], *texts: str) -> tuple[Outcome, ...]:
        return self.check(question(messages, *texts))[0].outcomes

    def fail(self, asked: Question | None = None) -> EngineError:
        with pytest.raises(EngineError) as caught:
            self.check(asked or question([user(SAID)], WORD))
        return caught.value

    def close(self) -> None:
        self.run(self.engine.aclose())
        self.run(self.loop.shutdown_asyncgens())
        self.loop.close()


type MakeFar = Callable[..., Far]


@pytest.fixture(scope="module")
def _the_service() -> Iterator[Service]:
    service = Service().start()
    yield service
    service.stop()


@pytest.fixture
def service(_the_service: Service) -> Iterator[Service]:
    _the_service.reset()
    yield _the_service
    assert not _the_service.errors, f"the fake service itself failed: {_the_service.errors}"


@pytest.fixture
def far(service: Service) -> Iterator[MakeFar]:
    made: list[Far] = []

    def make(**options: Any) -> Far:
        made.append(Far(options.pop("url", service.url), **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def timed(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


async def until(is_so: Callable[[], bool]) -> None:
    """What happens in another thread is no event of this loop."""
    async with asyncio.timeout(15):
        while not is_so():  # noqa: ASYNC110  # see above
            await asyncio.sleep(0.01)


# what goes out


def test_the_request_is_the_ancestors(service: Service, far: MakeFar) -> None:
    """A service that knows invariant-gateway must not notice a difference."""
    service.play(Play(body={"result": [result(WORD), result(TOOL)]}))
    call = ToolCall("c1", "bash", '{"cmd": "ls"}')
    asked = question([user("hi"), assistant("", call)], WORD, TOOL)
    asked = replace(asked, parameters={"limit": 3}, caller=Caller(None, "my-dataset"))
    far(session="the-session").check(asked)
    (seen,) = service.asks
    assert seen.path == "/api/v1/policy/check/batch"
    assert seen.json() == {
        "messages": [
            {"role": "user", "content": "hi"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {
                        "id": "c1",
                        "type": "function",
                        "function": {"name": "bash", "arguments": {"cmd": "ls"}},
                    }
                ],
            },
        ],
        "policies": [WORD, TOOL],
        "parameters": {"limit": 3},
        "dataset_name": "my-dataset",
    }
    wanted = {
        "authorization": KEY,
        "accept": "application/json",
        "content-type": "application/json",
        "x-session-id": "the-session",
    }
    assert wanted.items() <= seen.headers.items()


def test_what_nobody_said_is_empty(service: Service, far: MakeFar) -> None:
    """Keys are there even without a value: the service's model may want them."""
    far().check(question([user("hi")], WORD))
    assert service.asks[0].json()["parameters"] == {}
    assert service.asks[0].json()["dataset_name"] is None


@pytest.mark.parametrize(
    ("own", "callers", "sent"),
    [
        (KEY, "Bearer theirs", "Bearer theirs"),
        (KEY, None, KEY),
        (KEY, "", KEY),
        (None, "Bearer theirs", "Bearer theirs"),
        (None, None, None),
    ],
)
def test_the_callers_key_goes_first(
    service: Service, far: MakeFar, own: str | None, callers: str | None, sent: str | None
) -> None:
    """Whoever brings a key is judged, and billed, by it."""
    far(authorization=own).check(
        replace(question([user("x")], WORD), caller=Caller(authorization=callers))
    )
    assert service.asks[0].headers.get("authorization") == sent


def test_parameters_that_cannot_be_sent(service: Service, far: MakeFar) -> None:
    """`data` is the conversation; and what is no JSON is an error that quotes nothing."""
    one = far()
    asked = question([user("x")], WORD)
    one.check(replace(asked, parameters={"data": SAID, "limit": 2**70}))
    assert service.asks[0].json()["parameters"] == {"limit": 2**70}
    found = one.fail(replace(asked, parameters={"x": {SAID}}))
    assert str(found) == "the parameters are no plain JSON: TypeError"


def test_each_proxy_is_one_session(service: Service, far: MakeFar) -> None:
    """The service groups what belongs together."""
    first, second = far(), far()
    for one in (first, first, second):
        one.check(question([user("x")], WORD))
    ids = [ask.headers["x-session-id"] for ask in service.asks]
    assert ids[0] == ids[1] != ids[2]


def test_choices_are_asked_about_at_once(service: Service, far: MakeFar) -> None:
    """Three choices must not take three times as long."""
    service.play(Play(delay=1))
    choices = tuple((assistant(text),) for text in ("fine", "forbidden", "also fine"))
    asked = question([user("hi")], WORD, then=choices)
    verdicts: list[tuple[Verdict, ...]] = []
    one = far(deadline_ms=8000)
    assert timed(lambda: verdicts.append(one.check(asked))) < 2.8
    assert [v.is_clean for v in verdicts[0]] == [True, False, True]
    assert verdicts[0][1].violations[0].addresses[0] == Address(1)
    sent = sorted(ask.json()["messages"][1]["content"] for ask in service.asks)
    assert sent == ["also fine", "fine", "forbidden"]


def test_nothing_to_ask_is_not_asked(service: Service, far: MakeFar) -> None:
    """Without guardrails or continuations there is no need for a service."""
    one = far()
    assert one.check(question([user("x")])) == (Verdict(),)
    assert one.check(question([user("x")], WORD, then=())) == ()
    assert not service.asks


def test_connections_are_kept(service: Service, far: MakeFar) -> None:
    """A handshake for each check would cost more than the check."""
    one = far()
    for i in range(20):
        one.check(question([user(f"hello {i}")], WORD))
    assert (service.connections, len(service.checks)) == (1, 20)


def test_refusals_keep_their_connection(service: Service, far: MakeFar) -> None:
    """A client with a wrong key asks often."""
    service.play(Play(status=401, body={"detail": "x" * 1000}))
    one = far()
    for _ in range(5):
        one.fail()
    assert service.connections == 1


def test_a_cookie_does_not_go_out_with_another_callers_key(service: Service, far: MakeFar) -> None:
    """One client serves all callers, but they have nothing in common."""
    service.play(Play(body=CLEAN, headers={"set-cookie": "session=first; Path=/"}))
    one = far()
    for _ in range(2):
        one.check(question([user("x")], WORD))
    assert not any("cookie" in ask.headers for ask in service.asks)


def test_the_environments_proxies_are_not_used(
    service: Service, far: MakeFar, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be this very proxy that HTTPS_PROXY names."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", "")
    assert far().judge([user("forbidden")], WORD)[0].violations


def test_a_redirect_is_not_followed(service: Service, far: MakeFar) -> None:
    """It would take the key and the conversation to another host."""
    service.play(Play(status=307, body={}, headers={"location": "http://127.0.0.1:9/"}))
    assert "sends elsewhere (307)" in str(far().fail())


# what comes back


def conversations() -> dict[str, list[Message]]:
    def result_of(text: str, call_id: str = "c1") -> Message:
        return Message("tool", (Part("text", text),), (), call_id)

    bash = ToolCall("c1", "bash", '{"cmd": "sudo rm -rf /"}')
    thinking = Message("assistant", (Part("reasoning", "forbidden"), Part("text", "forbidden")))
    return {
        "clean": [user("hello")],
        "nothing": [],
        "empty": [user("")],
        "word": [user("hi"), user("a forbidden thing, forbidden")],
        "emoji before it": [user("👩‍👩‍👧 \0 ﷽ forbidden 😀")],
        "lone surrogate": [user("\ud800 forbidden")],
        "call": [user("x"), assistant("", bash)],
        "two calls": [assistant("", ToolCall("c0", "bash", '{"cmd": "ls"}'), bash)],
        "key that others lack": [assistant("", ToolCall("c0", "read", '{"path": "x"}'), bash)],
        "malformed arguments": [assistant("", ToolCall("c1", "bash", '{"cmd": "sudo rm -rf'))],
        "custom tool": [assistant("", ToolCall("c", "bash", "forbidden", "custom"))],
        "legacy call": [assistant("", ToolCall(None, "bash", '{"cmd": "rm"}'))],
        "huge integer": [assistant("", ToolCall("c", "bash", '{"n": ' + "9" * 5000 + "}"))],
        "big integer": [assistant("", ToolCall("c", "bash", '{"n": ' + "9" * 30 + "}"))],
        "deep arguments": [assistant("", ToolCall("c", "bash", "[" * 900 + "]" * 900))],
        "parts": [Message("user", (Part("text", "forbidden"), Part("text", "one")))],
        "word over two parts": [Message("user", (Part("text", "for"), Part("text", "bidden")))],
        "reasoning": [user("hi"), thinking],
        "flow": [
            assistant("", ToolCall("c1", "read_mail", "{}")),
            result_of("x"),
            assistant("", ToolCall("c2", "send_mail", "{}")),
        ],
        "result of nothing": [result_of("forbidden", "unknown")],
        "many hits": [user(f"{i} forbidden") for i in range(30)],
        "long": [user("x" * 300_000 + " forbidden")],
        "many": [user("y")] * 300 + [user("forbidden")],
    }


def seen(verdicts: tuple[Verdict, ...]) -> list[Any]:
    return [
        [([(v.message, v.addresses) for v in o.violations], o.error is None) for o in v.outcomes]
        for v in verdicts
    ]


@pytest.mark.parametrize("name", conversations())
def test_the_verdict_does_not_depend_on_where_it_is_made(
    bench: Any, far: MakeFar, name: str
) -> None:
    """The same rules, the same words, the same places."""
    asked = question(conversations()[name], *RULES)
    assert seen(far(deadline_ms=8000).check(asked)) == seen(bench.run(bench.engine.check(asked)))


@pytest.mark.parametrize("name", conversations())
def test_nor_does_it_for_the_choices_of_a_reply(bench: Any, far: MakeFar, name: str) -> None:
    """Addresses count on from the request, for each choice by itself."""
    messages = conversations()[name]
    bash = ToolCall("c9", "bash", '{"cmd": "rm -rf /"}')
    thinking = Message("assistant", (Part("reasoning", "hm"), Part("text", "ok, forbidden")))
    asked = question(messages, *RULES, then=((assistant("fine", bash),), (thinking,)))
    assert seen(far(deadline_ms=8000).check(asked)) == seen(bench.run(bench.engine.check(asked)))


def test_a_rule_that_fails_is_an_error_of_its_guardrail_only(bench: Any, far: MakeFar) -> None:
    """One bad rule must not switch off the good ones, and its error may quote what was said."""
    bad = rule("(m: Message)", 'm.nothing == "x"')
    failed, found = far().judge([user(f"forbidden {SAID}")], bad, WORD)
    assert (failed.error, failed.violations) == ("the guardrails service could not judge it", ())
    assert found.error is None and len(found.violations) == 1


def read(answer: Any, *texts: str, messages: int = 2, **options: Any) -> tuple[Outcome, ...]:
    guardrails = tuple(Guardrail(str(i), f"g{i}", text) for i, text in enumerate(texts or [WORD]))
    places = tuple(Place(i) for i in range(messages))
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    return wire.read(body, guardrails, places, **options).outcomes


def hit(*ranges: Any, args: Any = ("a forbidden word",)) -> dict[str, Any]:
    return {"result": [{**result(WORD), "errors": [{"args": args, "ranges": ranges}]}]}


@pytest.mark.parametrize(
    ("found", "address"),
    [
        ("messages.1.content:4-10", Address(1, "content", 4, 10)),
        ("1.content:4-10", Address(1, "content", 4, 10)),
        ("messages.0", Address(0)),
        ("messages.1.tool_calls.0", Address(1, "tool_calls.0")),
        (
            "messages.1.tool_calls.0.function.arguments.cmd:4-10",
            Address(1, "tool_calls.0.function.arguments.cmd", 4, 10),
        ),
        (
            "messages.1.tool_calls.0.function.arguments.__raw__:4-10",
            Address(1, "tool_calls.0.function.arguments", 4, 10),
        ),
    ],
)
def test_addresses_of_a_real_service_are_understood(found: str, address: Address) -> None:
    """As invariant-ai writes them."""
    assert read(hit(found))[0].violations[0].addresses == (address,)


@pytest.mark.parametrize(
    "found",
    [
        "messages[0].content:L0",
        "messages.7.content:0-1",
        "messages.-1",
        "messages.1.content:10-4",
        "messages." + "9" * 5000,
        "messages.1.content:0-" + "9" * 3000,
        "messages.1." + "x" * 100_000,
        "messages.1.\ud800",
        "",
        "nonsense",
        None,
        5,
        {"json_path": "0.content"},
        ["messages.1"],
    ],
)
def test_an_address_that_points_at_nothing_is_dropped(found: Any) -> None:
    """The hit stays a hit, and the good address beside it stays, too."""
    (violation,) = read(hit(found, "messages.1"))[0].violations
    assert violation.addresses == (Address(1),)


@pytest.mark.parametrize(
    "args",
    [
        [f"you said {SAID}"],
        [""],
        [],
        None,
        "a forbidden word",
        [["a forbidden word"]],
        [{"content": SAID}],
        [5],
    ],
)
def test_only_words_that_stand_in_the_rule_are_said(args: Any) -> None:
    """What was put together when it was raised could quote what is blocked."""
    (violation,) = read(hit("messages.1", args=args))[0].violations
    assert violation.message == "the rule does not hold"


def test_an_error_without_any_sense_is_still_a_hit() -> None:
    """The service found something, even if nobody knows what."""
    nonsense: Any
    for nonsense in (None, 5, "x", [], {}):
        (outcome,) = read({"result": [{**result(WORD), "errors": [nonsense]}]})
        assert [v.message for v in outcome.violations] == ["the rule does not hold"]


def test_hits_are_limited() -> None:
    """Nobody reads more of them; but another rule's are not lost among them."""
    errors = [error("a forbidden word", "messages.1")] * 100 + [error("thinking", "messages.0")]
    (outcome,) = read({"result": [result(TWO, *errors)]}, TWO)
    assert [v.message for v in outcome.violations] == ["a forbidden word"] * 16 + ["thinking"]
    (outcome,) = read(hit(*(f"messages.1.content:{i}-{i}" for i in range(500))))
    assert len(outcome.violations[0].addresses) == 64


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"success": False, "error_message": f"KeyError near {SAID}"}, wire.NOT_JUDGED),
        ({"success": False}, wire.NOT_JUDGED),
        ({"success": "yes"}, wire.NOT_JUDGED),
        ({"error_message": SAID}, wire.NOT_JUDGED),
        ({"errors": None}, wire.UNREADABLE),
        ({"errors": {"0": 1}}, wire.UNREADABLE),
    ],
)
def test_a_result_that_is_no_verdict_is_its_guardrails_error(
    fields: dict[str, Any], why: str
) -> None:
    """It fails as configured, and the other policies are judged."""
    bad, good = {**result(WORD), **fields}, result(TOOL, error("no rm"))
    outcomes = read({"result": [bad, good]}, WORD, TOOL)
    assert [o.error for o in outcomes] == [why, None]
    assert outcomes[1].violations[0].message == "no rm"


def test_hits_beside_an_error_stay_hits() -> None:
    """Half of a policy may have been judged."""
    half = result(WORD, error("a forbidden word"), success=False, error_message="x")
    (outcome,) = read({"result": [half]})
    assert outcome.error and len(outcome.violations) == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"<html>welcome to the hotel</html>",
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'{"result": [{"errors": [',
        b"9" * 5000,
        None,
        [],
        {},
        {"result": None},
        {"result": {}},
        {"result": []},
        {"result": [result(WORD), result(WORD)]},
    ],
)
def test_what_is_no_answer_is_no_verdict(answer: Any) -> None:
    """Above all it is not a clean one."""
    with pytest.raises(EngineError, match="the guardrails service answered"):
        read(b"null" if answer is None else answer)


def test_a_result_that_is_nothing_is_its_guardrails_error() -> None:
    """As above, for one of many."""
    assert read({"result": [None]})[0].error == wire.UNREADABLE


def test_results_in_another_order_are_no_verdict() -> None:
    """Else one rule is blamed, or excused, for another's hit."""
    with pytest.raises(EngineError, match="in another order"):
        read({"result": [result(TOOL), result(WORD)]}, WORD, TOOL)
    assert read({"result": [result("as the service writes it")]})[0].error is None


def test_json_as_python_writes_it_is_read() -> None:
    """NaN and lone surrogates are not in the standard, and do come."""
    body = b'{"result": [{"errors": [], "x": [NaN, "\\ud800"], "success": true}]}'
    assert read(body)[0] == Outcome(Guardrail("0", "g0", WORD))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["result", "errors", "args", "ranges", "success", "policy", "x"]), inner
        )
    ),
    max_leaves=20,
)
RANGES = st.from_regex(r"(messages\.)?\d*(\.\w*)*(:\d*-\d*)?", fullmatch=True) | JSON
RESULT = st.fixed_dictionaries(
    {"errors": st.lists(st.fixed_dictionaries({"args": JSON, "ranges": st.lists(RANGES)})) | JSON},
    optional={"success": JSON, "error_message": JSON, "policy": JSON},
)


@given(answer=JSON | st.fixed_dictionaries({"result": st.lists(RESULT | JSON, max_size=3) | JSON}))
def test_any_answer_is_a_verdict_or_an_engine_error(answer: Any) -> None:
    """The service is another program, and it may be anything that listens there."""
    try:
        outcomes = read(answer)
    except EngineError:
        return
    assert [o.guardrail.text for o in outcomes] == [WORD]
    for violation in outcomes[0].violations:
        assert violation.message == wire.BREACH or violation.message in WORD
        assert all(address.message in (0, 1) for address in violation.addresses)


@given(body=st.binary())
def test_any_bytes_are_a_verdict_or_an_engine_error(body: bytes) -> None:
    """The same, below JSON."""
    with pytest.raises(EngineError):
        read(body)


def test_finality_is_asked_of_who_can_read_rules(service: Service, far: MakeFar) -> None:
    """The service does not say; without an answer the last check decides."""
    asked = question([user("forbidden")], WORD)
    assert not far().check(asked)[0].violations[0].final
    reader_is_final: Callable[[Guardrail], bool] = lambda g: g.text == WORD  # noqa: E731  # typed
    assert far(reader_is_final=reader_is_final).check(asked)[0].violations[0].final


# when it goes wrong

FAULTS: dict[str, tuple[Play, type[EngineError], str]] = {
    "401": (
        Play(status=401),
        KeyRejectedError,
        "key (401): set INVARIANT_API_KEY or send Invariant-Gu",
    ),
    "403": (Play(status=403), KeyRejectedError, "did not accept the Invariant API key (403)"),
    "404": (Play(status=404), EngineError, f"knows no {CHECK} (404): is its URL right?"),
    "413": (Play(status=413), EngineError, "too long"),
    "422": (Play(status=422), EngineError, "did not accept the question (422)"),
    "429": (Play(status=429), EngineError, "asked too often (429)"),
    "500": (Play(status=500), ServiceError, "failed (500)"),
    "503": (Play(status=503), ServiceError, "failed (503)"),
    "not JSON": (Play(body=b"<html>" + SAID.encode()), EngineError, "else than JSON"),
    "wrong shape": (Play(body={"errors": []}), EngineError, "without a list of results"),
    "too few": (Play(body={"result": []}), EngineError, "answered for 0 of 1 policies"),
    "truncated": (Play(body=CLEAN, how="truncate"), ServiceError, "broke the connection"),
    "closed": (Play(how="close"), ServiceError, "broke the connection"),
    "reset": (Play(how="reset"), ServiceError, "broke the connection"),
    "hang": (Play(how="hang"), DeadlineError, "within 600 ms"),
    "late": (Play(delay=5, body=CLEAN), DeadlineError, "within 600 ms"),
    "drip": (Play(body=CLEAN, how="drip"), DeadlineError, "within 600 ms"),
    "slow error": (Play(status=401, body=CLEAN, how="drip"), DeadlineError, "within 600 ms"),
    "huge": (Play(body=CLEAN, how="huge"), EngineError, f"more than {MAX_ANSWER} bytes"),
    "bomb": (
        Play(body=gzip.compress(bytes(4 * MAX_ANSWER)), headers={"content-encoding": "gzip"}),
        EngineError,
        f"more than {MAX_ANSWER} bytes",
    ),
    "broken gzip": (
        Play(body=b"nothing", headers={"content-encoding": "gzip"}),
        EngineError,
        "broken gzip",
    ),
    "strange encoding": (
        Play(body=b"nothing", headers={"content-encoding": "br"}),
        EngineError,
        "encoding that was not asked for",
    ),
}


def connect(one: Far) -> None:
    """So that all of a short deadline is the service's, also on a busy machine."""
    for _ in range(20):
        with contextlib.suppress(DeadlineError):
            one.check(question([user("hi")], WORD))
            return


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_an_error_within_the_deadline(
    service: Service, far: MakeFar, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    """Said so that a person can act on it, and without a key or a word of what was said."""
    caplog.set_level(logging.DEBUG)
    play, kind, text = FAULTS[fault]
    is_slow = kind is DeadlineError
    one = far(deadline_ms=600 if is_slow else 20_000)
    if is_slow:
        connect(one)
    service.play(play)
    caught: list[EngineError] = []
    took = timed(lambda: caught.append(one.fail()))
    assert took < 4 or not is_slow
    (found,) = caught
    assert isinstance(found, kind) and text in str(found)
    for said in (str(found), repr(found), repr(one.engine), caplog.text):
        assert "s3cret" not in said
    assert not [r for r in caplog.records if r.name.startswith("http")], "a line for each check"
    assert "forbidden" not in str(found)
    assert found.__cause__ is None


def test_a_zipped_answer_is_read(service: Service, far: MakeFar) -> None:
    """What stands before a service may zip."""
    body = gzip.compress(json.dumps(hit("messages.0")).encode())
    service.play(Play(body=body, headers={"content-encoding": "gzip"}))
    assert far().judge([user("x")], WORD)[0].violations


def test_a_service_that_is_not_there_says_so(service: Service, far: MakeFar) -> None:
    """And does not keep anybody waiting."""
    service.down()
    one = far()
    errors: list[EngineError] = []
    assert timed(lambda: errors.append(one.fail())) < 1
    assert "is not there: connection refused" in str(errors[0])
    service.up()
    assert one.judge([user("forbidden")], WORD)[0].violations


def test_a_restart_between_two_checks_goes_unnoticed(service: Service, far: MakeFar) -> None:
    """The connection that was kept is dead, which is nobody's fault."""
    one = far()
    for _ in range(3):
        assert one.judge([user("forbidden")], WORD)[0].violations
        service.down()
        service.up()


def test_a_name_that_does_not_exist_says_so(far: MakeFar, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commonest typing error."""

    def find_nothing(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", find_nothing)
    one = far(url="http://guardrails.invalid", deadline_ms=5000)
    assert "no such host name" in str(one.fail())


@pytest.mark.parametrize(
    "url",
    ["", "guardrails", "ftp://host", "http://", "https://u:s3cret@host", "http://h/?s3cret=1"],
)
def test_what_cannot_be_a_url_is_refused(url: str) -> None:
    """A user in it would be sent in the place of the key."""
    with pytest.raises(ValueError, match="expected a") as caught:
        RemoteEngine(url, reader=Reader(), deadline_ms=1000)
    assert "s3cret" not in str(caught.value)


def test_a_path_in_the_url_stays(service: Service, far: MakeFar) -> None:
    """Services live behind prefixes."""
    far(url=service.url + "/prefix/").fail()
    assert service.asks[0].path == "/prefix" + CHECK


@pytest.mark.parametrize("key", ["Bearer s3cret\r\nX: y", "Bearer s3cret\u2026", "s3cret\0"])
def test_a_key_that_no_header_can_hold_is_an_error(
    service: Service, far: MakeFar, key: str
) -> None:
    """Pasted from a web page, or an attack; the libraries' errors would quote it."""
    found = far(authorization=key).fail()
    assert isinstance(found, KeyRejectedError)
    assert "characters that no key has" in str(found) and "s3cret" not in repr(found)
    assert not service.asks


def test_a_wrong_key_of_one_caller_is_nobody_elses_trouble(service: Service, far: MakeFar) -> None:
    """However often it is refused."""
    service.keys = {KEY}
    one = far()
    asked = question([user("forbidden")], WORD)
    for _ in range(12):
        assert "(401)" in str(one.fail(replace(asked, caller=Caller("Bearer wrong"))))
        assert one.check(asked)[0].violations


def test_tls_is_verified(far: MakeFar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever can pose as the service reads everything; a private authority can be named."""
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    authority = make_authority(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(authority.chain)
    server = Service(judging=False, tls=tls).start()
    server.play(Play(body=CLEAN))
    try:
        assert "is not trusted: set SSL_CERT_FILE" in str(far(url=server.url).fail())
        assert not server.asks
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca))
        assert far(url=server.url).judge([user("x")], WORD)[0].error is None
    finally:
        server.stop()


def test_a_question_that_is_given_up_is_taken_back(service: Service, far: MakeFar) -> None:
    """A client that went away must not keep the service busy."""
    service.play(Play(how="hang"))
    one = far(deadline_ms=8000)

    async def give_up() -> None:
        asked = question([user("x")], WORD, then=((), ()))
        task = asyncio.create_task(one.engine.check(asked))
        await until(lambda: len(service.checks) == 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: service.gone == 2)

    assert timed(lambda: one.run(give_up())) < 5


def test_the_first_failing_choice_ends_the_others(service: Service, far: MakeFar) -> None:
    """There is no verdict any more, so nobody waits for the rest of it."""
    service.play(Play(how="hang"))
    service.play(Play(status=500), times=1)
    one = far(deadline_ms=8000)
    asked = question([user("x")], WORD, then=((), ()))
    assert timed(lambda: one.fail(asked)) < 4


def test_closing_ends_the_questions_on_their_way(service: Service) -> None:
    """The proxy ends; that is no failure of the service, and nothing is left behind."""
    service.play(Play(how="hang"))
    service.play_loads(Play(how="hang"))
    reader = Reader()
    one = Far(service.url, reader=reader, deadline_ms=8000)

    async def close() -> None:
        await one.engine.load([Guardrail("1", "g", WORD)])
        task = asyncio.create_task(one.engine.check(question([user("x")], WORD)))
        await until(lambda: len(service.asks) == 2)
        await one.engine.aclose()
        with pytest.raises(EngineClosedError):
            await task
        assert asyncio.all_tasks() == {asyncio.current_task()}
        with pytest.raises(EngineClosedError):
            await one.engine.check(question([user("x")], WORD))

    one.run(close())
    one.close()
    assert reader.log[:3] == ["start", "load", "close"]


def test_a_question_before_the_start_is_an_error() -> None:
    """And not a hang."""
    engine = RemoteEngine("http://localhost", reader=Reader(), deadline_ms=1000)
    with pytest.raises(EngineError, match="not running"):
        asyncio.run(engine.check(question([user("x")], WORD)))


def test_what_takes_long_to_write_or_read_is_done_elsewhere(
    service: Service, far: MakeFar, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All connections of the proxy share the event loop; a thread for little costs more than it."""
    steps: dict[str, list[bool]] = {}

    def watched(name: str) -> Callable[..., Any]:
        real = getattr(wire, name)

        def step(*args: Any) -> Any:
            is_here = threading.current_thread() is threading.main_thread()
            steps.setdefault(name, []).append(is_here)
            return real(*args)

        return step

    for name in ("prepare", "ask", "read"):
        monkeypatch.setattr(wire, name, watched(name))
    one = far(deadline_ms=20_000)
    long = error("x" * 300_000)
    few, much = user("x"), user("some words " * 30_000)
    for messages, then, errors, elsewhere in (
        ([few], few, [], ""),
        ([much], few, [], "prepare ask"),
        ([few] * 300, few, [], "prepare"),
        ([few], much, [], "ask"),
        ([few], few, [long], "read"),
    ):
        steps.clear()
        service.play(Play(body={"result": [result(WORD, *errors)]}))
        one.check(question(messages, WORD, then=((then,),)))
        assert {name for name, here in steps.items() if here != [True]} == set(elsewhere.split())
        assert all(len(here) == 1 for here in steps.values()) and len(steps) == 3


# trying again, and leaving it alone


def test_a_brief_failure_is_tried_again(service: Service, far: MakeFar) -> None:
    """A service that is replaced answers 503 for a moment."""
    for play in (Play(status=503), Play(status=502), Play(how="close")):
        service.play(play, times=1)
        assert far().judge([user("forbidden")], WORD)[0].violations
    assert len(service.checks) == 6


def test_other_failures_are_not(service: Service, far: MakeFar) -> None:
    """They would fail again."""
    for play in (Play(status=500), Play(status=401), Play(body=b"nonsense")):
        service.play(play, times=1)
        far().fail()
    assert len(service.checks) == 3


def test_no_try_begins_after_the_deadline(service: Service, far: MakeFar) -> None:
    """Whoever waits has been given an answer by then."""
    service.play(Play(delay=0.29, status=503))
    one = far(deadline_ms=300)
    assert timed(one.fail) < 1
    time.sleep(0.3)
    assert len(service.checks) == 1


def test_tries_are_few_over_time(service: Service, far: MakeFar) -> None:
    """A service that is overwhelmed must not get twice the load."""
    one = far()
    asked = question([user("x")], WORD)

    async def many() -> None:
        for i in range(100):
            service.play(Play(status=503 if i % 2 else 200, body=CLEAN), times=1)
            service.play(Play(status=503 if i % 2 else 200, body=CLEAN), times=1)
            with contextlib.suppress(ServiceError):
                await one.engine.check(asked)
            service._plays.clear()

    one.run(many())
    assert 100 < len(service.checks) <= 100 + 3 + 10


def test_a_budget_is_a_share_of_the_calls() -> None:
    """And some that were saved."""
    budget, spent = Budget(share=0.1, saved=3), 0
    for _ in range(1000):
        budget.earn()
        spent += budget.spend()
    assert 100 <= spent <= 103


def breaker(**options: Any) -> tuple[Breaker, list[float]]:
    now = [100.0]
    return Breaker(clock=lambda: now[0], **options), now


def fails(one: Breaker, e: BaseException | None = None) -> None:
    with pytest.raises(type(e or ServiceError(""))), one.watch():
        raise e or ServiceError("it failed (500)")


def works(one: Breaker) -> None:
    with one.watch():
        pass


def test_after_five_failures_calls_fail_at_once() -> None:
    """A proxy that waits for the deadline in every call is worse than one that says no."""
    one, now = breaker()
    for e in (ServiceError("a"), DeadlineError("b"), ServiceError("c"), ServiceError("d")):
        fails(one, e)
    fails(one, DeadlineError("too slow"))
    now[0] += 1.5
    with pytest.raises(EngineError) as caught:
        works(one)
    assert str(caught.value) == (
        "5 failures in a row, the last: too slow; it is asked again in 3.5 seconds"
    )


@pytest.mark.parametrize(
    "answer", [None, EngineError("did not accept the key (401)")], ids=["verdict", "refusal"]
)
def test_an_answer_begins_the_count_anew(answer: EngineError | None) -> None:
    """In a row: five bad ones among a thousand are not an outage. And whoever refuses is there."""
    one, _ = breaker()
    for _ in range(3):
        for _ in range(4):
            fails(one)
        fails(one, answer) if answer else works(one)
    works(one)


def test_then_one_call_tries() -> None:
    """If it fails the pause begins anew, if not all go through."""
    one, now = breaker()
    for _ in range(5):
        fails(one)
    now[0] += 5
    with one.watch(), pytest.raises(EngineError, match="being tried with one call"):
        works(one)
    works(one)
    for _ in range(5):
        fails(one)
    now[0] += 5
    fails(one)
    with pytest.raises(EngineError, match=r"asked again in 5\.0 seconds"):
        works(one)
    now[0] += 5
    works(one)
    works(one)


@pytest.mark.parametrize("e", [asyncio.CancelledError(), EngineClosedError()])
def test_a_try_that_is_given_up_says_nothing(e: BaseException) -> None:
    """The next call takes its place."""
    one, now = breaker()
    for _ in range(5):
        fails(one)
    now[0] += 5
    fails(one, e)
    with one.watch(), pytest.raises(EngineError, match="being tried"):
        works(one)


def test_failures_that_were_on_their_way_do_not_prolong_it() -> None:
    """A hundred calls may have begun before the fifth of them failed."""
    one, now = breaker()
    late = one.watch()
    late.__enter__()
    for _ in range(5):
        fails(one)
    now[0] += 3
    e = ServiceError("late")
    assert not late.__exit__(type(e), e, None)
    with pytest.raises(EngineError, match=r"asked again in 2\.0 seconds"):
        works(one)


def test_a_service_that_is_down_is_left_alone_and_found_again(
    service: Service, far: MakeFar
) -> None:
    """The whole way, over sockets; with two choices the try is one, too."""
    one = far()
    one.engine._breaker = Breaker(pause=0.4)
    asked = question([user("x")], WORD, then=((), ()))
    service.down()
    for _ in range(5):
        assert "connection refused" in str(one.fail(asked))
    assert "5 failures in a row, the last: the guardrails service at 127.0.0.1" in str(one.fail())
    service.up()
    connections = service.connections
    assert timed(one.fail) < 0.3
    assert service.connections == connections
    time.sleep(0.5)
    for _ in range(3):
        assert len(one.check(asked)) == 2


# rules


def test_rules_are_read_here(service: Service, far: MakeFar) -> None:
    """A bad one is refused with its line; the service is not told about it."""
    one = far()
    good, bad = Guardrail("1", "good", WORD), Guardrail("2", "bad", "BAD")
    (defect,) = one.run(one.engine.load([good, bad]))
    assert (defect.guardrail, defect.reason) == (bad, "line 2: it is BAD")
    one.run(asyncio.sleep(0.2))
    assert service.loads == [WORD]
    (ask,) = service.asks
    assert ask.json() == {"policy": WORD}
    assert ask.headers["authorization"] == KEY


def test_the_service_is_told_once_an_hour(
    service: Service, far: MakeFar, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every call with rules of its own would tell it otherwise."""
    one, clock = far(), [time.monotonic()]
    monkeypatch.setattr(remote, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    rules = [Guardrail("1", "a", WORD), Guardrail("2", "b", TOOL), Guardrail("3", "c", WORD)]
    for seconds in (0, 10, 3000):
        clock[0] += seconds
        one.run(one.engine.load(rules))
    one.run(asyncio.sleep(0.2))
    assert service.loads == [WORD, TOOL]
    clock[0] += 1000
    one.run(one.engine.load(rules[:1]))
    one.run(asyncio.sleep(0.2))
    assert service.loads == [WORD, TOOL, WORD]


def test_rules_of_one_client_are_read_and_not_told(service: Service, far: MakeFar) -> None:
    """They go out with its question anyway."""
    reader = Reader()
    one = far(reader=reader)
    rules = [Guardrail("1", "a", WORD), Guardrail("2", "b", "BAD")]
    assert len(one.run(one.engine.load(rules, everywhere=False))) == 1
    one.run(asyncio.sleep(0.1))
    assert reader.log == ["start", "load once"] and not service.loads


@pytest.mark.parametrize("play", [Play(status=500), Play(status=401), Play(how="hang")])
def test_nobody_waits_for_that(
    service: Service, far: MakeFar, caplog: pytest.LogCaptureFixture, play: Play
) -> None:
    """It only makes the first check faster; a failure is a line for who looks for it."""
    caplog.set_level(logging.DEBUG, "invariant_addon")
    service.play_loads(play)
    one = far(deadline_ms=1000)
    rules = [Guardrail("1", "a", WORD), Guardrail("2", "b", TOOL)]
    assert timed(lambda: one.run(one.engine.load(rules))) < 0.5
    assert one.judge([user("forbidden")], WORD)[0].violations
    one.run(asyncio.sleep(1.2))
    (line,) = [r for r in caplog.records if "not told" in r.getMessage()]
    assert line.levelno == logging.DEBUG and "s3cret" not in line.getMessage()
    assert one.judge([user("forbidden")], WORD)[0].violations


def test_a_real_reader_reads_for_it(service: Service) -> None:
    """As the proxy puts them together."""
    from invariant_addon.engines.local import LocalEngine

    one = Far(service.url, reader=LocalEngine(workers=2), deadline_ms=8000)
    try:
        bad = Guardrail("2", "bad", rule("(m Message)"))
        (defect,) = one.run(one.engine.load([Guardrail("1", "good", WORD), bad]))
        assert defect.guardrail is bad and defect.reason.startswith("line 2")
        asked = Question(Conversation((user("forbidden"),)), ((),), (Guardrail("1", "g", WORD),))
        assert one.check(asked)[0].violations
    finally:
        one.close()
