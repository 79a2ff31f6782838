"""Parameters that rules read as input.KEY, whose rules count alone, and what is noted once."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from stage import streams
from stage.explorer import KEY, Explorer, policy
from stage.proxy import Proxy
from stage.raw import CHAT, RawClient, Reply
from stage.script import Json
from stage.upstream import Upstream

LIMITED = """
raise "too many messages" if:
    (m: Message)
    m.content == "last"
    input.limit < 4
    input.word in m.content
"""


def rule(word: str) -> str:
    return f'raise "no {word.lower()}" if:\n    (m: Message)\n    "{word}" in m.content\n'


@pytest.fixture(scope="module")
def proxies(
    _the_upstream: Upstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Proxy]]:
    """adds: files with parameters, one of them missing. replaces: as for a gateway."""
    explorer = Explorer().start()
    explorer.set("full", policy("full", rule("DATASET")))
    explorer.set("empty")
    explorer.set("off", policy("off", rule("DATASET"), enabled=False))
    folder = tmp_path_factory.mktemp("rules")
    (folder / "noted.inv").write_text(rule("NOTED"))
    options: dict[str, dict[str, object]] = {
        "adds": {
            "invariant_parameters": ["limit=3"],
            "invariant_log_rules": [str(folder / "noted.inv")],
        },
        "replaces": {"invariant_precedence": "replace", "invariant_explorer": explorer.url},
    }
    texts = {"adds": {"limited.inv": LIMITED}, "replaces": {"files.inv": rule("FILES")}}
    started = {
        name: Proxy(
            _the_upstream,
            tmp_path_factory.mktemp(name),
            rules=texts[name],
            options=own | {"invariant_header_rules": True},
            environment={"INVARIANT_API_KEY": KEY},
        ).launch()
        for name, own in options.items()
    }
    for proxy in started.values():
        proxy.wait_ready(60)
    yield started
    for proxy in started.values():
        proxy.stop()
    explorer.stop()


def ask(proxy: Proxy, content: str, headers: dict[str, str] | None = None, **more: object) -> Reply:
    with RawClient.through(proxy) as client:
        body = streams.chat(content, stream=False) | more
        return client.post(CHAT, body, list((headers or {}).items())).wait_end(30)


def parameters(**given: object) -> dict[str, str]:
    return {"invariant-guardrails-parameters": json.dumps(given)}


@pytest.fixture
def adds(proxies: dict[str, Proxy], upstream: Upstream) -> Proxy:
    upstream.script(Json(streams.completion("fine")))
    return proxies["adds"]


@pytest.fixture
def replaces(proxies: dict[str, Proxy], upstream: Upstream) -> Proxy:
    upstream.script(Json(streams.completion("fine")))
    return proxies["replaces"]


# -- parameters ------------------------------------------------------------------------------


def test_options_and_headers_together_are_the_input(upstream: Upstream, adds: Proxy) -> None:
    """limit=3 is a number; the word comes with the call."""
    refused = ask(adds, "last", parameters(word="as"))
    assert refused.status == 400 and b"too many messages" in refused.body
    assert ask(adds, "last", parameters(word="other")).status == 200


def test_a_header_replaces_no_parameter_of_the_options(upstream: Upstream, adds: Proxy) -> None:
    """Otherwise a guarded program would turn its limits up itself."""
    refused = ask(adds, "last", parameters(word="as", limit=100))
    assert refused.status == 400 and b"too many messages" in refused.body
    assert not upstream.calls


@pytest.mark.parametrize("headers", [{}, parameters(words="as")])
def test_a_missing_parameter_fails_closed_and_is_named(
    upstream: Upstream, adds: Proxy, headers: dict[str, str]
) -> None:
    """The rule cannot be judged. Whoever reads the refusal knows what to give."""
    refused = ask(adds, "last", headers)
    assert refused.status == 400 and b"guardrail_unavailable" in refused.body
    assert b"input.word, which is not set" in refused.body
    assert not upstream.calls


# -- whose rules -----------------------------------------------------------------------------

HEADER = {"invariant-guardrails": rule("HEADER").replace("\n", "\\n")}


@pytest.mark.parametrize(
    ("headers", "counts"),
    [
        ({}, "FILES"),
        ({"invariant-project-name": "full"}, "DATASET"),
        ({"invariant-project-name": "empty"}, "FILES"),
        ({"invariant-project-name": "off"}, "FILES"),
        ({"invariant-project-name": "nowhere"}, "FILES"),
        (HEADER, "HEADER"),
        (HEADER | {"invariant-project-name": "full"}, "HEADER"),
        (HEADER | {"invariant-project-name": "empty"}, "HEADER"),
    ],
)
def test_the_first_that_has_rules_counts_alone(
    upstream: Upstream, replaces: Proxy, headers: dict[str, str], counts: str
) -> None:
    """Header, then dataset, then files: as in invariant-gateway."""
    for word in ("FILES", "DATASET", "HEADER"):
        assert ask(replaces, word, headers).status == (400 if word == counts else 200), word


# -- noted once ------------------------------------------------------------------------------


def test_a_finding_is_noted_once_in_a_conversation(upstream: Upstream, adds: Proxy) -> None:
    """Each turn sends the history again. What is new in it is noted, and so is another one's."""

    def noted(*contents: str) -> bool:
        roles = ["user" if n % 2 == 0 else "assistant" for n in range(len(contents))]
        messages = [{"role": r, "content": c} for r, c in zip(roles, contents, strict=True)]
        since = adds.log_size()
        assert ask(adds, "", parameters(word="x"), messages=messages).status == 200
        # Another conversation: when its finding is in the log, the first one's would be, too.
        assert ask(adds, f"NOTED {since}", parameters(word="x")).status == 200
        adds.wait_log("noted POST", since=since)
        time.sleep(0.5)
        return bool(adds.log(since).count("noted POST") == 2)

    assert noted("a NOTED word")
    assert not noted("a NOTED word", "fine", "and?")
    assert noted("a NOTED word", "fine", "and?", "fine", "NOTED too")
    assert not noted("a NOTED word", "fine", "and?", "fine", "NOTED too", "fine", "so?")
    assert noted("another NOTED word")
