"""What grows beside the text of a streamed chat reply: metadata, log probabilities, thoughts."""

from __future__ import annotations

from typing import Any

from ..json_text import as_text, carries_text, encode
from .growth import Growth
from .known import sound_text


class Details:
    """OpenRouter's reasoning_details: entries with an index go on, the others are whole."""

    __slots__ = ("_by_index", "_entries")

    def __init__(self) -> None:
        self._entries: list[Any] = []
        self._by_index: dict[int, tuple[dict[str, Any], dict[str, list[str]]]] = {}

    def add(self, entry: Any) -> None:
        index = entry.get("index") if isinstance(entry, dict) else None
        if type(index) is not int:
            self._entries.append(entry)
            return
        if index not in self._by_index:
            self._by_index[index] = ({}, {})
            self._entries.append(self._by_index[index])
        fields, texts = self._by_index[index]
        for key, value in entry.items():
            if key in ("text", "summary", "data") and isinstance(value, str):
                texts.setdefault(key, []).append(value)
            elif value is not None:
                fields[key] = value

    def value(self) -> list[Any]:
        return [
            {**entry[0], **{key: "".join(pieces) for key, pieces in entry[1].items()}}
            if isinstance(entry, tuple)  # JSON has no tuples: it is one of ours
            else entry
            for entry in self._entries
        ]


class Metadata:
    """Fields around the text: counts, filter results, sources.

    An object is updated, a list grows, of anything else the last value counts; null never does.
    """

    __slots__ = ("_last", "values")

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self._last: dict[str, Any] = {}

    def merge(
        self, fields: dict[str, Any], known: frozenset[str], labels: frozenset[str]
    ) -> list[tuple[str, str, str]]:
        """Merge all fields but the `known` ones. The result is what is new of those that are no
        labels: key and text, and what separates it from the text before."""
        unread: list[tuple[str, str, str]] = []
        for key, value in fields.items():
            if value is None or key in known:
                continue
            # A list that comes again unchanged (Perplexity's citations) is the same list.
            if self._last.get(key) == value:
                continue
            self._last[key] = value
            old = self.values.get(key)
            if isinstance(value, dict):
                if isinstance(old, dict):
                    old.update(value)
                else:
                    self.values[key] = dict(value)
            elif isinstance(value, list):
                self.values[key] = extended(old, value)
            else:
                self.values[key] = value
            if key not in labels and carries_text(value):
                unread.append((key, as_text(value), "" if isinstance(value, str) else "\n"))
        return unread


class Sound:
    """A streamed `audio` object."""

    __slots__ = ("_fields", "_growth", "data")

    def __init__(self, growth: Growth) -> None:
        self.data: list[str] = []
        self._fields: dict[str, Any] = {}
        self._growth = growth

    def add(self, audio: dict[str, Any]) -> None:
        fields = self._fields
        for key, value in audio.items():
            if value is None:
                continue
            if key == "data" and isinstance(value, str):
                self.data.append(value)
                if text := sound_text(value):
                    self._growth.add_atom("other:audio", text, separator="")
            elif key == "transcript" and isinstance(value, str):
                if value:
                    self._growth.add("transcript", "transcript", value)
            elif key == "id":
                fields["id"] = fields.get("id") or value
            else:
                fields[key] = value
                if carries_text(value):
                    self._growth.add_atom("other:audio", encode({key: value}))

    def value(self) -> dict[str, Any]:
        data, transcript = "".join(self.data), self._growth.text("transcript")
        return {**self._fields, "data": data, "transcript": transcript}


class LogProbs:
    """A choice's streamed `logprobs`: token lists that grow."""

    __slots__ = ("_growth", "values")

    def __init__(self, growth: Growth) -> None:
        self.values: dict[str, Any] = {"content": None, "refusal": None}
        self._growth = growth

    def add(self, logprobs: dict[str, Any], beside: dict[str, Any]) -> None:
        """beside: the delta of the same chunk. Tokens that say what it says add nothing."""
        for key, value in logprobs.items():
            if value is None:
                continue
            if isinstance(value, list):
                self.values[key] = extended(self.values.get(key), value)
                tokens = "".join(map(token_text, value))
            else:
                self.values[key] = value
                tokens = encode(value) if carries_text(value) else ""
            if tokens and tokens != beside.get(key):
                self._growth.add_atom("other:logprobs", tokens, separator="")


def said_by(logprobs: Any, message: Any) -> str:
    """The tokens of a whole choice's `logprobs` that do not say what its message says."""
    if not isinstance(logprobs, dict):
        return as_text(logprobs) if carries_text(logprobs) else ""
    beside = message if isinstance(message, dict) else {}
    found = ""
    for key, value in logprobs.items():
        if isinstance(value, list):
            tokens = "".join(map(token_text, value))
        else:
            tokens = encode(value) if carries_text(value) else ""
        if tokens != beside.get(key):
            found += tokens
    return found


def extended(old: Any, new: list[Any]) -> list[Any]:
    """`old` with `new` at its end, in place once it is our own list."""
    if isinstance(old, list):
        old += new
        return old
    return list(new)


def token_text(entry: Any) -> str:
    token = entry.get("token") if isinstance(entry, dict) else None
    if isinstance(token, str):
        return token
    return encode(entry) if carries_text(entry) else ""
