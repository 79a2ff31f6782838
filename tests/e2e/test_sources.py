"""Where a rule comes from, what it leads to, who judges it: what client and upstream see of it.

One proxy with a local engine and one with a remote one have rules from every source with every
action at once; each forbids a word of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import pytest

from stage import streams
from stage.explorer import KEY, Explorer, policy
from stage.proxy import Proxy
from stage.raw import CHAT, RawClient, Reply
from stage.script import Json, Stream
from stage.service import Service
from stage.upstream import Upstream

ACTIONS = ("block", "mask", "shadow", "log")
SOURCES = {"file": ACTIONS, "project": ("block",), "dataset": ACTIONS, "header": ("block",)}
SOURCES["named"] = ("block", "log")


def word(source: str, action: str) -> str:
    return f"{source}-{action}-word".upper()


def rule(source: str, action: str) -> str:
    return (
        f'raise "no {source} {action}" if:\n    (m: Message)\n'
        f'    "{word(source, action)}" in m.content\n'
    )


@pytest.fixture(scope="module")
def explorer() -> Iterator[Explorer]:
    explorer = Explorer().start()
    explorer.set("ours", *(policy(f"set-{a}", rule("dataset", a), action=a) for a in ACTIONS))
    explorer.set(
        "theirs", *(policy(f"n-{a}", rule("named", a), action=a) for a in ("block", "log"))
    )
    yield explorer
    explorer.stop()


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    service = Service().start()
    yield service
    service.stop()


@pytest.fixture(scope="module")
def proxies(
    _the_upstream: Upstream,
    tmp_path_factory: pytest.TempPathFactory,
    explorer: Explorer,
    service: Service,
) -> Iterator[dict[str, Proxy]]:
    started: dict[str, Proxy] = {}
    for engine in ("local", "remote"):
        folder = tmp_path_factory.mktemp(engine)
        options: dict[str, object] = {
            "invariant_explorer": explorer.url,
            "invariant_dataset": "ours",
            "invariant_header_rules": True,
            "invariant_deadline_ms": 20_000,
        }
        if engine == "remote":
            options["invariant_engine"] = service.url
        kinds = {"block": "rules", "mask": "mask_rules", "shadow": "shadow_rules"}
        kinds["log"] = "log_rules"
        for action, option in kinds.items():
            file = folder / f"file-{action}.inv"
            file.write_text(rule("file", action))
            options[f"invariant_{option}"] = [str(file)]
        project = folder / ".invariant.inv"
        project.write_text(rule("project", "block"))
        options["invariant_project_rules"] = [str(project)]
        started[engine] = Proxy(
            _the_upstream,
            folder,
            options=options,
            environment={"INVARIANT_API_KEY": KEY},
        ).launch()
    for proxy in started.values():
        proxy.wait_ready(60)
    yield started
    for proxy in started.values():
        proxy.stop()


@dataclass(frozen=True)
class Case:
    engine: str
    source: str
    action: str
    phase: str
    stream: bool

    def __str__(self) -> str:
        kind = "stream" if self.stream else "whole"
        return f"{self.engine}-{self.source}-{self.action}-{self.phase}-{kind}"

    @property
    def word(self) -> str:
        return word(self.source, self.action)

    @property
    def headers(self) -> list[tuple[str, str]]:
        if self.source == "header":
            return [("invariant-guardrails", rule("header", "block").replace("\n", "\\n"))]
        return [("invariant-project-name", "theirs")] if self.source == "named" else []


CASES = [
    Case(engine, source, action, phase, stream)
    for engine, (source, actions), phase, stream in product(
        ("local", "remote"), SOURCES.items(), ("request", "response"), (False, True)
    )
    for action in actions
]


def call(proxy: Proxy, case: Case, content: str) -> Reply:
    with RawClient.through(proxy) as client:
        body = streams.chat(content, stream=case.stream)
        return client.post(CHAT, body, case.headers).wait_end(60)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_table(upstream: Upstream, proxies: dict[str, Proxy], case: Case) -> None:
    """Every way in which the ancestor finds and judges guardrails works here."""
    proxy, since = proxies[case.engine], proxies[case.engine].log_size()
    said = ["One ", "two ", case.word if case.phase == "response" else "three", " four"]
    answer = Stream(streams.text_stream(said)) if case.stream else None
    answer = answer or Json(streams.completion("".join(said)))
    upstream.script(answer)
    # A finding is noted once in a conversation, and a conversation is known by how it begins.
    asked = f"say {case.word} now, {case}" if case.phase == "request" else f"hello, {case}"
    reply = call(proxy, case, asked)
    rule_words = f"no {case.source} {case.action}"
    if case.action == "block":
        assert case.word.encode() not in reply.body and rule_words.encode() in reply.body
        assert f"The {case.phase} did not pass".encode() in reply.body
        if case.phase == "request":
            assert reply.status == 400 and not upstream.calls
        else:
            assert reply.status == (200 if case.stream else 400)
        return
    assert reply.status == 200 and reply.body == answer.body()
    sent = upstream.last()
    assert not [name for name, _ in sent.headers if name.startswith("invariant-")]
    if case.action == "mask" and case.phase == "request":
        assert case.word.encode() not in sent.body and b"[masked:" in sent.body
        assert sent.json()["messages"][0]["content"].startswith("say [masked:")
        proxy.wait_log(f"masked: {rule_words}", since=since)
    else:
        note = "would have been blocked" if case.action == "shadow" else "noted"
        proxy.wait_log(f"{note}: {rule_words}", since=since)


def test_without_the_word_nobody_says_anything(
    upstream: Upstream, proxies: dict[str, Proxy]
) -> None:
    """All those rules at once, and a clean call stays byte for byte what it was."""
    for proxy in proxies.values():
        since = proxy.log_size()
        answer = Stream(streams.text_stream(["One", " two"]))
        upstream.script(answer)
        body = streams.chat("hello")
        with RawClient.through(proxy) as client:
            assert client.post(CHAT, body).wait_end().body == answer.body()
        assert upstream.last().json() == body
        assert "noted" not in proxy.log(since) and "blocked" not in proxy.log(since)


ATTEMPTS = [
    ("invariant-guardrails", 'raise "x" if:\\n    1 == 2\\n'),
    ("invariant-guardrails", ""),
    ("invariant-guardrails", "raise if if"),
    ("invariant-guardrails", "from os import system\\n" + 'raise "x" if:\\n    1 == 2\\n'),
    ("invariant-project-name", "empty"),
    ("invariant-project-name", "../../ours"),
    ("invariant-project-name", "nowhere"),
    ("invariant-guardrails-parameters", '{"data": []}'),
    ("invariant-guardrails-parameters", '{"limit": 1e9}'),
    ("invariant-guardrails-parameters", "["),
    ("invariant-guardrails-authorization", "Bearer wrong"),
    ("invariant-authorization", "Bearer wrong"),
    ("invariant-authorization", ""),
    ("authorization", "Bearer sk-x;invariant-auth=wrong"),
    ("invariant-precedence", "replace"),
    ("invariant-rules", "none"),
    ("invariant-on-failure", "pass"),
    ("x-invariant-request-id", "inv_0"),
]


@pytest.mark.parametrize(("name", "value"), ATTEMPTS)
@pytest.mark.parametrize("engine", ["local", "remote"])
def test_no_header_takes_the_floor_away(
    upstream: Upstream, proxies: dict[str, Proxy], engine: str, name: str, value: str
) -> None:
    """The guarded program may say what it likes: files and the owner's dataset stay in force."""
    upstream.script(Json(streams.completion("fine")))
    for source in ("file", "dataset"):
        with RawClient.through(proxies[engine]) as client:
            body = streams.chat(word(source, "block"), stream=False)
            has_key = name == "authorization"
            reply = client.post(CHAT, body, [(name, value)], key=not has_key).wait_end(60)
        assert reply.status == 400, (source, reply.body)
    assert not upstream.calls


