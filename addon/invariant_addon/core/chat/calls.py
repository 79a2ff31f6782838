"""The tool calls of a streamed choice, put together from their pieces.

Clients disagree on pieces that contradict each other (a second name, a second id), so
no reading is dropped: a rule is shown each of them.
"""

from __future__ import annotations

from typing import Any

from ..conversation import CallKind, ToolCall
from ..errors import NotUnderstoodError
from ..json_text import carries_text, decode, encode
from .limits import MAX_CALLS
from .message import call_id_text

_CALL_KEYS = frozenset(("index", "id", "type", "function", "custom"))


class Body:
    """The `function`, `custom` or `function_call` object of one call.

    names: the pieces of its name as a reply that is no stream would join them. sent: all of them.
    """

    __slots__ = ("_payload", "_size", "extras", "kind", "names", "sent")

    def __init__(self, kind: CallKind) -> None:
        self.kind: CallKind = kind
        self.names: list[str] = []
        self.sent: list[str] = []
        self.extras: dict[str, Any] = {}
        self._size = 0  # characters in names
        self._payload: list[str] = []

    def add(self, delta: dict[str, Any]) -> list[str]:
        """Merge a piece; the result is the JSON texts of what no ToolCall has a place for."""
        unread: list[str] = []
        payload_key = "input" if self.kind == "custom" else "arguments"
        for key, value in delta.items():
            if value is None:
                continue
            if key == payload_key:
                # Some compatibility layers send the arguments as an object.
                self._payload.append(value if isinstance(value, str) else encode(value))
            elif key == "name":
                if name := value if isinstance(value, str) else encode(value):
                    self._add_name(name)
            else:
                self.extras[key] = value
                if carries_text(value):
                    unread.append(encode({key: value}))
        return unread

    def _add_name(self, name: str) -> None:
        self.sent.append(name)
        # Vendors repeat the whole name in each piece; that is not a longer name.
        if self.names and name == self.names[-1]:
            return
        if len(name) == self._size and name == "".join(self.names):
            return
        self.names.append(name)
        self._size += len(name)

    def payload(self) -> str:
        """The arguments or the input. Joined once, however often it is asked for."""
        if len(self._payload) > 1:
            self._payload = ["".join(self._payload)]
        return self._payload[0] if self._payload else ""

    def value(self) -> dict[str, Any]:
        """As a reply that is no stream holds it."""
        key = "input" if self.kind == "custom" else "arguments"
        return {"name": "".join(self.names), key: self.payload(), **self.extras}

    def readings(self, call_id: str | None) -> list[ToolCall]:
        """The call. If its name came in unequal pieces: one call for each way to read them."""
        payload = self.payload()
        return [ToolCall(call_id, name, payload, self.kind) for name in self._readings()]

    def _readings(self) -> list[str]:
        """At most three names: openai-python and LangChain join all pieces, the AI SDK takes the
        first, openai-node the last.

        Pieces that are all equal are the whole name again and again, and only that: joined they
        would name a tool that nobody has, and a rule that allows only some tools would block.
        """
        if len(self.names) < 2:
            return ["".join(self.names)]
        return list(dict.fromkeys(("".join(self.sent), self.sent[0], self.sent[-1])))


class Call:
    """One entry of `tool_calls`."""

    __slots__ = ("custom", "extras", "function", "id", "kind")

    def __init__(self) -> None:
        self.id: Any = None
        self.kind: Any = None
        self.function: Body | None = None
        self.custom: Body | None = None
        self.extras: dict[str, Any] = {}

    def add(self, delta: dict[str, Any]) -> list[str]:
        """Merge a piece, whose `function` and `custom` are dicts or null. Result as Body.add."""
        unread: list[str] = []
        self.id = self.id or delta.get("id")
        self.kind = self.kind or delta.get("type")
        if (function := delta.get("function")) is not None:
            self.function = self.function or Body("function")
            unread += self.function.add(function)
        if (custom := delta.get("custom")) is not None:
            self.custom = self.custom or Body("custom")
            unread += self.custom.add(custom)
        if not delta.keys() <= _CALL_KEYS:
            for key, value in delta.items():
                if key not in _CALL_KEYS and value is not None:
                    self.extras[key] = value
                    if carries_text(value):
                        unread.append(encode({key: value}))
        return unread

    def value(self) -> dict[str, Any]:
        """As a reply that is no stream holds it: without index, with a type."""
        kind = self.kind or ("custom" if self.custom and not self.function else "function")
        found: dict[str, Any] = {"id": self.id, "type": kind}
        if self.function:
            found["function"] = self.function.value()
        if self.custom:
            found["custom"] = self.custom.value()
        return {**found, **self.extras}

    def readings(self) -> list[ToolCall]:
        call_id = call_id_text(self.id)
        return [
            call for body in (self.function, self.custom) if body for call in body.readings(call_id)
        ]


