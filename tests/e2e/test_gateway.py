"""Clients of invariant-gateway change the address, and nothing else.

The routes of the gateway's routes/open_ai.py, one by one: the same result, or a difference that has
a name (README, "From invariant-gateway").
"""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from stage import clients, streams
from stage.explorer import KEY, Explorer, policy
from stage.proxy import ROOT, Proxy, clean_environment
from stage.raw import RawClient, Reply
from stage.script import Json, Raw, Stream, wait_until
from stage.upstream import Upstream

PREFIX = "/api/v1/gateway"
APP = "https://app.example"
OPENAI = ("authorization", "Bearer sk-openai")
INVARIANT = ("invariant-authorization", f"Bearer {KEY}")
BOTH_IN_ONE = ("authorization", f"Bearer sk-openai;invariant-auth={KEY}")

BLUE = 'raise "no bluebirds here" if:\n    (m: Message)\n    "BLUEBIRD" in m.content\n'
FROG = BLUE.replace("BLUEBIRD", "GREENFROG").replace("bluebirds", "frogs")
FOX = BLUE.replace("BLUEBIRD", "REDFOX").replace("bluebirds", "foxes")
CALL = (
    'raise "nothing below /etc" if:\n    (c: ToolCall)\n'
    '    c is tool:read\n    "/etc" in c.function.arguments.path\n'
)


@pytest.fixture(scope="module")
def explorer() -> Iterator[Explorer]:
    explorer = Explorer().start()
    explorer.set(
        "zoo", policy("frogs", FROG), policy("call", CALL), policy("off", FOX, enabled=False)
    )
    yield explorer
    explorer.stop()


@pytest.fixture(scope="module")
def proxy(
    _the_upstream: Upstream, tmp_path_factory: pytest.TempPathFactory, explorer: Explorer
) -> Iterator[Proxy]:
    options = {
        "invariant_explorer": explorer.url,
        "invariant_header_rules": True,
        "invariant_names": [APP],
    }
    folder = tmp_path_factory.mktemp("gateway")
    made = Proxy(_the_upstream, folder, rules=[BLUE], mode="reverse:https", options=options)
    yield made.start()
    made.stop()


def send(
    proxy: Proxy, method: str, path: str, *headers: tuple[str, str], body: bytes = b""
) -> Reply:
    with RawClient.through(proxy) as client:
        return client.send(method, PREFIX + path, headers, body).wait_end()


def chat(proxy: Proxy, path: str, content: str, *headers: tuple[str, str], **more: object) -> Reply:
    with RawClient.through(proxy) as client:
        body = streams.chat(content, **more)
        address = f"{PREFIX}{path}/openai/chat/completions"
        return client.post(address, body, headers, key=False).wait_end(30)


# -- the table ---------------------------------------------------------------------------------

