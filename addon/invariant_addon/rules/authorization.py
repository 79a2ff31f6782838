"""Whose keys a request carries: the client's for OpenAI, and Invariant's.

Rules kept here:
- An Invariant key never reaches OpenAI: what is appended to OpenAI's key is taken off whatever
  else the request says, and a value that cannot be parted, or that stands in another header, is an
  error, never passed on.
- No key is in an error, in a repr or in a log.

The headers are invariant-gateway's: `Invariant-Authorization: Bearer KEY`, for the guardrails
service alone `Invariant-Guardrails-Authorization`, and where a client can set one header only
`Authorization: Bearer OPENAI-KEY;invariant-auth=KEY`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..core.errors import InvariantError

OWN_HEADERS = ("invariant-authorization", "invariant-guardrails-authorization")
"""Meant for us: to be removed before a request goes upstream."""

SEPARATOR = ";invariant-auth="

_KEY_HEADERS = ("authorization", "api-key", "x-api-key")
"""Where clients put the key for upstream; the last two are those of Azure and of its gateways."""

# Looser than what is documented: what nearly is a separator must not go upstream either.
_NAME = "invariant-auth"
_SUFFIX = re.compile(_NAME + r"\s*[=:]", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_SCHEME = re.compile(r"bearer(?:\s+|\Z)", re.IGNORECASE)
# Visible ASCII: it becomes a header of another request. No "," and ";": those were two values.
_KEY = re.compile(r"[!-+\--:<-~]{1,4096}")


class AuthorizationError(InvariantError):
    """A key has no form that can be read, so the request must not go upstream.

    It says nothing about whether a key is valid. where: the header or variable that is wrong.
    """

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"Invalid API Key format in {where}: {reason}")
        self.where = where


@dataclass(frozen=True, slots=True)
class Keys:
    """explorer, guardrails: values of an `Authorization` header ("Bearer KEY") for these services.

    upstream: headers (lower case) whose value must be replaced by this before the request goes on.
    """

    explorer: str | None = field(default=None, repr=False)
    guardrails: str | None = field(default=None, repr=False)
    upstream: Mapping[str, str] = field(default_factory=dict, repr=False)


def split(headers: Mapping[str, str], fallback: str | None = None) -> Keys:
    """Part a request's keys. Raises AuthorizationError.

    headers: names in any case; several values of a name joined by ", ", as mitmproxy gives them.
    fallback: the key for requests without one (INVARIANT_API_KEY in the environment).
    """
    given = _lower(headers)
    upstream: dict[str, str] = {}
    appended: str | None = None
    for name in _KEY_HEADERS:
        if (parts := _part(name, given.get(name, ""))) is not None:
            upstream[name] = parts[0]
            appended = appended or parts[1]
    for name, value in given.items():
        if name not in _KEY_HEADERS and name not in OWN_HEADERS and _SUFFIX.search(value):
            raise AuthorizationError(f"the {name[:40]} header", "it belongs to Authorization")
    own, for_guardrails = (_own(name, given) for name in OWN_HEADERS)
    explorer = own or appended
    if explorer is None and fallback is not None and fallback.strip():
        explorer = _bearer("INVARIANT_API_KEY", fallback)
    return Keys(explorer, for_guardrails or explorer, upstream)


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    given: dict[str, str] = {}
    for name, value in headers.items():
        lower = name.lower()
        given[lower] = f"{given[lower]}, {value}" if lower in given else value
    return given


def _own(name: str, given: Mapping[str, str]) -> str | None:
    return _bearer(f"the {name} header", given[name]) if name in given else None


def _part(name: str, value: str) -> tuple[str, str] | None:
    """(the value for upstream, "Bearer KEY" for Invariant); None if nothing was appended."""
    if _NAME not in value.lower():
        return None
    where = f"the {name} header"
    parts = _SUFFIX.split(value)
    if len(parts) != 2 or any(_NAME in part.lower() for part in parts):
        raise AuthorizationError(where, f"expected OPENAI-KEY{SEPARATOR}INVARIANT-KEY")
    for_upstream = parts[0].strip("; \t")
    if _CONTROL.search(for_upstream):  # the end of a line would be the end of the head
        raise AuthorizationError(where, "it has a control character in it")
    if not _without_scheme(for_upstream):
        raise AuthorizationError(where, f"no key stands before {SEPARATOR}")
    return for_upstream, _bearer(where, parts[1])


def _bearer(where: str, value: str) -> str:
    """The Explorer accepts exactly "Bearer KEY", with a capital B."""
    key = _without_scheme(value)
    if not key:
        raise AuthorizationError(where, "the Invariant key is empty")
    if not _KEY.fullmatch(key):
        raise AuthorizationError(where, "expected one Invariant key, as in Bearer KEY")
    return f"Bearer {key}"


def _without_scheme(value: str) -> str:
    value = value.strip()
    scheme = _SCHEME.match(value)
    return value[scheme.end() :] if scheme else value
