"""Where a text that is still growing may be cut.

The unfinished word at the end is held back: half a key, a token, an address or a name is never
delivered. Scripts that put no spaces between words have no such end, so they flow.
"""

from __future__ import annotations

import re

from .draft import TextChannel

LONGEST = 4096
"""Characters of an unfinished word that are held at most."""

# Letters of scripts that separate words by spaces (Latin, Greek, Cyrillic and their marks),
# digits, and what joins the parts of keys, JWTs, addresses and paths.
_WORD_END = re.compile(r"[0-9A-Za-z\u00aa-\u024f\u0300-\u052f\u1e00-\u1fff_\-./+=@:%~]*\Z")
_WINDOWS = (64, 512, LONGEST)


def settled_length(channel: TextChannel, holdback: int = 0) -> int:
    """How many characters of the channel can no longer change their meaning by what follows.

    holdback: characters to hold at the end in any case. A closed channel is settled as a whole.
    """
    if channel.closed or channel.atomic:
        return channel.length
    return max(0, channel.length - max(_unfinished(channel), holdback))


def settled_before(channel: TextChannel, end: int) -> int:
    """How many characters come before the word that holds, or touches, position `end`."""
    head = TextChannel(channel.kind)
    head.append(channel.text()[:end])
    return head.length - _unfinished(head)


def _unfinished(channel: TextChannel) -> int:
    """Length of the word at the very end."""
    unfinished = 0
    for window in _WINDOWS:
        tail = channel.tail(window)
        found = _WORD_END.search(tail)
        unfinished = len(tail) - found.start() if found else 0
        if unfinished < window:
            break
    return unfinished
