"""Mutes: a person lets pass, for a while, what a rule found in one conversation, or one finding.

It goes by files in a private folder, so no program can mute anything by what it sends through the
proxy. The proxy notes what it refused in `refusals.jsonl`, the command line writes `mutes.json`,
and the proxy reads it again when it has changed. Neither has any text of a conversation in it, only
fingerprints, which nobody can tell a text from without `key`. A rule as a whole is known by its id.

A finding is muted for what was found, wherever it is; a conversation by its opening, which all its
turns have in common. A rule whose text was changed is another rule. Whatever is wrong with a file:
one warning, and nothing is muted.
"""

from __future__ import annotations

import hmac
import json
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from ..core.conversation import Conversation, Message
from ..core.errors import InvariantError
from ..core.located import Arguments, plain_arguments
from ..core.refusal import Phase
from ..core.verdict import Violation
from . import private
from .fingerprints import Fingerprints
from .private import PrivateFileError
from .refusals import BEGINNING, Finding, Refusals, RefusedCall, is_named

logger = logging.getLogger(__name__)

type Scope = Literal["conversation", "finding", "rule"]
"""Of a rule that is muted as a whole it is said what it would have blocked: it is on trial."""

MAX_SECONDS = 366 * 86400
_MAX_VIOLATIONS = 50
_LOCK_SECONDS = 5.0


class MuteError(InvariantError):
    """Nothing was muted or unmuted: why, for the person who asked for it."""


@dataclass(frozen=True, slots=True)
class Mute:
    """guardrail: its name; guardrail_id: what it is known by. until, since: seconds since 1970.

    request_id: of the refusal that it goes back to. words: the rule's own.
    """

    id: str
    scope: Scope
    guardrail_id: str
    guardrail: str
    fingerprint: str
    request_id: str
    words: str
    since: float
    until: float

    @property
    def on_trial(self) -> bool:
        return self.scope == "rule"


