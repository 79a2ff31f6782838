"""No text of a trace is forgotten when it is rewritten."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from invariant_addon.core.trace import Finding, Trace
from invariant_addon.core.verdict import Address
from invariant_addon.traces.rewritten import rewritten

EMPTY = Trace("id", 1.0, "judged", "", "", False, {}, ())
GIVEN = {"messages", "choices", "parameters", "usage"}
OURS = {"id", "status", "original"}
NUMBERS = {
    *("started", "stream", "timing", "http_status", "beside"),
    *("delivered", "withheld", "withheld_calls"),
}


def masked(text: str) -> str:
    return text.replace("secret", "[masked]")


def test_every_field_with_a_text_is_rewritten() -> None:
    """Also one that is added after this was written: then it is in none of these sets."""
    finding = Finding({"name": "r"}, "a secret", "noted", (Address(0, "content.secret", 1, 2),))
    texts: dict[str, Any] = {"findings": (finding,), "finishes": ("secret", None)}
    for field in fields(Trace):
        if field.name in GIVEN | OURS | NUMBERS:
            continue
        trace = replace(EMPTY, **{field.name: texts.get(field.name, "a secret")})
        found = rewritten(trace, text=masked, messages=(), choices=(), parameters={}, usage={})
        assert "secret" not in repr(found), field.name
        assert "[masked]" in repr(found), field.name
