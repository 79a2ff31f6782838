"""The README's promises that a program can check."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from invariant_addon import options
from invariant_addon.core.verdict import Guardrail
from invariant_addon.engines.local import LocalEngine

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()
RULES = re.findall(r"```\n(raise .*?)```", README, re.DOTALL)


class _Loader:
    def __init__(self) -> None:
        self.defaults: dict[str, object] = {}

    def add_option(self, name: str, *rest: object, **_more: object) -> None:
        self.defaults[name] = rest[1]


@pytest.fixture
def declared() -> dict[str, object]:
    loader = _Loader()
    options.declare(loader)  # type: ignore[arg-type]  # the part of Loader that it uses
    return loader.defaults


def test_every_option_is_in_the_table_with_its_default(declared: dict[str, object]) -> None:
    """A wrong table costs somebody an afternoon."""
    rows = dict(re.findall(r"^\| `(invariant_\w+)` \| (.*?) \|", README, re.MULTILINE))
    assert set(rows) == set(declared)
    for name, default in declared.items():
        if isinstance(default, int):
            assert rows[name] == str(default).lower(), name


def test_the_readmes_rules_can_be_used() -> None:
    """They are the first thing that people copy."""
    assert len(RULES) >= 2

    async def load() -> tuple[object, ...]:
        engine = LocalEngine(workers=2)
        try:
            return await engine.load([Guardrail(str(n), "rule", t) for n, t in enumerate(RULES)])
        finally:
            await engine.aclose()

    assert asyncio.run(load()) == ()
