"""The benchmark's own arithmetic, and one tiny run: its figures are worth what these are."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
BENCH = ROOT / "scripts" / "lib" / "bench"


class Modules:
    """The modules of scripts/lib/bench, which are no package."""

    def __getattr__(self, name: str) -> Any:
        return importlib.import_module(name)


@pytest.fixture(scope="module")
def bench() -> Iterator[Modules]:
    before = set(sys.modules)
    sys.path.insert(0, str(BENCH))
    yield Modules()
    sys.path.remove(str(BENCH))
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None) or ""
        if file.startswith(str(BENCH)):
            del sys.modules[name]  # their names are short, and may mean others elsewhere


def chunked(*payloads: bytes) -> bytes:
    framed = b"".join(b"%x\r\n%b\r\n" % (len(payload), payload) for payload in payloads)
    return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + framed + b"0\r\n\r\n"


def test_a_quantile_is_a_value_that_was_seen(bench: Modules) -> None:
    """Interpolated times never happened."""
    quantile = bench.figures.quantile
    assert quantile([], 0.5) == 0.0
    assert quantile([3.0], 0.99) == 3.0
    assert quantile([4.0, 1.0, 3.0, 2.0], 0.5) == 2.0
    assert quantile(list(map(float, range(1, 101))), 0.99) == 99.0


def test_a_ratio_compares_what_ran_in_the_same_round(bench: Modules) -> None:
    """The machine changes from minute to minute; two neighbours have had the same one."""
    ours, base = [{"rate": 50.0}, {"rate": 200.0}], [{"rate": 100.0}, {"rate": 400.0}]
    assert bench.figures.ratios(ours, base, "rate") == [0.5, 0.5]
    assert bench.figures.ratios(ours, base, "rate", less_is_better=True) == [2.0, 2.0]
    assert bench.figures.spread([0.5, 0.4, 0.6]) == "0.50 (0.40-0.60)"


def test_lateness_counts_from_when_an_event_was_due(bench: Modules) -> None:
    """Events that were held and came together are late, though the gap between them is none."""
    reply = bench.wire.Reply(0.01, (0.01, 0.07), (1, 2))
    assert list(bench.figures.lateness(reply, 0.02)) == pytest.approx([0.01, 0.05, 0.03])


@pytest.mark.parametrize("size", [1, 2, 3, 7, 10_000])
def test_events_are_counted_when_they_are_complete(bench: Modules, size: int) -> None:
    """However the proxy frames them, and wherever the network cuts."""
    events = b"data: 1\n\ndata: 22\n\ndata: 333\n\n"
    raw = chunked(events[:4], events[4:8], events[8:20], events[20:])
    reads = [(float(n), raw[n : n + size]) for n in range(0, len(raw), size)]
    reply = bench.wire.read_reply(0.0, reads, events)
    assert sum(reply.counts) == 3
    assert reply.first == reply.arrivals[0]
    assert list(reply.arrivals) == sorted(reply.arrivals)


@pytest.mark.parametrize(
    "raw",
    [
        chunked(b"data: 1\n\n", b"data: 3\n\n"),
        chunked(b"data: 1\n\n"),
        chunked(b"data: 1\n\n", b"data: 2\n\n") + b"more",
        chunked(b"data: 1\n\n", b"data: 2\n\n").replace(b"200", b"400"),
        chunked(b"data: 1\n\n", b"data: 2\n\n").replace(b"\r\n9", b"\r\n8"),
    ],
    ids=["other", "short", "long", "refused", "framing"],
)
def test_other_bytes_than_were_sent_fail_the_run(bench: Modules, raw: bytes) -> None:
    """A proxy that loses bytes is fast."""
    with pytest.raises(bench.wire.WrongBytesError):
        bench.wire.read_reply(0.0, [(1.0, raw)], b"data: 1\n\ndata: 2\n\n")


def test_the_fake_frames_what_the_client_expects(bench: Modules) -> None:
    """Both render for themselves: they have to agree."""
    scenarios, wire = bench.scenarios, bench.wire
    for chunks in (0, 1, 40):
        raw = b"".join(scenarios.response(chunks))
        wire.read_reply(0.0, [(1.0, raw)], scenarios.body(chunks))
    assert len(scenarios.events(40)) == 40 + 3


def test_every_table_fits_on_a_screen(bench: Modules) -> None:
    """A hundred columns, with figures as large as they get."""
    names = ["chunks_s", "requests_s", "proxy_cpu", "workers_cpu", "all_cpu", "workers", "rss"]
    names += ["workers_rss", "load_busy", "proxy_busy", "first_p50", "first_p99"]
    figures = dict.fromkeys(names, 123_456.7)
    for part in ("p50", "p95", "p99", "max"):
        figures |= {f"gap_{part}": 12_345.6, f"late_{part}": 12_345.6}
    rounds = {"bare": [figures] * 2, "bare again": [figures] * 2}
    for scenario in bench.scenarios.SCENARIOS:
        lines = bench.table.of_scenario(scenario, rounds)
        assert max(map(len, lines)) <= 100
    assert bench.table.bottlenecks({"plain-1": rounds})


def test_a_tiny_run_gives_figures_for_all(tmp_path: Path) -> None:
    """With a real mitmdump; what it measures is nobody's business here."""
    options = ["--quick", "--only", "plain-1", "--contenders", "direct,bare"]
    ended = subprocess.run(
        [sys.executable, "-I", BENCH, ROOT, *options],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "requests/s" in ended.stdout
    first_words = [line.split()[0] for line in ended.stdout.splitlines() if line.strip()]
    assert {"direct", "bare"} <= set(first_words)
    assert not list(tmp_path.iterdir())
