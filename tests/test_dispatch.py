"""The leaner dispatch calls whom mitmproxy's own would call, in the same order."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace

import pytest
from mitmproxy import exceptions, http
from mitmproxy.addonmanager import AddonManager
from mitmproxy.proxy.layers.http import HttpRequestHook
from mitmproxy.test import taddons, tflow

from invariant_addon.dispatch import LeanAddonManager, relieve


class Listener:
    def __init__(self, name: str, heard: list[str], *, halts: bool = False) -> None:
        self.name, self.heard, self.halts = name, heard, halts

    async def request(self, flow: object) -> None:
        self.heard.append(self.name)
        if self.halts:
            raise exceptions.AddonHalt

    def update(self, flows: object) -> None:
        self.heard.append(f"{self.name} updated")


class Deaf:
    pass


class Parent:
    def __init__(self, *addons: object) -> None:
        self.addons = addons


class Broken:
    def request(self, flow: object) -> None:
        raise ValueError("a bug in somebody's script")


def heard_with(lean: bool, *, halts: bool) -> list[str]:
    heard: list[str] = []

    async def run() -> None:
        with taddons.context(loadcore=False) as tctx:
            manager = tctx.master.addons
            if lean:
                relieve(manager)
            manager.add(
                Deaf(),
                Listener("first", heard),
                Broken(),
                Parent(Listener("child", heard, halts=halts)),
                Listener("last", heard),
            )
            await manager.trigger_event(HttpRequestHook(tflow.tflow()))

    asyncio.run(run())
    return heard


def test_the_same_listeners_hear_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Children, failures of others and a halt included."""
    # The failure is logged to a handler of mitmproxy's, which wants an event loop of its own.
    monkeypatch.setattr(logging.getLogger("mitmproxy.addonmanager"), "disabled", True)
    for halts in (False, True):
        assert heard_with(True, halts=halts) == heard_with(False, halts=halts)
    assert "child" in heard_with(True, halts=False)


def test_it_is_put_in_place_once() -> None:
    """A reloaded script does it again."""
    with taddons.context(loadcore=False) as tctx:
        manager = tctx.master.addons
        relieve(manager)
        relieve(manager)
        assert type(manager) is LeanAddonManager and isinstance(manager, AddonManager)


def test_who_is_added_or_learns_to_listen_is_heard_of() -> None:
    """What was found out about the others must not make anybody deaf."""
    heard: list[str] = []
    late, fickle = Listener("late", heard), SimpleNamespace(name="fickle", addons=[])

    async def ask(manager: AddonManager) -> list[str]:
        heard.clear()
        await manager.trigger_event(HttpRequestHook(tflow.tflow()))
        return [*heard]

    async def run() -> None:
        with taddons.context(loadcore=False) as tctx:
            manager = tctx.master.addons
            relieve(manager)
            manager.add(first := Listener("first", heard), fickle)
            assert await ask(manager) == ["first"]
            manager.add(late)
            assert await ask(manager) == ["first", "late"]
            fickle.addons.append(Listener("child", heard))  # as mitmproxy loads scripts
            assert await ask(manager) == ["first", "child", "late"]
            fickle.request = lambda _: heard.append("fickle")
            manager.remove(first)
            assert await ask(manager) == ["fickle", "child", "late"]

    asyncio.run(run())


def test_a_failure_is_logged_as_mitmproxy_logs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the traceback of the script alone: that is how its author finds the line."""
    logger = logging.getLogger("mitmproxy.addonmanager")
    found: list[logging.LogRecord] = []
    monkeypatch.setattr(logger, "handle", found.append)

    async def run() -> None:
        with taddons.context(loadcore=False) as tctx:
            for is_lean in (False, True):
                if is_lean:
                    relieve(tctx.master.addons)
                tctx.master.addons.add(broken := Broken())
                await tctx.master.addons.trigger_event(HttpRequestHook(tflow.tflow()))
                tctx.master.addons.remove(broken)

    asyncio.run(run())
    texts = [logging.Formatter().format(record) for record in found]
    assert len(texts) == 2 and texts[0] == texts[1] and "a bug in somebody's script" in texts[0]


def test_a_message_of_wrong_types_is_refused_as_before() -> None:
    """Also by the second of its kind; and what is right is checked once."""
    with taddons.context(loadcore=False) as tctx:
        relieve(tctx.master.addons)
    fields = (b"HTTP/1.1", http.Headers(), b"", None, 1.0, 2.0)
    for _ in range(2):
        assert http.MessageData(*fields).timestamp_end == 2.0
        with pytest.raises(TypeError):
            http.MessageData(*fields[:2], "text", *fields[3:])  # type: ignore[arg-type]
