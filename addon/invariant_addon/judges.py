"""The engine's life, and the judge of the hour: started, given rules, drained, closed."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

from mitmproxy import ctx
from mitmproxy.utils import asyncio_utils

from .core.verdict import Guardrail
from .engines.base import EngineError
from .engines.local import LocalEngine
from .judge import Judge
from .rules import files
from .settings import Settings

logger = logging.getLogger(__name__)

DRAIN_SECONDS = 600
"""After a reload the old engine serves the calls that began with it for this long at most."""


def in_background[T](work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
    return asyncio_utils.create_task(work, name=f"invariant: {name}", keep_ref=True)


class Judges:
    """One engine, and the judge that knows the rules as they are now.

    ready: set once calls can be judged.
    """

    def __init__(self) -> None:
        self.ready = asyncio.Event()
        self.current: Judge | None = None
        self._engine: LocalEngine | None = None
        self._settings: Settings | None = None
        self._guardrails: tuple[Guardrail, ...] = ()

    def read_rules(self, settings: Settings) -> None:
        """Read the rule files; a running engine adopts them. Raises RulesError."""
        self._guardrails = files.from_files(
            settings.rules, log=settings.log_rules, starter=settings.starter_rules
        )
        self._settings = settings
        if self._engine is not None:
            in_background(self._adopt(self._engine), "adopt rules")

    def start(self, settings: Settings) -> None:
        if self._engine is None:
            self._engine = LocalEngine(
                workers=settings.workers,
                deadline_ms=settings.deadline_ms,
                wait_ms=settings.wait_ms,
                memory_mb=settings.worker_memory_mb,
            )
            in_background(self._start(self._engine), "start")

    async def _start(self, engine: LocalEngine) -> None:
        """Get the engine and the rules ready; a proxy that cannot judge does not go on."""
        try:
            await engine.start()
            adopted = await self._adopt(engine)
        except EngineError as error:
            logger.error("the engine does not start: %s", error)
            adopted = False
        if not adopted:
            await engine.aclose()
            await asyncio.sleep(0)  # let the log be written
            sys.exit(1)

    async def _adopt(self, engine: LocalEngine) -> bool:
        """Judge by the rules last read; if one cannot be used, all stay as they were."""
        guardrails = self._guardrails
        try:
            defects = await engine.load(guardrails)
        except EngineError as error:
            logger.error("the rules could not be loaded: %s", error)
            return False
        for defect in defects:
            logger.error("rule file %s cannot be used: %s", defect.guardrail.name, defect.reason)
        if defects:
            return False
        self.current = Judge(engine, guardrails)
        self.ready.set()
        self._tell(self.current)
        return True

    def _tell(self, judge: Judge) -> None:
        if judge.blocking:
            logger.info("judging by %s", ", ".join(g.name for g in judge.blocking))
        else:
            logger.warning("no rules: nothing will be blocked. Add --set invariant_rules=FILE")
        if judge.logging:
            logger.info("noting without blocking: %s", ", ".join(g.name for g in judge.logging))
        if self._settings is not None and self._settings.starter_rules:
            logger.info(
                "the starter rules are files in %s; to change one, copy it and say "
                "invariant_starter_rules=false",
                files.STARTER,
            )

    def close(self, *, is_idle: Callable[[], bool]) -> asyncio.Task[None] | None:
        """End the engine: at once when the proxy ends, else when no call needs it any more."""
        if self._engine is None:
            return None
        return in_background(self._close(self._engine, is_idle), "close")

    async def _close(self, engine: LocalEngine, is_idle: Callable[[], bool]) -> None:
        end = time.monotonic() + DRAIN_SECONDS
        # Three things to wait for, and none of them is an event of ours.
        while not (ctx.master.should_exit.is_set() or is_idle() or time.monotonic() > end):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        await engine.aclose()
