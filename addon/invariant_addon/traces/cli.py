# ruff: noqa: T201 - it talks to the person who ran it
"""Look at what went through the proxy: `scripts/traces`."""

from __future__ import annotations

import argparse
import io
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from ..core.errors import InvariantError
from ..core.json_text import encode
from ..core.trace import Json, Status
from ..rules.data import default_folder
from . import figures
from .archive import Archive, Pushed, ReadOnly, Summary, Wanted, kept, pushed
from .export import importable, output, speak_utf8
from .figures import counted
from .shown import Paint, duration, line, lines, when

OK, NOTHING, FAILED = 0, 1, 2
"""Exit codes: all is well; there is no such trace, or not all could be exported; no answer."""

PAGE = 1000
ID_SHOWN = 16
_PROGRESS = 200
_SGR = re.compile(r"\x1b\[[0-9]*m")

EXAMPLES = """\
examples:
  scripts/traces list --status blocked
  scripts/traces list --rule api_keys --text deploy --json
  scripts/traces show inv_0123456789ab
  scripts/traces stats
  scripts/traces retry explorer
  scripts/traces export blocked.jsonl --status blocked
  scripts/traces serve --open

ID is the request id in a refusal, or the beginning of one. An export is what an Explorer imports,
and what `scripts/rules test` reads.

exit codes: 0 all is well, 1 no such trace, or one that could not be exported, 2 there is no answer
"""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where traces come from, and what an Explorer is given for one."""

    archive: Callable[[Path], Archive] = kept
    pushed: Pushed = pushed


def main(arguments: Sequence[str], sources: Sources = Sources()) -> int:
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal that cannot show a letter
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        order = _parser().parse_args(arguments)
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else FAILED
    run: Callable[[argparse.Namespace, Sources], int] = order.run
    try:
        code = run(order, sources)
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has seen enough
        with open(os.devnull, "w") as nowhere:  # noqa: PTH123  # what is left goes there
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        return OK
    except OSError as error:
        named = error.filename and error.strerror
        _say(f"{error.filename}: {error.strerror}" if named else str(error))
        return FAILED
    except (InvariantError, RuntimeError) as error:
        _say(str(error))
        return FAILED
    except KeyboardInterrupt:
        return 130
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "scripts/traces",
        description="Look at what went through the proxy.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)

    def verb(
        name: str, run: Callable[[argparse.Namespace, Sources], int], what: str
    ) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=what, description=what, allow_abbrev=False)
        added.set_defaults(run=run)
        return added

    list_ = verb("list", _list, "List traces, the newest first.")
    list_.add_argument(
        "--limit", type=_number, default=20, metavar="N", help="at most so many (default: 20)"
    )
    show = verb("show", _show, "Show a conversation, with what was found in it.")
    show.add_argument("id", metavar="ID", help="from the refusal (inv_...), or its beginning")
    show.add_argument(
        "--secrets",
        action="store_true",
        help="as it was before secrets were masked, if the proxy keeps them "
        "(invariant_keep_secrets)",
    )
    stats = verb("stats", _stats, "Say how many there are, and what is still to be sent.")
    retry = verb("retry", _retry, "Send once more what a sink refused, after you have mended it.")
    retry.add_argument(
        "sink", nargs="?", default="", metavar="SINK", help="as stats names it (default: all)"
    )
    export = verb("export", _export, "Write traces as an Explorer imports them, the oldest first.")
    export.add_argument(
        "file", nargs="?", type=Path, metavar="FILE", help="instead of the standard output"
    )
    serve = verb("serve", _serve, "Show them on a page, on this machine, until Ctrl-C.")
    serve.add_argument("--port", type=_port, metavar="N", help="of 127.0.0.1 (default: 8087)")
    serve.add_argument("--open", action="store_true", help="open a browser, too")
    serve.add_argument(
        "--rules",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="a file of rules whose text is shown beside what it found; may be repeated",
    )
    for added in (list_, export):
        added.add_argument("--status", choices=get_args(Status), help="what became of the call")
        added.add_argument("--rule", metavar="NAME", help="a rule that found something")
        added.add_argument("--model", metavar="NAME", help="as the request named it")
        added.add_argument("--text", metavar="TEXT", help="in what was asked or said")
    for added in (list_, stats):
        added.add_argument("--json", action="store_true", help="print JSON, one object in a line")
    for added in (list_, show, stats, retry, export, serve):
        added.add_argument(
            "--data", type=Path, metavar="DIR", help="the proxy's data folder ($INVARIANT_DATA)"
        )
    return parser


# -- verbs ----------------------------------------------------------------------------------


def _list(order: argparse.Namespace, sources: Sources) -> int:
    archive, folder = _archive(order, sources)
    found = _summaries(archive, _wanted(order), order.limit)
    if order.json:
        speak_utf8()
        for each in found:
            print(encode(_outline(each)))
        return OK
    paint, is_empty = _paint(), True
    for each in found:
        print(_row(each, paint))
        is_empty = False
    if is_empty:
        print(f"no such traces ({folder})" if any(_given(order)) else f"no traces yet ({folder})")
    elif sys.stdout.isatty():
        print(paint.dim("to read one: scripts/traces show ID"))
    return OK


def _show(order: argparse.Namespace, sources: Sources) -> int:
    archive, folder = _archive(order, sources)
    trace = archive.get(order.id)
    if trace is None:
        found = [each.id for each in _summaries(archive) if each.id.startswith(order.id)]
        if len(found) > 1:
            shown = ", ".join(found[:5]) + (", ..." if len(found) > 5 else "")
            _say(f"{len(found)} traces begin with {order.id}: {shown}")
            return NOTHING
        trace = archive.get(found[0]) if found else None
    if trace is None:
        _say(f"there is no trace {order.id} in {folder}")
        return NOTHING
    if order.secrets:
        if trace.original is None:
            _say("nothing was masked in it, or what was masked was not kept")
        trace = trace.original or trace
    for each in lines(trace, _paint()):
        print(each)
    return OK


def _stats(order: argparse.Namespace, sources: Sources) -> int:
    archive, folder = _archive(order, sources)
    found = archive.stats()
    if order.json:
        speak_utf8()
        print(encode(figures.outline(found)))
        return OK
    for each in figures.lines(found, folder):
        print(each)
    return OK


def _retry(order: argparse.Namespace, sources: Sources) -> int:
    archive, folder = _archive(order, sources)
    count = archive.revive(order.sink)
    if not count:
        print(f"nothing is dead ({folder})")
        return NOTHING
    print(f"{counted(count, 'delivery', 'deliveries')} to be tried again by the running proxy")
    return OK


def _export(order: argparse.Namespace, sources: Sources) -> int:
    archive, _ = _archive(order, sources)
    ids = [each.id for each in _summaries(archive, _wanted(order))]
    written = left = 0
    path = None if order.file == Path("-") else order.file
    with output(path) as file, _progress(len(ids)) as tick:
        for number, identity in enumerate(reversed(ids), 1):
            try:
                trace = archive.get(identity)
                if trace is not None:  # else it was pruned just now
                    file.write(importable(trace, sources.pushed) + "\n")
                    written += 1
            except InvariantError as error:
                left += 1
                _say(f"left out {identity}: {error}")
            tick(number)
    if path:
        print(f"wrote {counted(written, 'trace')} to {path}; an Explorer imports it as it is")
    elif sys.stderr.isatty() and not sys.stdout.isatty():
        _say(f"wrote {counted(written, 'trace')}")
    return NOTHING if left else OK


def _serve(order: argparse.Namespace, _: Sources) -> int:
    from ..page.cli import serve  # noqa: PLC0415  # a web server, which the others do without

    folder = order.data.expanduser() if order.data else default_folder()
    serve(folder, port=order.port, rules=order.rules, opens=order.open)
    return OK


# -- the archive ----------------------------------------------------------------------------


def _archive(order: argparse.Namespace, sources: Sources) -> tuple[Archive, Path]:
    folder = order.data.expanduser() if order.data else default_folder()
    archive = sources.archive(folder)
    if isinstance(archive, ReadOnly):
        _say(archive.note)
    return archive, folder


def _given(order: argparse.Namespace) -> tuple[str | None, ...]:
    return order.status, order.rule, order.model, order.text


def _wanted(order: argparse.Namespace) -> Wanted:
    return Wanted(order.status, order.rule, order.model, order.text)


def _summaries(
    archive: Archive, wanted: Wanted | None = None, limit: int | None = None
) -> Iterator[Summary]:
    """The newest first, page by page."""
    before = None
    while limit is None or limit > 0:
        size = PAGE if limit is None else min(limit, PAGE)
        page = archive.page(size, before, wanted or Wanted())
        yield from page
        if len(page) < size:
            return
        before = page[-1].seq
        limit = None if limit is None else limit - len(page)


# -- words ----------------------------------------------------------------------------------


def _outline(found: Summary) -> dict[str, Json]:
    return {
        "id": found.id,
        "started": found.started,
        "status": found.status,
        "endpoint": found.endpoint,
        "model": found.model,
        "stream": found.stream,
        "messages": found.messages,
        "rules": list(found.rules),
        "total_ms": found.total,
        "asked": found.asked,
    }


def _row(found: Summary, paint: Paint) -> str:
    what = found.model or found.endpoint  # where nobody could read it, there is no model
    row = (
        f"{line(found.id)[:ID_SHOWN]:<{ID_SHOWN}}  {when(found.started)}  "
        f"{paint.status(found.status, 11)}  {duration(found.total):>7}  {line(what)}, "
        f"{counted(found.messages, 'message')}"
    )
    if found.rules:
        row += "  " + paint.warn(", ".join(map(line, found.rules)))
    room = 1000
    if sys.stdout.isatty():
        room = shutil.get_terminal_size().columns - len(_SGR.sub("", row)) - 3
    asked = line(found.asked)
    if room < 10 or not asked:
        return row
    return f"{row}  {paint.dim(asked if len(asked) <= room else asked[: room - 1] + '…')}"


def _paint() -> Paint:
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return Paint(colours=sys.stdout.isatty() and not plain)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """Says on a terminal how far it is, if that takes a while."""
    is_shown = sys.stderr.isatty() and total > _PROGRESS

    def tick(number: int) -> None:
        if is_shown and number % _PROGRESS == 0:
            share = f"{number:,} of {total:,} traces, {100 * number // total} %"
            print(f"\r{share}", end="", file=sys.stderr, flush=True)

    try:
        yield tick
    finally:
        if is_shown:
            print("\r" + " " * 48 + "\r", end="", file=sys.stderr, flush=True)


def _number(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not 0 < len(text) < 10 or not int(text):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a number from 1")
    return int(text)


def _port(text: str) -> int:
    if (number := _number(text)) > 65_535:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a number up to 65535")
    return number


def _say(text: str) -> None:
    print(f"invariant: {line(text)}", file=sys.stderr, flush=True)
