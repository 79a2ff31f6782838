"""How much of a call was read: what rules cannot read in it, in words."""

from __future__ import annotations

from collections.abc import Iterable

from .conversation import Message

_WORDS = {"image": "pictures", "audio": "sound", "file": "files"}


def unread(messages: Iterable[Message]) -> str:
    """What of these messages no rule can read ("pictures, files"); "" if all of it was read.

    Sound with a transcript was read.
    """
    found: set[str] = set()
    for message in messages:
        kinds = {part.kind for part in message.parts}
        if "transcript" in kinds:
            kinds.discard("audio")
        found |= kinds & _WORDS.keys()
    return ", ".join(word for kind, word in _WORDS.items() if kind in found)
