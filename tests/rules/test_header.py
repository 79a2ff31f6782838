"""Rules and parameters in a request's headers: one line, escaped or not."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy import http

from invariant_addon.core.verdict import Action
from invariant_addon.rules import header
from invariant_addon.rules.header import HeaderError, escape, read_parameters, read_rules

RULE = 'raise "kein Gruß, 你好 😀" if:\n\t(m: Message)\n\t"\\\\d+\\"" in m.content\n'


@given(text=st.text())
def test_any_text_survives_the_header(text: str) -> None:
    """A rule is the words that were written, or it guards something else."""
    value = escape(text)
    assert value.isascii() and "\n" not in value and value == value.strip()
    assert read_rules(value) == text


@given(text=st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\\")))
def test_plain_text_in_utf_8_is_read_as_it_is(text: str) -> None:
    """Undone in the obvious way, every letter beyond ASCII would become two wrong ones."""
    assert read_rules(text) == text


@given(text=st.text(st.characters(codec="latin-1")))
def test_what_python_escapes_is_undone_as_python_does(text: str) -> None:
    """Clients of invariant-gateway write `policy.encode("unicode-escape")`."""
    value = text.encode("unicode-escape").decode("ascii")
    assert read_rules(value) == value.encode().decode("unicode_escape")


@pytest.mark.parametrize("write", [escape, lambda text: text.replace("\\", "\\\\")])
def test_a_rule_comes_through_mitmproxys_headers(write: Callable[[str], str]) -> None:
    """Escaped by a client that knows how, or only its line ends by one that does not."""
    value = write(RULE).replace("\n", "\\n").replace("\t", "\\t").encode()
    headers = http.Headers([(b"invariant-guardrails", value)])
    assert read_rules(headers["Invariant-Guardrails"]) == RULE


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (r"a\"b\'c", "a\"b'c"),
        (r"\x41\101\u0042\U00000043\N{LATIN SMALL LETTER D}", "AABCd"),
        (r"\ud83d\ude00", "😀"),
        (r"\\n", r"\n"),
        (r"\d+\.\w é", r"\d+\.\w é"),
        ("a\\\nb", "ab"),
    ],
)
def test_escapes_are_those_of_python(value: str, text: str) -> None:
    """Those that it does not know stay: a regular expression is full of them."""
    assert read_rules(value) == text


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("abc\\", r"the escape \\ at character 3 is not one"),
        (r"ab\x4", r"the escape \\x at character 2"),
        (r"\u12", r"the escape \\u at character 0"),
        (r"\U00110000", r"the escape \\U at character 0"),
        (r"\N{NO SUCH LETTER}", r"the escape \\N at character 0"),
        (r"\ud83d alone", "half a character"),
        ("gr\udcfc\udcdf", "not UTF-8 at byte 2; send it in UTF-8 or escaped"),
        ("ü\udcff", "not UTF-8 at byte 2"),
        ("x" * (header.RULES_LIMIT + 1), "larger than 65536 bytes"),
        ("ü" * (header.RULES_LIMIT // 2 + 1), "larger than 65536 bytes"),
    ],
)
def test_what_is_wrong_with_the_rules_is_said(value: str, said: str) -> None:
    """A client that cannot be told what is wrong is switched over to no rules."""
    with pytest.raises(HeaderError, match=said) as caught:
        read_rules(value)
    assert str(caught.value).startswith("Invariant-Guardrails: ")


def test_half_a_character_is_not_escaped() -> None:
    """No engine could be told of it."""
    with pytest.raises(HeaderError, match="half a character at 1"):
        escape("a\ud800")


def test_the_guardrail_is_the_clients_own() -> None:
    """It blocks, it is not trusted, and the same words are the same guardrail."""
    found = header.guardrail(RULE)
    assert (found.name, found.text, found.source) == ("request header", RULE, "header")
    assert found.action is Action.BLOCK and not found.trusted
    assert found == header.guardrail(RULE)
    assert found.id != header.guardrail(RULE + "#").id


@pytest.mark.parametrize("text", ["", " \n\t"])
def test_an_empty_header_is_no_guardrail(text: str) -> None:
    """A variable that was not set must not look like a call that is guarded."""
    with pytest.raises(HeaderError, match="empty"):
        header.guardrail(text)


def test_parameters_are_a_json_object() -> None:
    """In UTF-8 or with JSON's escapes."""
    wanted = {"user": "Zoë", "limits": [1, 2.5, None, True], "a": {"_b": {"data": 1}}}
    assert read_parameters(json.dumps(wanted)) == wanted
    assert read_parameters(json.dumps(wanted, ensure_ascii=False)) == wanted


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("", "not JSON at character 0"),
        ("[1]", "expected a JSON object"),
        ('{"a": NaN}', "not JSON"),
        ('{"a": "\\ud800"}', "not JSON"),
        ('{"a": 1} x', "not JSON"),
        ('{"data": 1}', "the key 'data' is reserved"),
        ('{"_a": 1}', "the key '_a' is reserved"),
        ('{"a": "\udce9"}', "not UTF-8 at byte 7"),
        (json.dumps({"a": "x" * header.PARAMETERS_LIMIT}), "larger than 16384 bytes"),
        ('{"a": ' + "[" * 8000 + "]" * 8000 + "}", "not JSON|nested"),
        ('{"a": ' + "[" * 32 + "]" * 32 + "}", "nested more than 32 deep"),
    ],
)
def test_what_is_wrong_with_the_parameters_is_said(value: str, said: str) -> None:
    """They are the client's word about itself: read strictly or not at all."""
    with pytest.raises(HeaderError, match=said) as caught:
        read_parameters(value)
    assert str(caught.value).startswith("Invariant-Guardrails-Parameters: ")
