"""How an endpoint is guarded: (method, path) -> Endpoint.

A server may read a path more leniently than it is written: percent-encoding (twice), `;parameters`,
dot segments, repeated slashes, letter case. So every reading of it is looked up, and the strictest
answer counts: another spelling of a guarded path is guarded or unknown, and never harmless.
"""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections.abc import Iterator, Mapping
from enum import StrEnum
from types import MappingProxyType
from urllib.parse import unquote

from . import api_paths


class Endpoint(StrEnum):
    """CHAT, RESPONSES, COMPLETIONS: a conversation, in a dialect of its own (dialects.py).
    STORED_RESPONSE: a response that was made before, asked for by its id, or cancelled.

    TEXT, TEXT_IN, TEXT_OUT: the texts of the request and the reply, of one of them, are judged
    (texts.py); whatever body a request has is judged. MEDIA: as TEXT_IN, and its reply is sound or
    pictures. HARMLESS: no model reads or writes there. UNKNOWN: invariant_unknown decides.
    HEALTH: our own.
    """

    CHAT = "chat.completions"
    RESPONSES = "responses"
    STORED_RESPONSE = "responses.stored"
    COMPLETIONS = "completions"
    TEXT = "text"
    TEXT_IN = "text in"
    TEXT_OUT = "text out"
    MEDIA = "media"
    HARMLESS = "harmless"
    UNKNOWN = "unknown"
    HEALTH = "invariant.health"

    @property
    def is_dialect(self) -> bool:
        return self in _DIALECTS

    @property
    def judges_reply(self) -> bool:
        return self in (Endpoint.TEXT, Endpoint.TEXT_OUT) or self in _DIALECTS


_DIALECTS = (
    Endpoint.CHAT,
    Endpoint.RESPONSES,
    Endpoint.STORED_RESPONSE,
    Endpoint.COMPLETIONS,
)
HEALTH_PATH = "/.invariant/health"

type _Pattern = tuple[tuple[str, ...], Endpoint]


def _read_table() -> Mapping[tuple[str, str], tuple[_Pattern, ...]]:
    """By method and first segment: patterns, those with fewer wildcards first."""
    tables = (
        (api_paths.CHAT, Endpoint.CHAT),
        (api_paths.RESPONSES, Endpoint.RESPONSES),
        (api_paths.STORED_RESPONSE, Endpoint.STORED_RESPONSE),
        (api_paths.COMPLETIONS, Endpoint.COMPLETIONS),
        (api_paths.TEXT_IN, Endpoint.TEXT_IN),
        (api_paths.TEXT_OUT, Endpoint.TEXT_OUT),
        (api_paths.TEXT, Endpoint.TEXT),
        (api_paths.MEDIA, Endpoint.MEDIA),
        (api_paths.HARMLESS, Endpoint.HARMLESS),
        (api_paths.UNKNOWN, Endpoint.UNKNOWN),
    )
    found: dict[tuple[str, str], list[_Pattern]] = {}
    for table, endpoint in tables:
        for line in table.split("\n"):
            if line:
                method, path = line.split()
                pattern = tuple(path.split("/"))
                found.setdefault((method, pattern[0]), []).append((pattern, endpoint))
    for patterns in found.values():
        patterns.sort(key=lambda item: (item[0].count("**"), item[0].count("{}")))
    return MappingProxyType({key: tuple(patterns) for key, patterns in found.items()})


_TABLE = _read_table()
_BASES = (("v1",), ("openai", "v1"), ("api", "v1"), ("openai",), ())
"""What comes before a path: OpenAI's; Azure's new and old ones; other vendors'."""
_AZURE = ("openai", "deployments")  # and the deployment's name
_ENDINGS = (
    (("chat", "completions"), Endpoint.CHAT),
    (("responses",), Endpoint.RESPONSES),
    (("completions",), Endpoint.COMPLETIONS),
)
"""A POST to a path that ends like that is guarded, whatever a vendor puts before it."""
_PLAIN = re.compile(r"/[A-Za-z0-9_.~:@,=+-]*(?:/[A-Za-z0-9_.~:@,=+-]+)*")
_OVERRIDES = re.compile(r"[?&;]_method=", re.IGNORECASE)
"""A method in the query, as some frameworks read it."""
_MAX_DECODED = 8
_FREE = frozenset(("OPTIONS", "HEAD"))


