"""A quick look at a trace's bytes: it may say yes too often, and never no where there is one."""

from __future__ import annotations

import json

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from invariant_addon.starter import known_keys, secrets, texts
from invariant_addon.starter.likely import may_hold_secret

from .test_starter_secrets import CLEAN, KNOWN, LEAKS, LOGINS, NO_LOGINS

SAMPLES = [*(s for samples in KNOWN.values() for s in samples), *LOGINS, *LEAKS]
CERTAIN = {kind: search for kind, search in secrets.SEARCHES.items() if kind != "named"}


def is_found(text: str) -> bool:
    return any(True for search in (*CERTAIN.values(), texts.logins) for _ in search(text))


def spelled(text: str) -> dict[str, str]:
    """The same text, as a program or a model may write it."""
    inner = json.dumps({"k": text})
    return {
        "plain": text,
        "after a line": f"line\n{text}\nmore",
        "after other letters": f"é\x01\b\f{text}ü",
        "in JSON": inner,
        "in JSON in JSON": json.dumps({"a": [inner]}),
        "with escaped slashes": inner.replace("/", "\\/"),
        "twice with escaped slashes": json.dumps(inner.replace("/", "\\/")).replace("/", "\\/"),
        "as numbers": '"' + "".join(f"\\u{ord(c):04x}" for c in text if ord(c) < 2**16) + '"',
        "in JSON, as a number": json.dumps(inner.replace(text[:1], f"\\u{ord(text[0]):04x}")),
    }


@pytest.mark.parametrize("how", spelled("x"))
def test_what_the_searches_find_is_likely(how: str) -> None:
    """Or a key would be kept because nobody looked."""
    found = 0
    for sample in SAMPLES:
        text = spelled(sample)[how]
        for name in ("content", text):
            body = orjson.dumps({"messages": [{name: text}]})
            inner = json.loads(text)["k"] if how == "in JSON" else sample
            if is_found(sample) or is_found(text) or is_found(inner):
                found += 1
                assert may_hold_secret(body), sample
    assert found > 100


TOKENS = [
    (kind, start, body)
    for kind, starts in known_keys._TOKENS.items()
    for start, body in starts.items()
]


@settings(max_examples=300, deadline=None)
@given(data=st.data(), before=st.text(max_size=5), after=st.text(max_size=5))
def test_any_token_is_likely(data: st.DataObject, before: str, after: str) -> None:
    """Each kind, with any letters in it, anywhere."""
    _, start, body = data.draw(st.sampled_from(TOKENS))
    text = before + start + data.draw(st.from_regex(body, fullmatch=True)) + after
    try:
        written = orjson.dumps({"a": text})
    except orjson.JSONEncodeError:
        return  # a lone surrogate: such a body is searched in any case
    if is_found(text):
        assert may_hold_secret(written)


def test_what_is_harmless_is_mostly_not_searched() -> None:
    """A look costs microseconds, a search milliseconds, and this is for each trace."""
    harmless = [*CLEAN, *NO_LOGINS]
    searched = [text for text in harmless if may_hold_secret(orjson.dumps(text))]
    assert len(searched) < len(harmless) / 3, searched
