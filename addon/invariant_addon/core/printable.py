"""Text of others -> text that may stand in a line of a log.

A terminal obeys control characters, and a line ends at one: whoever writes an address, a header or
a rule's words could else hide what the log says, or say something in its name.
"""

from __future__ import annotations

MAX_CHARACTERS = 2000


def printable(text: str) -> str:
    """Each character that cannot be printed becomes "?"; what is too long is cut."""
    if len(text) > MAX_CHARACTERS:
        text = text[:MAX_CHARACTERS] + "..."
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)
