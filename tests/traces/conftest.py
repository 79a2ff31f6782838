"""A fake Explorer, a sender that is quick to try again, and what holds after every test."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from invariant_addon.traces.explorer import ExplorerSink
from invariant_addon.traces.sender import Sender

from .chaos import KEY, ChaosExplorer
from .memory import MemoryOutbox
from .pushes import SECRET, Start


@pytest.fixture
def chaos() -> Iterator[ChaosExplorer]:
    explorer = ChaosExplorer()
    yield explorer
    explorer.down()
    assert not explorer.errors, "the fake itself failed"


@pytest.fixture(autouse=True)
def said(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[int], list[str]]]:
    """What was logged with this level. Never a key, never a text."""
    caplog.set_level(logging.DEBUG, logger="invariant_addon")
    yield lambda level: [r.getMessage() for r in caplog.records if r.levelno == level]
    assert KEY not in caplog.text and SECRET not in caplog.text and "sk-" not in caplog.text


@pytest.fixture(autouse=True)
def _no_threads_are_left() -> Iterator[None]:
    before = set(threading.enumerate())  # of other files' tests
    yield
    until = time.monotonic() + 5
    while any(t.name.startswith("invariant: ") for t in set(threading.enumerate()) - before):
        assert time.monotonic() < until, "a thread of the sender is still there"
        time.sleep(0.01)


@pytest.fixture
def start(chaos: ChaosExplorer) -> Iterator[Start]:
    """A sender that is quick to try again, with the Explorer as its sink."""
    senders: list[Sender] = []

    def start(outbox: MemoryOutbox, sink: Any = None, **options: Any) -> Sender:
        sink = sink or ExplorerSink(chaos.url, f"Bearer {KEY}", timeout=2.0)
        options = {"first_pause": 0.01, "longest_pause": 0.05, "poll": 0.01} | options
        sender = Sender(outbox, [sink], **options)
        senders.append(sender)
        sender.start()
        return sender

    yield start
    for sender in senders:
        sender.stop(1.0)
