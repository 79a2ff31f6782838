"""The walls between the rings of addon/: who may import what, and who may print."""

from __future__ import annotations

import ast
import graphlib
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ADDON = Path(__file__).parents[1] / "addon"
PACKAGE = "invariant_addon"
STDLIB = frozenset(sys.stdlib_module_names)

# fmt: off
IMPURE = frozenset({
    "asyncio", "concurrent", "ctypes", "datetime", "fcntl", "ftplib", "glob", "http", "io",
    "logging", "mmap", "multiprocessing", "os", "pathlib", "pickle", "queue", "random", "sched",
    "secrets", "select", "selectors", "shutil", "signal", "smtplib", "socket", "socketserver",
    "sqlite3", "ssl", "subprocess", "tempfile", "threading", "time", "uuid",
})
# fmt: on
"""What the pure ring does without: files, processes, network, clock, chance, logs."""


@dataclass(frozen=True)
class Ring:
    """Names are matched with everything below them. allowed: None for anything not forbidden."""

    forbidden: frozenset[str]
    why: str
    allowed: frozenset[str] | None = field(default=None)

    def refuses(self, module: str) -> bool:
        if _below(module, self.forbidden):
            return True
        return self.allowed is not None and not _below(module, self.allowed)


FORM = Ring(
    IMPURE,
    "a form is pure",
    (STDLIB - IMPURE) | {"orjson", f"{PACKAGE}.core", f"{PACKAGE}.traces.otlp_messages"},
)
UPPER = frozenset(
    f"{PACKAGE}.{name}" for name in ("addon", "again", "calls", "intake", "websocket")
)
"""What knows all calls, and not one alone."""
RINGS = {
    f"{PACKAGE}/core/": Ring(
        IMPURE, "core is pure", (STDLIB - IMPURE) | {"orjson", f"{PACKAGE}.core"}
    ),
    f"{PACKAGE}/engines/": Ring(
        frozenset({"mitmproxy", f"{PACKAGE}.interception"}), "engines know no mitmproxy"
    ),
    f"{PACKAGE}/rules/": Ring(
        frozenset({"mitmproxy", f"{PACKAGE}.interception"}), "rules know no mitmproxy"
    ),
    f"{PACKAGE}/history/": Ring(
        frozenset({"mitmproxy", f"{PACKAGE}.interception"}), "the history knows no mitmproxy"
    ),
    f"{PACKAGE}/traces/": Ring(
        frozenset({"mitmproxy", f"{PACKAGE}.interception"}), "traces know no mitmproxy"
    ),
    f"{PACKAGE}/traces/otlp_form.py": FORM,
    f"{PACKAGE}/traces/otlp_messages.py": FORM,
    f"{PACKAGE}/page/": Ring(
        frozenset({"mitmproxy", f"{PACKAGE}.interception"}), "the page knows no mitmproxy"
    ),
    f"{PACKAGE}/interception/": Ring(
        frozenset({"mitmproxy", "invariant", f"{PACKAGE}.engines"}),
        "scripts must start without mitmproxy and without an engine",
    ),
    f"{PACKAGE}/layers/": Ring(
        frozenset(),
        "the layers know mitmproxy and nothing of ours",
        STDLIB | {"mitmproxy", "wsproto", f"{PACKAGE}.layers"},
    ),
    f"{PACKAGE}/call/": Ring(
        UPPER
        | {f"{PACKAGE}.{name}" for name in ("judges", "recall", "reports", "sources", "tracing")},
        "a call knows nothing of the others",
    ),
    f"{PACKAGE}/reports/": Ring(UPPER, "reports are told of calls, and ask for none"),
    f"{PACKAGE}/perimeter/": Ring(
        UPPER | {f"{PACKAGE}.{name}" for name in ("call", "engines", "judges", "rules", "traces")},
        "who may connect is decided before there is a call",
    ),
    "invariant.py": Ring(frozenset(), "the script only names the addons", STDLIB | {PACKAGE}),
}
MAY_PRINT = (
    f"{PACKAGE}/interception/",
    f"{PACKAGE}/page/cli.py",
    f"{PACKAGE}/rules/cli.py",
    f"{PACKAGE}/traces/cli.py",
)
FILES = sorted(path.relative_to(ADDON).as_posix() for path in ADDON.rglob("*.py"))


def _below(module: str, names: frozenset[str]) -> bool:
    parts = module.split(".")
    return any(".".join(parts[:n]) in names for n in range(1, len(parts) + 1))


def breaches(file: str, source: str) -> list[str]:
    """What in this file (path below addon/) is against the rules, ready to be read."""
    tree = ast.parse(source, file)
    found = []
    for line, module in imports(file, tree):
        if module.startswith("."):
            found.append(f"addon/{file}:{line}: relative import: mitmproxy loads this as a script")
            continue
        for start, ring in RINGS.items():
            if file.startswith(start) and ring.refuses(module):
                found.append(f"addon/{file}:{line}: imports {module}, but {ring.why}")
    if not file.startswith(MAY_PRINT):
        found += [
            f"addon/{file}:{node.lineno}: prints; the terminal belongs to mitmproxy, use logging"
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "print"
        ]
    return found