class Mutes:
    """What is muted, and what could be. Of one folder, which several programs may share.

    key: from fingerprints.load_key. arguments: how the engine reads a call's arguments.
    """

    def __init__(
        self,
        folder: Path,
        key: bytes,
        clock: Callable[[], float] = time.time,
        *,
        arguments: Arguments = plain_arguments,
    ) -> None:
        self._folder = folder
        self._clock = clock
        self._fingerprints = Fingerprints(key, arguments)
        self._refusals = Refusals(folder)
        self._mutes = folder / "mutes.json"
        self._known: tuple[Mute, ...] = ()
        self._seen: tuple[int, ...] | None = None
        self._warned: set[str] = set()

    # -- the proxy --------------------------------------------------------------------------

    def record(
        self,
        request_id: str,
        phase: Phase,
        conversation: Conversation,
        messages: Sequence[Message],
        violations: Sequence[Violation],
    ) -> None:
        """Note what was refused, so that a person can mute it. Never raises.

        messages: those that addresses count over, of the request and the reply.
        """
        found = (
            Finding(
                guardrail_id=violation.guardrail.id,
                guardrail=violation.guardrail.name,
                words=violation.message[:300],
                finding=self._fingerprints.finding(violation, conversation, messages),
            )
            for violation in violations[:_MAX_VIOLATIONS]
        )
        opening = self._fingerprints.opening(conversation)
        call = RefusedCall(request_id, opening, tuple(found))
        try:
            self._refusals.add(call, time=round(self._clock(), 3), phase=phase)
        except (PrivateFileError, OSError) as error:
            self._warn("refusals", f"refusals cannot be noted, so none can be muted: {error}")
        else:
            self._warned.discard("refusals")

    def covers(
        self, violation: Violation, conversation: Conversation, messages: Sequence[Message]
    ) -> Mute | None:
        """The mute that lets this violation pass. Never raises."""
        self._refresh()
        now = self._clock()
        candidates = [
            m for m in self._known if m.guardrail_id == violation.guardrail.id and now < m.until
        ]
        if not candidates:
            return None
        marks = {
            "conversation": self._fingerprints.opening(conversation),
            "finding": self._fingerprints.finding(violation, conversation, messages),
            "rule": violation.guardrail.id,
        }
        for mute in candidates:
            # As bytes: of a text it takes ASCII alone.
            if hmac.compare_digest(mute.fingerprint.encode(), marks[mute.scope].encode()):
                return mute
        return None

    # -- the command line -------------------------------------------------------------------

    def mute(
        self, request_id: str, *, scope: Scope, seconds: float, guardrail: str | None = None
    ) -> tuple[Mute, ...]:
        """Mute what this refusal was for; with a guardrail's name, only what that one found.

        Raises MuteError.
        """
        if not 0 < seconds <= MAX_SECONDS:
            raise MuteError(f"got {seconds:g} seconds, expected 1 second to 366 days")
        refusal = self._refusal(request_id)
        found = refusal.violations
        if not found:
            raise MuteError(f"{request_id} was refused for want of a verdict, not by a rule")
        if guardrail is not None:
            names = ", ".join(sorted({v.guardrail for v in found}))
            found = tuple(v for v in found if v.guardrail == guardrail)
            if not found:
                raise MuteError(f"{request_id} was not refused by {guardrail}, but by {names}")
        now = self._clock()
        new: dict[tuple[str, str], Mute] = {}
        for violation in found:
            marks = {
                "conversation": refusal.conversation,
                "finding": violation.finding,
                "rule": violation.guardrail_id,
            }
            mark = marks[scope]
            new[violation.guardrail_id, mark] = Mute(
                id=f"mute_{secrets.token_hex(4)}",
                scope=scope,
                guardrail_id=violation.guardrail_id,
                guardrail=violation.guardrail,
                fingerprint=mark,
                request_id=refusal.request_id,
                words=violation.words,
                since=now,
                until=now + seconds,
            )

        def change(known: Iterable[Mute]) -> Iterable[Mute]:
            kept = (m for m in known if (m.guardrail_id, m.fingerprint) not in new)
            return (*kept, *new.values())

        self._change(change)
        return tuple(new.values())

    def list(self) -> tuple[Mute, ...]:
        """What is muted now, the next to expire first. Raises MuteError."""
        return tuple(sorted(self._alive(), key=lambda mute: mute.until))

    def unmute(self, mute_id: str) -> tuple[Mute, ...]:
        """Take back a mute, or all that go back to a request id. Raises MuteError."""
        gone: dict[str, Mute] = {}

        def change(known: Iterable[Mute]) -> Iterable[Mute]:
            gone.update(
                (m.id, m) for m in known if mute_id == m.id or is_named(m.request_id, mute_id)
            )
            return (m for m in known if m.id not in gone)

        self._change(change)
        if not gone:
            if mute_id.startswith("inv_") and len(mute_id) < BEGINNING:
                raise MuteError(_short(mute_id))
            raise MuteError(f"nothing is muted under {mute_id}; scripts/rules mutes has the ids")
        return tuple(gone.values())

    # -- files ------------------------------------------------------------------------------

    def _refusal(self, request_id: str) -> RefusedCall:
        try:
            found = self._refusals.find(request_id)
        except PrivateFileError as error:
            raise MuteError(str(error)) from error
        if found is None and request_id.startswith("inv_") and len(request_id) < BEGINNING:
            raise MuteError(_short(request_id))
        if found is None:
            raise MuteError(
                f"{request_id} is not among the last refusals in {self._folder}; "
                "the id is in the refusal's details.request_id and begins with inv_"
            )
        return found

    def _change(self, change: Callable[[Iterable[Mute]], Iterable[Mute]]) -> None:
        try:
            private.make_folder(self._folder)
            with private.locked(self._folder / "lock", seconds=_LOCK_SECONDS) as mine:
                if not mine:
                    raise MuteError(f"another program holds {self._folder / 'lock'}; try again")
                mutes = change(self._alive())
                text = json.dumps({"mutes": [asdict(mute) for mute in mutes]}, indent=1)
                private.replace(self._mutes, text.encode() + b"\n")
        except PrivateFileError as error:
            raise MuteError(str(error)) from error

    def _alive(self) -> tuple[Mute, ...]:
        now = self._clock()
        try:
            return tuple(mute for mute in self._read() if now < mute.until)
        except PrivateFileError as error:
            raise MuteError(str(error)) from error

    def _read(self) -> tuple[Mute, ...]:
        """Raises PrivateFileError."""
        data = private.read(self._mutes)
        if data is None:
            return ()
        private.check_folder(self._folder)
        try:
            return tuple(_mute(entry) for entry in json.loads(data)["mutes"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise PrivateFileError(f"{self._mutes}: not a list of mutes; remove it") from error

    def _refresh(self) -> None:
        """Read the mutes again if the file has changed."""
        try:
            status = os.stat(self._mutes, follow_symlinks=False)  # noqa: PTH116  # one call
            seen = (status.st_mtime_ns, status.st_size, status.st_ino, status.st_ctime_ns)
        except OSError:
            self._seen, self._known = None, ()
            return
        if seen == self._seen:
            return
        before = {mute.id for mute in self._known}
        self._seen, self._known = seen, ()
        try:
            self._known = self._read()
        except PrivateFileError as error:
            self._warn("mutes", f"nothing is muted: {error}")
            return
        self._warned.discard("mutes")
        for mute in self._known:
            if mute.id not in before and self._clock() < mute.until:
                minutes = (mute.until - self._clock()) / 60
                what = "everywhere" if mute.on_trial else f"for one {mute.scope}"
                logger.warning(
                    "muted %s %s, for %.0f minutes (%s, after %s)",
                    *(mute.guardrail, what, minutes, mute.id, mute.request_id),
                )

    def _warn(self, what: str, text: str) -> None:
        """Once, until it is well again."""
        if what not in self._warned:
            self._warned.add(what)
            logger.warning("%s", text)


def _short(request_id: str) -> str:
    return f"{request_id} is too short; give at least {BEGINNING} characters of the request id"


def _mute(entry: Any) -> Mute:
    """Raises ValueError, KeyError or TypeError."""
    mute = Mute(**entry)
    numbers = (mute.since, mute.until)
    texts = (mute.id, mute.guardrail_id, mute.guardrail, mute.fingerprint, mute.request_id)
    if mute.scope not in get_args(Scope.__value__) or not all(
        isinstance(text, str) and text for text in texts
    ):
        raise ValueError("not a mute")
    if not all(type(number) in (int, float) for number in numbers):
        raise ValueError("not a time")
    if not (isinstance(mute.words, str) and mute.fingerprint.isascii()):
        raise ValueError("not a mute")
    return mute
