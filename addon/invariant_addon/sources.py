"""The rules of one call: the owner's, and those that the call brings or names."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from .call.brought import NOTHING, Brought
from .core.printable import printable
from .core.verdict import Guardrail
from .engines.base import Caller, Defect, Engine
from .judge import Judge
from .rules import header
from .rules.explorer import DatasetRules, RulesUnavailableError
from .settings import Settings

logger = logging.getLogger(__name__)

MAX_HEADERS = 256
"""Texts of header rules that are known to be good."""


@dataclass(frozen=True, slots=True)
class Found:
    """Who judges a call. missing: why some of its rules are not there. must_block: the call's own
    doing may be the cause of that. invalid: what is wrong with the rules that it brought.
    explorer_key: the call's own, if its trace belongs into the dataset of whoever has it."""

    judge: Judge
    missing: str = ""
    must_block: bool = False
    invalid: str = ""
    explorer_key: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class _Dataset:
    """The guardrails of one dataset; or (none) as in Found."""

    guardrails: tuple[Guardrail, ...] = ()
    missing: str = ""
    must_block: bool = False


class Sources:
    """Headers and datasets. One for each engine; settings may change, its Explorer does not.

    default_key: the owner's, as an Authorization header.
    """

    def __init__(self, settings: Settings, engine: Engine, default_key: str | None) -> None:
        self._engine = engine
        self._default_key = default_key
        self._headers: OrderedDict[str, Guardrail] = OrderedDict()
        self._datasets: DatasetRules | None = None
        self._has_told_of_datasets = False
        if settings.explorer:
            patience = settings.deadline_ms / 1000
            self._datasets = DatasetRules(settings.explorer, patience=patience, vet=self._vet)

    async def prefetch(self, settings: Settings) -> None:
        """Ask for the owner's dataset."""
        await self._dataset(settings.dataset, settings, NOTHING)

    async def aclose(self) -> None:
        if self._datasets is not None:
            await self._datasets.aclose()

    async def find(self, judge: Judge, settings: Settings, brought: Brought) -> Found:
        """The judge of a call that brings this along; judge: the one of the owner's rules.

        Raises EngineError if what it brings could not be read.
        """
        if not (settings.dataset or brought.is_something):
            return Found(judge)
        found = await self._find(judge, settings, brought)
        named = brought.dataset if settings.header_rules or brought.is_address else ""
        is_theirs = bool(named) or self._default_key is None
        return replace(found, explorer_key=brought.keys.explorer if is_theirs else None)

    async def _find(self, judge: Judge, settings: Settings, brought: Brought) -> Found:
        named = brought.dataset if settings.header_rules or brought.is_address else ""
        own: tuple[Guardrail, ...] = ()
        if settings.header_rules:
            try:
                parameters = header.read_parameters(brought.parameters or "{}")
                own = await self._read_header(brought.rules)
            except header.HeaderError as error:
                return Found(judge, invalid=str(error))
            judge = judge.for_call(parameters={**parameters, **judge.parameters})
        key = self._key_for(brought, settings)
        judge = judge.for_call(caller=self._caller(key, named or settings.dataset))
        if settings.replaces:
            if own:
                return Found(judge.for_call(floor=own))
            only = await self._dataset(named or settings.dataset, settings, brought)
            judge = judge.for_call(floor=only.guardrails or judge.floor)
            return Found(judge, only.missing, only.must_block)
        ours, theirs = await asyncio.gather(
            self._dataset(settings.dataset, settings, brought),
            self._dataset("" if named == settings.dataset else named, settings, brought),
        )
        reasons = (reason for reason in (ours.missing, theirs.missing) if reason)
        floor, extra = (*judge.floor, *ours.guardrails), (*own, *theirs.guardrails)
        judge = judge.for_call(floor=floor, brought=extra)
        return Found(judge, "; ".join(dict.fromkeys(reasons)), ours.must_block)

    async def _dataset(self, name: str, settings: Settings, brought: Brought) -> _Dataset:
        if not name:
            return _Dataset()
        if self._datasets is None and name == settings.dataset:
            return _Dataset((), f"dataset {name}: invariant_explorer counts from the next start")
        if self._datasets is None:
            if not self._has_told_of_datasets:
                logger.warning(
                    "calls name the dataset %s; its rules are not checked, for invariant_explorer "
                    "does not say where it is",
                    printable(name),
                )
            self._has_told_of_datasets = True
            return _Dataset()
        # What the owner wants is asked for with the owner's key.
        is_ours = name == settings.dataset and not settings.replaces
        default = self._default_key
        key = (default if is_ours else None) or brought.keys.explorer or default
        try:
            return _Dataset(await self._datasets.get(name, key))
        except RulesUnavailableError as error:
            # A program that brings a bad key must not lose the owner's rules by that.
            is_theirs = key is None or key != default
            must_block = error.is_key and is_theirs and name == settings.dataset
            return _Dataset((), str(error), must_block)

    async def _read_header(self, value: str | None) -> tuple[Guardrail, ...]:
        if not value:
            return ()
        if (known := self._headers.get(value)) is not None:
            self._headers.move_to_end(value)
            return (known,)
        guardrail = header.guardrail(header.read_rules(value))
        for defect in await self._vet((guardrail,)):
            raise header.HeaderError(header.RULES, defect.reason)
        self._headers[value] = guardrail
        while len(self._headers) > MAX_HEADERS:
            self._headers.popitem(last=False)
        return (guardrail,)

    async def _vet(self, guardrails: Sequence[Guardrail]) -> tuple[Defect, ...]:
        return await self._engine.load(guardrails, everywhere=False)

    def _key_for(self, brought: Brought, settings: Settings) -> str | None:
        """For the guardrails service. The owner's key goes first, but for a gateway."""
        if settings.replaces:
            return brought.keys.guardrails or self._default_key
        return self._default_key or brought.keys.guardrails

    def _caller(self, key: str | None, dataset: str) -> Caller:
        return caller(key, dataset, self._default_key)


def caller(key: str | None, dataset: str, owners: str | None) -> Caller:
    return Caller(key, dataset or None, is_owner=key is not None and key == owners)
