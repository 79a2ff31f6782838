r"""Guardrails and parameters out of a request's headers.

A header is one line, so a rule text is written with Python's escapes (`\n`, `\u00e9`), as for
invariant-gateway. What is not an escape stays what it is: text in UTF-8 needs none, and neither
does the `\d` of a regular expression. Whether the text is a valid policy is the engine's to say.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata

import orjson

from ..core.errors import InvariantError
from ..core.verdict import Action, Guardrail

RULES = "Invariant-Guardrails"
PARAMETERS = "Invariant-Guardrails-Parameters"

RULES_LIMIT = 64 * 1024
"""Bytes of the header as it was sent; no escape is shorter than what it stands for."""
PARAMETERS_LIMIT = 16 * 1024
DEPTH_LIMIT = 32
"""Lists and objects in one another. A rule reads the top; a deep one is only there to break us."""

_ESCAPE = re.compile(
    r"""\\(?:
      (?P<plain>[\n\\'"abfnrtv])
    | (?P<octal>[0-7]{1,3})
    | x(?P<x>[0-9a-fA-F]{2}) | u(?P<u>[0-9a-fA-F]{4}) | U(?P<U>[0-9a-fA-F]{8})
    | N\{(?P<name>[^{}]{1,100})\}
    | (?P<broken>[xuUN]|\Z)
    )""",
    re.VERBOSE,
)
_PLAIN: dict[str, str] = dict(zip("\n\\'\"abfnrtv", ["", *"\\'\"\a\b\f\n\r\t\v"], strict=True))


class HeaderError(InvariantError):
    """A request header cannot be used: which one, and why. It does not quote the value."""

    def __init__(self, header: str, reason: str) -> None:
        super().__init__(f"{header}: {reason}")
        self.header = header


def read_rules(value: str) -> str:
    """The rule text that this header value stands for. Raises HeaderError.

    value: as mitmproxy gives it: UTF-8, what is none of it as surrogates.
    """
    _check(RULES, value, RULES_LIMIT, "or escaped")
    text = _ESCAPE.sub(_unescape, value)
    try:
        # A pair of \ud83d\ude00 is how JSON writes one character.
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError:
        raise HeaderError(RULES, "an escape stands for half a character") from None


def escape(text: str) -> str:
    """A header value, in ASCII, that `read_rules` reads as this text. Raises HeaderError.

    Spaces at the ends are escaped, too: HTTP does not keep them.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise HeaderError(RULES, f"half a character at {error.start}") from None
    value = text.encode("unicode_escape").decode("ascii")
    if value.startswith(" "):
        value = r"\x20" + value[1:]
    if value.endswith(" "):
        value = value[:-1] + r"\x20"
    return value


def guardrail(text: str) -> Guardrail:
    """What a client demands of its own call. Raises HeaderError if there is no text."""
    if not text.strip():
        raise HeaderError(RULES, "the header is empty")
    return Guardrail(
        id=hashlib.sha256(f"header\0{text}".encode()).hexdigest()[:16],
        name="request header",
        text=text,
        action=Action.BLOCK,
        source="header",
    )


def read_parameters(value: str) -> dict[str, object]:
    """What rules read as `input.<key>`: a JSON object. Raises HeaderError.

    `data` and names with a leading underscore are not the client's to set.
    """
    _check(PARAMETERS, value, PARAMETERS_LIMIT, r"or with JSON's \u escapes")
    try:
        read = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise HeaderError(PARAMETERS, f"not JSON at character {error.pos}") from None
    if not isinstance(read, dict):
        raise HeaderError(PARAMETERS, "expected a JSON object")
    for key in read:
        if key == "data" or key.startswith("_"):
            raise HeaderError(PARAMETERS, f"the key {key[:40]!r} is reserved")
    if _is_deep(read, DEPTH_LIMIT):
        raise HeaderError(PARAMETERS, f"nested more than {DEPTH_LIMIT} deep")
    return read


def _check(header: str, value: str, limit: int, otherwise: str) -> None:
    try:
        size = len(value.encode())
    except UnicodeEncodeError as error:
        where = len(value[: error.start].encode())
        reason = f"not UTF-8 at byte {where}; send it in UTF-8 {otherwise}"
        raise HeaderError(header, reason) from None
    if size > limit:
        raise HeaderError(header, f"larger than {limit} bytes")


def _unescape(match: re.Match[str]) -> str:
    if plain := match["plain"]:
        return _PLAIN[plain]
    if octal := match["octal"]:
        return chr(int(octal, 8))
    if name := match["name"]:
        try:
            return str(unicodedata.lookup(name))
        except KeyError:
            raise _unfinished(match) from None
    digits: str | None = match["x"] or match["u"] or match["U"]
    if digits is None or int(digits, 16) > 0x10FFFF:
        raise _unfinished(match)
    return chr(int(digits, 16))


def _unfinished(match: re.Match[str]) -> HeaderError:
    sort = match[0][:2]
    return HeaderError(RULES, f"the escape {sort} at character {match.start()} is not one")


def _is_deep(value: object, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    if levels == 0:
        return True
    inner = value.values() if isinstance(value, dict) else value
    return any(_is_deep(v, levels - 1) for v in inner)