def imports(file: str, tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, absolute name) of every import, wherever it stands; ".name" if it has no package."""
    package = list(Path(file).with_suffix("").parts[:-1])
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1]
            base = [*above, *([node.module] if node.module else [])]
            for alias in node.names:
                name = ".".join([*base, alias.name])
                yield node.lineno, name if above else f".{name}"


@pytest.mark.parametrize("file", FILES)
def test_no_ring_imports_what_it_must_not_know(file: str) -> None:
    """The walls are what makes the core testable without a network, and the scripts fast."""
    found = breaches(file, (ADDON / file).read_text(encoding="utf-8"))
    assert not found, "\n" + "\n".join(found)


def modules(files: Iterable[str]) -> dict[str, str]:
    """Name -> file."""
    return {
        file.removesuffix(".py").removesuffix("/__init__").replace("/", "."): file for file in files
    }


def graph(sources: dict[str, str]) -> dict[str, set[str]]:
    """Module -> the modules that it imports. sources: by file."""
    known = modules(sources)
    found: dict[str, set[str]] = {}
    for name, file in known.items():
        targets = found[name] = set()
        for _, imported in imports(file, ast.parse(sources[file], file)):
            # A module, or what is defined in one.
            target = imported if imported in known else imported.rpartition(".")[0]
            if target in known and target != name:
                targets.add(target)
    return found


def test_no_modules_import_each_other() -> None:
    """In a circle nobody knows where to begin to read, and what works depends on who came first."""
    sources = {file: (ADDON / file).read_text(encoding="utf-8") for file in FILES}
    graphlib.TopologicalSorter(graph(sources)).prepare()


def test_a_planted_circle_is_found() -> None:
    """Through a function, too, and by way of a third."""
    sources = {
        "invariant_addon/a.py": "from .b import x",
        "invariant_addon/b.py": "def f():\n    from . import c",
        "invariant_addon/c.py": "from invariant_addon.a import y",
    }
    with pytest.raises(graphlib.CycleError):
        graphlib.TopologicalSorter(graph(sources)).prepare()


@pytest.mark.parametrize(
    ("file", "source", "said"),
    [
        ("core/sse.py", "import asyncio", "imports asyncio, but core is pure"),
        ("core/sse.py", "import os.path", "imports os.path"),
        ("core/sse.py", "from ..engines.base import Engine", "invariant_addon.engines.base"),
        ("core/sse.py", "from .. import settings", "imports invariant_addon.settings"),
        ("core/sse.py", "import httpx", "imports httpx"),
        ("core/sse.py", "def f():\n    import time", ":2: imports time"),
        ("engines/local.py", "from mitmproxy import http", "imports mitmproxy.http"),
        ("page/server.py", "import mitmproxy.http", "imports mitmproxy"),
        ("interception/doctor.py", "import mitmproxy", "imports mitmproxy"),
        ("interception/doctor.py", "from ..engines import local", "invariant_addon.engines"),
        ("layers/http.py", "from ..core import gate", "imports invariant_addon.core.gate"),
        ("call/state.py", "from ..calls import Calls", "a call knows nothing of the others"),
        ("reports/ends.py", "from .. import calls", "imports invariant_addon.calls"),
        ("perimeter/hooks.py", "from ..call.state import Call", "before there is a call"),
        ("addon.py", "print('blocked')", "prints"),
    ],
)
def test_a_planted_breach_is_found(file: str, source: str, said: str) -> None:
    """A guard that finds nothing would look just like a clean house."""
    (found,) = breaches(f"{PACKAGE}/{file}", source)
    assert said in found


def test_the_script_may_not_import_relatively() -> None:
    """mitmproxy loads it as `__mitmproxy_script__.invariant`, where `from .` finds nothing."""
    (found,) = breaches("invariant.py", "from .invariant_addon import addon")
    assert "relative import" in found


@pytest.mark.parametrize(
    ("file", "source"),
    [
        (
            "core/chat/bodies.py",
            "import orjson\nfrom collections import abc\nfrom ..sse import Event",
        ),
        ("core/chat/bodies.py", "from __future__ import annotations\nfrom ...core import draft"),
        ("engines/remote.py", "import httpx\nfrom ..core.verdict import Verdict"),
        ("interception/launch.py", "print('ready')"),
        ("rules/cli.py", "print('ok')"),
        ("layers/http.py", "from mitmproxy.proxy import layers"),
    ],
)
def test_what_is_allowed_is_not_reported(file: str, source: str) -> None:
    """A guard that cries wolf is switched off."""
    assert breaches(f"{PACKAGE}/{file}", source) == []