KEYS = {"header": (OPENAI, INVARIANT), "suffix": (BOTH_IN_ONE,)}
RULES = {
    "file": ("BLUEBIRD", "no bluebirds here"),
    "dataset": ("GREENFROG", "no frogs here"),
    "header": ("REDFOX", "no foxes here"),
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("source", RULES)
@pytest.mark.parametrize("keys", KEYS)
@pytest.mark.parametrize("phase", ["clean", "request", "response"])
def test_table(
    upstream: Upstream, proxy: Proxy, keys: str, source: str, phase: str, stream: bool
) -> None:
    """With a dataset in the path; guardrails of every source; both ways to bring two keys."""
    word, rule = RULES[source]
    said = ["One ", word if phase == "response" else "two", " three"]
    answer = Stream(streams.text_stream(said)) if stream else None
    answer = answer or Json(streams.completion("".join(said)))
    upstream.script(answer)
    headers = KEYS[keys]
    if source == "header":
        headers = (*headers, ("invariant-guardrails", FOX.replace("\n", "\\n")))
    asked = word if phase == "request" else "hello"
    reply = chat(proxy, "/zoo", asked, *headers, stream=stream)
    if phase == "request":
        assert reply.status == 400 and not upstream.calls
    if phase != "clean":
        assert f"[Invariant] The {phase} did not pass the guardrails".encode() in reply.body
        assert rule.encode() in reply.body and word.encode() not in reply.body
        return
    assert reply.status == 200 and reply.body == answer.body()
    call = upstream.last()
    assert (call.method, call.path, call.host) == ("POST", "/v1/chat/completions", "api.openai.com")
    assert call.header("authorization") == "Bearer sk-openai"
    assert call.header("accept-encoding") == "identity"
    assert not [n for n, _ in call.headers if n.startswith("invariant-")]


@pytest.mark.parametrize("stream", [True, False])
def test_a_tool_calls_argument_is_judged(upstream: Upstream, proxy: Proxy, stream: bool) -> None:
    """The dataset's rule about an argument; the call does not arrive."""
    arguments = '{"path": "/etc/shadow"}'
    upstream.script(
        Stream(streams.tool_stream("", [("read", arguments)]))
        if stream
        else Json(streams.completion(None, [("read", arguments)]))
    )
    reply = chat(proxy, "/zoo", "read it", OPENAI, INVARIANT, stream=stream)
    assert b"nothing below /etc" in reply.body and b"shadow" not in reply.body


@pytest.mark.parametrize("how", ["create", "stream"])
@pytest.mark.parametrize("keys", KEYS)
def test_the_sdk_needs_a_base_url_and_no_more(
    upstream: Upstream, proxy: Proxy, real_clients: None, how: clients.Mode, keys: str
) -> None:
    """As in the gateway's own documentation."""
    options: dict[str, object] = {"base_url": f"{proxy.url}{PREFIX}/zoo/openai"}
    if keys == "header":
        options |= {"api_key": "sk-openai", "default_headers": dict([INVARIANT])}
    else:
        options |= {"api_key": f"sk-openai;invariant-auth={KEY}"}
    upstream.script(
        Json(streams.completion("fine")) if how == "create" else Stream(streams.text_stream(["a"]))
    )
    assert clients.sdk(proxy, how, "hello", client=options).error is None
    assert upstream.last().header("authorization") == "Bearer sk-openai"
    run = clients.sdk(proxy, how, "a GREENFROG", client=options)
    assert run.error is not None and run.error.name == "BadRequestError"
    assert "[Invariant] The request did not pass the guardrails: no frogs here" in run.error.text
    assert isinstance(run.error.body, dict)
    found = run.error.body["details"]["errors"][0]
    assert found["args"] == ["no frogs here"]
    assert found["guardrail"] == {"id": "id-frogs", "name": "frogs", "action": "block"}
    assert found["ranges"] == ["messages.0.content:2-11"]


# -- route by route ----------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", ["", "/zoo"])
@pytest.mark.parametrize(("path", "methods"), [("chat/completions", "POST"), ("models", "GET")])
@pytest.mark.parametrize("origin", [None, APP, "http://localhost:3000"])
def test_preflights_are_answered_as_there(
    upstream: Upstream, proxy: Proxy, dataset: str, path: str, methods: str, origin: str | None
) -> None:
    """A browser asks before it calls, without any key."""
    headers = [("origin", origin)] if origin else []
    reply = send(proxy, "OPTIONS", f"{dataset}/openai/{path}", *headers)
    assert reply.status == 204 and not reply.body and not upstream.calls
    assert reply.header("access-control-allow-origin") == (origin or "*")
    assert reply.header("access-control-allow-methods") == f"{methods}, OPTIONS"
    assert reply.header("access-control-allow-headers") == "Authorization, Content-Type"
    assert reply.header("access-control-max-age") == "86400"


def ask(proxy: Proxy, target: str, *headers: str) -> tuple[int, bytes]:
    """The status and all bytes of an answer; sent in the clear, as a page of a browser does."""
    with socket.create_connection((proxy.host, proxy.port), timeout=10) as plain:
        head = (f"{target} HTTP/1.1", *headers, "Connection: close")
        plain.sendall(("\r\n".join(head) + "\r\n\r\n").encode())
        answer = b""
        while data := plain.recv(65536):
            answer += data
    return int(answer.split(b" ", 2)[1]), answer


HEALTH = "GET /.invariant/health"
MODELS = f"GET {PREFIX}/zoo/openai/models"
SOCKET = (
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
    "Sec-WebSocket-Version: 13",
)


@pytest.mark.parametrize("target", [HEALTH, f"GET {PREFIX}/health", MODELS, "GET /v1/models"])
def test_a_name_that_was_made_to_lead_here_gets_no_answer(
    upstream: Upstream, proxy: Proxy, target: str
) -> None:
    """A web page whose name suddenly resolves to 127.0.0.1 could read how the proxy is, and with
    the owner's Invariant key a dataset's rules by what they refuse."""
    key = "Authorization: Bearer sk-openai"
    status, answer = ask(proxy, target, f"Host: evil.example:{proxy.port}", key)
    assert status == 421 and b"this proxy is not called by that name" in answer
    assert b"access-control" not in answer.lower() and b'"pid"' not in answer
    assert not upstream.calls


@pytest.mark.parametrize("target", [HEALTH, MODELS, f"OPTIONS {PREFIX}/zoo/openai/models"])
@pytest.mark.parametrize("origin", ["https://evil.example", "null"])
def test_a_foreign_page_gets_no_answer(
    upstream: Upstream, proxy: Proxy, target: str, origin: str
) -> None:
    """Under our own name, which any page may call; and under OpenAI's, where the hosts file leads
    it here."""
    for host in (f"127.0.0.1:{proxy.port}", "api.openai.com"):
        status, answer = ask(proxy, target, f"Host: {host}", f"Origin: {origin}")
        assert status == 403 and b"comes from another site" in answer
        assert b"access-control" not in answer.lower()
    assert not upstream.calls


def test_a_foreign_page_opens_no_web_socket_here(upstream: Upstream, proxy: Proxy) -> None:
    """No browser asks for permission first."""
    for path in ("/v1/responses", f"{PREFIX}/zoo/openai/responses"):
        headers = (f"Host: localhost:{proxy.port}", "Origin: https://evil.example", *SOCKET)
        assert ask(proxy, f"GET {path}", *headers)[0] == 403
    assert not upstream.calls


def test_programs_and_pages_of_this_machine_are_answered(upstream: Upstream, proxy: Proxy) -> None:
    """By each name that it has for itself."""
    for host in ("localhost", "127.0.0.1", "[::1]", "172.17.0.1", "api.openai.com"):
        for more in ((), ("Origin: http://localhost:3000", "Sec-Fetch-Site: cross-site")):
            status, answer = ask(proxy, HEALTH, f"Host: {host}:{proxy.port}", *more)
            assert status == 200 and b'"ready":true' in answer
    since = proxy.log_size()
    assert ask(proxy, HEALTH, "Host: other.example")[0] == 421
    assert "other.example" not in proxy.log(since)  # it is said once
    assert "invariant_names=NAME lets it in" in proxy.log()


def test_its_own_answers_need_no_upstream(start_proxy) -> None:
    """Health and refusals come also while OpenAI cannot be reached."""
    proxy = start_proxy(rules=[BLUE], mode="reverse:https", environment={"STAGE_TLS_PORT": "9"})
    assert send(proxy, "GET", "/health").status == 200
    assert chat(proxy, "", "BLUEBIRD", OPENAI, stream=False).status == 400
    assert chat(proxy, "", "hello", OPENAI, stream=False).status == 502


def test_health(upstream: Upstream, proxy: Proxy) -> None:
    """What load balancers look at."""
    reply = send(proxy, "GET", "/health")
    assert reply.status == 200 and reply.json() == {"message": "Hello from Invariant v1/gateway"}
    assert not upstream.calls


@pytest.mark.parametrize("dataset", ["", "/zoo"])
def test_models_go_to_openai(upstream: Upstream, proxy: Proxy, dataset: str) -> None:
    """With OpenAI's key, and without what tells who called."""
    upstream.script(Json({"object": "list", "data": []}), path="/v1/models", method="GET")
    told = [("x-forwarded-for", "10.0.0.1"), ("x-real-ip", "10.0.0.1"), ("x-forwarded-host", "h")]
    headers = [BOTH_IN_ONE, ("accept-encoding", "gzip"), *told]
    reply = send(proxy, "GET", f"{dataset}/openai/models?limit=2", *headers)
    assert reply.status == 200 and reply.json() == {"object": "list", "data": []}
    call = upstream.last()
    assert (call.method, call.path) == ("GET", "/v1/models?limit=2")
    assert call.header("authorization") == "Bearer sk-openai"
    names = {name for name, _ in call.headers}
    assert not names & {"x-forwarded-for", "x-real-ip", "x-forwarded-host", "accept-encoding"}


@pytest.mark.parametrize(
    ("dataset", "headers", "said"),
    [
        ("", (), "Missing authorization header"),
        ("/zoo", (), "Missing authorization header"),
        ("/zoo", (INVARIANT,), "Missing authorization header"),
        ("/zoo", (OPENAI,), "Missing invariant api key"),
        (
            "/zoo",
            (("authorization", "Bearer sk-a;invariant-auth=b;invariant-auth=c"),),
            "Invalid API Key format",
        ),
        ("/zoo", (("authorization", "Bearer sk-a;invariant-auth="),), "Invalid API Key format"),
    ],
)
def test_keys_that_are_missing_are_named_as_there(
    upstream: Upstream, proxy: Proxy, dataset: str, headers: tuple[tuple[str, str], ...], said: str
) -> None:
    """Programs look for these words. Named difference: in OpenAI's form, with `detail` beside."""
    reply = chat(proxy, dataset, "hello", *headers, stream=False)
    error = reply.json()["error"]
    assert reply.status == 400 and isinstance(error, dict) and said in error["message"]
    assert not upstream.calls
    assert b"sk-a" not in reply.body


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("status", [401, 404, 429, 500, 503])
def test_upstreams_errors_come_as_they_are(
    upstream: Upstream, proxy: Proxy, status: int, stream: bool
) -> None:
    """There: a 500 with another body, for streams."""
    answer = Json(streams.error("upstream says no"), status=status)
    upstream.script(answer)
    reply = chat(proxy, "", "hello", OPENAI, stream=stream)
    assert (reply.status, reply.body) == (status, answer.body())


def test_a_reply_that_cannot_be_read_is_withheld(upstream: Upstream, proxy: Proxy) -> None:
    """There: a 500. Named difference: what was not judged falls under invariant_on_failure."""
    upstream.script(Raw(b"<html>", headers=[("content-type", "application/json")]))
    reply = chat(proxy, "", "hello", OPENAI, stream=False)
    assert reply.status == 400 and b"guardrail_unavailable" in reply.body


def test_another_endpoint_goes_by_the_same_prefix(upstream: Upstream, proxy: Proxy) -> None:
    """There: a 404. It is judged as in the other modes."""
    upstream.script(Json({"data": []}), path="/v1/embeddings")
    with RawClient.through(proxy) as client:
        path = f"{PREFIX}/openai/embeddings"
        reply = client.post(path, {"input": "a"}, [OPENAI], key=False).wait_end()
    assert reply.status == 200 and upstream.last().path == "/v1/embeddings"


@pytest.mark.parametrize(
    "path", ["", "/", "/anthropic/v1/messages", "/zoo/gemini/x", "/mcp/sse", "/zoo/openai"]
)
def test_other_providers_are_not_served(upstream: Upstream, proxy: Proxy, path: str) -> None:
    """Named difference: OpenAI alone. Nothing of it may end at OpenAI by accident."""
    reply = send(proxy, "GET", path, OPENAI)
    assert reply.status == 404 and not upstream.calls


@pytest.mark.parametrize(
    "path",
    [
        "//api/v1/gateway/openai/chat/completions",
        "/api/v1/gateway//openai/chat/completions",
        "/api/v1/gateway/openai//chat/completions",
        "/api/v1/gateway/openai/./chat/completions",
        "/api/v1/gateway/x/../openai/chat/completions",
        "/api/v1/gateway/openai/chat%2Fcompletions",
        "/api/v1/gateway/%6fpenai/chat/completions",
        "/api/v1/gateway/openai/v1/chat/completions",
        "/api/v1/gateway/openai/chat/completions/",
        "/api/v1/gateway/openai/chat/completions?x=1",
        "/api/v1/gateway/openai/../../../../v1/chat/completions",
        "/v1/chat/completions",
    ],
)
def test_no_spelling_of_the_address_gets_past_the_rules(
    upstream: Upstream, proxy: Proxy, path: str
) -> None:
    """Refused, or not found; never passed on unjudged."""
    with RawClient.through(proxy) as client:
        body = streams.chat("BLUEBIRD", stream=False)
        reply = client.post(path, body, [OPENAI], key=False).wait_end()
    assert reply.status in (400, 404) and not upstream.calls


def test_the_ancestors_way_of_speaking_http_is_ours_too(upstream: Upstream, proxy: Proxy) -> None:
    """HTTP/2 with TLS at the same port: for those who moved to https already."""
    upstream.script(Json(streams.completion("fine")))
    with RawClient.through(proxy, "2") as client:
        address = f"{PREFIX}/openai/chat/completions"
        reply = client.post(address, streams.chat(stream=False), [OPENAI], key=False).wait_end()
    assert reply.status == 200


def test_a_dataset_without_an_explorer_is_a_name(upstream: Upstream, proxy_for) -> None:
    """The hosted Explorer is gone; addresses with a dataset stay. It is said once."""
    proxy = proxy_for(rules=[BLUE], mode="reverse:https")
    upstream.script(Json(streams.completion("fine")))
    assert chat(proxy, "/zoo", "hello", *KEYS["header"], stream=False).status == 200
    assert chat(proxy, "/zoo", "BLUEBIRD", *KEYS["header"], stream=False).status == 400
    assert proxy.log().count("its rules are not checked") == 1


def test_a_transparent_call_to_such_a_path_is_openais(upstream: Upstream, proxy_for) -> None:
    """Only who calls the gateway's address gets the gateway's answers; preflights included."""
    proxy = proxy_for(rules=[BLUE], options={"invariant_unknown": "pass"})
    upstream.script(
        Json({"said": "by upstream"}, status=404), path=f"{PREFIX}/health", method="GET"
    )
    upstream.script(Raw(status=204), path="/v1/chat/completions", method="OPTIONS")
    with RawClient.through(proxy) as client:
        assert client.send("GET", f"{PREFIX}/health", [OPENAI]).wait_end().status == 404
        assert client.send("OPTIONS", "/v1/chat/completions", [OPENAI]).wait_end().status == 204
    assert len(upstream.calls) == 2


# -- the script --------------------------------------------------------------------------------

SCRIPT = ROOT / "scripts" / "gateway"


def test_the_script_reads_what_the_gateway_read(tmp_path: Path) -> None:
    """The same environment, another command."""
    (tmp_path / "rules.inv").write_text(BLUE)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = clean_environment(tmp_path) | {
        "GUARDRAILS_FILE_PATH": str(tmp_path / "rules.inv"),
        "INVARIANT_API_KEY": KEY,
    }
    off = ("--set", "invariant_starter_rules=false", "--set", f"confdir={tmp_path}")
    command = [SCRIPT, "--port", str(port), *off, "--set", f"invariant_certs={tmp_path / 'certs'}"]
    with (tmp_path / "log").open("wb") as log:
        child = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        wait_until(lambda: b"judging by rules" in (tmp_path / "log").read_bytes(), 60, "its rules")
        with RawClient(("127.0.0.1", port), tls=False) as client:
            path = f"{PREFIX}/zoo/openai/chat/completions"
            reply = client.post(path, streams.chat("BLUEBIRD"), [OPENAI], key=False).wait_end()
        assert reply.status == 400 and b"no bluebirds here" in reply.body
    finally:
        child.terminate()
        child.wait(20)


@pytest.mark.parametrize(
    "arguments", [["--port", "x"], ["--rules", "/nowhere"], ["--set", "a"], ["x"]]
)
def test_a_wrong_call_of_the_script_says_so(arguments: list[str]) -> None:
    """Before anything starts."""
    done = subprocess.run([SCRIPT, *arguments], capture_output=True, timeout=30, check=False)
    assert done.returncode == 2 and done.stderr
