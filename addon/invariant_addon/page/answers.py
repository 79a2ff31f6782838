"""Questions of the page -> JSON values: what a handler asks, in a thread of its own."""

from __future__ import annotations

import datetime
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, get_args

from ..core.errors import InvariantError
from ..core.trace import Json, Status
from ..rules.mutes import MAX_SECONDS, Mute, Mutes, Scope
from ..traces import queries
from ..traces.archive import FILE
from ..traces.codec import CodecError
from ..traces.queries import Filter
from . import figures, runs
from .reading import Reader
from .shapes import Conversation

PAGE = 60
SEARCH_SECONDS = 0.5
"""After so long the rest of a search is the next page: meanwhile nobody else gets an answer."""
TURNS = 30
"""Of a conversation that are shown at once."""
_LONGEST = 500
"""Characters of what somebody asks for."""

type Asked = Mapping[str, str]


class BadQuestionError(InvariantError):
    """The page does not ask such things: what was got, and what was expected."""


class UnknownError(InvariantError):
    """There is no such trace (any more)."""


class Answers:
    """folder: the proxy's data folder. texts: of rules, by their ids. For one thread."""

    def __init__(self, folder: Path, texts: Mapping[str, str]) -> None:
        self.reader = Reader(folder / FILE)
        self._mutes = Mutes(folder, b"")  # fingerprints are made by the proxy: no key is needed
        self._texts = texts
        self._ledger = figures.Ledger()

    # -- looking --------------------------------------------------------------------------------

    def conversations(self, asked: Asked) -> Json:
        """A page of the list. All raise InvariantError."""
        wanted = _filter(asked)
        until = time.monotonic() + SEARCH_SECONDS

        def is_late() -> bool:
            return time.monotonic() >= until

        with self.reader.using() as connection:
            found, following = runs.newest(connection, PAGE, wanted, is_late)
        return {"conversations": [asdict(run) for run in found], "next": following}

    def facets(self, asked: Asked) -> Json:
        """What can be asked for, and how many traces of each there are."""
        with self.reader.using() as connection:
            found = queries.stats(connection)
        return {
            "traces": found.traces,
            "bytes": found.bytes,
            "oldest": found.oldest,
            "newest": found.newest,
            "statuses": dict(found.by_status),
            "models": _most(found.by_model),
            "rules": _most(found.by_rule),
        }

    def conversation(self, asked: Asked) -> Json:
        """The turns of a conversation: those up to `before` (a turn's number), or the last."""
        with self.reader.using() as connection:
            turns = runs.turns(connection, _text(asked, "id"))
            if not turns:
                raise UnknownError("there is no such trace (any more)")
            end = _number(asked, "before", len(turns) + 1) - 1
            end = max(1, min(end, len(turns)))
            first = max(end - TURNS, 0)
            shown, unreadable = self._read(connection, turns, first, end)
        return {
            "id": turns[0][1],
            "turns": len(turns),
            "first": first + 1,
            "unreadable": unreadable,
            "shown": shown.shown(),
        }

    def message(self, asked: Asked) -> Json:
        """One message with nothing left out. key: as in the conversation."""
        key = _text(asked, "key")
        number = key.partition(".")[0]
        first = _number({"key": number}, "key", 0) - 1
        with self.reader.using() as connection:
            turns = runs.turns(connection, _text(asked, "id"))
            shown, _ = self._read(connection, turns, max(first, 0), first + TURNS)
        item = shown.whole(key)
        if item is None:
            raise UnknownError("there is no such message (any more)")
        return item

    def _read(
        self, connection: sqlite3.Connection, turns: Sequence[tuple[int, str]], first: int, end: int
    ) -> tuple[Conversation, int]:
        """These turns, and how many of them could not be read."""
        shown = Conversation(self._texts)
        unreadable = 0
        for number, (_, identity) in enumerate(turns[first:end], first + 1):
            try:
                trace = queries.body(connection, identity)
            except CodecError:
                trace = None
            if trace is None:
                unreadable += 1
            else:
                shown.add(number, trace)
        return shown, unreadable

    def figures(self, asked: Asked) -> Json:
        span = _one_of(asked, "span", tuple(figures.SPANS)) or "day"
        with self.reader.using() as connection:
            return figures.figures(connection, self._ledger, span, time.time())

    # -- mutes ----------------------------------------------------------------------------------

    def mutes(self, asked: Asked) -> Json:
        return {"mutes": [_mute(each) for each in self._mutes.list()], "now": time.time()}

    def mute(self, order: Any) -> Json:
        """order: request_id, scope, seconds, and rule (the guardrail's name)."""
        request_id, rule = _member(order, "request_id"), _member(order, "rule")
        scope, seconds = order.get("scope"), order.get("seconds")
        scopes: tuple[Scope, ...] = get_args(Scope.__value__)
        if scope not in scopes:
            raise BadQuestionError(f"scope: expected one of {', '.join(scopes)}")
        if not isinstance(seconds, int) or isinstance(seconds, bool):
            raise BadQuestionError("seconds: expected a whole number")
        if not 0 < seconds <= MAX_SECONDS:
            raise BadQuestionError(f"seconds: expected 1 to {MAX_SECONDS}")
        made = self._mutes.mute(request_id, scope=scope, seconds=seconds, guardrail=rule)
        return {"mutes": [_mute(each) for each in made]}

    def unmute(self, order: Any) -> Json:
        gone = self._mutes.unmute(_member(order, "id"))
        return {"mutes": [_mute(each) for each in gone]}


def _mute(mute: Mute) -> dict[str, Json]:
    outline = asdict(mute)
    del outline["fingerprint"]
    return outline


def _most(counts: Mapping[str, int]) -> Sequence[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:100]


# -- what is asked ------------------------------------------------------------------------------


def _filter(asked: Asked) -> Filter:
    day = _text(asked, "day")
    try:
        date = datetime.date.fromisoformat(day) if day else None
        if date is not None and not 1971 <= date.year <= 9000:
            raise ValueError
    except ValueError:
        raise BadQuestionError("day: expected one such as 2026-01-31") from None
    verdict = _one_of(asked, "status", (*get_args(Status), "found"))
    return Filter(
        before=_number(asked, "before", None),
        status=None if verdict == "found" else verdict,
        found=True if verdict == "found" else None,
        model=_text(asked, "model") or None,
        rule=_text(asked, "rule") or None,
        text=_text(asked, "text") or None,
        day=date,
    )


def _text(asked: Asked, name: str) -> str:
    value = asked.get(name, "")
    if len(value) > _LONGEST or "\0" in value or not _is_unicode(value):
        raise BadQuestionError(f"{name}: expected a text of at most {_LONGEST} characters")
    return value


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _one_of(asked: Asked, name: str, values: Sequence[str]) -> str | None:
    value = _text(asked, name)
    if value and value not in values:
        raise BadQuestionError(f"{name}: expected one of {', '.join(values)}")
    return value or None


def _number[T: (int, None)](asked: Asked, name: str, default: T) -> int | T:
    value = asked.get(name, "")
    if not value:
        return default
    if not value.isascii() or not value.isdecimal() or len(value) > 15:
        raise BadQuestionError(f"{name}: expected a number")
    return int(value)


def _member(order: Any, name: Literal["request_id", "rule", "id"]) -> str:
    value = order.get(name) if isinstance(order, dict) else None
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST:
        raise BadQuestionError(f"{name}: expected a text of at most {_LONGEST} characters")
    return value
