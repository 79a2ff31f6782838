"""Replies that were refused, and that upstream keeps all the same.

A client that was refused a reply knows its id: it could ask for it again, resume its stream, or
go on from it (`previous_response_id`). What it was refused for is remembered as long as this
proxy runs, for the newest ones.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace

from ..core.dialects import CHAT, STORED_RESPONSE
from ..core.endpoints import stored_id
from ..core.terms import Refusal
from .state import Call

_KEPT = 10_000


class Refused:
    """By the reply's id. Rules in their own words, and no text of a conversation."""

    def __init__(self) -> None:
        self._by_id: OrderedDict[str, Refusal] = OrderedDict()

    def apply(self, call: Call, path: str) -> bool:
        """Refuse a call that wants a reply which was refused, or goes on from one."""
        stored = stored_id(path) if call.dialect is STORED_RESPONSE else None
        wanted = stored or (call.exchange.continues if call.exchange else None)
        refused = self._by_id.get(wanted) if wanted is not None else None
        if refused is None:
            return False
        call.refused = refused
        call.phase = "response" if stored else "request"
        return True

    def note(self, call: Call) -> None:
        """Remember a call's reply if it was refused. One without a verdict is not: it is judged
        when it is asked for again."""
        if call.refused is None or not call.refused.violations or call.dialect is CHAT:
            return
        reply_id = call.completion.get("id") if call.phase == "response" else None
        if not isinstance(reply_id, str):
            return
        # Addresses count in a conversation that the next call does not have.
        found = (replace(violation, addresses=()) for violation in call.refused.violations)
        self._by_id[reply_id] = Refusal(violations=tuple(found))
        self._by_id.move_to_end(reply_id)
        if len(self._by_id) > _KEPT:
            self._by_id.popitem(last=False)
