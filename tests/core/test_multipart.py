"""Forms: what HTTP libraries write is read, and what could be cut in two ways is refused."""

from __future__ import annotations

import contextlib

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from invariant_addon.core.errors import NotUnderstoodError
from invariant_addon.core.plain.multipart import Field, boundary_of, header_value, read

B = b"xYz"


def form(*fields: bytes, end: bytes = b"--xYz--\r\n") -> bytes:
    return b"".join(b"--xYz\r\n" + field + b"\r\n" for field in fields) + end


PROMPT = b'Content-Disposition: form-data; name="prompt"\r\n\r\nBLUEBIRD'


@given(
    st.lists(
        st.tuples(
            st.text("abc_[]", min_size=1, max_size=9),
            st.none() | st.text("ab .é\"'", min_size=1, max_size=9),
            st.binary(max_size=200),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_what_httpx_writes_is_read(fields: list[tuple[str, str | None, bytes]]) -> None:
    """The SDKs send forms with it."""
    files = [(name, (filename, data)) for name, filename, data in fields]
    request = httpx.Request("POST", "http://x", files=files)
    body = request.read()
    boundary = boundary_of(request.headers["content-type"])
    if body.count(b"--" + boundary) != len(fields) + 1:
        return  # the boundary is in the data, by chance
    found = read(body, boundary)
    assert [(f.name, f.data) for f in found] == [(name, data) for name, _, data in fields]
    assert [f.filename is None for f in found] == [filename is None for _, filename, _ in fields]


def test_values_and_files_are_told_apart() -> None:
    """A file is read by what is in it, a value by its name."""
    file = b'Content-Disposition: form-data; name="file"; filename="a.jsonl"\r\n'
    file += b"Content-Type: application/jsonl\r\n\r\n{}\r\n"
    found = read(form(PROMPT, file), B)
    assert found == [Field("prompt", None, b"BLUEBIRD"), Field("file", "a.jsonl", b"{}\r\n")]


@pytest.mark.parametrize(
    ("why", "body"),
    [
        ("a text before it", b"hello\r\n" + form(PROMPT)),
        ("a line end before it", b"\r\n" + form(PROMPT)),
        ("a text behind it", form(PROMPT) + b"more"),
        ("another form behind it", form(PROMPT) + form(PROMPT)),
        ("no end", form(PROMPT, end=b"")),
        ("an end in the middle", form(PROMPT, PROMPT + b"\r\n--xYz--\r\n")),
        ("LF for CRLF", form(PROMPT).replace(b"\r\n", b"\n")),
        ("a delimiter after LF", form(PROMPT + b"\n--xYz\r\n" + PROMPT)),
        ("a delimiter with space", form(PROMPT + b"\r\n--xYz \r\n" + PROMPT)),
        ("a delimiter with more", form(PROMPT + b"\r\n--xYz2\r\n" + PROMPT)),
        ("the boundary in a value", form(PROMPT + b" --xYz ")),
        ("no head", form(b"BLUEBIRD")),
        ("no name", form(b"Content-Disposition: form-data\r\n\r\nx")),
        ("two names", form(b'Content-Disposition: form-data; name="a"; name="b"\r\n\r\nx')),
        ("no form-data", form(b'Content-Disposition: attachment; name="a"\r\n\r\nx')),
        ("a doubled header", form(b"Content-Disposition: x\r\n" + PROMPT)),
        ("a folded header", form(b"Content-Type: a\r\n b\r\n" + PROMPT)),
        ("a bare CR in a header", form(PROMPT.replace(b"; ", b";\r "))),
        ("base64", form(b"Content-Transfer-Encoding: base64\r\n" + PROMPT)),
        ("quoted-printable", form(b"Content-Transfer-Encoding: quoted-printable\r\n" + PROMPT)),
        ("another header", form(b"X-Odd: 1\r\n" + PROMPT)),
        ("a form in a form", form(b"Content-Type: multipart/mixed; boundary=y\r\n" + PROMPT)),
        ("nothing", b""),
        ("JSON", b'{"prompt":"BLUEBIRD"}'),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused(why: str, body: bytes) -> None:
    """One server reads a field there, and another one none."""
    with pytest.raises(NotUnderstoodError):
        read(body, B)


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary="a b"',
        "multipart/form-data; boundary=a; boundary=b",
        "multipart/form-data; boundary=a b",
        "multipart/mixed; boundary=a",
        "multipart/form-data; boundary=a, application/json",
        "multipart/form-data; boundary=" + "a" * 71,
    ],
)
def test_a_boundary_that_servers_read_differently_is_refused(content_type: str) -> None:
    """Where the fields are is then a matter of opinion."""
    with pytest.raises(NotUnderstoodError):
        boundary_of(content_type)


def test_parameters_are_read_as_they_are_written() -> None:
    """Quotes, escapes, spaces and the case of names."""
    said = 'Form-Data; NAME="a\\"b"; filename = "x"'
    with pytest.raises(NotUnderstoodError):
        header_value(said)
    assert header_value('Form-Data;NAME="a\\"b";filename=x;') == (
        "form-data",
        {"name": 'a"b', "filename": "x"},
    )
    assert boundary_of('multipart/form-data; boundary="xYz"') == B


@given(st.binary(max_size=300), st.text(max_size=60))
def test_rubbish_never_raises_anything_else(body: bytes, content_type: str) -> None:
    """It comes from outside."""
    with contextlib.suppress(NotUnderstoodError):
        read(b"--xYz\r\n" + body + b"\r\n--xYz--", B)
    with contextlib.suppress(NotUnderstoodError):
        boundary_of("multipart/form-data; " + content_type)
