"""The events of a Responses stream, merged to one draft and one response.

Each output item is a choice of the draft for itself, so that a call is whole when its item is
done, while the text around it flows; together they are one message. The result is the final
event's `response`; if none comes, what the items add up to.

- Items belong together by `output_index`. Ids are not relied on: some servers change them.
- A text flows if its beginning was seen. Where it was not (a resumed stream, an item that nobody
  announced), its events are held until the whole text came.
- Texts that do not simply follow each other (they take turns, are said in two ways, or only as a
  whole) wait for the last check, which also judges them in each order in which they came.
- An event that nobody knows is text, for all that it says beside its labels. The event's name
  says nothing: clients go by the payload's `type`, and what has none is unknown.
- What an error, or an end before its time, says of itself is judged apart (aside.py).
"""

from __future__ import annotations

from typing import Any

from ..aside import Aside, error_words, is_label
from ..chat.fields import token_text
from ..chat.known import error_text, sound_text
from ..conversation import Message, Part, Reply, ToolCall
from ..draft import Lengths, Need, Step
from ..errors import NotUnderstoodError
from ..json_text import as_text, carries_text, decode, encode
from .bodies import read_response
from .check import check_event
from .event import CALLING, DELTAS, DONES, LABELS, PARTS, TERMINAL
from .item import Item, channel_name
from .known import around_response, response_words
from .parts import annotations_text, ordered
from .shelf import AROUND, Shelf
from .spoken import KINDS, Spoken

_DONE = "[DONE]"
_LONGEST_DONE = 16
_NOTHING = Step()
_FINISHED = Step(terminal=True)
_READ_BY_DELTAS = frozenset(("delta", "logprobs"))