class Calls:
    """All calls of one choice, in the order in which they began."""

    __slots__ = ("_by_id", "_by_index", "_shared", "entries")

    def __init__(self) -> None:
        self.entries: list[Call] = []
        self._by_index: dict[int, Call] = {}
        self._by_id: dict[str | None, Call] = {}  # by the text of the id; the first one that has it
        self._shared: dict[int, list[Call]] = {}  # calls with unequal ids and one index

    def add(self, delta: dict[str, Any]) -> list[str]:
        """Merge one entry of a delta's `tool_calls`. Result as Body.add."""
        index = delta.get("index")
        call = self._find(delta)
        if call is None:
            call = Call()
            self.entries.append(call)
            if index is not None:
                if (other := self._by_index.get(index)) is not None:
                    self._shared.setdefault(index, [other]).append(call)
                self._by_index[index] = call
        unread = call.add(delta)
        if delta.get("id"):
            self._by_id.setdefault(call_id_text(call.id), call)
        return unread

    def count_with(self, deltas: list[Any]) -> int:
        """How many calls there would be with these entries, each merged for itself."""
        count = len(self.entries)
        if count + len(deltas) > MAX_CALLS:  # else it need not be exact
            count += sum(1 for delta in deltas if delta and self._find(delta) is None)
        return count

    def readings(self) -> list[ToolCall]:
        """All calls, in every way that a client may read them."""
        found = [reading for call in self.entries for reading in call.readings()]
        for calls in self._shared.values():
            found += _joined(calls)
        return found

    def _find(self, delta: dict[str, Any]) -> Call | None:
        """The call that an entry goes on with; None: it begins another."""
        index = delta.get("index")
        call = self._by_index.get(index) if index is not None else self._without_index(delta)
        return None if call is None or _is_another(call, delta) else call

    def _without_index(self, delta: dict[str, Any]) -> Call | None:
        """Mistral and Gemini's compatibility layer send no index: the id tells, then the order."""
        if call_id := delta.get("id"):
            return self._by_id.get(call_id_text(call_id))
        # A piece with neither index nor id nor name can only go on with the last call.
        function = delta.get("function") or delta.get("custom") or {}
        return self.entries[-1] if self.entries and not function.get("name") else None


def _joined(calls: list[Call]) -> list[ToolCall]:
    """Calls that share an index, as one: openai-python and LangChain go by the index alone.

    Not if each has whole arguments (Gemini's parallel calls): put together they are no JSON, and
    those clients can call nothing by them.
    """
    found: list[ToolCall] = []
    call_id = call_id_text(calls[0].id)
    for bodies in ([c.function for c in calls], [c.custom for c in calls]):
        some = [body for body in bodies if body]
        if len(some) < 2 or all(_is_object(body.payload()) for body in some):
            continue
        name = "".join(piece for body in some for piece in body.sent)
        payload = "".join(body.payload() for body in some)
        found.append(ToolCall(call_id, name, payload, some[0].kind))
    return found


def _is_object(text: str) -> bool:
    try:
        return isinstance(decode(text), dict)
    except NotUnderstoodError:
        return False


def _is_another(call: Call, delta: dict[str, Any]) -> bool:
    """Gemini's compatibility layer gives parallel calls one index; id and name tell them apart."""
    call_id = delta.get("id")
    if not call_id or not call.id or call_id == call.id:
        return False
    body = delta.get("function") or delta.get("custom")
    return bool(body and body.get("name"))