def test_a_bad_header_rule_is_a_400_that_names_the_line(
    upstream: Upstream, proxies: dict[str, Proxy]
) -> None:
    """Its author is told, in the form that every SDK shows."""
    rules = 'raise "a" if:\\n    (m: Message)\\n    m.content.__class__ == 1\\n'
    with RawClient.through(proxies["local"]) as client:
        body = streams.chat("hello", stream=False)
        reply = client.post(CHAT, body, [("invariant-guardrails", rules)]).wait_end(60)
    error = reply.json()["error"]
    assert reply.status == 400 and isinstance(error, dict)
    assert error["code"] == "guardrail_invalid" and "line 3" in error["message"]
    assert not upstream.calls


@pytest.mark.parametrize(
    ("headers", "sent"),
    [
        ([("authorization", "Bearer sk-abc;invariant-auth=inv-1")], "Bearer sk-abc"),
        ([("authorization", "Bearer sk-abc")], "Bearer sk-abc"),
        (
            [("authorization", "Bearer sk-abc"), ("invariant-authorization", "Bearer inv-1")],
            "Bearer sk-abc",
        ),
    ],
)
def test_only_the_openai_key_goes_upstream(
    upstream: Upstream,
    proxies: dict[str, Proxy],
    headers: list[tuple[str, str]],
    sent: str,
) -> None:
    """An Invariant key is none of OpenAI's business."""
    upstream.script(Json(streams.completion("fine")))
    with RawClient.through(proxies["local"]) as client:
        reply = client.post(CHAT, streams.chat(stream=False), headers, key=False).wait_end()
    assert reply.status == 200
    assert upstream.last().header("authorization") == sent
    assert b"inv-1" not in upstream.last().body
    assert not [n for n, _ in upstream.last().headers if n.startswith("invariant-")]
    assert "inv-1" not in proxies["local"].log()


def test_a_key_that_cannot_be_parted_goes_nowhere(
    upstream: Upstream, proxies: dict[str, Proxy]
) -> None:
    """Rather a 400 than an Invariant key at OpenAI's."""
    headers = [("authorization", "Bearer sk-abc;invariant-auth=one;invariant-auth=two")]
    with RawClient.through(proxies["local"]) as client:
        reply = client.post(CHAT, streams.chat(stream=False), headers, key=False).wait_end()
    assert reply.status == 400 and b"Invalid API Key format" in reply.body
    assert b"sk-abc" not in reply.body and not upstream.calls
