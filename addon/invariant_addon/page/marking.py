"""A text and what was found in it -> pieces, each with the findings that are about it.

Ranges count code points (core.verdict), and the page gets pieces, not numbers: so nothing has to
be counted again in UTF-16. Of a text that is too long, its ends and what is around the findings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ..core.trace import Json

LONGEST = 20_000
_AROUND = 400
_MAX_RANGES = 300
_PLACEHOLDER = re.compile(r"\[masked:([^\]\s]{1,200}):[0-9a-f]{8}\]")


@dataclass(frozen=True, slots=True)
class Range:
    """Characters start..end, and the finding that is about them."""

    start: int
    end: int
    finding: str


def pieces(
    text: str,
    ranges: Sequence[Range] = (),
    *,
    withheld_from: int | None = None,
    masked: frozenset[str] = frozenset(),
    longest: int | None = LONGEST,
) -> list[dict[str, Json]]:
    """`{"t": text}`, and where it is so: `"m"`: findings, `"w"`: the client did not get it, `"k"`:
    in its place was something that this rule masked. `{"cut": n}`: so many characters are left out.

    masked: the names of rules that masked something. longest: of how many characters nothing is
    left out; None: of any.
    """
    ranges = [r for r in ranges if 0 <= r.start < r.end <= len(text)][:_MAX_RANGES]
    found: list[dict[str, Json]] = []
    at = 0
    for start, end in _windows(len(text), ranges, longest):
        if start > at:
            found.append({"cut": start - at})
        found += _marked(text, start, end, ranges, withheld_from, masked)
        at = end
    return found


def _windows(
    length: int, ranges: Sequence[Range], longest: int | None
) -> Iterator[tuple[int, int]]:
    if longest is None or length <= longest:
        yield 0, length
        return
    wanted = [(0, longest * 2 // 5), (length - longest // 10, length)]
    wanted += [(max(r.start - _AROUND, 0), min(r.end + _AROUND, length)) for r in ranges]
    start, end = 0, 0
    for first, last in sorted((a, min(b, a + longest)) for a, b in wanted):
        if first > end:
            yield start, end
            start, end = first, last
        end = max(end, last)
    yield start, end


def _marked(
    text: str,
    start: int,
    end: int,
    ranges: Sequence[Range],
    withheld_from: int | None,
    masked: frozenset[str],
) -> Iterator[dict[str, Json]]:
    holes = [
        (found.start(), found.end(), found[1])
        for found in _PLACEHOLDER.finditer(text, start, end)
        if found[1] in masked
    ][:_MAX_RANGES]
    cuts = {start, end}
    cuts |= {edge for r in ranges for edge in (r.start, r.end) if start < edge < end}
    cuts |= {edge for first, last, _ in holes for edge in (first, last)}
    if withheld_from is not None and start < withheld_from < end:
        cuts.add(withheld_from)
    edges = sorted(cuts)
    for first, last in pairwise(edges):
        piece: dict[str, Json] = {"t": text[first:last]}
        if about := [r.finding for r in ranges if r.start <= first and last <= r.end]:
            piece["m"] = list(dict.fromkeys(about))
        if hole := [name for a, b, name in holes if a <= first and last <= b]:
            piece["k"] = hole[0]
        if withheld_from is not None and first >= withheld_from:
            piece["w"] = True
        yield piece
