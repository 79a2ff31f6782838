"""Fixtures of the end-to-end tests. The stage itself is the package `stage`, next to this file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

# --import-mode=importlib puts no test folder on sys.path; at the end, where it shadows nothing.
sys.path.append(str(Path(__file__).resolve().parent))

from stage import clients, warm
from stage.proxy import Proxy, StartProxy
from stage.upstream import Upstream

_WATCHED: pytest.StashKey[dict[Proxy, int]] = pytest.StashKey()
_KEEP = 6
"""Shared proxies that may run at once: idle they cost memory, about 200 MB each."""


@pytest.fixture(scope="session")
def _the_upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    upstream = Upstream(tmp_path_factory.mktemp("upstream")).start()
    yield upstream
    upstream.stop()
    warm.stop()


@pytest.fixture
def upstream(_the_upstream: Upstream) -> Iterator[Upstream]:
    """The fake OpenAI, as new for each test."""
    _the_upstream.reset()
    yield _the_upstream
    errors = list(_the_upstream.errors)
    _the_upstream.reset()
    assert not errors, f"the fake OpenAI itself failed: {errors}"


@pytest.fixture
def watch(request: pytest.FixtureRequest) -> Callable[[Proxy], Proxy]:
    """From here on, what this proxy logs is shown if the test fails."""
    watched = request.node.stash.setdefault(_WATCHED, {})

    def look(proxy: Proxy) -> Proxy:
        watched.setdefault(proxy, proxy.log_size())
        return proxy

    return look


@pytest.fixture(scope="session")
def _leaving() -> Iterator[list[Proxy]]:
    """Proxies that were told to stop: they do it while the next test starts its own."""
    leaving: list[Proxy] = []
    yield leaving
    for proxy in leaving:
        proxy.stop()


@pytest.fixture
def _part(_leaving: list[Proxy]) -> Callable[[Proxy], None]:
    """Nobody wants this proxy any more; the one before has had the time to stop."""

    def part(proxy: Proxy) -> None:
        while _leaving:
            _leaving.pop().stop()
        proxy.tell_to_stop()
        _leaving.append(proxy)

    return part


@pytest.fixture
def start_proxy(
    upstream: Upstream,
    tmp_path_factory: pytest.TempPathFactory,
    watch: Callable[[Proxy], Proxy],
    _part: Callable[[Proxy], None],
) -> Iterator[StartProxy]:
    """Start a proxy of this test's own; Proxy's arguments. wait=False: launch only."""
    started: list[Proxy] = []

    def start(*, wait: bool = True, **options: Any) -> Proxy:
        proxy = watch(Proxy(upstream, tmp_path_factory.mktemp("proxy"), **options))
        started.append(proxy)
        return proxy.start() if wait else proxy.launch()

    yield start
    for proxy in started:
        _part(proxy)


@pytest.fixture(scope="session")
def _shared() -> Iterator[dict[str, Proxy]]:
    shared: dict[str, Proxy] = {}
    yield shared
    for proxy in shared.values():
        proxy.tell_to_stop()
    for proxy in shared.values():
        proxy.stop()


@pytest.fixture
def proxy_for(
    upstream: Upstream,
    tmp_path_factory: pytest.TempPathFactory,
    watch: Callable[[Proxy], Proxy],
    _shared: dict[str, Proxy],
    _part: Callable[[Proxy], None],
) -> StartProxy:
    """A running proxy with these arguments, shared with other tests that want the same.

    Leave it as you found it: no stop(), no changed rule files. The least recently used goes, and
    so does one with which a test failed: what that left behind is not for the next one.
    """

    def find(**options: Any) -> Proxy:
        key = repr(sorted(options.items()))
        if (proxy := _shared.pop(key, None)) is not None:
            if proxy.is_running and not proxy.is_suspect:
                _shared[key] = proxy
                return watch(proxy)
            _part(proxy)
        while len(_shared) >= _KEEP:
            _part(_shared.pop(next(iter(_shared))))
        proxy = watch(Proxy(upstream, tmp_path_factory.mktemp("shared"), **options))
        _shared[key] = proxy.start()
        return proxy

    return find


@pytest.fixture
def bare(proxy_for: StartProxy) -> Proxy:
    """mitmdump without invariant: what the stage does by itself."""
    return proxy_for(addon=False)


@pytest.fixture(scope="session")
def _clients_end() -> Iterator[None]:
    yield
    clients.stop()


@pytest.fixture
def real_clients(_clients_end: None) -> None:
    """Skips where the SDK or curl is not installed."""
    if why := clients.missing():
        pytest.skip(why)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        for proxy, since in item.stash.get(_WATCHED, {}).items():
            proxy.is_suspect = True
            said = proxy.log(since)
            report.sections.append((f"mitmdump {proxy.folder.name}", said[-20_000:]))
    return report
