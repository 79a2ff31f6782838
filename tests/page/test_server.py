"""The page over HTTP, by a client that keeps to no rules."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPResponse

from invariant_addon.core.conversation import Conversation, Message, Part
from invariant_addon.core.verdict import Address, Guardrail, Violation
from invariant_addon.page import answers
from invariant_addon.page.answers import Answers
from invariant_addon.page.doors import HEADERS
from invariant_addon.page.figures import quantile
from invariant_addon.page.server import Page
from invariant_addon.rules.fingerprints import load_key
from invariant_addon.rules.mutes import Mutes
from invariant_addon.traces.archive import FILE

from . import days

QUESTIONS = (
    "conversations", "conversation?id=x", "message?id=x&key=1.0", "facets", "figures", "mutes",
    "live",
)  # fmt: skip


class Visitor:
    """Asks a running page, one question after the other."""

    def __init__(self, runner: asyncio.Runner, folder: Path) -> None:
        self._runner = runner
        self.page = Page(Answers(folder, {"rule-files": "raise ..."}))
        runner.run(self._start())

    async def _start(self) -> None:
        self.page.start()

    def stop(self) -> None:
        self._runner.run(self.page.stop())

    def ask(
        self, path: str, *, body: Any = None, key: str | None = None, **more: str
    ) -> HTTPResponse:
        headers = {"Authorization": f"Bearer {self.page.doors.key if key is None else key}"}
        if body is not None:
            headers |= {"Origin": f"http://127.0.0.1:{self.page.port}"}
            headers |= {"Content-Type": "application/json"}
        headers |= {name.replace("_", "-"): value for name, value in more.items()}

        async def fetch() -> HTTPResponse:
            client = AsyncHTTPClient(force_instance=True)
            try:
                return await client.fetch(
                    f"http://127.0.0.1:{self.page.port}{path}",
                    method="GET" if body is None else "POST",
                    body=None if body is None else json.dumps(body),
                    headers=headers,
                    raise_error=False,
                    request_timeout=20,
                )
            finally:
                client.close()

        return self._runner.run(fetch())

    def get(self, path: str, *, status: int = 200) -> Any:
        response = self.ask(f"/api/{path}")
        assert response.code == status, response.body
        return json.loads(response.body)

    def post(self, path: str, body: Any, *, status: int = 200) -> Any:
        response = self.ask(f"/api/{path}", body=body)
        assert response.code == status, response.body
        return json.loads(response.body)

    def changes(self, act: Any, count: int) -> str:
        """What the stream of changes says, while something happens after its first event."""

        async def listen() -> str:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.page.port)
            host = f"Host: 127.0.0.1:{self.page.port}\r\n"
            key = f"Authorization: Bearer {self.page.doors.key}\r\n\r\n"
            writer.write(f"GET /api/live HTTP/1.1\r\n{host}{key}".encode())
            said, todo = "", [act]
            while said.count("event: ") < count:
                said += (await asyncio.wait_for(reader.read(4096), 20)).decode()
                if todo and "event: changed" in said:
                    await asyncio.to_thread(todo.pop())
            writer.close()
            await writer.wait_closed()
            return said

        return self._runner.run(listen())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page") / "data"
    folder.mkdir(mode=0o700)
    days.a_day(folder)
    return folder


@pytest.fixture
def visitor(folder: Path) -> Iterator[Visitor]:
    with asyncio.Runner() as runner:
        visitor = Visitor(runner, folder)
        yield visitor
        visitor.stop()


# -- who gets in ---------------------------------------------------------------------------------


@pytest.mark.parametrize("question", QUESTIONS)
def test_without_the_key_no_question_is_answered(visitor: Visitor, question: str) -> None:
    """Whoever else is on this machine can reach the port."""
    for key in ("", "wrong"):
        response = visitor.ask(f"/api/{question}", key=key)
        assert response.code == 401 and b"inv_" not in response.body
    assert visitor.ask(f"/api/{question}", Host="evil.example").code == 421
    assert visitor.ask(f"/api/{question}", Origin="http://evil.example").code == 403
    by_address = f"/api/{question}{'&' if '?' in question else '?'}key={visitor.page.doors.key}"
    assert visitor.ask(by_address, key="").code == 401


def test_changes_need_the_key_and_the_page(visitor: Visitor) -> None:
    """And none can be made by looking."""
    order = {"request_id": "inv_1", "rule": "x", "scope": "finding", "seconds": 60}
    for path in ("/api/mute", "/api/unmute"):
        assert visitor.ask(path, body=order, key="wrong").code == 401
        assert visitor.ask(path, body=order, Origin="http://127.0.0.1:1").code == 403
        assert visitor.ask(path, body=order, Content_Type="text/plain").code == 415
        assert visitor.ask(path).code == 405
    assert visitor.ask("/api/conversations", body={}).code == 405


def test_the_shell_is_open_and_has_nothing_in_it(visitor: Visitor) -> None:
    """Every answer has the same strict headers; what is not there is not looked for on the disk."""
    for path in ("/", "/main.js", "/page.css", "/icon.svg"):
        response = visitor.ask(path, key="")
        assert response.code == 200 and b"inv_" not in response.body
        assert visitor.page.doors.key.encode() not in response.body
        for name, value in HEADERS.items():
            assert response.headers[name] == value
        assert "Set-Cookie" not in response.headers and "ETag" not in response.headers
    for path in (
        "/../server.py",
        "/%2e%2e/server.py",
        "/static/main.js",
        "/etc/passwd",
        "/index.html/",
    ):
        response = visitor.ask(path, key="")
        assert response.code == 404 and response.headers["Content-Security-Policy"]


def test_only_this_machine_can_connect(visitor: Visitor) -> None:
    """127.0.0.1 and no other address."""
    assert visitor.page._socket.getsockname()[0] == "127.0.0.1"


# -- what it says ----------------------------------------------------------------------------------


def test_turns_of_one_run_are_one_conversation(visitor: Visitor) -> None:
    """The list is of conversations, the newest first."""
    found = visitor.get("conversations")["conversations"]
    run = found[0]
    assert run["turns"] == 3 and run["rules"] == ["files"] and run["findings"] == 1
    assert set(run["statuses"]) == {"judged", "blocked"}
    assert run["id"].endswith("01") and run["newest"].endswith("03")
    shown = visitor.get(f"conversation?id={run['newest']}")
    assert [turn["number"] for turn in shown["shown"]] == [1, 2, 3]
    assert shown["shown"][1]["findings"][0]["text"] == "raise ..."
    assert visitor.get(f"conversation?id={run['id']}") == shown


def test_filters_are_of_turns_and_find_conversations(visitor: Visitor) -> None:
    """A conversation fits if one of its turns does."""

    def titles(**wanted: str) -> list[str]:
        query = "&".join(f"{name}={value}" for name, value in wanted.items())
        return [run["title"] for run in visitor.get(f"conversations?{query}")["conversations"]]

    blocked = titles(status="blocked")
    assert len(blocked) == 3 and blocked[0].startswith("My disk is full")
    assert titles(rule="promises") == ["Should I buy an index fund?"]
    assert titles(rule="promise") == []
    assert titles(model="o4-mini", status="found") == ["Clean up the branch and release it."]
    assert titles(text="bluebird") == [blocked[2]]
    assert titles(text="%25") == titles(text="l_t") == []
    assert titles(text="inv_0000000000000000000000000000000b") == ["Should I buy an index fund?"]
    assert titles(day="1999-01-01") == []
    assert titles(status="not%20scanned")[0] == "Summarise the tickets of this week."


def test_pages_have_each_conversation_once(tmp_path: Path) -> None:
    """Also one whose turns are on both sides of the border, under a filter or without."""
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    history: list[Any] = [days.user("long run")]
    turns = []
    for n in range(40):
        turns.append(days.trace(n, history, status="blocked" if n % 7 == 0 else "judged"))
        history = [*history, days.said(f"a{n}"), days.user(f"q{n}")]
        turns += days.ordinary(100 + 10 * n, 4, 60)
    for n, turn in enumerate(turns):
        if turn.id >= "inv_" + f"{100:032x}":
            turns[n] = days.trace(1000 + n, [days.user(f"own {n}")], status="judged")
    days.fill(folder, turns)
    with asyncio.Runner() as runner:
        visitor = Visitor(runner, folder)
        for wanted, expected in (
            ("", 161),
            ("&status=blocked", 1),
            ("&text=long", 1),
            ("&text=own", 160),
        ):
            found: list[str] = []
            before = ""
            for _ in range(20):
                page = visitor.get(f"conversations?{wanted}{before}")
                found += [run["id"] for run in page["conversations"]]
                if page["next"] is None:
                    break
                before = f"&before={page['next']}"
            assert len(found) == len(set(found)) == expected, wanted
        visitor.stop()


def test_a_long_search_comes_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for the whole store to be read; what fits nowhere so far may be further down."""
    monkeypatch.setattr(answers, "SEARCH_SECONDS", 0.0)
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    long = "so " * 100
    turns = [days.trace(n, [days.user(f"own {n} {long}")], status="judged") for n in range(1200)]
    turns[3] = days.trace(3, [days.user(f"own 3 {long} the needle")], status="judged")
    days.fill(folder, turns)
    with asyncio.Runner() as runner:
        visitor = Visitor(runner, folder)
        pages = [visitor.get("conversations?text=needle")]
        while pages[-1]["next"] is not None:
            pages.append(visitor.get(f"conversations?text=needle&before={pages[-1]['next']}"))
        assert [len(page["conversations"]) for page in pages] == [0, 0, 1]
        visitor.stop()


