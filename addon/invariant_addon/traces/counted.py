"""Which message of a trace an address means.

Addresses count the messages, then the parameters that are read like messages (Trace.beside), then
the reply: all choices are the message with that number.
"""

from __future__ import annotations

from dataclasses import replace

from ..core.chat.bodies import beside_messages
from ..core.chat.message import read_message
from ..core.conversation import Message
from ..core.errors import NotUnderstoodError
from ..core.trace import Json, Trace
from ..core.verdict import Address


def settled(trace: Trace) -> Trace:
    """With addresses that whoever reads the trace can follow: the reply has the number behind the
    messages, and all that is beside them the next one, without a place in it."""
    if not trace.beside:
        return trace
    turns = len(trace.messages)
    reply = turns + trace.beside

    def moved(address: Address) -> Address:
        if address.message < turns:
            return address
        if address.message < reply:
            return Address(turns + 1)
        return replace(address, message=address.message - trace.beside)

    findings = tuple(
        replace(finding, addresses=tuple(dict.fromkeys(map(moved, finding.addresses))))
        for finding in trace.findings
    )
    return replace(trace, findings=findings, beside=0)


class Counted:
    """The messages of one trace, and of others that have as many. count: those before the reply."""

    def __init__(self, trace: Trace) -> None:
        self._turns = len(trace.messages)
        self._beside = _beside(trace)
        self.count = self._turns + len(self._beside)

    def number(self, parameter: str) -> int:
        """Of a parameter that is read like a message; -1 for another one."""
        return self._turns + self._beside.index(parameter) if parameter in self._beside else -1

    def messages(self, trace: Trace, number: int) -> list[Message]:
        """What addresses with this number mean: one message of the request, or all choices."""
        if number < self._turns:
            return [_read(trace.messages[number], "unknown")]
        if number < self.count:
            key = self._beside[number - self._turns]
            return _read_beside(key, trace.parameters.get(key))
        return [_read(choice, "assistant") for choice in trace.choices]


def _beside(trace: Trace) -> tuple[str, ...]:
    """The parameters that count as messages, in the order of the parsers of dialects."""
    if not trace.beside:
        return ()
    try:
        return tuple(key for key, _ in beside_messages(dict(trace.parameters)))
    except NotUnderstoodError:
        return ()


def _read_beside(key: str, value: Json) -> list[Message]:
    try:
        return [message for _, message in beside_messages({key: value})]
    except NotUnderstoodError:
        return []


def _read(value: Json, role: str) -> Message:
    try:
        return read_message(value, role)
    except NotUnderstoodError:  # more parts than are read: then no address points into it either
        return Message(role)
