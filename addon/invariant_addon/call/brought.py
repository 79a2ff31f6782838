"""What a request brings along for us, in headers of its own: none of it goes upstream."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from mitmproxy import http

from ..rules.authorization import Keys, split

RULES = "invariant-guardrails"
PARAMETERS = "invariant-guardrails-parameters"
DATASET = "invariant-project-name"


@dataclass(frozen=True, slots=True)
class Brought:
    """The headers' values, unread. keys: see rules.authorization.

    is_address: the dataset is that of the address which the client calls (gateway.py), so whoever
    wrote the address wants it.
    """

    rules: str = ""
    parameters: str = ""
    dataset: str = ""
    keys: Keys = field(default_factory=Keys)
    is_address: bool = False

    def at(self, dataset: str) -> Brought:
        """The same call, by an address that names this dataset, or none."""
        return replace(self, dataset=dataset, is_address=True) if dataset else self

    @property
    def is_something(self) -> bool:
        has_key = self.keys.explorer is not None or self.keys.guardrails is not None
        return bool(self.rules or self.parameters or self.dataset) or has_key


NOTHING = Brought()


def take(headers: http.Headers) -> Brought:
    """Take our headers out. Raises AuthorizationError; they are out all the same."""
    if not any(_is_ours(name, value) for name, value in headers.fields):
        return NOTHING
    found = {name: headers.get(name, "").strip() for name in (RULES, PARAMETERS, DATASET)}
    try:
        keys = split(headers)
        for name, value in keys.upstream.items():
            headers[name] = value
    finally:
        for name in [n for n in headers if n.lower().startswith("invariant-")]:
            del headers[name]
    return Brought(found[RULES], found[PARAMETERS], found[DATASET], keys)


def _is_ours(name: bytes, value: bytes) -> bool:
    """A look that costs little, for nearly no call has any. A key's suffix has this in it, too."""
    return name[:10].lower() == b"invariant-" or b"invariant-auth" in value.lower()