def test_a_long_conversation_comes_in_pieces(tmp_path: Path) -> None:
    """The newest turns first; the earlier ones when they are asked for."""
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    history: list[Any] = [days.user("q")]
    turns = []
    for n in range(75):
        turns.append(days.trace(n, history, choices=(days.said(f"answer {n}"),)))
        history = [*history, days.said(f"answer {n}"), days.user(f"more {n}")]
    days.fill(folder, turns)
    with asyncio.Runner() as runner:
        visitor = Visitor(runner, folder)
        seen: list[int] = []
        before = ""
        for _ in range(9):
            found = visitor.get(f"conversation?id={turns[0].id}{before}")
            seen += reversed([turn["number"] for turn in found["shown"]])
            before = f"&before={found['first']}"
            if found["first"] == 1:
                break
        assert seen == list(range(75, 0, -1))
        visitor.stop()


def test_figures_add_up(visitor: Visitor) -> None:
    """What is not read yet is said."""
    for _ in range(50):
        found = visitor.get("figures?span=day")
        if found["progress"][0] == found["progress"][1]:
            break
    calls = {status: sum(counts) for status, counts in found["calls"].items()}
    assert calls["blocked"] == 3 and sum(calls.values()) == found["progress"][1] == 70
    assert found["times"]["first"]["all"][0] <= found["times"]["first"]["all"][1]
    assert {entry["model"] for entry in found["tokens"]} >= {"gpt-4o-mini", "gpt-4o"}
    assert [len(found["times"]["held"][q]) for q in ("p50", "p95")] == [48, 48]


