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
from invariant_addon.core.verdict import Guardrail
from invariant_addon.judge import Judge
from invariant_addon.rules.authorization import Keys
from invariant_addon.rules.explorer import RulesUnavailableError
from invariant_addon.sources import Found, Sources, caller

from .test_judge import Engine, clean

OWNERS, BROUGHT = "inv-owners-key", "Bearer inv-brought"

type Find = Callable[..., Found]


@pytest.fixture
def find(tmp_path: Path) -> Find:
    """What Sources finds for a call, with these options and this key of the owner's."""

    def look(brought: Brought, owners: str = "", **options: object) -> Found:
        with taddons.context(Guardrails()) as context:
            context.options.update(invariant_data=str(tmp_path), **options)
            chosen = settings.read(context.options)
        key = f"Bearer {owners}" if owners else None
        sources = Sources(chosen, Engine(clean), key)
        sources._datasets = Datasets()  # type: ignore[assignment]  # all that is asked of it
        judge = Judge(Engine(clean), (), caller=caller(key, "", key))
        return asyncio.run(sources.find(judge, chosen, brought))

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


class Datasets:
    """Accepts the owner's key alone."""

    async def get(self, name: str, authorization: str | None) -> tuple[Guardrail, ...]:
        if authorization == f"Bearer {OWNERS}":
            return (Guardrail(name, name, name, source="dataset"),)
        raise RulesUnavailableError("the key was not accepted", is_key=True)


@pytest.mark.parametrize("precedence", ["add", "replace"])
@pytest.mark.parametrize(("owners", "brought"), [("", None), ("", BROUGHT), (OWNERS, BROUGHT)])
def test_a_bad_key_does_not_take_the_owners_dataset_away(
    find: Find, precedence: str, owners: str, brought: str | None
) -> None:
    """As for the service: what the program itself can bring about is no outage."""
    found = find(
        Brought(keys=Keys(explorer=brought)),
        owners,
        invariant_precedence=precedence,
        invariant_explorer="http://explorer.test",
        invariant_dataset="ours",
    )
    if owners and precedence == "add":
        assert [guardrail.name for guardrail in found.judge.floor] == ["ours"]
    else:
        assert found.missing and found.must_block


def test_the_owners_own_key_may_run_out(find: Find) -> None:
    """That is an outage, and invariant_on_failure says what follows."""
    found = find(
        Brought(),
        "inv-old-key",
        invariant_explorer="http://explorer.test",
        invariant_dataset="ours",
    )
    assert found.missing and not found.must_block
