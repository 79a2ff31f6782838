"""multipart/form-data: a body to its fields, or not understood.

Servers differ in what they make of an odd body, so whatever could be cut in two ways is refused: a
delimiter that is not exactly one, a text before the first or behind the last, header lines that
are folded, doubled or not understood. What the HTTP libraries write is read (RFC 7578, RFC 2046).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import NotUnderstoodError

MAX_FIELDS = 2000
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=?-]{1,70}")
_PARAMETER = re.compile(r'\s*;\s*([!#$%&\'*+.^_`|~0-9A-Za-z-]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s;"]*))')
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\x00]*)")
_KNOWN = frozenset((b"content-disposition", b"content-type", b"content-length"))
_ENCODING = b"content-transfer-encoding"


@dataclass(frozen=True, slots=True)
class Field:
    """filename: None for a value that is no file."""

    name: str
    filename: str | None
    data: bytes


def boundary_of(content_type: str) -> bytes:
    """The boundary that a content type names. Raises NotUnderstoodError."""
    media_type, parameters = header_value(content_type)
    if media_type != "multipart/form-data":
        raise NotUnderstoodError("a multipart body that is no form")
    boundary = parameters.get("boundary", "")
    if not _BOUNDARY.fullmatch(boundary):
        raise NotUnderstoodError("a multipart body without a boundary that all understand alike")
    return boundary.encode()


def read(body: bytes, boundary: bytes) -> list[Field]:
    """The fields, in order. Raises NotUnderstoodError."""
    dash = b"--" + boundary
    if body in (dash + b"--", dash + b"--\r\n"):
        return []
    if not body.startswith(dash + b"\r\n"):
        raise NotUnderstoodError("a multipart body that does not begin with its boundary")
    for ending in (b"\r\n" + dash + b"--\r\n", b"\r\n" + dash + b"--"):
        if body.endswith(ending):
            inner = body[len(dash) + 2 : -len(ending)]
            break
    else:
        raise NotUnderstoodError("a multipart body that does not end with its boundary")
    pieces = inner.split(b"\r\n" + dash + b"\r\n")
    if len(pieces) > MAX_FIELDS:
        raise NotUnderstoodError(f"more than {MAX_FIELDS} fields")
    if any(dash in piece for piece in pieces):
        raise NotUnderstoodError("a multipart body with its boundary in another place")
    return [_field(piece) for piece in pieces]


def _field(piece: bytes) -> Field:
    head, blank, data = piece.partition(b"\r\n\r\n")
    if not blank:
        raise NotUnderstoodError("a field without a head")
    headers: dict[bytes, bytes] = {}
    for line in head.split(b"\r\n"):
        found = _HEADER.fullmatch(line)
        if found is None or found[1].lower() in headers:
            raise NotUnderstoodError("a field with a head that can be read in two ways")
        headers[found[1].lower()] = found[2]
    encoding = headers.pop(_ENCODING, b"binary").strip().lower()
    if encoding not in (b"binary", b"8bit", b"7bit") or not headers.keys() <= _KNOWN:
        raise NotUnderstoodError("a field in an encoding, or with a header, that is not known")
    if headers.get(b"content-type", b"").strip().lower().startswith(b"multipart/"):
        raise NotUnderstoodError("a form within a form")
    disposition = headers.get(b"content-disposition", b"").decode("utf-8", "replace")
    kind, parameters = header_value(disposition)
    if kind != "form-data" or "name" not in parameters:
        raise NotUnderstoodError("a field without a name")
    filename = parameters.get("filename", parameters.get("filename*"))
    return Field(parameters["name"], filename, data)


def header_value(text: str) -> tuple[str, dict[str, str]]:
    """`form-data; name="x"` -> "form-data" and its parameters. Raises NotUnderstoodError."""
    kind, semicolon, rest = text.partition(";")
    parameters: dict[str, str] = {}
    rest = semicolon + rest
    at = 0
    while at < len(rest):
        found = _PARAMETER.match(rest, at)
        if found is None:
            if rest[at:].strip(" \t;"):
                raise NotUnderstoodError("a header with parameters that can be read in two ways")
            break
        name = found[1].lower()
        if name in parameters:
            raise NotUnderstoodError("a header with a parameter twice")
        quoted = found[2]
        parameters[name] = found[3] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
        at = found.end()
    return kind.strip().lower(), parameters