def test_quantiles_are_values_that_there_were() -> None:
    """Nearest rank."""
    assert quantile([], 0.5) is None
    assert quantile([3.0], 0.95) == 3.0
    assert quantile([4.0, 1.0, 3.0, 2.0], 0.5) == 2.0
    assert quantile([float(n) for n in range(1, 101)], 0.95) == 95.0


@pytest.mark.parametrize(
    "question",
    ["conversations?status=odd", "conversations?before=x", "conversations?day=tomorrow",
     "figures?span=age", "conversations?before=-1", "conversations?text=" + "x" * 600,
     "conversations?day=0001-01-01", "message?id=x&key=y", "conversations?text=%00"],
)  # fmt: skip
def test_a_wrong_question_is_said_to_be_one(visitor: Visitor, question: str) -> None:
    """Not a 500."""
    assert visitor.get(question, status=400)["error"]


def test_what_is_not_kept_is_not_found(visitor: Visitor) -> None:
    """A link may be older than the store."""
    visitor.get("conversation?id=inv_nothing", status=404)
    visitor.get("conversation?id=%F0%9F%98%80%FF", status=404)
    visitor.get("message?id=inv_nothing&key=1.0", status=404)


def test_before_the_first_trace_there_is_a_page_already(tmp_path: Path) -> None:
    """And nothing is made by looking: no file, no folder."""
    folder = tmp_path / "data"
    with asyncio.Runner() as runner:
        visitor = Visitor(runner, folder)
        assert "no traces yet" in visitor.get("conversations", status=503)["error"]
        assert visitor.get("mutes")["mutes"] == []
        assert not folder.exists()
        folder.mkdir(mode=0o700)
        days.fill(folder, days.file_agent(1))
        assert len(visitor.get("conversations")["conversations"]) == 1
        visitor.stop()


