"""Malformed arguments, as a lenient client would read them.

Agents repair what models write: they take off fences, add a missing brace, decode twice. A rule
about `arguments["path"]` must see the path that such a client would act on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from .frames import Json

_LONGEST = 2**18
"""Characters; a longer text is not repaired (the rules still see it as it is)."""
_FENCE = re.compile(r"^```[a-zA-Z]*\s*|\s*```$")
_TRAILING_COMMA = re.compile(r",(?=\s*[}\]])")
_ENDINGS = ("", "}", '"}', '"]}', "]}", "}}", '"}}')


def repaired(text: str) -> dict[str, Json]:
    """The object that it may be meant to be; {} if it is beyond repair. Never raises."""
    if len(text) > _LONGEST:
        return {}
    for candidate in _candidates(text):
        try:
            found = _object(json.loads(candidate, strict=False, parse_int=_int))
        except (ValueError, RecursionError):
            continue
        if found:
            return {key: value for key, value in found.items() if isinstance(value, str)}
    return {}


def _candidates(text: str) -> Iterator[str]:
    plain = _FENCE.sub("", text.strip("\ufeff \t\r\n"))
    for base in dict.fromkeys((plain, _TRAILING_COMMA.sub("", plain))):
        for ending in _ENDINGS:
            yield base + ending


def _object(value: Json) -> dict[str, Json]:
    """The object in a text that was encoded twice, or in a list."""
    for _ in range(2):
        if isinstance(value, str):
            value = json.loads(value, strict=False, parse_int=_int)
        if isinstance(value, list):
            value = next((v for v in value if isinstance(v, dict)), None)
    return value if isinstance(value, dict) else {}


def _int(digits: str) -> Json:
    return digits if len(digits) > 4000 else int(digits)
