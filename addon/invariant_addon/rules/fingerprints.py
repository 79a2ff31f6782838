"""Conversations and findings -> fingerprints, from which nobody can tell a text without the key."""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
from collections.abc import Sequence
from pathlib import Path

from ..core.conversation import Conversation, Message
from ..core.located import Arguments, canonical, matched, plain_arguments
from ..core.verdict import Violation, most_specific
from . import private
from .private import PrivateFileError

logger = logging.getLogger(__name__)

KEY_BYTES = 32


def load_key(folder: Path) -> bytes:
    """The key for fingerprints and placeholders, made when it is first asked for.

    If it cannot be kept, a new one with a warning: placeholders change with the next start then,
    and what was muted is not.
    """
    path = folder / "key"
    try:
        private.make_folder(folder)
        for _ in range(2):
            key = private.read(path, forbidden=0o077)
            if key is not None and len(key) == KEY_BYTES:
                return key
            if key is not None:
                raise PrivateFileError(f"{path}: not a key of {KEY_BYTES} bytes; remove it")
            private.create(path, secrets.token_bytes(KEY_BYTES))
    except PrivateFileError as error:
        logger.warning("the key for this run is not kept: %s", error)
    return secrets.token_bytes(KEY_BYTES)


class Fingerprints:
    """key: from load_key. arguments: how the engine reads a call's arguments."""

    def __init__(self, key: bytes, arguments: Arguments = plain_arguments) -> None:
        self._key = key
        self._arguments = arguments

    def opening(self, conversation: Conversation) -> str:
        return self._fingerprint("conversation", *map(canonical, _opening(conversation)))

    def finding(
        self, violation: Violation, conversation: Conversation, messages: Sequence[Message]
    ) -> str:
        found: set[bytes] = set()
        for address in most_specific(violation.addresses):
            if not 0 <= address.message < len(messages):
                continue
            message = messages[address.message]
            texts = matched(message, address, self._arguments)
            found |= {b"text " + t.encode("utf-8", "surrogatepass") for t in texts} or {
                b"message " + canonical(message)
            }
        if not found:
            found = {b"opening " + canonical(message) for message in _opening(conversation)}
        return self._fingerprint("finding", violation.guardrail.id.encode(), *sorted(found))

    def _fingerprint(self, kind: str, *pieces: bytes) -> str:
        made = hmac.new(self._key, kind.encode(), hashlib.sha256)
        for piece in pieces:
            made.update(b"%d:" % len(piece))
            made.update(piece)
        return made.hexdigest()[:32]


def _opening(conversation: Conversation) -> tuple[Message, ...]:
    """Up to and including the first message of the user; of none, up to the first that is not
    the system's. No later turn changes it."""
    messages = conversation.messages
    for last in (lambda m: m.role == "user", lambda m: m.role not in ("system", "developer")):
        for index, message in enumerate(messages):
            if last(message):
                return messages[: index + 1]
    return messages