@pytest.mark.parametrize("what", ["open", "other", "garbage"])
def test_a_file_that_is_not_ours_is_not_read(tmp_path: Path, what: str) -> None:
    """What others could have written could be made to look like anything."""
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    file = folder / FILE
    if what == "open":
        days.fill(folder, days.file_agent(1))
        file.chmod(0o644)
    elif what == "other":
        import sqlite3

        with sqlite3.connect(file) as connection:
            connection.execute("CREATE TABLE t (x)")
        connection.close()
        file.chmod(0o600)
    else:
        file.write_bytes(b"garbage" * 1000)
        file.chmod(0o600)
    before = file.read_bytes()
    with asyncio.Runner() as runner:
        visitor = Visitor(runner, folder)
        for question in ("conversations", "facets", "figures"):
            assert visitor.get(question, status=503)["error"]
        visitor.stop()
    assert file.read_bytes() == before


def test_whoever_watches_is_told_of_a_change(tmp_path: Path) -> None:
    """Once for what is there, and once for what is new."""
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    days.fill(folder, days.file_agent(1))
    with asyncio.Runner() as runner:
        visitor = Visitor(runner, folder)
        said = visitor.changes(lambda: days.fill(folder, days.others(50)), 3)
        assert "Content-Type: text/event-stream" in said
        assert said.index("event: hello") < said.index("event: changed")
        runner.run(asyncio.sleep(0.1))
        assert not visitor.page.watchers
        visitor.stop()


# -- mutes -----------------------------------------------------------------------------------------


def test_what_was_refused_can_be_muted_and_taken_back(tmp_path: Path) -> None:
    """The same file that `scripts/rules mute` writes, private as it was."""
    folder = tmp_path / "data"
    proxy = Mutes(folder, load_key(folder))
    rule = Guardrail("1", "keys", "")
    asked = Conversation((Message("user", (Part("text", "it is SECRET"),)),))
    violation = Violation(rule, "a key", (Address(0, "content", 6, 12),))
    proxy.record("inv_1", "request", asked, asked.messages, (violation,))
    order = {"request_id": "inv_1", "rule": "keys", "scope": "finding", "seconds": 3600}
    with asyncio.Runner() as runner:
        visitor = Visitor(runner, folder)
        for wrong in (
            {"scope": "all"}, {"scope": ["finding"]}, {"seconds": 0}, {"seconds": True},
            {"seconds": 1e9}, {"seconds": 10**12}, {"request_id": ""}, {"request_id": 7},
            {"rule": "other"}, {"rule": None}, {"request_id": "inv_2"},
        ):  # fmt: skip
            assert visitor.post("mute", order | wrong, status=400)["error"]
        assert visitor.post("mute", [], status=400)["error"]
        assert proxy.covers(violation, asked, asked.messages) is None
        for scope in ("finding", "conversation", "rule"):
            (made,) = visitor.post("mute", order | {"scope": scope})["mutes"]
            assert proxy.covers(violation, asked, asked.messages) is not None
            assert "fingerprint" not in made and made["scope"] == scope
            (listed,) = visitor.get("mutes")["mutes"]
            assert listed == made
            visitor.post("unmute", {"id": made["id"]})
            assert proxy.covers(violation, asked, asked.messages) is None
        assert visitor.post("unmute", {"id": made["id"]}, status=400)["error"]
        assert stat.S_IMODE((folder / "mutes.json").stat().st_mode) == 0o600
        visitor.stop()
