"""What log rules have found already, so that an old message is not reported again each turn."""

from __future__ import annotations

from collections import OrderedDict

from ..core.conversation import Conversation, Message
from ..core.verdict import Violation

MAX_NOTED = 20_000

type _Key = tuple[str, str, int, tuple[int, ...]]


class Noted:
    """The findings of the last conversations. A conversation is known by its opening: all up to
    its first user message, which every later turn sends again."""

    def __init__(self) -> None:
        self._known: OrderedDict[_Key, None] = OrderedDict()

    def new(
        self,
        found: tuple[Violation, ...],
        conversation: Conversation,
        replies: tuple[Message, ...],
    ) -> tuple[Violation, ...]:
        """Those that were not found before in this conversation, in the same messages.

        replies: the alternatives that follow the conversation.
        """
        opening = hash(conversation.opening)
        return tuple(
            violation
            for violation in found
            if self._is_new(_key(violation, opening, conversation.messages, replies))
        )

    def _is_new(self, key: _Key) -> bool:
        is_new = key not in self._known
        self._known[key] = None
        self._known.move_to_end(key)
        while len(self._known) > MAX_NOTED:
            self._known.popitem(last=False)
        return is_new


def _key(
    violation: Violation,
    opening: int,
    messages: tuple[Message, ...],
    replies: tuple[Message, ...],
) -> _Key:
    # A reply is a message of the next request, and then the same finding is an old one.
    reply = hash(replies[0]) if len(replies) == 1 else hash(replies)
    indexes = {address.message for address in violation.addresses}
    places = sorted(hash(messages[n]) if n < len(messages) else reply for n in indexes)
    return (violation.guardrail.id, violation.message, opening, tuple(places))
