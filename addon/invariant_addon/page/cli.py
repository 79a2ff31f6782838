# ruff: noqa: T201 - it talks to the person who ran it
"""`scripts/traces serve`: show the traces on a page, until Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import html
import signal
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from ..core.errors import InvariantError
from ..rules import private
from ..traces.archive import FILE
from . import sources
from .answers import Answers
from .server import Page

PORT = 8087
"""Where it is, unless something else is there already."""


class ServeError(InvariantError):
    """The page cannot be shown: why."""


def serve(
    folder: Path, *, port: int | None, rules: Sequence[Path] = (), opens: bool = False
) -> None:
    """Returns when it is told to end. port: None for the usual one, or another if it is taken."""
    answers = Answers(folder, sources.texts(rules))
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_run(answers, folder, port, opens=opens))


async def _run(answers: Answers, folder: Path, port: int | None, *, opens: bool) -> None:
    page = _page(answers, port)
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    page.start()
    door = None
    try:
        print(f"the traces in {folder / FILE}:\n\n  {page.address}\n", flush=True)
        print("Whoever has this address can read them; it is good until Ctrl-C.", flush=True)
        if opens:
            door = await asyncio.to_thread(_open, page.address, folder)
        await ended.wait()
    finally:
        if door is not None:
            door.unlink(missing_ok=True)
        await page.stop()


def _page(answers: Answers, port: int | None) -> Page:
    try:
        return Page(answers, PORT if port is None else port)
    except OSError as error:
        if port is None and error.errno == errno.EADDRINUSE:
            return Page(answers)
        raise ServeError(f"port {port or PORT}: {error.strerror or error}") from error


def _open(address: str, folder: Path) -> Path:
    """Open a browser, by a private file: everybody can read a program's arguments."""
    private.make_folder(folder)
    door = folder / "page.html"
    text = f'<!doctype html><meta http-equiv="refresh" content="0; url={html.escape(address)}">\n'
    private.replace(door, text.encode())
    if not webbrowser.open(door.as_uri()):
        print("no browser could be opened; open the address above in one", flush=True)
    return door
