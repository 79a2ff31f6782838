"""The strings of a JSON text where they stand, and edits written back into it.

What is not edited stays byte for byte: the order of keys, spaces, the spelling of numbers, keys
that come twice, escapes. It reads what `json_text.decode` has read and checks nothing again. No
recursion: the nesting is the sender's choice.
"""

from __future__ import annotations

import codecs
import json
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+"|[{}\[\]:,]|[^\s"{}\[\]:,]++', re.DOTALL)
_ESCAPE = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\.", re.DOTALL
)
_RUN = r"(?:\\(?:u005[cC])?)++"
_LENIENT_ESCAPE = re.compile(
    rf"{_RUN}(?:u[dD][89abAB][0-9a-fA-F]{{2}}{_RUN}u[dD][c-fC-F][0-9a-fA-F]{{2}}"
    r"|u[0-9a-fA-F]{4}|[bfnrt])?"
)
_UNITS = re.compile(r"u(?!005[cC])([0-9a-fA-F]{4})(?:(?:\\(?:u005[cC])?)++u([0-9a-fA-F]{4}))?\Z")
_SHORT = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_BOMS = (  # the longer first: UTF-32's begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


class Token(NamedTuple):
    """A key, a string, or another value that is no list and no object (a number, `null`).

    path: the keys (str) and positions (int) that lead to it. The list is the scanner's own and
    changes with the next token.
    """

    start: int
    end: int
    path: list[str | int]
    is_key: bool
    is_string: bool


class Edit(NamedTuple):
    """Put `text` in the place of the characters from start to end."""

    start: int
    end: int
    text: str


class Unescaped(NamedTuple):
    """A text without its escapes. place: where one of its characters begins in the original."""

    text: str
    place: Callable[[int], int]


def read(body: bytes) -> tuple[str, Callable[[str], bytes]]:
    """The text of a JSON body as Python's `json` reads it, and what makes a body of a text."""
    marked = (pair for pair in _BOMS if body.startswith(pair[0]))
    bom, encoding = next(marked, (b"", json.detect_encoding(body)))
    text = body[len(bom) :].decode(encoding, "surrogatepass")
    return text, lambda changed: bom + changed.encode(encoding, "surrogatepass")


def tokens(text: str) -> Iterator[Token]:
    """All keys, strings and other plain values, in order."""
    path: list[str | int] = []
    awaits_key = False
    for found in _TOKEN.finditer(text):
        start, end = found.span()
        match text[start]:
            case '"':
                if awaits_key and path:
                    path[-1] = value_of(text[start:end])
                yield Token(start, end, path, awaits_key, is_string=True)
            case "{":
                path.append("")
                awaits_key = True
            case "[":
                path.append(0)
                awaits_key = False
            case "}" | "]":
                if path:
                    path.pop()
                awaits_key = False
            case ",":
                last = path[-1] if path else ""
                if isinstance(last, int):
                    path[-1] = last + 1
                else:
                    awaits_key = True
            case ":":
                awaits_key = False
            case _:
                yield Token(start, end, path, is_key=False, is_string=False)


def value_of(token: str) -> str:
    """What a JSON string, quotes included, stands for."""
    return token[1:-1] if "\\" not in token else str(json.loads(token))


def quoted(text: str) -> str:
    """A text as it stands between the quotes of a JSON string."""
    return json.dumps(text)[1:-1]


def edits_of_string(text: str, start: int, end: int, edits: Iterable[Edit]) -> Iterator[Edit]:
    """Edits of the value of the string at start..end, as edits of the JSON text around it."""
    raw = text[start + 1 : end - 1]
    place: Callable[[int], int] | None = None
    for edit in edits:
        if place is None:  # one character for each escape: which one does not matter
            place = _unescaped(raw, _ESCAPE, lambda _: "x").place if "\\" in raw else int
        first, last = start + 1 + place(edit.start), start + 1 + place(edit.end)
        yield Edit(first, last, quoted(edit.text))


def edited(text: str, edits: Iterable[Edit]) -> str:
    """The text with these edits, which are in order and do not overlap."""
    pieces: list[str] = []
    done = 0
    for edit in edits:
        pieces += text[done : edit.start], edit.text
        done = edit.end
    return "".join((*pieces, text[done:]))


def leniently_unescaped(text: str) -> Unescaped:
    """Without JSON's escapes, however often the text was escaped, and without backslashes.

    Texts that differ in nothing but escapes become equal; a few others do as well.
    """
    return _unescaped(text, _LENIENT_ESCAPE, _meaning) if "\\" in text else Unescaped(text, int)


def _unescaped(raw: str, escapes: re.Pattern[str], meaning_of: Callable[[str], str]) -> Unescaped:
    pieces: list[str] = []
    froms, tos = [0], [0]  # from here on, plain text: its places without and with escapes
    length = done = 0
    for found in escapes.finditer(raw):
        start, end = found.span()
        meaning = meaning_of(found[0])
        pieces += raw[done:start], meaning
        length += start - done
        froms += length, length + len(meaning)
        tos += start, end
        length, done = length + len(meaning), end
    pieces.append(raw[done:])

    def place(index: int) -> int:
        nearest = bisect_right(froms, index) - 1
        return tos[nearest] + index - froms[nearest]

    return Unescaped("".join(pieces), place)


def _meaning(escape: str) -> str:
    """A run of backslashes alone is nothing."""
    if found := _UNITS.search(escape):
        units = [int(unit, 16) for unit in found.groups() if unit]
        if len(units) == 1:
            return chr(units[0])
        return chr(0x10000 + ((units[0] - 0xD800) << 10) + units[1] - 0xDC00)
    return _SHORT.get(escape[-1], "")
