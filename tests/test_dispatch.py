"""The leaner dispatch calls whom mitmproxy's own would call, in the same order."""

from __future__ import annotations

import asyncio
import logging

import pytest
from mitmproxy import exceptions
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
