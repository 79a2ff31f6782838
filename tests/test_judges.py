"""Who judges a call, and on whose behalf."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from mitmproxy.test import taddons

from invariant_addon import settings
from invariant_addon.addon import Guardrails
from invariant_addon.brought import Brought
from invariant_addon.judge import Judge
from invariant_addon.judges import Found, Judges
from invariant_addon.rules.authorization import Keys

from .test_judge import Engine, clean

OWNERS, BROUGHT = "inv-owners-key", "Bearer inv-brought"

type Find = Callable[..., Found]


@pytest.fixture
def find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Find:
    """What Judges finds for a call, with these options and this key of the owner's."""

    def look(brought: Brought, owners: str = "", **options: object) -> Found:
        monkeypatch.setenv("INVARIANT_API_KEY", owners)
        addon = Guardrails()
        with taddons.context(addon) as context:
            context.options.update(invariant_data=str(tmp_path), **options)
            judges = Judges()
            judges._settings = settings.read(context.options)
        judges.current = Judge(Engine(clean), (), caller=judges._caller(judges._default_key, ""))
        return asyncio.run(judges.find(brought))

    return look


@pytest.mark.parametrize(
    ("owners", "brought", "precedence", "key", "is_owner"),
    [
        (OWNERS, None, "add", f"Bearer {OWNERS}", True),
        (OWNERS, BROUGHT, "add", f"Bearer {OWNERS}", True),
        ("", BROUGHT, "add", BROUGHT, False),
        ("", None, "add", None, False),
        (OWNERS, None, "replace", f"Bearer {OWNERS}", True),
        (OWNERS, BROUGHT, "replace", BROUGHT, False),
        ("", None, "replace", None, False),
    ],
)
def test_it_is_known_whose_key_goes_to_the_service(
    find: Find, owners: str, brought: str | None, precedence: str, key: str | None, is_owner: bool
) -> None:
    """A program that brings a bad key, or none where the owner has none, must not get past the
    rules by that."""
    found = find(Brought(keys=Keys(guardrails=brought)), owners, invariant_precedence=precedence)
    caller = found.judge.caller
    assert (caller.authorization, caller.is_owner) == (key, is_owner)
