"""Traces leave this machine only if asked to, for whoever they belong to, and without secrets."""

from __future__ import annotations

import importlib.util
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from invariant_addon.traces.store import Store
from stage import rules, streams
from stage.proxy import Proxy
from stage.raw import CHAT, RawClient, Reply
from stage.script import Json, Stream, wait_until
from stage.upstream import Upstream

from ..traces.chaos import KEY, ChaosExplorer

SECRET = "sk-proj-" + "Ab3dEf6hIj9kLm2nOp5q" * 2
THEIRS = "Bearer inv-their-key"


@pytest.fixture
def explorer() -> Iterator[ChaosExplorer]:
    explorer = ChaosExplorer()
    yield explorer
    explorer.down()
    assert not explorer.errors, "the fake itself failed"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def received() -> Iterator[tuple[str, list[tuple[str, str, bytes]]]]:
    """An OTLP receiver: its address, and what it got: path, key, body."""
    got: list[tuple[str, str, bytes]] = []

    class Taking(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            got.append((self.path, self.headers.get("api-key", ""), body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Taking)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", got
    server.shutdown()
    server.server_close()


def options(explorer: ChaosExplorer, data: Path, **more: object) -> dict[str, object]:
    pushing = {"invariant_push": "finished", "invariant_push_dataset": "agents"}
    return {"invariant_explorer": explorer.url, "invariant_data": str(data)} | pushing | more


def ask(proxy: Proxy, content: str, *, path: str = CHAT, headers: object = ()) -> Reply:
    with RawClient.through(proxy) as client:
        return client.post(path, streams.chat(content), headers).wait_end()


def texts(explorer: ChaosExplorer) -> str:
    return json.dumps([trace.messages for trace in explorer.stored], ensure_ascii=False)


def test_what_is_pushed_has_findings_and_no_secret(
    upstream: Upstream, start_proxy, explorer: ChaosExplorer, data: Path
) -> None:
    """And an agent's step that only calls a tool comes with its next one."""
    proxy = start_proxy(
        rules=rules.USUAL,
        options=options(explorer, data, invariant_starter_rules=True),
        environment={"INVARIANT_API_KEY": KEY},
    )
    upstream.script(
        Stream(streams.tool_stream("", [("look", "{}")])),
        Stream(streams.text_stream(["all ", "is ", "fine"])),
    )
    ask(proxy, "a step")
    ask(proxy, "hello")
    assert ask(proxy, "a BLUEBIRD").status == 400
    assert ask(proxy, f"my key is {SECRET}").status == 400
    wait_until(lambda: len(explorer.stored) == 3, 10, "three traces")
    ended = proxy.stop()
    assert ended.code == 0 and KEY not in ended.log
    assert SECRET not in texts(explorer) and "[masked:api_keys:" in texts(explorer)
    assert "a step" not in texts(explorer)
    assert all(SECRET.encode() not in body for body in explorer.bodies)
    (blocked,) = (t for t in explorer.stored if "BLUEBIRD" in str(t.messages))
    assert blocked.annotations[0]["address"] == "messages.0.content:2-10"
    assert blocked.metadata["via_gateway"] is True
    assert blocked.metadata["client_trace_id"].startswith("inv_")
    assert explorer.datasets.keys() == {"agents"}


def test_reading_rules_from_an_explorer_pushes_nothing(
    upstream: Upstream, start_proxy, explorer: ChaosExplorer, data: Path
) -> None:
    """What is said leaves this machine only if somebody wants that."""
    proxy = start_proxy(
        options=options(explorer, data, invariant_push="none", invariant_dataset="agents"),
        environment={"INVARIANT_API_KEY": KEY},
    )
    upstream.script(Stream(streams.text_stream(["fine"])))
    ask(proxy, "hello")
    proxy.stop()
    assert explorer.count("policy") and not explorer.count("push")
    store = Store(data / "traces.db")
    assert store.stats().traces == 1 and not store.stats().deliveries
    store.close()


def test_a_calls_own_key_pushes_its_trace_and_is_kept_nowhere(
    upstream: Upstream, start_proxy, explorer: ChaosExplorer, data: Path
) -> None:
    """As in invariant-gateway: the dataset of the address, the key of the caller."""
    explorer.users[THEIRS.split()[1]] = "eve"
    proxy = start_proxy(
        mode="reverse:https",
        options=options(explorer, data),
        environment={"INVARIANT_API_KEY": KEY},
    )
    upstream.script(Json(streams.completion("fine")))
    path = "/api/v1/gateway/zoo/openai/chat/completions"
    for said, key in (("theirs", THEIRS), ("ours", None), ("bad", "Bearer inv-bad-key")):
        ask(proxy, said, path=path, headers=[("invariant-authorization", key)] if key else [])
    wait_until(lambda: len(explorer.stored) == 2, 10, "two traces")
    wait_until(lambda: proxy.health()["traces"]["dead"] == 1, 10, "a dead one")
    ended = proxy.stop()
    whose = {trace.messages[0]["content"]: trace.user for trace in explorer.stored}
    assert whose == {"theirs": "eve", "ours": "ada"} and explorer.datasets.keys() == {"zoo"}
    kept = b"".join(file.read_bytes() for file in data.iterdir())
    assert b"inv-their-key" not in kept and "inv-their-key" not in ended.log
    assert "did not accept the key that came with the call" in ended.log


@pytest.mark.parametrize("trouble", ["gone", "silent"])
def test_the_end_waits_for_no_sink_and_keeps_what_came(
    upstream: Upstream, start_proxy, explorer: ChaosExplorer, data: Path, trouble: str
) -> None:
    """SIGTERM in the middle of a stream. What could not be sent is sent by the next start."""
    if trouble == "gone":
        explorer.down()
    else:
        explorer.delay = 30.0
    proxy = start_proxy(
        rules=rules.USUAL,
        options=options(explorer, data, invariant_push="all"),
        environment={"INVARIANT_API_KEY": KEY},
    )
    never = threading.Event()
    upstream.script(
        Stream(streams.text_stream(["fine"])),
        Stream(streams.text_stream(["One ", "two ", "three"]), wait=never, wait_after=3),
    )
    ask(proxy, "hello")
    client = RawClient.through(proxy)
    client.post(CHAT, streams.chat("and then")).wait_body(b"One")
    began = time.monotonic()
    ended = proxy.stop()
    print(f"exit took {time.monotonic() - began:.2f} s")
    never.set()
    client.vanish()
    # Python 3.12's asyncio prints a traceback of its own where mitmproxy cancels a connection.
    assert ended.code == 0 and "/invariant_addon/" not in ended.log
    store = Store(data / "traces.db")
    partial, whole = (store.get(summary.id) for summary in store.list())
    assert partial is not None and partial.status == "partial"
    assert partial.choices[0]["content"].startswith("One") and whole is not None
    assert store.stats().deliveries == {("explorer", "pending"): 2}
    store.close()


HAS_OTLP = bool(importlib.util.find_spec("opentelemetry"))


@pytest.mark.skipif(not HAS_OTLP, reason="opentelemetry-proto (the extra `otlp`) is not installed")
@pytest.mark.parametrize("content", [False, True])
def test_spans_have_what_was_said_only_if_asked_for(
    upstream: Upstream,
    start_proxy,
    received: tuple[str, list[tuple[str, str, bytes]]],
    data: Path,
    content: bool,
) -> None:
    """And never a secret."""
    url, got = received
    proxy = start_proxy(
        rules=rules.API_KEYS,
        options={
            "invariant_data": str(data),
            "invariant_otlp": url,
            "invariant_otlp_content": content,
        },
        environment={"OTEL_EXPORTER_OTLP_HEADERS": "api-key=a-key"},
    )
    upstream.script(Stream(streams.text_stream(["a canary ", "sings"])))
    ask(proxy, "hello")
    assert ask(proxy, f"my key is {SECRET}").status == 400
    wait_until(lambda: len(got) == 2, 10, "two requests")
    ended = proxy.stop()
    assert {(path, key) for path, key, _ in got} == {("/v1/traces", "a-key")}
    sent = b"".join(body for _, _, body in got)
    assert (b"canary" in sent) is content and b"guardrail_violation" in sent
    assert SECRET.encode() not in sent and "a-key" not in ended.log


def test_a_missing_package_is_said_at_the_start(start_proxy, data: Path, tmp_path: Path) -> None:
    """Or somebody waits for spans that nobody sends."""
    hide = tmp_path / "hide.py"
    hide.write_text("import sys\nsys.modules['opentelemetry'] = None\n")
    wanted = {"invariant_data": str(data), "invariant_otlp": "http://127.0.0.1:4318"}
    ended = start_proxy(wait=False, options=wanted, scripts=[hide]).wait_ended()
    assert ended.code == 1 and "pip install" in ended.log and "opentelemetry-proto" in ended.log


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("invariant_push", "all", "without invariant_explorer"),
        ("invariant_push", "some", "expected 'none' or 'finished' or 'all'"),
        ("invariant_push_dataset", "a b", "expected letters"),
        ("invariant_otlp", "localhost", "expected"),
    ],
)
def test_an_option_that_cannot_be_is_said_at_the_start(
    start_proxy, data: Path, name: str, value: str, said: str
) -> None:
    """In one line."""
    wanted = {"invariant_data": str(data), name: value}
    ended = start_proxy(wait=False, options=wanted).wait_ended()
    assert (ended.code == 1 and f"{name}: got" in ended.log) or name in ended.log
    assert said in ended.log
