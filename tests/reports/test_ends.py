"""What the proxy says about itself."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from mitmproxy import http
from mitmproxy.test import taddons, tflow

from invariant_addon.call.state import Call
from invariant_addon.core.conversation import Conversation, Exchange, Message, Reply
from invariant_addon.core.terms import Refusal
from invariant_addon.core.verdict import Action, Address, Guardrail, Violation
from invariant_addon.engines.base import EngineClosedError
from invariant_addon.judge import Looked
from invariant_addon.reports.ends import Reports


def test_log_rules_say_nothing_of_a_reply_that_was_changed() -> None:
    """They looked at what nobody got: it would take the place of the refusal in the trace."""

    async def scene() -> list[Any]:
        kept: list[Any] = []
        is_looking, may_end = asyncio.Event(), asyncio.Event()

        async def look(*_: object) -> Looked:
            is_looking.set()
            await may_end.wait()
            return Looked((Violation(Guardrail("1", "a", "a", Action.LOG), "x", ()),))

        async def add(_trace: object, _call: object, new: Any, looked: Looked) -> None:
            kept.append((new, looked.found))

        async def keep(*_: object, **__: object) -> str:
            return "a trace"

        judges: Any = SimpleNamespace(
            tracing=SimpleNamespace(keep=keep, add=add), mutes=None, current=None
        )
        flow = tflow.tflow(req=http.Request.make("POST", "https://api.openai.com/v1/x"))
        call = Call(settings=None, judged=True)
        call.judge = SimpleNamespace(look=look, noting=(1,))  # type: ignore[assignment]
        call.exchange = Exchange("chat", "m", False, 1, Conversation(()))
        call.reply = Reply(())
        reports = Reports()
        await reports.close(flow, call, judges)
        await is_looking.wait()
        fresh = replace(call, refused=Refusal(reason="changed"))
        await reports.correct(flow, judges, call, fresh)
        may_end.set()
        await asyncio.wait_for(asyncio.gather(*reports._looking), 10)
        return kept

    assert asyncio.run(scene()) == []


def test_log_rules_look_at_what_a_reply_was_changed_to() -> None:
    """What they found before is in the trace that is replaced, and so it is told once more."""

    async def scene() -> list[tuple[str, Any]]:
        added: list[tuple[str, Any]] = []
        note = Violation(Guardrail("1", "a", "a", Action.LOG), "x", (Address(0),))

        async def look(*_: object) -> Looked:
            return Looked((note,))

        async def keep(_flow: object, call: Call, *, more: bool = False) -> str:
            assert more
            return "before" if call is was else "after"

        async def add(trace: str, _call: object, new: Any, _looked: Looked) -> None:
            added.append((trace, new))

        judges: Any = SimpleNamespace(
            tracing=SimpleNamespace(keep=keep, add=add), mutes=None, current=None
        )
        flow = tflow.tflow(req=http.Request.make("POST", "https://api.openai.com/v1/x"))
        was = Call(settings=None, judged=True)
        was.judge = SimpleNamespace(look=look, noting=(1,))  # type: ignore[assignment]
        was.exchange = Exchange("chat", "m", False, 1, Conversation((Message("user"),)))
        was.reply = Reply(())
        reports = Reports()
        with taddons.context():
            await reports.close(flow, was, judges)
            await asyncio.wait_for(asyncio.gather(*reports._looking), 10)
            await reports.correct(flow, judges, was, replace(was))
            await asyncio.wait_for(asyncio.gather(*reports._looking), 10)
        assert [trace for trace, _ in added] == ["before", "after"]
        return added

    assert all(len(new) == 1 for _, new in asyncio.run(scene()))


def test_log_rules_that_the_end_overtakes_do_not_pass_for_having_looked() -> None:
    """The trace goes on waiting for them, and whoever takes it over says that in it."""

    async def scene() -> list[object]:
        added: list[object] = []

        async def look(*_: object) -> Looked:
            raise EngineClosedError

        async def keep(*_: object, **__: object) -> str:
            return "a trace"

        async def add(*args: object) -> None:
            added.append(args)

        judges: Any = SimpleNamespace(
            tracing=SimpleNamespace(keep=keep, add=add), mutes=None, current=None
        )
        flow = tflow.tflow(req=http.Request.make("POST", "https://api.openai.com/v1/x"))
        call = Call(settings=None, judged=True)
        call.judge = SimpleNamespace(look=look, noting=(1,))  # type: ignore[assignment]
        call.exchange = Exchange("chat", "m", False, 1, Conversation(()))
        reports = Reports()
        await reports.close(flow, call, judges)
        await asyncio.wait_for(asyncio.gather(*reports._looking), 10)
        return added

    assert asyncio.run(scene()) == []


def test_a_proxy_that_is_ready_has_its_rules() -> None:
    """Rules that came while the backlog was counted: scripts/run warned that there were none."""

    async def ask() -> dict[str, Any]:
        judges = SimpleNamespace(current=None, ready=asyncio.Event())
        loop = asyncio.get_running_loop()

        def adopt() -> None:
            judges.current = SimpleNamespace(guardrails=(1, 2))
            judges.ready.set()

        def backlog() -> None:  # in a thread
            loop.call_soon_threadsafe(adopt)

        judges.tracing = SimpleNamespace(backlog=backlog)
        response = await Reports().health(judges, pending=lambda: 0)  # type: ignore[arg-type]  # what it reads of them
        found: dict[str, Any] = json.loads(response.content or b"")
        return found

    found = asyncio.run(ask())
    assert (found["ready"], found["rules"]) == (True, 2)