def normal_path(path: str) -> str:
    """The path as the most lenient server reads it, but for the case of its letters.

    Without query, parameters, percent-encoding, repeated or trailing slashes and dot segments.
    """
    plain = _without_query(path)
    if _is_plain(plain):
        return "/" + plain.lstrip("/")
    for _ in range(_MAX_DECODED):
        decoded = unquote(plain)
        if decoded == plain:
            break
        plain = decoded
    return _joined(_segments(unicodedata.normalize("NFKC", plain)))


def find(method: str, path: str, *, override: str = "") -> Endpoint:
    """override: the method that a header asks for instead. No client of OpenAI needs one, and
    whether the server heeds it nobody knows."""
    method = method.upper()
    if (override and override.strip().upper() != method) or _OVERRIDES.search(path):
        return Endpoint.UNKNOWN
    plain = _without_query(path)
    if _is_plain(plain):
        return _look_up(method, tuple(plain.lower().strip("/").split("/")))
    if method == "GET" and normal_path(path) == HEALTH_PATH:
        return Endpoint.HEALTH
    found = {_look_up(method, reading) for reading in _readings(path)}
    if len(found) == 1:
        return found.pop()
    dialects = [endpoint for endpoint in found if endpoint.is_dialect]
    return dialects[0] if len(dialects) == 1 else Endpoint.UNKNOWN


def stored_id(path: str) -> str | None:
    """The id of the response that a path of STORED_RESPONSE names."""
    segments = normal_path(path).split("/")
    names = [segment.casefold() for segment in segments]
    at = names.index("responses") + 1 if "responses" in names else len(names)
    return segments[at] if at < len(segments) else None


def _without_query(path: str) -> str:
    return path.split("?", 1)[0].split("#", 1)[0]


def _is_plain(path: str) -> bool:
    """Whether every server reads it alike."""
    return _PLAIN.fullmatch(path) is not None and "/." not in path


def _readings(path: str) -> Iterator[tuple[str, ...]]:
    """What servers may take the path for: decoded not at all, once, or for as long as it goes;
    with dot segments as they are, or resolved."""
    plain = _without_query(path)
    whole = normal_path(path)
    for reading in (plain, unquote(plain), whole):
        folded = unicodedata.normalize("NFKC", reading).casefold()
        segments = _segments(folded)
        yield tuple(s for s in _joined(segments).split("/") if s)
        yield tuple(s for s in segments if s)


def _segments(path: str) -> list[str]:
    """Without parameters (`;x=1`)."""
    return [segment.split(";", 1)[0].strip() for segment in path.replace("\\", "/").split("/")]


def _joined(segments: list[str]) -> str:
    return posixpath.normpath("/" + "/".join(s for s in segments if s))


def _look_up(method: str, segments: tuple[str, ...]) -> Endpoint:
    """How a path is guarded that can be read in one way only."""
    if method in _FREE:
        return Endpoint.HARMLESS  # nothing is asked, and nothing is answered
    rest = next((segments[len(base) :] for base in _bases(segments)), ())
    found = _match(method, rest) if rest else None
    if found is not None and found is not Endpoint.HARMLESS:
        return found
    is_odd = any("%" in segment or segment in (".", "..") for segment in segments)
    if method == "POST" and not is_odd:
        for ending, endpoint in _ENDINGS:
            if segments[-len(ending) :] == ending:
                return endpoint
    return found or Endpoint.UNKNOWN


def _bases(segments: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    if segments[:2] == _AZURE and len(segments) > 3:
        yield segments[:3]
        return
    for base in _BASES:
        if segments[: len(base)] == base:
            yield base
            return


def _match(method: str, path: tuple[str, ...]) -> Endpoint | None:
    for pattern, endpoint in _TABLE.get((method, path[0]), ()):
        if pattern[-1] == "**":
            if len(path) >= len(pattern):
                return endpoint
        elif len(pattern) == len(path) and all(
            p in ("{}", segment) for p, segment in zip(pattern, path, strict=True)
        ):
            return endpoint
    return None
