"""Streamed chunks of the chat dialect, merged to one draft and one completion.

A chunk is checked whole before anything is merged, so one that is not understood changes
nothing. What is text grows a channel of its choice's draft; what is metadata is kept; nothing
is lost. The rules are OpenAI's where it has any (`stream: false` would return the same object),
and they hold for what vendors and Azure send as well:

- id, created, model: the first that is not empty. usage, moderation, service_tier,
  system_fingerprint, finish_reason: the last that is not null. obfuscation is dropped.
- Choices and tool calls come in any order, belong together by index, and may lack it.
- role, a call's id, type and name come once; some repeat them. Texts and arguments grow.
- Other fields around the delta: see Metadata. Other fields in it: text that a rule can read.
"""

from __future__ import annotations

from typing import Any

from .chat_choice import Choice
from .chat_fields import Metadata
from .conversation import Reply
from .draft import ChoiceDraft, Lengths, Need, Step
from .errors import NotUnderstoodError
from .json_text import decode

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
    differs between two keys: "reasoning:<key>"); atomic ones: "annotations", "other:<key>".

    error: what upstream reported in a chunk, as decoded. None as long as it reported nothing.
    """

    def __init__(self) -> None:
        self.choices: dict[int, ChoiceDraft] = {}
        self.error: Any = None
        self._states: dict[int, Choice] = {}
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
        _check_chunk(chunk)
        choices = chunk.pop("choices", None)
        chunk.pop("obfuscation", None)
        failed = False
        # What surrounds the choices is mostly the same in each chunk of a stream.
        if chunk != self._last:
            failed = self._merge_around(chunk)
            self._last = None if failed else chunk
        needs: list[Need] = []
        for position, choice in enumerate(choices or ()):
            if choice is not None:
                index = choice.get("index")
                self._choice(position if index is None else index).merge(choice, needs)
        return Step(tuple(needs), failed=failed) if needs or failed else _NOTHING

    def end(self) -> None:
        """See Merger. May be called more than once."""
        self._ended = True
        for choice in self._states.values():
            choice.end()

    def snapshot(self, lengths: Lengths | None = None) -> Reply:
        """See Merger. The choices are in the order of their indexes."""
        return Reply(tuple(self._states[index].message(lengths) for index in sorted(self._states)))

    def completion(self) -> dict[str, Any]:
        """The `chat.completion` object that `stream: false` would have returned.

        After an error or a cut it is as far as the stream came. It shares lists and objects with
        the merger: do not change it, and do not keep it over the next `add`.
        """
        return {
            **self._fields,
            **self._metadata.values,
            "object": "chat.completion",
            "choices": [self._states[index].value() for index in sorted(self._states)],
        }

    def _choice(self, index: int) -> Choice:
        found = self._states.get(index)
        if found is None:
            found = self._states[index] = Choice(index)
            self.choices[index] = found.draft
            if self._ended:
                found.end()
        return found

    def _merge_around(self, chunk: dict[str, Any]) -> bool:
        """Merge what is not a choice; whether it reports a failure."""
        for key in _FIRST_WINS:
            if chunk.get(key) is not None and not self._fields.get(key):
                self._fields[key] = chunk[key]
        for key in _LAST_WINS:
            if chunk.get(key) is not None:
                self._fields[key] = chunk[key]
        self._metadata.merge(chunk, _NOT_METADATA)
        error = chunk.get("error")
        if not error and chunk.get("object") == "error":  # vLLM: the chunk itself is the error
            error = chunk
        if not error:
            return False
        self.error = error
        return True


def _check_chunk(chunk: Any) -> None:
    """Refuse what `Choice.merge` could not merge without losing some of it."""
    if type(chunk) is not dict:
        raise NotUnderstoodError("a chunk is not a JSON object")
    choices = chunk.get("choices")
    if choices is None:
        return
    if type(choices) is not list:
        raise NotUnderstoodError("a chunk's choices are not a list")
    for choice in choices:
        if choice is None:
            continue
        if type(choice) is not dict:
            raise NotUnderstoodError("a chunk's choice is not an object")
        index = choice.get("index")
        if index is not None and type(index) is not int:
            raise NotUnderstoodError("a choice's index is not an integer")
        _check_delta(choice.get("delta"))
        if "message" in choice:
            _check_delta(choice["message"])


def _check_delta(delta: Any) -> None:
    if delta is None:
        return
    if type(delta) is not dict:
        raise NotUnderstoodError("a delta is not an object")
    content = delta.get("content")
    if content is not None and type(content) not in (str, list, dict):
        raise NotUnderstoodError("a delta's content is no text")
    if len(delta) == 1 and content is not None:
        return
    for key in ("function_call", "audio"):
        _check_object(delta.get(key), key)
    calls = delta.get("tool_calls")
    if calls is None:
        return
    if type(calls) is not list:
        raise NotUnderstoodError("a delta's tool_calls are not a list")
    for call in calls:
        _check_object(call, "tool call")
        if call is None:
            continue
        index = call.get("index")
        if index is not None and type(index) is not int:
            raise NotUnderstoodError("a tool call's index is not an integer")
        _check_object(call.get("function"), "function")
        _check_object(call.get("custom"), "custom tool")


def _check_object(value: Any, what: str) -> None:
    if value is not None and type(value) is not dict:
        raise NotUnderstoodError(f"a delta's {what} is not an object")
