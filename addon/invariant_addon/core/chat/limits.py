"""How much of a chat body is read: counts beyond which it is not understood.

Real traffic stays far below. A body above costs far more to judge than to send, so it would keep
the proxy busy for everybody; and cut short, what was left out would pass unjudged. So
NotUnderstoodError is raised, and invariant_on_failure decides.
"""

from __future__ import annotations

from ..errors import NotUnderstoodError

MAX_MESSAGES = 10_000
"""Messages of a request. A message takes a few bytes on the wire and some 600 in the model
(3 MB of `{}` became 587 MB); ten thousand turns fill no context window that there is."""

MAX_PARTS = 1_000
"""Parts of a message: OpenAI takes at most 1,500 images in a request, and few texts."""

MAX_CALLS = 512
"""Tool calls of a message, and pieces of calls in one chunk. OpenAI takes 128 tools."""

MAX_CHOICES = 128
"""Choices of a reply: the greatest `n` that OpenAI's API takes."""

MAX_INDEX = 2**53
"""Of a streamed choice: what JavaScript tells from its neighbours. Numbers beyond are ours
(aside.KEY)."""

MAX_UNKNOWN_CHANNELS = 16
"""Texts of a streamed choice under keys that nobody knows; further keys share one text. Each
text is looked at by each event, and a vendor has two or three of them."""

MAX_ASIDES = 65_536
"""Different comments, ids and errors of one stream: a vendor may number its events by words."""


def check_count(count: int, limit: int, what: str) -> None:
    """Raise NotUnderstoodError if there are more than `limit` of `what`."""
    if count > limit:
        raise NotUnderstoodError(f"{count} {what}, more than {limit}")