class EventMerger:
    """Implements draft.Merger. It goes on after the final event: clients may, too.

    error: what upstream reported in an event, as decoded.
    """

    alternatives = False

    def __init__(self) -> None:
        self._shelf = Shelf()
        self.choices = self._shelf.drafts
        self.error: Any = None
        self._aside = Aside(self.choices)
        self._labels: set[str] = set()  # types of events that need no look
        self._spoken = Spoken()
        self._response: dict[str, Any] = {}
        self._final: dict[str, Any] | None = None
        self._calls: list[ToolCall] = []  # that only a response said
        self._ended = False
        self._began = False

    def add(self, data: str) -> Step:
        """Merge one event's data. Raises NotUnderstoodError."""
        if not data:
            return _NOTHING
        if len(data) <= _LONGEST_DONE and data.strip() == _DONE:  # OpenRouter
            return _FINISHED
        event = decode(data)
        check_event(event, data)
        self._began = True
        kind = event.get("type")
        touched: list[Item] = []
        if kind in DELTAS:
            self._merge_delta(kind, event, touched)
        else:
            self._merge_event(kind, event, touched)
        needs: list[Need] = []
        if words := self._words(kind, event):
            needs += self._aside.add(words)
        for item in (*touched, self._shelf.around):
            item.settle(needs)
            self._spoken.is_odd = self._spoken.is_odd or item.differs
        if needs and self._spoken.is_odd:
            self._hold_all(needs)
        terminal, failed = kind in TERMINAL, self._is_error(event)
        return Step(tuple(needs), terminal, failed) if needs or terminal or failed else _NOTHING

    def aside(self, words: str) -> tuple[Need, ...]:
        """See Merger."""
        return self._aside.add(words)

    def end(self) -> None:
        self._ended = True
        self._aside.end()
        self._shelf.end()

    def snapshot(self, lengths: Lengths | None = None) -> Reply:
        """See Merger: one message, its parts in the order in which they began."""
        if not self._began:
            return Reply(self._aside.messages(lengths))
        parts: list[Part] = []
        calls: list[ToolCall] = []
        for item in self._shelf:
            for name, channel in item.draft.channels.items():
                limit = channel.length if lengths is None else lengths.get((item.key, name), 0)
                if text := channel.text()[:limit]:
                    parts.append(Part(channel.kind, text))
            if item.draft.finished:
                more, called = item.reading()
                parts += more
                calls += called
        if lengths is None:
            parts += self._spoken.parts()
        message = Message("assistant", ordered(parts), (*calls, *self._calls))
        return Reply((message, *self._aside.messages(lengths)))

    def completion(self) -> dict[str, Any]:
        """The response object; put together from the items if the final event did not come."""
        if self._final is not None:
            return self._final
        if not self._began:
            return {}
        return {**self._response, "output": self._shelf.contents()}

    def _hold_all(self, needs: list[Need]) -> None:
        """The texts do not simply follow each other, so only the last check can know them all."""
        around = self._shelf.around
        around.draft.calling = True
        around.draft.finished = self._ended
        needs.append(Need(AROUND, None))

    def _words(self, kind: Any, event: dict[str, Any]) -> str:
        """What upstream says of itself in an event."""
        said = []
        if kind == "error":  # without `error`, the event is one
            said.append(error_words({key: event.get(key) for key in ("message", "code", "param")}))
        if isinstance(kind, str) and kind not in self._labels:
            if is_label(kind):
                self._labels.add(kind)
            else:
                said.append(kind)
        said.append(error_words(event.get("error")))
        if isinstance(response := event.get("response"), dict):
            said.append(response_words(response))
        return "\n".join(filter(None, said))

    # -- events ---------------------------------------------------------------------------------

    def _merge_delta(self, kind: str, event: dict[str, Any], touched: list[Item]) -> None:
        group, means, index_key = DELTAS[kind]
        item = self._shelf.find(event)
        touched.append(item)
        text = event.get("delta") or ""
        name = channel_name(group, event.get(index_key) or 0, means)
        item.grow(name, means, text)
        if text and means in KINDS:
            self._spoken.add_delta(item.key, name, text)
        if logprobs := event.get("logprobs"):
            tokens = "".join(map(token_text, logprobs)) if isinstance(logprobs, list) else ""
            if not isinstance(logprobs, list) and carries_text(logprobs):
                tokens = encode(logprobs)
            if tokens and tokens != text:
                item.unknown("other:logprobs", tokens, grows=True)
        if not event.keys() <= LABELS:
            self._merge_rest(kind, event, LABELS, touched)

    def _merge_event(self, kind: Any, event: dict[str, Any], touched: list[Item]) -> None:
        read = set(LABELS - _READ_BY_DELTAS)
        if isinstance(event.get("response"), dict):
            self._merge_response(event["response"], kind in TERMINAL, touched)
            read.add("response")
        if isinstance(event.get("item"), dict):
            item = self._shelf.find_said(event)
            touched.append(item)
            (item.finish if kind == "response.output_item.done" else item.begin)(event["item"])
            read.add("item")
            if kind == "response.output_item.done":
                content = event["item"].get("content")
                self._spoken.add_parts("item", *(content if isinstance(content, list) else ()))
        if kind in PARTS and isinstance(event.get("part"), dict):
            group, index_key = PARTS[kind]
            item = self._shelf.find(event)
            touched.append(item)
            if kind.endswith(".added"):
                item.open_part()
            item.part(group, event.get(index_key) or 0, event["part"])
            if kind.endswith(".done"):
                self._spoken.add_parts("part", event["part"])
            read.add("part")
        if kind in DONES:
            self._merge_done(kind, event, touched)
            read.update((DONES[kind][3], "logprobs"))
        if kind == "response.output_text.annotation.added":
            self._merge_annotation(event, touched)
            read.add("annotation")
        if kind == "error":
            read.update(("message", "code", "param"))
        if carries_text(event.get("error")):
            read.add("error")
            if said := error_text(event["error"]):
                self._shelf.around.unknown("other:error", said, grows=False)
        if not event.keys() <= read:
            self._merge_rest(kind, event, read, touched)

    def _merge_done(self, kind: str, event: dict[str, Any], touched: list[Item]) -> None:
        group, means, index_key, text_key = DONES[kind]
        text = event.get(text_key)
        item = self._shelf.find(event)
        touched.append(item)
        name = channel_name(group, event.get(index_key) or 0, means)
        if isinstance(text, str):
            item.whole(name, means, text)
            if means in KINDS:
                self._spoken.add("text", text)
        elif carries_text(text):
            item.unknown("other:done", encode(text), grows=False)
        item.close(name)
        if logprobs := event.get("logprobs"):
            if isinstance(logprobs, list):
                tokens = "".join(map(token_text, logprobs))
            else:
                tokens = encode(logprobs) if carries_text(logprobs) else ""
            if tokens and tokens != text:
                item.unknown("other:logprobs_done", tokens, grows=False)

    def _merge_annotation(self, event: dict[str, Any], touched: list[Item]) -> None:
        if carries_text(event.get("annotation")):
            item = self._shelf.find(event)
            touched.append(item)
            item.atom(
                f"annotations:{event.get('content_index') or 0}",
                annotations_text([event["annotation"]]),
            )

    def _merge_rest(
        self, kind: Any, event: dict[str, Any], read: frozenset[str] | set[str], touched: list[Item]
    ) -> None:
        """All that is no label and was not read: arguments of calls, and what nobody knows."""
        rest = {k: v for k, v in event.items() if k not in read and carries_text(v)}
        if not rest:
            return
        base = kind.rpartition(".")[0] if isinstance(kind, str) else ""
        item = self._shelf.find(event)
        calls = item.key != AROUND and (base in CALLING or (item.held and item.value is not None))
        for key, value in rest.items():
            if key == "partial_image_b64" or base == "response.audio":
                if key == "delta" and base == "response.audio":
                    self._need_transcript(touched)
                if not (value := sound_text(value)):
                    continue
            name = f"other:{base}.{key}"
            # What began before anybody knew that it is a call goes on where it began.
            if calls and name not in item.draft.channels:
                self._merge_call(item, base, key, value, event)
            elif base == "response.audio.transcript" and isinstance(value, str):
                if key == "delta":
                    item.grow("transcript", "transcript", value)
                else:
                    item.whole("transcript", "transcript", value)
            else:
                grows = key == "delta" and isinstance(value, str)
                item.unknown(name, as_text(value), grows=grows)
            touched.append(item)

    def _need_transcript(self, touched: list[Item]) -> None:
        """Nobody can read the sound; what is said in it is judged by its transcript."""
        around = self._shelf.around
        if "transcript" in around.draft.channels:
            around.need("transcript")

    def _merge_call(
        self, item: Item, base: str, key: str, value: Any, event: dict[str, Any]
    ) -> None:
        what = f"{base}:{event.get('command_index')}:{key}"
        if key != "delta":
            item.said(value)
        elif isinstance(value, str):
            item.piece(what, value)
        elif isinstance(value, dict) and all(isinstance(v, str) for v in value.values()):
            for name, text in value.items():
                item.piece(f"{what}:{name}", text)
        else:
            item.said(value)

    # -- the response ---------------------------------------------------------------------------

    def _merge_response(
        self, response: dict[str, Any], is_final: bool, touched: list[Item]
    ) -> None:
        """Compare what it says with what is known already; only what is new is new."""
        output = response.get("output")
        if is_final:
            if isinstance(output, list):
                self._final = response
            self.end()
        if not is_final or self._final is None:
            self._response = {k: v for k, v in response.items() if k != "output"}
        if not output and not around_response(response) and not response.get("output_text"):
            return
        if output is not None and not isinstance(output, list):
            raise NotUnderstoodError("a response's output is not a list")
        said = read_response(response)
        around = self._shelf.around
        known = self.snapshot().choices[0]
        parts = set(known.parts)
        for part in said.parts:
            if part.text and part not in parts:
                around.again(part.kind, part.text)
        calls = {(call.name, call.arguments, call.kind) for call in known.tool_calls}
        for call in said.tool_calls:
            if (call.name, call.arguments, call.kind) not in calls:
                self._calls.append(call)
                around.hold()
        texts, before = _texts(said.parts), _texts(known.parts)
        if texts != before and "".join(texts) != "".join(before) and len(texts) > 1:
            around.again("other", "".join(texts))

    def _is_error(self, event: dict[str, Any]) -> bool:
        error = event.get("error")
        if not error and event.get("type") != "error":
            return False
        self.error = error or event
        return True


def _texts(parts: tuple[Part, ...]) -> list[str]:
    return [part.text for part in parts if part.kind == "text" and part.text]
