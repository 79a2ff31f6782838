"""Who judges a call, and on whose behalf."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from mitmproxy.exceptions import OptionsError
from mitmproxy.test import taddons

from invariant_addon import settings
from invariant_addon.addon import Guardrails
from invariant_addon.call.brought import Brought
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


def test_a_dataset_whose_explorer_is_not_known_yet_is_missing(tmp_path: Path) -> None:
    """Both named while the proxy runs, and only one of them counts at once: the owner wants rules
    that are not there."""
    with taddons.context(Guardrails()) as context:
        context.options.update(invariant_data=str(tmp_path))
        before = settings.read(context.options)
        context.options.update(invariant_explorer="http://explorer.test", invariant_dataset="ours")
        now = settings.read(context.options)
    sources = Sources(before, Engine(clean), None)
    judge = Judge(Engine(clean), ())
    found = asyncio.run(sources.find(judge, now, Brought()))
    assert "ours" in found.missing


@pytest.mark.parametrize("option", ["invariant_engine", "invariant_explorer"])
@pytest.mark.parametrize(
    "address", ["ftp://x", "x", "http://", "http://ada:s3cret@x", "http://x/?a", "http://x:port"]
)
def test_an_address_that_cannot_be_one_is_said_and_not_quoted(option: str, address: str) -> None:
    """It was found out when the proxy ran already, and ran on without an engine."""
    with taddons.context(Guardrails()) as context:
        context.options.update(**{option: address})
        with pytest.raises(OptionsError, match=f"^{option}: expected") as refused:
            settings.read(context.options)
    assert "s3cret" not in str(refused.value)
    assert ("or 'local'" in str(refused.value)) == (option == "invariant_engine")
