"""A client that does not trust us is named, and told what to do; once a minute."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mitmproxy.test import taddons

from invariant_addon.interception.certificates import ensure
from invariant_addon.interception.processes import Process
from invariant_addon.interception.remedies import remedy
from invariant_addon.perimeter.distrust import LOOKS, QUIET, Distrust
from invariant_addon.perimeter.guarded import Guarded

NODE = Process(7, "node", "agent.js")
ALERT = "The client does not trust the proxy's certificate (tlsv1 alert unknown ca)"
LEFT = "The client disconnected during the handshake."


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Stage:
    """A Distrust with everything around it replaced."""

    def __init__(self, process: Process | None) -> None:
        self.clock = Clock()
        self.looked = 0
        self._process = process
        self.addon = Distrust(lambda: Guarded(["api.openai.com"]), self.look, self.clock)

    def look(self, client, proxy) -> Process | None:
        self.looked += 1
        assert client == ("127.0.0.1", 50000) and proxy == ("127.0.0.1", 8080)
        return self._process

    async def fail(self, sni: str = "api.openai.com", error: str = ALERT, number: int = 1) -> None:
        client = SimpleNamespace(
            id=str(number),
            sni=sni,
            error=error,
            peername=("127.0.0.1", 50000),
            sockname=("127.0.0.1", 8080, 0, 0),
        )
        context = SimpleNamespace(client=client)
        hello: Any = SimpleNamespace(context=context, client_hello=SimpleNamespace(sni=sni))
        failed: Any = SimpleNamespace(context=context, conn=client)
        await self.addon.tls_clienthello(hello)
        await self.addon.tls_failed_client(failed)


@pytest.fixture
def context(tmp_path: Path):
    with taddons.context() as context:
        context.options.add_option("invariant_certs", str, str(tmp_path), "")
        yield context


def test_the_program_is_named_with_the_line_to_type(
    context, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A newcomer sees "Connection error." in his agent, and looks here."""
    ensure(tmp_path)
    asyncio.run(Stage(NODE).fail())
    assert "node agent.js (pid 7) did not trust the certificate for api.openai.com;" in caplog.text
    assert f"NODE_EXTRA_CA_CERTS={tmp_path / 'ca.pem'}" in caplog.text


def test_a_client_that_hangs_up_is_seen_too(context, caplog: pytest.LogCaptureFixture) -> None:
    """Node, Java and others send no alert; mitmproxy then says nothing at this level."""
    asyncio.run(Stage(None).fail(error=LEFT))
    assert "a program did not trust" in caplog.text and "or hung up" in caplog.text


def test_other_hosts_are_not_looked_at(context, caplog: pytest.LogCaptureFixture) -> None:
    """They are not decrypted, so their handshakes are none of ours."""
    stage = Stage(NODE)
    asyncio.run(stage.fail(sni="other.example"))
    assert not stage.looked and not caplog.text


def test_a_program_that_tries_and_tries_is_one_line_a_minute(
    context, caplog: pytest.LogCaptureFixture
) -> None:
    """Some retry nine times in ten seconds."""
    stage = Stage(NODE)
    for number in range(9):
        asyncio.run(stage.fail(number=number))
    assert caplog.text.count("did not trust") == 1
    stage.clock.now += QUIET + 1
    asyncio.run(stage.fail(number=10))
    assert caplog.text.count("did not trust") == 2 and "8 more times" in caplog.text


def test_only_the_first_connections_are_looked_up_while_all_goes_well(
    context, caplog: pytest.LogCaptureFixture
) -> None:
    """A look-up costs milliseconds: not for every connection of a proxy that runs for weeks."""
    caplog.set_level(logging.CRITICAL)
    stage = Stage(NODE)

    async def connect(count: int) -> None:
        for number in range(count):
            client = SimpleNamespace(
                id=f"c{number}", peername=("127.0.0.1", 50000), sockname=("127.0.0.1", 8080)
            )
            around = SimpleNamespace(client=client)
            name = SimpleNamespace(sni="api.openai.com")
            hello: Any = SimpleNamespace(context=around, client_hello=name)
            done: Any = SimpleNamespace(conn=client)
            await stage.addon.tls_clienthello(hello)
            stage.addon.tls_established_client(done)

    asyncio.run(connect(3 * LOOKS))
    assert stage.looked == LOOKS
    asyncio.run(stage.fail())
    looked = stage.looked
    asyncio.run(connect(3 * LOOKS))
    assert stage.looked == looked + LOOKS, "after a failure, the next tries are watched"


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("python3.13", "SSL_CERT_FILE="),
        ("node", "NODE_EXTRA_CA_CERTS="),
        ("deno", "DENO_CERT="),
        ("java", "JAVA_TOOL_OPTIONS"),
        ("codex-x86_64", "CODEX_CA_CERTIFICATE="),
        ("curl", "CURL_CA_BUNDLE="),
        ("chromium", "scripts/system on"),
        ("my-go-agent", "SSL_CERT_FILE="),
    ],
)
def test_each_runtime_has_its_own_line(tmp_path: Path, program: str, said: str) -> None:
    """Measured: none of them reads the others' variables."""
    for file in ("ca.pem", "bundle.pem"):
        (tmp_path / file).touch()
    assert said in remedy(program, tmp_path)


def test_a_file_that_is_not_there_is_not_named(tmp_path: Path) -> None:
    """The bundle is made by scripts/run and scripts/env."""
    assert "SSL_CERT_FILE" not in remedy("python3", tmp_path)
    assert "scripts/env" in remedy("python3", tmp_path)
