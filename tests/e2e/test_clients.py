"""What the users of real clients see: SDKs of several makers and generations, and curl.

Most of them are skipped where `scripts/clients` has not made them; it also prints the table.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stage import responses, rules, streams
from stage.clients_table import CLIENTS, DRIVERS, Client, Program, Seen
from stage.script import Json, Stream
from stage.upstream import Upstream

RULE = "no bluebirds here"
WORDS = ["One", " two", " three", " f\u00fcnf", " \U0001f600", ".", " Done"]

each_way = pytest.mark.parametrize(
    ("client", "way"),
    [
        pytest.param(c, way, id=f"{c.name}-{way}".replace(" ", "-").replace("/", ""))
        for c in CLIENTS
        for way in c.ways
    ],
)
whole_and_streamed = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


@pytest.fixture(scope="module")
def _programs() -> Iterator[dict[str, Program]]:
    programs: dict[str, Program] = {}
    yield programs
    for program in programs.values():
        program.tell_to_stop()
    for program in programs.values():
        program.stop()


@pytest.fixture
def program(
    client: Client,
    proxy_for,
    _programs: dict[str, Program],
    tmp_path_factory: pytest.TempPathFactory,
) -> Program:
    """The client at work, the same for all its tests; skips where it was not made."""
    if why := client.missing():
        pytest.skip(why)
    proxy = proxy_for(rules=[rules.NO_BLUEBIRD], mode=client.mode)
    # The next one begins its imports, which take seconds, while this one is at work.
    after = CLIENTS[CLIENTS.index(client) + 1 :][:1]
    for each in (client, *(c for c in after if c.mode == client.mode and not c.missing())):
        program = _programs.get(each.name)
        if program is None or program.proxy is not proxy or not program.is_running:
            if program is not None:
                program.stop()
            _programs[each.name] = Program(each, proxy, tmp_path_factory.mktemp("client"))
    return _programs[client.name]


@pytest.fixture
def note(program: Program, way: str, upstream: Upstream) -> Callable[[str, Seen], None]:
    """Adds a row to the table that scripts/clients prints, before anything is asserted."""

    def write(case: str, seen: Seen) -> None:
        if file := os.environ.get("CLIENTS_TABLE"):
            row = [program.client.name, program.version, way, case, str(seen), len(upstream.calls)]
            with Path(file).open("a", encoding="utf-8") as table:
                table.write(json.dumps(row) + "\n")

    return write


def streamed(client: Client, words: list[str]) -> list[bytes]:
    events: list[bytes] = streams.text_stream(words)
    if client.api == "responses":
        events = responses.stream([responses.words(words)])
    return events


def whole(client: Client, text: str) -> Json:
    if client.api == "responses":
        return Json(responses.response([responses.message(text)]))
    return Json(streams.completion(text))


@each_way
@whole_and_streamed
def test_a_clean_reply_is_what_it_was(
    upstream: Upstream, program: Program, way: str, stream: bool, note
) -> None:
    """Who breaks no rule notices nothing."""
    client = program.client
    upstream.script(Stream(streamed(client, WORDS)) if stream else whole(client, "".join(WORDS)))
    seen = program.ask(way, stream=stream)
    note("clean stream" if stream else "clean reply", seen)
    assert seen == Seen("".join(WORDS))
    assert len(upstream.calls) == 1


@each_way
@whole_and_streamed
def test_a_refused_request_raises_what_names_the_rule(
    upstream: Upstream, program: Program, way: str, stream: bool, note
) -> None:
    """The client's own exception, which programs catch already; and nothing left the machine."""
    seen = program.ask(way, "tell me about BLUEBIRD", stream=stream)
    note("blocked request, stream" if stream else "blocked request", seen)
    assert program.client.refused in (seen.error, *seen.bases)
    assert "The request did not pass the guardrails" in seen.message and RULE in seen.message
    assert (seen.status, seen.text) == (400, "")
    assert not upstream.calls


@each_way
def test_a_reply_refused_midway_raises_after_the_clean_text(
    upstream: Upstream, program: Program, way: str, note
) -> None:
    """The danger is silence: a client that takes the clean part for the whole answer."""
    clean = "fine so far."
    go, never = threading.Event(), threading.Event()
    words = ["fine", " so", " far.", " and", " BLUEBIRD", " and", " on"]
    before = 4 if program.client.api == "responses" else 1  # events without text: the role
    # Four words; then, when they were seen, two more. The rest is never sent.
    gates = {before + 4: go, before + 6: never}
    upstream.script(Stream(streamed(program.client, words), gates=gates))
    program.start(way, stream=True)
    program.wait_text(clean)
    go.set()
    seen = program.finish()
    note("blocked midway", seen)
    assert program.client.cut in (seen.error, *seen.bases)
    assert "The response did not pass the guardrails" in seen.message and RULE in seen.message
    assert seen.text.startswith(clean) and "BLUE" not in seen.text
    call = upstream.last().wait_ended()
    never.set()
    assert call.state == "cancelled"
    assert len(upstream.calls) == 1


@each_way
def test_a_whole_reply_that_is_refused_raises(
    upstream: Upstream, program: Program, way: str, note
) -> None:
    """Asked once: a client that retries a refusal pays for each answer that it does not get."""
    upstream.script(whole(program.client, "a BLUEBIRD"))
    seen = program.ask(way, stream=False)
    note("blocked reply", seen)
    assert program.client.refused in (seen.error, *seen.bases)
    assert "The response did not pass the guardrails" in seen.message and RULE in seen.message
    assert (seen.status, seen.text) == (400, "")
    assert len(upstream.calls) == 1


def test_the_locks_name_no_registry() -> None:
    """Everybody installs from the registry that they have configured."""
    locks = [*DRIVERS.glob("*.lock"), DRIVERS / "node" / "package-lock.json"]
    assert len(locks) == 6
    for lock in locks:
        text = lock.read_text()
        assert "://" not in text and '"resolved"' not in text, lock.name
