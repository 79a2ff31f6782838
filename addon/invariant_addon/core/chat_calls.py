"""The tool calls of a streamed choice, put together from their pieces.

Clients disagree on pieces that contradict each other (a second name, a second id), so
no reading is dropped: a rule is shown each of them.
"""

from __future__ import annotations

from typing import Any

from .chat_message import call_id_text
from .conversation import CallKind, ToolCall
from .json_text import carries_text, encode

_CALL_KEYS = frozenset(("index", "id", "type", "function", "custom"))


class Body:
    """The `function`, `custom` or `function_call` object of one call."""

    __slots__ = ("extras", "kind", "names", "payload")

    def __init__(self, kind: CallKind) -> None:
        self.kind: CallKind = kind
        self.names: list[str] = []
        self.payload: list[str] = []
        self.extras: dict[str, Any] = {}

    def add(self, delta: dict[str, Any]) -> list[str]:
        """Merge a piece; the result is the JSON texts of what no ToolCall has a place for."""
        unread: list[str] = []
        payload_key = "input" if self.kind == "custom" else "arguments"
        for key, value in delta.items():
            if value is None:
                continue
            if key == payload_key:
                # Some compatibility layers send the arguments as an object.
                self.payload.append(value if isinstance(value, str) else encode(value))
            elif key == "name":
                name = value if isinstance(value, str) else encode(value)
                # Vendors repeat the whole name in each piece; that is not a longer name.
                if name and name not in (*self.names[-1:], "".join(self.names)):
                    self.names.append(name)
            else:
                self.extras[key] = value
                if carries_text(value):
                    unread.append(encode({key: value}))
        return unread

    def value(self) -> dict[str, Any]:
        """As a reply that is no stream holds it."""
        key = "input" if self.kind == "custom" else "arguments"
        return {"name": "".join(self.names), key: "".join(self.payload), **self.extras}

    def readings(self, call_id: str | None) -> list[ToolCall]:
        """The call. If its name came in unequal pieces: one call for each way to read them.

        openai-python and LangChain join the pieces, openai-node takes the last.
        """
        payload = "".join(self.payload)
        names = ["".join(self.names)]
        if len(self.names) > 1:
            names += [name for name in dict.fromkeys(self.names) if name != names[0]]
        return [ToolCall(call_id, name, payload, self.kind) for name in names]


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

    __slots__ = ("_by_index", "entries")

    def __init__(self) -> None:
        self.entries: list[Call] = []
        self._by_index: dict[int, Call] = {}

    def add(self, delta: dict[str, Any]) -> list[str]:
        """Merge one entry of a delta's `tool_calls`. Result as Body.add."""
        index = delta.get("index")
        call = self._by_index.get(index) if index is not None else self._without_index(delta)
        if call is None or _is_another(call, delta):
            call = Call()
            self.entries.append(call)
            if index is not None:
                self._by_index[index] = call
        return call.add(delta)

    def _without_index(self, delta: dict[str, Any]) -> Call | None:
        """Mistral and Gemini's compatibility layer send no index: the id tells, then the order."""
        if call_id := delta.get("id"):
            return next((call for call in self.entries if call.id == call_id), None)
        # A piece with neither index nor id nor name can only go on with the last call.
        function = delta.get("function") or delta.get("custom") or {}
        return self.entries[-1] if self.entries and not function.get("name") else None


def _is_another(call: Call, delta: dict[str, Any]) -> bool:
    """Gemini's compatibility layer gives parallel calls one index; id and name tell them apart."""
    call_id = delta.get("id")
    if not call_id or not call.id or call_id == call.id:
        return False
    body = delta.get("function") or delta.get("custom")
    return bool(body and body.get("name"))
