"""Requests that lean on what OpenAI keeps: what they refer to, and the whole that the model reads.

A request for a response may name turns of before instead of sending them again. What it names is
found by the shell (recall.py); here it is put where the model reads it: the instructions, then the
turns that are kept, then the request's own input. A reference to one item is replaced where it
stands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

from ..conversation import Conversation, Exchange, Message
from ..errors import NotUnderstoodError
from ..json_text import encode
from ..references import Reference, References
from ..verdict import Violation
from .items import folded, read_item

MAX_REFERENCES = 10_000


def references(
    request: dict[str, Any],
    placed: Sequence[tuple[tuple[str | int, ...], list[Message]]],
) -> References:
    """placed: its messages, each with the path to where it stands."""
    number = instructions = 0
    within: list[tuple[int, Reference]] = []
    for path, messages in placed:
        if path[0] == "instructions":
            instructions += len(messages)
        elif len(path) == 2 and (found := _of_item(request["input"][int(path[1])])) is not None:
            within.append((number, found))
            if len(within) > MAX_REFERENCES:
                raise NotUnderstoodError(f"more than {MAX_REFERENCES} references")
        number += len(messages)
    stored = request.get("store") is not False
    return References(_before(request), tuple(within), _prompt(request), instructions, stored)


def _before(request: dict[str, Any]) -> Reference | None:
    previous, conversation = request.get("previous_response_id"), request.get("conversation")
    if previous and conversation:  # OpenAI refuses it, too
        raise NotUnderstoodError("both previous_response_id and conversation")
    if previous:
        return Reference("response", _name(previous))
    if isinstance(conversation, dict):
        conversation = conversation.get("id") or conversation
    return Reference("conversation", _name(conversation)) if conversation else None


def _prompt(request: dict[str, Any]) -> str | None:
    prompt = request.get("prompt")
    if not prompt:
        return None
    named = prompt.get("id") if isinstance(prompt, dict) else prompt
    return _name(named) if named else None


def _of_item(item: Any) -> Reference | None:
    if not isinstance(item, dict):
        return None
    kind = item.get("type")
    if kind == "item_reference" or (kind is None and item.keys() <= {"id", "type"}):
        return Reference("item", _name(item.get("id")))
    return Reference("sealed", seal(item)) if kind == "compaction" else None


def seal(item: dict[str, Any]) -> str:
    """A compaction is known by its text; its id is the caller's to choose."""
    text = _name(item.get("encrypted_content"))
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _name(value: Any) -> str:
    return value if isinstance(value, str) else encode(value)


def completed(exchange: Exchange, known: Mapping[Reference, tuple[Message, ...]]) -> Exchange:
    """The exchange with all that is known of what it refers to. The rest stays unseen."""
    refers = exchange.refers
    if refers is None or not known:
        return exchange
    own = exchange.conversation.messages
    found: list[Message] = []
    unsent: list[int] = []

    def add(messages: Sequence[Message]) -> None:
        unsent.extend(range(len(found), len(found) + len(messages)))
        found.extend(messages)

    found += own[: refers.instructions]
    if refers.before is not None:
        add(known.get(refers.before, ()))
    at = dict(refers.within)
    last: tuple[Message, ...] | None = None
    for number in range(refers.instructions, len(own)):
        reference = at.get(number)
        there = known.get(reference, ()) if reference is not None else None
        if there and there is not last:  # the items of one reply are one turn
            add(there)
        last = there if reference is not None else None
        found.append(own[number])
    beside = exchange.conversation
    conversation = replace(beside, messages=tuple(found), unsent=frozenset(unsent))
    return replace(exchange, conversation=conversation)


def new_turns(exchange: Exchange, before: int) -> tuple[Message, ...]:
    """What a later request inherits of this one, without the messages that came from `before`."""
    first = exchange.refers.instructions if exchange.refers else 0
    messages = exchange.conversation.messages
    return messages[first + before : len(messages) - exchange.conversation.beside]


def sent(
    conversation: Conversation, found: Sequence[Violation]
) -> tuple[Conversation, tuple[Violation, ...]]:
    """The conversation as the request has it, and what was found there, with addresses in it."""
    if not conversation.unsent:
        return conversation, tuple(found)
    numbers: dict[int, int] = {}
    for number in range(len(conversation.messages)):
        if number not in conversation.unsent:
            numbers[number] = len(numbers)
    own = replace(
        conversation,
        messages=tuple(conversation.messages[n] for n in numbers),
        unsent=frozenset(),
    )
    here = []
    for violation in found:
        addresses = tuple(
            replace(address, message=numbers[address.message])
            for address in violation.addresses
            if address.message in numbers
        )
        if addresses or not violation.addresses:
            here.append(replace(violation, addresses=addresses))
    return own, tuple(here)


# -- replies ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Kept:
    """What OpenAI keeps of a reply that is over: its names."""

    response: str
    conversation: str | None
    others: tuple[Reference, ...]


_OVER = frozenset(("completed", "incomplete", "failed", "cancelled"))
_MAX_NAMES = 2_000


def kept(response: dict[str, Any]) -> Kept | None:
    """None if it has no id, or is not over yet."""
    response_id, status = response.get("id"), response.get("status")
    if not isinstance(response_id, str) or not response_id:
        return None
    if status not in _OVER and response.get("object") != "response.compaction":
        return None
    conversation = response.get("conversation")
    if isinstance(conversation, dict):
        conversation = conversation.get("id")
    names: dict[Reference, None] = {}
    output = response.get("output")
    for item in output[:_MAX_NAMES] if isinstance(output, list) else ():
        if not isinstance(item, dict):
            continue
        if isinstance(item.get("id"), str):
            names[Reference("item", item["id"])] = None
        if item.get("type") == "compaction":
            names[Reference("sealed", seal(item))] = None
    return Kept(response_id, conversation if isinstance(conversation, str) else None, tuple(names))


def read_kept_items(items: Sequence[Any]) -> tuple[Message, ...]:
    """The messages of items as OpenAI lists them. Raises NotUnderstoodError."""
    return tuple(message for item in items for message in read_item(item))


def read_kept_output(output: Sequence[Any]) -> tuple[Message, ...]:
    """A reply's items: one turn, as everywhere. Raises NotUnderstoodError."""
    return (folded(output),) if output else ()
