"""Streamed chunks of the chat dialect, merged to one draft and one completion.

A chunk is checked whole before anything is merged, so one that is not understood changes
nothing. What is text grows a channel of its choice's draft; what is metadata is kept; nothing
is lost. The rules are OpenAI's where it has any (`stream: false` would return the same object),
and they hold for what vendors and Azure send as well:

- id, created, model: the first that is not empty. usage, moderation, service_tier,
  system_fingerprint, finish_reason: the last that is not null. obfuscation is dropped.
- Choices and tool calls come in any order, belong together by index, and may lack it.
- role, a call's id, type and name come once; some repeat them. Texts and arguments grow.
- Other fields around the delta: see Metadata. Other fields in it, and those around it that
  known.py does not know: text that a rule can read. Beside the choices: a text of the first.
- What an error says of itself is judged apart from them (aside.py).
"""

from __future__ import annotations

from typing import Any

from ..aside import Aside, error_words
from ..conversation import Reply
from ..draft import ChoiceDraft, Lengths, Need, Step
from ..json_text import decode
from .check import check_chunk, check_keys_once
from .choice import Choice
from .fields import Metadata
from .known import BODY_LABELS, ERROR_LABELS, error_text
from .limits import MAX_CALLS, MAX_CHOICES, check_count

_DONE = "[DONE]"
_LONGEST_DONE = 16  # with space around it
_FIRST_WINS = ("id", "created", "model")
_LAST_WINS = ("usage", "moderation")
_NOT_METADATA = frozenset(("object", "error", *_FIRST_WINS, *_LAST_WINS))
_NOTHING = Step()
_FINISHED = Step(terminal=True)


class ChunkMerger:
    """Implements draft.Merger. It goes on after [DONE]: some clients do (the AI SDK).

    Channels of a choice: "content", "refusal", "transcript", "reasoning" (a thought that
    differs between two keys: "reasoning:<key>"); atomic ones: "annotations", "other:<key>", and
    "other:*" for what is too much to have a channel for each key.

    error: what upstream reported in a chunk, as decoded. None as long as it reported nothing.
    """

    alternatives = True

    def __init__(self) -> None:
        self.choices: dict[int, ChoiceDraft] = {}
        self.error: Any = None
        self._aside = Aside(self.choices)
        self._states: dict[int, Choice] = {}
        self._unsent: set[int] = set()  # choices that hold only text from beside the choices
        self._fields: dict[str, Any] = {}
        self._metadata = Metadata()
        self._last: dict[str, Any] | None = None
        self._ended = False

    def add(self, data: str) -> Step:
        """Merge one event's data. Empty data is nothing: no client reads any text in it.

        Raises NotUnderstoodError, and then has changed nothing.
        """
        if not data:
            return _NOTHING
        if len(data) <= _LONGEST_DONE and data.strip() == _DONE:
            return _FINISHED
        chunk = decode(data)
        keys, calls = check_chunk(chunk)
        check_keys_once(data, keys)
        choices = chunk.pop("choices", None)
        if choices and (calls or len(self._states) + len(choices) > MAX_CHOICES):
            self._check_limits(choices)
        chunk.pop("obfuscation", None)
        needs: list[Need] = []
        failed = False
        # What surrounds the choices is mostly the same in each chunk of a stream.
        if chunk != self._last:
            failed = self._merge_around(chunk, needs)
            self._last = None if failed else chunk
        for position, choice in enumerate(choices or ()):
            if choice is not None:
                index = choice.get("index")
                self._choice(position if index is None else index).merge(choice, needs)
        return Step(tuple(needs), failed=failed) if needs or failed else _NOTHING

    def aside(self, words: str) -> tuple[Need, ...]:
        """See Merger."""
        return self._aside.add(words)

    def end(self) -> None:
        """See Merger. May be called more than once."""
        self._ended = True
        self._aside.end()
        for choice in self._states.values():
            choice.end()

    def snapshot(self, lengths: Lengths | None = None) -> Reply:
        """See Merger. The choices are in the order of their indexes."""
        found = (self._states[index].message(lengths) for index in sorted(self._states))
        return Reply((*found, *self._aside.messages(lengths)))

    def completion(self) -> dict[str, Any]:
        """The `chat.completion` object that `stream: false` would have returned.

        After an error or a cut it is as far as the stream came. It shares lists and objects with
        the merger: do not change it, and do not keep it over the next `add`.
        """
        return {
            **self._fields,
            **self._metadata.values,
            "object": "chat.completion",
            "choices": [
                self._states[index].value() for index in sorted(self._states.keys() - self._unsent)
            ],
        }

    def _choice(self, index: int) -> Choice:
        if self._unsent:
            self._unsent.discard(index)
        return self._states.get(index) or self._begin(index)

    def _begin(self, index: int) -> Choice:
        found = self._states[index] = Choice(index)
        self.choices[index] = found.draft
        if self._ended:
            found.end()
        return found

    def _check_limits(self, choices: list[Any]) -> None:
        """Refuse what would make too many choices or calls, before any of it is merged."""
        begun = 0
        for position, choice in enumerate(choices):
            if choice is None:
                continue
            index = choice.get("index")
            state = self._states.get(position if index is None else index)
            if state is None:
                begun += 1
                continue
            for delta in (choice.get("delta"), choice.get("message")):
                if delta and (calls := delta.get("tool_calls")):
                    check_count(state.calls_with(calls), MAX_CALLS, "tool calls of a message")
        if begun:
            check_count(len(self._states) + begun, MAX_CHOICES, "choices of a reply")

    def _merge_around(self, chunk: dict[str, Any], needs: list[Need]) -> bool:
        """Merge what is not a choice; whether it reports a failure."""
        for key in _FIRST_WINS:
            if chunk.get(key) is not None and not self._fields.get(key):
                self._fields[key] = chunk[key]
        for key in _LAST_WINS:
            if chunk.get(key) is not None:
                self._fields[key] = chunk[key]
        error = chunk.get("error")
        labels = BODY_LABELS
        if not error and chunk.get("object") == "error":  # vLLM: the chunk itself is the error
            error = chunk
            labels = labels | ERROR_LABELS
        for key, text, separator in self._metadata.merge(chunk, _NOT_METADATA, labels):
            self._add_around(key, text, separator, needs)
        if not error:
            return False
        self.error = error
        needs += self._aside.add(error_words(error))
        if error is not chunk and (text := error_text(error)):
            self._add_around("error", text, "\n", needs)
        return True

    def _add_around(self, key: str, text: str, separator: str, needs: list[Need]) -> None:
        """Let the first choice say it; if there is none yet, one that the wire does not have."""
        index = next(iter(self._states), 0)
        if index not in self._states:
            self._begin(index)
            self._unsent.add(index)
        self._states[index].add_around(key, text, separator, needs)
