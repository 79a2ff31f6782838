"""scripts/traces: what it prints, what it writes, and what it says by its exit code."""

from __future__ import annotations

import io
import json
import os
import stat
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from invariant_addon.core.errors import InvariantError
from invariant_addon.core.trace import Finding, Timing, Trace
from invariant_addon.core.verdict import Address
from invariant_addon.traces import cli
from invariant_addon.traces.archive import Wanted
from invariant_addon.traces.cli import Sources
from invariant_addon.traces.shown import when

ROOT = Path(__file__).parents[2]
BIRDS = Finding({"name": "birds"}, "a bird", "blocked", (Address(0, "content", 4, 12),))


@dataclass(frozen=True)
class Row:
    seq: int
    id: str
    started: float
    status: str
    endpoint: str
    model: str
    stream: bool
    messages: int
    rules: tuple[str, ...]
    asked: str
    total: float


@dataclass(frozen=True)
class Figures:
    traces: int = 0
    bytes: int = 0
    oldest: float | None = None
    newest: float | None = None
    by_status: Mapping[str, int] = field(default_factory=dict)
    by_model: Mapping[str, int] = field(default_factory=dict)
    by_rule: Mapping[str, int] = field(default_factory=dict)
    deliveries: Mapping[tuple[str, str], int] = field(default_factory=dict)
    pending_since: float | None = None
    notes: Mapping[tuple[str, str, str], int] = field(default_factory=dict)
    unlooked: int = 0
    noted: int = 0


class Shelf:
    """An archive in memory."""

    def __init__(self, *traces: Trace) -> None:
        self.traces = list(traces)
        self.figures = Figures()
        self.folder: Path | None = None
        self.dead = {"explorer": 3}
        self.asked: list[tuple[int, int | None, Wanted]] = []

    def get(self, identity: str, /) -> Trace | None:
        return next((trace for trace in self.traces if trace.id == identity), None)

    def page(self, limit: int, before: int | None, wanted: Wanted) -> Sequence[Row]:
        self.asked.append((limit, before, wanted))
        rows = [
            Row(
                seq,
                trace.id,
                trace.started,
                trace.status,
                trace.endpoint,
                trace.model,
                trace.stream,
                len(trace.messages),
                tuple(found.guardrail["name"] for found in trace.findings),
                trace.messages[-1]["content"],
                trace.timing.total,
            )
            for seq, trace in enumerate(self.traces)
            if wanted.status in (None, trace.status)
        ]
        return [row for row in reversed(rows) if before is None or row.seq < before][:limit]

    def stats(self) -> Figures:
        return self.figures

    def revive(self, sink: str) -> int:
        return self.dead.pop(sink or "explorer", 0)


def trace(number: int, **more: Any) -> Trace:
    made = Trace(
        id=f"inv_{number:032x}",
        started=1_700_000_000.0 + number,
        status="judged",
        endpoint="chat.completions",
        model="gpt-4o",
        stream=False,
        parameters={},
        messages=({"role": "user", "content": f"the bluebird {number}"},),
        timing=Timing(1500.0),
    )
    return replace(made, **more)


