"""Replies that were refused, and that upstream keeps all the same.

A client that was refused a reply knows its id: it could ask for it again, resume its stream, or
go on from it (`previous_response_id`). What it was refused for is remembered as long as this
proxy runs, for the newest ones; for the caller's own key also longer (recall.py).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace

import orjson

from ..core.conversation import Message, Part
from ..core.dialects import CHAT, STORED_RESPONSE
from ..core.endpoints import stored_id
from ..core.terms import Refusal
from ..core.verdict import Guardrail, Violation
from .state import Call

_KEPT = 10_000


class Refused:
    """By the reply's id. Rules in their own words, and no text of a conversation."""

    def __init__(self) -> None:
        self._by_id: OrderedDict[str, Refusal] = OrderedDict()

    def apply(self, call: Call, path: str) -> bool:
        """Refuse a call that wants a reply which was refused, or goes on from one."""
        wanted = wanted_reply(call, path)
        refused = self._by_id.get(wanted) if wanted is not None else None
        return refused is not None and refuse(call, refused)

    def note(self, call: Call) -> None:
        """Remember a call's reply if it was refused. One without a verdict is not: it is judged
        when it is asked for again."""
        if (reply_id := refused_reply(call)) is None or call.refused is None:
            return
        # Addresses count in a conversation that the next call does not have.
        found = (replace(violation, addresses=()) for violation in call.refused.violations)
        self._by_id[reply_id] = Refusal(violations=tuple(found))
        self._by_id.move_to_end(reply_id)
        if len(self._by_id) > _KEPT:
            self._by_id.popitem(last=False)


def wanted_reply(call: Call, path: str) -> str | None:
    """The id of the reply that a call asks for, or goes on from."""
    if call.dialect is STORED_RESPONSE and (stored := stored_id(path)):
        return stored
    return call.exchange.continues if call.exchange else None


def refused_reply(call: Call) -> str | None:
    """The id of a reply that was refused for what it says."""
    if call.refused is None or not call.refused.violations or call.dialect is CHAT:
        return None
    reply_id = call.completion.get("id") if call.phase == "response" else None
    return reply_id if isinstance(reply_id, str) else None


def refuse(call: Call, refused: Refusal) -> bool:
    call.refused = refused
    call.phase = "response" if call.dialect is STORED_RESPONSE else "request"
    return True


def written(refused: Refusal) -> Message:
    """Which rules, in their own words, in a form that can be kept."""
    rows = [[v.guardrail.id, v.guardrail.name, v.message] for v in refused.violations]
    return Message("refused", (Part("text", orjson.dumps(rows).decode()),))


def read(message: Message) -> Refusal:
    """The same again. Raises ValueError."""
    rows = orjson.loads(message.text)
    return Refusal(
        violations=tuple(Violation(Guardrail(id_, name, ""), words) for id_, name, words in rows)
    )
