"""The engine's life, and the judge of each call: started, given rules, drained, closed."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from mitmproxy import ctx

from .background import in_background
from .call.brought import Brought
from .core.verdict import Guardrail
from .engines.base import Defect, Engine, EngineError
from .engines.local import LocalEngine
from .engines.normalise import arguments
from .engines.remote import RemoteEngine
from .engines.shared import SharedEngine
from .interception.certificates import DEFAULT_HOSTS
from .judge import Judge
from .recall import Recall
from .rules import files
from .rules.fingerprints import load_key
from .rules.mutes import Mutes
from .rules.watch import Watch
from .settings import Settings
from .sources import Found, Sources, caller
from .traces.archive import FILE
from .traces.otlp import MissingPackageError, read_headers
from .traces.shipping import Destinations, Shipping
from .traces.store import Store
from .tracing import Tracing

logger = logging.getLogger(__name__)

DRAIN_SECONDS = 600
"""After a reload the old engine serves the calls that began with it for this long at most."""
SEND_SECONDS = 0.7
"""At the end, what can be sent of the traces within this time is sent."""
OTLP_HEADERS = "OTEL_EXPORTER_OTLP_HEADERS"
WATCH_SECONDS = 0.3
"""Between two looks at the rule files; an edit counts after two."""
RETRY_SECONDS = (1.0, 300.0)
"""After which rules that the engine could not load are tried again: at first, and at most."""


class Judges:
    """One engine, and the judge that knows the rules as they are now.

    ready: set once calls can be judged.
    """

    def __init__(self) -> None:
        self.ready = asyncio.Event()
        self.current: Judge | None = None
        self.mutes: Mutes | None = None
        self.tracing: Tracing | None = None
        self.recall: Recall | None = None
        self.key = os.urandom(32)
        self._engine: Engine | None = None
        self._reader: LocalEngine | None = None
        self._settings: Settings | None = None
        self._guardrails: tuple[Guardrail, ...] = ()
        self._watch = Watch(())
        self._watching: asyncio.Task[None] | None = None
        self._adopting = asyncio.Lock()
        self._retry_at: float | None = None  # None: the engine has said all that there is to say
        self._retry_after = RETRY_SECONDS[0]
        self._default_key = _bearer(os.environ.get("INVARIANT_API_KEY", ""))
        self._sources: Sources | None = None

    @property
    def has_key(self) -> bool:
        """Whether the owner gave an Invariant key, for calls that bring none."""
        return self._default_key is not None

    # -- life -------------------------------------------------------------------------------

    def read_rules(self, settings: Settings) -> None:
        """Read the rule files; a running engine adopts them. Raises RulesError."""
        watch = Watch(settings.files.paths)
        self._guardrails = settings.files.read()
        self._watch = watch
        self._settings = settings
        if self._engine is not None:
            in_background(self._adopt(self._engine), "adopt rules")

    def start(self, settings: Settings) -> None:
        if self._engine is not None:
            return
        self._settings = settings
        self.key = load_key(settings.data)
        self.mutes = Mutes(settings.data, self.key, arguments=arguments)
        if settings.traces:
            self.tracing = self._start_tracing(settings)
            if self.tracing is None:
                return  # it was said why, and the proxy ends
        self.recall = Recall(settings, self.key)
        self._engine = self._make_engine(settings)
        self._sources = Sources(settings, self._engine, self._default_key)
        in_background(self._start(self._engine), "start")

    def _start_tracing(self, settings: Settings) -> Tracing | None:
        destinations = Destinations(
            settings.explorer,
            self._default_key,
            settings.push,
            settings.otlp,
            otlp_content=settings.otlp_content,
            server=DEFAULT_HOSTS[0],
        )
        if settings.push != "none" and self._default_key is None:
            logger.warning(
                "invariant_push: without INVARIANT_API_KEY only traces of calls that bring a key "
                "of their own are pushed"
            )
        keeps = settings.keep_secrets
        store = Store(settings.data / FILE, key=self.key, keeps_secrets=keeps)
        try:
            if settings.otlp:
                headers = read_headers(os.environ.get(OTLP_HEADERS, ""))
                destinations = replace(destinations, otlp_headers=headers)
            shipping = Shipping(store, destinations, self.key)
            return Tracing(store, shipping, self.key, keeps_secrets=keeps)
        except ValueError as error:
            logger.error("traces cannot be sent: %s", error)  # mitmproxy ends with it
        except MissingPackageError as error:
            logger.error("%s", error)
        return None

    def _make_engine(self, settings: Settings) -> Engine:
        local = LocalEngine(
            workers=settings.workers,
            deadline_ms=settings.deadline_ms,
            wait_ms=settings.wait_ms,
            memory_mb=settings.worker_memory_mb,
        )
        self._reader = local
        if not settings.engine:
            return local
        remote = RemoteEngine(
            settings.engine,
            reader=local,
            deadline_ms=settings.deadline_ms,
            authorization=self._default_key,
        )
        return SharedEngine(local, remote)

    async def _start(self, engine: Engine) -> None:
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
        self._watching = in_background(self._keep_watch(engine), "watch rule files")
        settings = self._settings
        if settings and settings.dataset and self._default_key and self._sources:
            await self._sources.prefetch(settings)  # so that no call waits for it

    async def _keep_watch(self, engine: Engine) -> None:
        """Edited rule files are read again; those that cannot be used change nothing. Those that
        the engine failed to load are tried again: nothing is wrong with them."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if not self._watch.has_changed() or self._settings is None:
                if self._retry_at is not None and time.monotonic() >= self._retry_at:
                    await self._adopt(engine)
                continue
            try:
                self._guardrails = self._settings.files.read()
            except files.RulesError as error:
                logger.warning("%s. The rules stay as they were", error)
                continue
            await self._adopt(engine)

    async def _adopt(self, engine: Engine) -> bool:
        """Judge by the rules last read; if one cannot be used, all stay as they were."""
        async with self._adopting:
            guardrails, settings = self._guardrails, self._settings
            assert settings is not None
            # Before the first verdict this ends the proxy; later it is no reason to stop.
            tell = logger.error if self.current is None else logger.warning
            rest = "" if self.current is None else ". The rules stay as they were"
            try:
                defects = await engine.load(guardrails)
            except EngineError as error:
                if self._retry_at is None:  # one warning for each outage
                    more = f"{rest}; this is tried again" if rest else ""
                    tell("the rules could not be loaded: %s%s", error, more)
                self._retry_at = time.monotonic() + self._retry_after
                self._retry_after = min(2 * self._retry_after, RETRY_SECONDS[1])
                return False
            self._retry_at, self._retry_after = None, RETRY_SECONDS[0]
            for defect in defects:
                tell("rule file %s cannot be used: %s%s", _name(defect), defect.reason, rest)
            if defects:
                return False
            before = self.current or Judge(engine, ())
            self.current = before.for_call(
                floor=guardrails,
                parameters=settings.parameters,
                caller=caller(self._default_key, settings.dataset, self._default_key),
                mutes=self.mutes,
            )
            self.ready.set()
            self._tell(self.current)
            return True

    def _tell(self, judge: Judge) -> None:
        if judge.blocking:
            logger.info("judging by %s", ", ".join(g.name for g in judge.blocking))
        elif not (self._settings and (self._settings.explorer or self._settings.header_rules)):
            logger.warning("no rules: nothing will be blocked. Add --set invariant_rules=FILE")
        if judge.noting:
            told = (f"{g.name} ({g.action.value})" for g in judge.noting)
            logger.info("not blocking, but judging too: %s", ", ".join(told))
        self._tell_remarks(judge)
        if self._settings is not None and self._settings.files.starter:
            logger.info(
                "the starter rules are files in %s; to change one, copy it and say "
                "invariant_starter_rules=false",
                files.STARTER,
            )

    def _tell_remarks(self, judge: Judge) -> None:
        """What its owner should know of a rule that was adopted all the same."""
        if self._reader is None or self._settings is None:
            return
        for remark in self._reader.remarks((*judge.blocking, *judge.noting)):
            if not remark.lacks:
                logger.warning("rule file %s, %s", remark.guardrail.name, remark.text)
            elif not self._settings.engine:  # else the service judges, whatever is missing here
                logger.warning(
                    "rule file %s gives no verdict: %s", remark.guardrail.name, remark.text
                )

    async def find(self, brought: Brought) -> Found:
        """The judge of a call that brings this along. `ready` was set before.

        Raises EngineError if what it brings could not be read.
        """
        assert self.current and self._settings and self._sources
        return await self._sources.find(self.current, self._settings, brought)

    def close(
        self, *, is_idle: Callable[[], bool], leave: Callable[[], Coroutine[Any, Any, None]]
    ) -> asyncio.Task[None] | None:
        """End the engine: at once when the proxy ends, else when no call needs it any more.

        leave: what is to be done first when the proxy ends and calls are still under way."""
        if self._watching is not None:
            self._watching.cancel()
        if self._engine is None:
            return None
        return in_background(self._close(self._engine, is_idle, leave), "close")

    async def _close(
        self,
        engine: Engine,
        is_idle: Callable[[], bool],
        leave: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        end = time.monotonic() + DRAIN_SECONDS
        # Three things to wait for, and none of them is an event of ours.
        while not (ctx.master.should_exit.is_set() or is_idle() or time.monotonic() > end):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        if ctx.master.should_exit.is_set():
            await leave()
        tracing = self.tracing
        sending = asyncio.to_thread(tracing.close, SEND_SECONDS) if tracing else asyncio.sleep(0)
        closing = self._sources.aclose() if self._sources else asyncio.sleep(0)
        if self.recall is not None:
            await self.recall.aclose()
        await asyncio.gather(sending, closing, engine.aclose())


def _bearer(key: str) -> str | None:
    return f"Bearer {key.strip()}" if key.strip() else None


def _name(defect: Defect) -> str:
    return defect.guardrail.name