def pushed(kept: Trace, dataset: str) -> Mapping[str, Any]:
    """As a push has it: lists of traces."""
    if kept.model == "unsayable":
        raise InvariantError("no")
    return {
        "messages": [list(kept.messages)],
        "annotations": [[{"content": "a bird", "address": "x"}]] if kept.findings else None,
        "metadata": [{"id": kept.id}],
        "dataset": dataset,
    }


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    monkeypatch.setenv("INVARIANT_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return Shelf(trace(1), trace(2, status="blocked", findings=(BIRDS,)), trace(3))


def run(shelf: Shelf, *arguments: str) -> int:
    def archive(folder: Path) -> Shelf:
        shelf.folder = folder
        return shelf

    return cli.main(arguments, Sources(archive, pushed))


def test_a_call_without_a_model_is_listed_by_its_endpoint(tmp_path: Path, capsys: Any) -> None:
    """One to an address that nobody knows was a row without a word about what it was."""
    shelf = Shelf(replace(trace(1), model="", endpoint="/v1/newthing"))
    assert run(shelf, "list", "--data", str(tmp_path)) == 0
    assert "  /v1/newthing, 1 message" in capsys.readouterr().out


def test_the_newest_are_listed_first(shelf: Shelf, tmp_path: Path, capsys: Any) -> None:
    """With enough of the id to ask for one."""
    assert run(shelf, "list") == 0
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 3 and shelf.folder == tmp_path / "data"
    assert rows[0].startswith("inv_000000000000  2023-11-1")
    assert rows[1].endswith("  blocked        1.5 s  gpt-4o, 1 message  birds  the bluebird 2")
    assert run(shelf, "list", "--status", "blocked", "--limit", "1", "--data", "/x") == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert shelf.asked[-1] == (1, None, Wanted(status="blocked"))
    assert shelf.folder == Path("/x")
    run(shelf, "list", "--rule", "birds", "--model", "m", "--text", "t")
    assert shelf.asked[-1][2] == Wanted(rule="birds", model="m", text="t")
    capsys.readouterr()
    assert run(shelf, "list", "--status", "error") == 0
    assert capsys.readouterr().out == f"no such traces ({tmp_path / 'data'})\n"


def test_a_list_can_be_read_by_programs(shelf: Shelf, capsys: Any) -> None:
    """One object in a line, whole ids."""
    shelf.traces.append(trace(4, messages=({"role": "user", "content": "\ud800 ü"},)))
    assert run(shelf, "list", "--json") == 0
    first, _, blocked, _ = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["asked"] == "\ud800 ü"
    assert blocked == {
        "id": trace(2).id,
        "started": 1_700_000_002.0,
        "status": "blocked",
        "endpoint": "chat.completions",
        "model": "gpt-4o",
        "stream": False,
        "messages": 1,
        "rules": ["birds"],
        "total_ms": 1500.0,
        "asked": "the bluebird 2",
    }
    assert run(shelf, "list", "--json", "--status", "error") == 0
    assert capsys.readouterr().out == ""


def test_a_trace_is_found_by_the_beginning_of_its_id(shelf: Shelf, capsys: Any) -> None:
    """A refusal has 36 characters of it; nobody types those."""
    shelf.traces.append(trace(9, id="inv_ffff"))
    for identity in (trace(2).id, "inv_f", "inv_ffff"):
        assert run(shelf, "show", identity) == 0
    shown = capsys.readouterr().out
    assert "the >>>bluebird<<<[birds] 2\n" in shown and "\x1b" not in shown
    assert run(shelf, "show", "inv_0") == 1
    assert capsys.readouterr().err.startswith("invariant: 3 traces begin with inv_0: inv_0000")
    assert run(shelf, "show", "inv_\x1b[2J") == 1
    assert "there is no trace inv_\\u001b[2J in " in capsys.readouterr().err


def test_what_was_masked_is_shown_to_who_asks_for_it(shelf: Shelf, capsys: Any) -> None:
    """And nobody sees it by chance: not in a list, not in an export."""
    shelf.traces[0] = replace(
        trace(1, messages=({"role": "user", "content": "my key is [masked]"},)),
        original=trace(1, messages=({"role": "user", "content": "my key is xyz-1"},)),
    )
    for verb in (("list",), ("export",), ("show", trace(1).id)):
        assert run(shelf, *verb) == 0
        assert "xyz-1" not in capsys.readouterr().out
    assert run(shelf, "show", trace(1).id, "--secrets") == 0
    assert "xyz-1" in capsys.readouterr().out
    assert run(shelf, "show", trace(3).id, "--secrets") == 0
    shown = capsys.readouterr()
    assert "the bluebird 3" in shown.out and "not kept" in shown.err


def test_all_pages_are_read(shelf: Shelf, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """A store is asked for as much as it can answer at once, and not for less than all."""
    monkeypatch.setattr(cli, "PAGE", 2)
    shelf.traces = [trace(number) for number in range(5)]
    assert run(shelf, "list", "--limit", "3", "--json") == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert run(shelf, "export") == 0
    assert len(capsys.readouterr().out.splitlines()) == 5


def test_an_export_is_what_an_explorer_imports(shelf: Shelf, tmp_path: Path, capsys: Any) -> None:
    """The oldest first; a file for its owner alone, since conversations are in it."""
    assert run(shelf, "export", "out.jsonl") == 0
    assert capsys.readouterr().out.startswith("wrote 3 traces to out.jsonl")
    path = tmp_path / "out.jsonl"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    rows = [json.loads(row) for row in path.read_text().splitlines()]
    assert rows[1] == {
        "messages": [{"role": "user", "content": "the bluebird 2"}],
        "annotations": [{"content": "a bird", "address": "x"}],
        "metadata": {"id": trace(2).id},
    }
    assert [row["metadata"]["id"] for row in rows] == [trace(n).id for n in (1, 2, 3)]
    assert rows[0]["annotations"] == []
    assert run(shelf, "export", "--status", "blocked") == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert run(shelf, "export", "/dev/null") == 0
    assert not Path("/dev/null").is_file()


def test_an_export_to_a_dash_is_printed(shelf: Shelf, tmp_path: Path, capsys: Any) -> None:
    """As other programs have it."""
    assert run(shelf, "export", "-") == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert not (tmp_path / "-").exists()


def test_what_cannot_be_exported_is_named(shelf: Shelf, tmp_path: Path, capsys: Any) -> None:
    """The others are, and the exit code says that some are missing."""
    shelf.traces.append(trace(4, model="unsayable"))
    assert run(shelf, "export", "out.jsonl") == 1
    assert f"left out {trace(4).id}: no" in capsys.readouterr().err
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 3


def test_an_export_that_fails_leaves_no_half_file(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Half an export looks like a whole one."""
    (tmp_path / "out.jsonl").write_text("before")

    def fails(*_: Any) -> Any:
        raise OSError("the disk is full")

    monkeypatch.setattr(shelf, "get", fails)
    assert run(shelf, "export", "out.jsonl") == 2
    assert capsys.readouterr().err == "invariant: the disk is full\n"
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]
    assert (tmp_path / "out.jsonl").read_text() == "before"


def test_an_export_into_nowhere_names_the_file(shelf: Shelf, tmp_path: Path, capsys: Any) -> None:
    """It named a hidden file that nobody had asked for."""
    file = tmp_path / "no" / "out.jsonl"
    assert run(shelf, "export", str(file)) == 2
    assert capsys.readouterr().err == f"invariant: {file}: No such file or directory\n"


def test_figures_say_what_is_still_to_be_sent(shelf: Shelf, tmp_path: Path, capsys: Any) -> None:
    """And what was found most."""
    shelf.figures = Figures(
        traces=3,
        bytes=12_345_678,
        oldest=1_700_000_000.0,
        newest=1_700_000_100.0,
        by_status={"judged": 1, "blocked": 2},
        by_rule={"birds\x1b": 2},
        deliveries={("explorer", "dead"): 4, ("explorer", "pending"): 2, ("otlp", "sent"): 1},
        notes={("explorer", "dead", "status 400"): 3, ("explorer", "dead", "too \x1blarge"): 1},
        pending_since=1_700_000_050.0,
    )
    assert run(shelf, "stats") == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == f"3 traces, 12.3 MB ({tmp_path / 'data'})"
    assert shown[2:] == [
        "",
        "status",
        "         2  blocked",
        "         1  judged",
        "",
        "rules that found something",
        "         2  birds\\u001b",
        "",
        "deliveries",
        "         4  dead (explorer)",
        "            3: status 400",
        "            1: too \\u001blarge",
        "         2  pending (explorer)",
        "         1  sent (otlp)",
        f"the oldest that is still to be sent is of {when(1_700_000_050.0)}",
        "what is dead is not tried again; when you have mended it: scripts/traces retry",
    ]
    assert run(shelf, "stats", "--json") == 0
    read = json.loads(capsys.readouterr().out)
    assert read["deliveries"] == {"explorer": {"dead": 4, "pending": 2}, "otlp": {"sent": 1}}
    assert read["traces"] == 3 and read["notes"][0]["note"] == "status 400"


def test_what_is_dead_is_tried_again_when_somebody_asks(shelf: Shelf, capsys: Any) -> None:
    """By the proxy that runs; a second time there is nothing left."""
    assert run(shelf, "retry", "other") == 1
    assert run(shelf, "retry", "explorer") == 0
    assert "3 deliveries to be tried again" in capsys.readouterr().out
    assert run(shelf, "retry") == 1


def test_an_archive_that_cannot_be_read_is_no_answer(capsys: Any) -> None:
    """ "No traces" would be a lie."""

    def fails(_: Path) -> Any:
        raise InvariantError("written by a newer version")

    assert cli.main(["list"], Sources(fails, pushed)) == 2
    assert capsys.readouterr().err == "invariant: written by a newer version\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_long_export_says_how_far_it_is(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a terminal, and then how many there were; a program that reads gets the traces alone."""
    shelf.traces = [trace(number) for number in range(1000)]
    screen, file = Terminal(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(sys, "stdout", file)
    assert run(shelf, "export") == 0
    said = screen.getvalue()
    assert "\r200 of 1,000 traces, 20 %" in said and "\r1,000 of 1,000 traces, 100 %" in said
    assert said.endswith("\rinvariant: wrote 1000 traces\n")
    assert len(file.getvalue().splitlines()) == 1000
    quiet = io.StringIO()
    monkeypatch.setattr(sys, "stderr", quiet)
    assert run(shelf, "export") == 0
    assert quiet.getvalue() == ""


@pytest.mark.parametrize(
    ("environment", "coloured"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
)
def test_colours_are_for_terminals_that_want_them(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], coloured: bool
) -> None:
    """https://no-color.org: set and not empty."""
    for name in ("NO_COLOR", "TERM", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"COLUMNS": "90", **environment}.items():
        monkeypatch.setenv(name, value)
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    assert run(shelf, "show", trace(2).id) == 0
    assert ("\x1b[7mbluebird\x1b[0m" in screen.getvalue()) is coloured
    assert run(shelf, "list") == 0
    assert ("\x1b[32m" in screen.getvalue()) is coloured


def test_a_row_fits_the_terminal(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list is for looking down."""
    long = {"role": "user", "content": "bluebird " * 40}
    shelf.traces = [trace(1, messages=(long,))]
    monkeypatch.setenv("COLUMNS", "110")
    monkeypatch.setenv("NO_COLOR", "1")
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    run(shelf, "list")
    row = screen.getvalue().splitlines()[0]
    assert row.endswith("…") and 100 < len(row) <= 110


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nothing"],
        ["show"],
        ["list", "--status", "odd"],
        ["list", "--limit", "0"],
        ["show", "a", "b"],
    ],
)
def test_a_wrong_order_is_a_usage_error(shelf: Shelf, capsys: Any, arguments: list[str]) -> None:
    """It says what would be right."""
    assert run(shelf, *arguments) == 2
    assert "usage: scripts/traces" in capsys.readouterr().err


def test_help_has_examples(capsys: Any) -> None:
    """An example is read before any list of options."""
    assert cli.main(["--help"]) == 0
    assert "scripts/traces show inv_0123456789ab" in capsys.readouterr().out


def test_it_runs_as_the_script_starts_it() -> None:
    """Nothing of the working folder is imported."""
    code = (ROOT / "scripts" / "traces").read_text().split("-I -c '", 1)[1].split("' ", 1)[0]
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, ROOT / "addon", "--help"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "examples:" in done.stdout


def test_a_reader_that_leaves_is_no_error(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """`scripts/traces list | head` ends without a traceback, at once and at the end."""
    with (tmp_path / "out").open("w") as file:

        class Gone(io.StringIO):
            def write(self, _: str) -> int:
                raise BrokenPipeError

            def fileno(self) -> int:
                return file.fileno()

        monkeypatch.setattr(sys, "stdout", Gone())
        assert run(shelf, "list") == 0
        assert os.path.samestat(os.fstat(file.fileno()), Path(os.devnull).stat())
    assert capsys.readouterr().err == ""
