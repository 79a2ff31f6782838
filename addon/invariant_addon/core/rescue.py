"""The clean text in front of a violation: how far it reaches.

What is delivered of a refused reply should not depend on how fast it came. So the part before the
violation is found here, judged once more for itself, and delivered if it is clean.
"""

from __future__ import annotations

from .aside import KEY
from .draft import Lengths, Merger, Need
from .tokens import settled_before
from .verdict import Violation, most_specific

_CONTENT = ("text", "refusal", "transcript")


def is_within(need: Need, lengths: Lengths) -> bool:
    return need.channel is not None and need.length <= lengths.get((need.choice, need.channel), 0)


def lengths_before(
    merger: Merger,
    settled: Lengths,
    violations: tuple[Violation, ...],
    first: int,
) -> Lengths | None:
    """How far the texts reach in front of all violations; None if nobody can tell.

    settled: how far they reach at all. first: the index of the reply's message, as addresses count.
    """
    # An address does not say which choice it means.
    if merger.alternatives and len(merger.choices.keys() - {KEY}) != 1:
        return None
    cut: int | None = None
    for violation in violations:
        here = [a for a in most_specific(violation.addresses) if a.message >= first]
        for address in here:
            if address.path.startswith("tool_calls"):
                continue
            if address.path != "content" or address.start is None:
                return None
            cut = address.start if cut is None else min(cut, address.start)
        if not here:
            return None
    return settled if cut is None else _shortened(merger, settled, cut)


def _shortened(merger: Merger, settled: Lengths, cut: int) -> Lengths:
    """Cut the texts that make up a message's content (Message.text) at this position."""
    lengths = dict(settled)
    offset = 0
    for key, choice in merger.choices.items():
        for name, channel in choice.channels.items():
            if channel.kind not in _CONTENT:
                continue
            if cut < offset + channel.length:
                before = settled_before(channel, max(0, cut - offset))
                lengths[key, name] = min(lengths[key, name], before)
            offset += channel.length + 1  # joined by a line end
    return lengths
