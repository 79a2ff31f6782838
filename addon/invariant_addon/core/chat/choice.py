"""One streamed choice of the chat dialect: its deltas merged to a draft and to a message.

`merge` is total: what may not come was refused before (merge.py checks a whole chunk first), so
that nothing can fail with half of a chunk merged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..conversation import Message, Part, PartKind
from ..draft import ChoiceDraft, Lengths, Need
from ..json_text import carries_text, encode
from .calls import Body, Calls
from .fields import Details, LogProbs, Metadata, Sound, extended
from .growth import Growth
from .known import CHOICE_LABELS, KNOWN_ROLES
from .message import REASONING_KEYS, content_part, detail_rest, detail_text

_CHOICE_KEYS = frozenset(("index", "delta", "message", "logprobs", "finish_reason"))
_CHANNEL_OF_PART: dict[PartKind, str] = {
    "text": "content",
    "refusal": "refusal",
    "reasoning": "reasoning",
}


class Choice:
    """What is known of one choice. See merge.py for the rules of its fields."""

    def __init__(self, index: int) -> None:
        self._index = index
        self._growth = Growth(index)
        self._role: str | None = None
        self._has_content = False
        self._content_parts: list[Any] | None = None
        self._calls = Calls()
        self._function_call: Body | None = None
        self._audio: Sound | None = None
        self._details: Details | None = None
        self._strings: dict[str, list[str]] = {}  # strings that the draft does not keep apart
        self._extras: dict[str, Any] = {}
        self._last: dict[str, Any] = {}
        self._logprobs: LogProbs | None = None
        self._metadata = Metadata()
        self._finish_reason: Any = None
        self._spoke = False
        self._odd_roles: set[str] = set()
        self._said = ""
        self._called = False

    @property
    def draft(self) -> ChoiceDraft:
        return self._growth.draft

    def merge(self, choice: dict[str, Any], needs: list[Need]) -> None:
        """Merge one entry of a chunk's `choices`, and add what its release needs."""
        growth = self._growth
        growth.grown = {}
        called = audio = False
        delta = choice.get("delta")
        finish = choice.get("finish_reason")
        logprobs = choice.get("logprobs")
        if "message" in choice:
            delta = self._choose(delta, choice["message"])
        if delta:
            content = delta.get("content")
            if len(delta) == 1 and type(content) is str and self._content_parts is None:
                self._has_content = True  # the ordinary chunk
                if content:
                    growth.add("content", "text", content)
            else:
                called = self._merge_delta(delta)
                audio = bool(delta.get("audio") and delta["audio"].get("data"))
        if logprobs is not None:
            self._merge_logprobs(logprobs, delta)
        if not choice.keys() <= _CHOICE_KEYS:
            for unread in self._metadata.merge(choice, _CHOICE_KEYS, CHOICE_LABELS):
                growth.add_unknown(*unread)
        if finish:
            self._finish_reason = finish
        if growth.grown or called or finish or audio:
            self._spoke = self._spoke or delta is choice.get("delta")
            growth.settle(called, finish)
            growth.add_needs(needs, called, finish, audio)

    def add_around(self, key: str, text: str, separator: str, needs: list[Need]) -> None:
        """Add a text that came beside the choices, and what its release needs."""
        growth = self._growth
        growth.grown = {}
        growth.add_unknown(key, text, separator)
        growth.settle(False, None)
        growth.add_needs(needs, False, None, False)

    def calls_with(self, deltas: list[Any]) -> int:
        """How many calls the choice would have with these entries of `tool_calls`."""
        return self._calls.count_with(deltas)

    def end(self) -> None:
        """The stream is over."""
        self._growth.end()

    def message(self, lengths: Lengths | None) -> Message:
        """The choice as far as it came; see Merger.snapshot."""
        parts: list[Part] = []
        for name, channel in self.draft.channels.items():
            limit = channel.length if lengths is None else lengths.get((self._index, name), 0)
            if text := channel.text()[:limit]:
                parts.append(Part(channel.kind, text))
        if self._audio and self._audio.data and lengths is None:
            parts.append(Part("audio", ""))
        calls = []
        if self.draft.finished:
            if self._function_call:
                calls += self._function_call.readings(None)
            calls += self._calls.readings()
        # Whatever role the wire says: this is the assistant's turn, and clients read it as such.
        return Message("assistant", tuple(parts), tuple(calls))

    def value(self) -> dict[str, Any]:
        """The choice as a reply that is no stream holds it."""
        message: dict[str, Any] = {
            "role": self._role or "assistant",
            "content": self._growth.text("content") if self._has_content else None,
            "refusal": self._growth.text("refusal") or None,
        }
        if self._content_parts is not None:
            message["content"] = self._content_parts
        for key, pieces in self._strings.items():
            message[key] = "".join(pieces)
        message.update(self._extras)
        if self._details is not None:
            message["reasoning_details"] = self._details.value()
        if self._audio is not None:
            message["audio"] = self._audio.value()
        if self._calls.entries:
            message["tool_calls"] = [call.value() for call in self._calls.entries]
        if self._function_call:
            message["function_call"] = self._function_call.value()
        return {
            "index": self._index,
            "message": message,
            "logprobs": self._logprobs and self._logprobs.values,
            "finish_reason": self._finish_reason,
            **self._metadata.values,
        }

    def _choose(self, delta: Any, message: Any) -> Any:
        """What to merge if a chunk has a `message`: some vendors send it in place of a delta.

        Beside deltas it is a second version of them, which most clients do not read.
        """
        if not message or message == delta:
            return delta
        if not delta and not self._spoke:
            return message
        self._growth.add_atom("other:message", encode(message))
        return delta

    def _merge_delta(self, delta: dict[str, Any]) -> bool:
        """Merge any delta; whether it carried a piece of a call."""
        self._called = False
        self._said = ""
        for key, value in delta.items():
            if value is None:
                continue
            shape, merge = _FIELDS.get(key, _UNKNOWN)
            if isinstance(value, shape):
                merge(self, key, value)
            else:
                self._merge_unknown(key, value)
        return self._called

    def _merge_role(self, _key: str, role: str) -> None:
        self._role = self._role or role
        if role not in KNOWN_ROLES and role and role not in self._odd_roles:
            self._odd_roles.add(role)
            self._growth.add_atom("other:role", role)

    def _merge_refusal(self, _key: str, refusal: str) -> None:
        if refusal:
            self._growth.add("refusal", "refusal", refusal)

    def _merge_calls(self, _key: str, calls: list[Any]) -> None:
        for call in calls:
            if call:
                self._called = True
                self._add_unread(self._calls.add(call))

    def _merge_function_call(self, _key: str, call: dict[str, Any]) -> None:
        if call:
            self._called = True
            self._function_call = self._function_call or Body("function")
            self._add_unread(self._function_call.add(call))

    def _merge_annotations(self, key: str, annotations: list[Any]) -> None:
        self._extras[key] = extended(self._extras.get(key), annotations)
        for item in annotations:
            if carries_text(item):
                self._growth.add_atom(key, encode(item))

    def _merge_reasoning(self, key: str, text: str) -> None:
        self._strings.setdefault(key, []).append(text)
        self._think(key, text)

    def _merge_content(self, _key: str, content: Any) -> None:
        if isinstance(content, str):
            self._has_content = True
            if content:
                self._growth.add("content", "text", content)
                if self._content_parts is not None:
                    self._content_parts.append({"type": "text", "text": content})
            return
        if self._content_parts is None:
            said = self._growth.text("content")
            self._content_parts = [{"type": "text", "text": said}] if said else []
        for item in content if isinstance(content, list) else [content]:
            self._content_parts.append(item)
            for part in content_part(item):
                name = _CHANNEL_OF_PART.get(part.kind)
                if name and part.text:
                    self._growth.add(name, part.kind, part.text)
                elif part.text:
                    self._growth.add_atom("other:content", part.text)

    def _think(self, key: str, text: str) -> None:
        """Vendors send a thought under two keys at once: the same text counts once."""
        if not text or text == self._said:
            return
        name = "reasoning:" + key
        if not self._said and name not in self.draft.channels:
            name = "reasoning"
        self._growth.add(name, "reasoning", text)
        self._said = self._said or text

    def _merge_details(self, key: str, entries: list[Any]) -> None:
        self._details = self._details or Details()
        said: list[str] = []
        for entry in entries:
            self._details.add(entry)
            said.append(detail_text(entry))
            if rest := detail_rest(entry):
                self._growth.add_atom("other:reasoning_details", rest)
        self._think(key, "".join(said))

    def _merge_audio(self, _key: str, audio: dict[str, Any]) -> None:
        self._audio = self._audio or Sound(self._growth)
        self._audio.add(audio)

    def _merge_unknown(self, key: str, value: Any) -> None:
        """A string grows, unless it repeats itself (a label: `channel`); the last value else."""
        if key in self._last and self._last[key] == value:
            return
        self._last[key] = value
        if not isinstance(value, str):
            self._extras[key] = value
            if carries_text(value):
                self._growth.add_unknown(key, encode(value), "\n")
        else:
            self._strings.setdefault(key, []).append(value)
            if value:
                self._growth.add_unknown(key, value, "")

    def _merge_logprobs(self, logprobs: Any, delta: Any) -> None:
        if not isinstance(logprobs, dict):
            self._merge_unknown("logprobs", logprobs)
            return
        self._logprobs = self._logprobs or LogProbs(self._growth)
        self._logprobs.add(logprobs, delta or {})

    def _add_unread(self, texts: list[str]) -> None:
        for text in texts:
            self._growth.add_atom("other:tool_calls", text)


_FIELDS: dict[str, tuple[type, Callable[[Choice, str, Any], None]]] = {
    "audio": (dict, Choice._merge_audio),
    "annotations": (list, Choice._merge_annotations),
    "content": (object, Choice._merge_content),
    "function_call": (dict, Choice._merge_function_call),
    "reasoning_details": (list, Choice._merge_details),
    "refusal": (str, Choice._merge_refusal),
    "role": (str, Choice._merge_role),
    "tool_calls": (list, Choice._merge_calls),
    **dict.fromkeys(REASONING_KEYS, (str, Choice._merge_reasoning)),
}
_UNKNOWN: tuple[type, Callable[[Choice, str, Any], None]] = (object, Choice._merge_unknown)
