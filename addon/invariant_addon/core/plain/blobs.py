"""What is packed into a string or a file: text that can be judged, or something that no rule reads.

By what the bytes are, and not by what anybody says they are: what can be read as text is text.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import re
from dataclasses import dataclass

from ..conversation import Part, PartKind
from ..errors import NotUnderstoodError

_BASE64 = re.compile(r"[A-Za-z0-9+/_\-\r\n]+={0,2}\s*")
_LEAST = 24
"""Characters of base64; a shorter string is judged as it is."""
_HEAD = 64
_CONTROLS = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_RUNS = re.compile(rb"[\x20-\x7e\t]{8,}")
_MAGIC: tuple[tuple[bytes, PartKind], ...] = (
    (b"\x89PNG\r\n", "image"),
    (b"\xff\xd8\xff", "image"),
    (b"GIF8", "image"),
    (b"BM", "image"),
    (b"II*\x00", "image"),
    (b"MM\x00*", "image"),
    (b"ID3", "audio"),
    (b"OggS", "audio"),
    (b"fLaC", "audio"),
    (b"\xff\xfb", "audio"),
    (b"\xff\xf3", "audio"),
    (b"\xff\xf2", "audio"),
    (b"\xff\xf1", "audio"),
    (b"\xff\xf9", "audio"),
    (b"\x1a\x45\xdf\xa3", "audio"),  # Matroska, WebM
    (b"%PDF-", "file"),
    (b"PK\x03\x04", "file"),  # ZIP: Office documents, skills
    (b"\xd0\xcf\x11\xe0", "file"),  # older Office documents
)
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True, slots=True)
class Unpacked:
    """text: what can be read. kind: what it is if it is not text; None for text. is_sure: it is of
    a kind that is known, and not just something that could be base64."""

    text: str
    kind: PartKind | None = None
    is_sure: bool = True

    @property
    def parts(self) -> tuple[Part, ...]:
        """The text is judged in both cases: a word may stand in the clear in a PDF."""
        found = [] if self.kind is None else [Part(self.kind, "")]
        if self.text:
            found.append(Part("text" if self.kind is None else "other", self.text))
        return tuple(found)


def read_bytes(data: bytes) -> Unpacked:
    """Text, or a picture, sound or document of a known kind. Raises NotUnderstoodError."""
    text = as_text(data)
    if text is not None:
        return Unpacked(text)
    kind = _kind(data)
    if kind is None:
        raise NotUnderstoodError("a file that is neither text nor of a kind that is known")
    return Unpacked("\n".join(run.decode() for run in _RUNS.findall(data)), kind)


def as_text(data: bytes) -> str | None:
    """The text that these bytes are; None if they are none."""
    for bom, encoding in _BOMS:
        if data.startswith(bom):
            try:
                return data.decode(encoding)
            except UnicodeDecodeError:
                return None
    if _CONTROLS.search(data):
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


def unpack(text: str, least: int = _LEAST) -> Unpacked | None:
    """What a base64 string, or a data URL, holds; None if it is neither, so a text as it stands.

    least: the fewest letters that are taken for base64, where they could be a word.
    Never raises: what is in it and is of no known kind is a file that was not read.
    """
    head = ""
    if text[:5].lower() == "data:":
        head, comma, rest = text.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            return None
        text = rest
    if (not head and len(text) < least) or not _BASE64.fullmatch(text):
        return None
    plain = re.sub(r"\s", "", text).replace("-", "+").replace("_", "/").rstrip("=")
    try:
        data = base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except binascii.Error:
        return None
    # Letters alone decode to something, too: only what is text, or of a known kind, was packed.
    found = as_text(data)
    if found is not None:
        return Unpacked(f"{head[:_HEAD]}\n{found}" if head else found)
    kind = _kind(data)
    if kind is None and not head and len(text) < 4 * _HEAD:
        return None
    return Unpacked(head[:_HEAD], kind or "file", is_sure=kind is not None)


def _kind(data: bytes) -> PartKind | None:
    if data[:4] == b"RIFF":
        return "image" if data[8:12] == b"WEBP" else "audio"
    if data[4:8] == b"ftyp":
        return "image" if data[8:12] in (b"avif", b"heic", b"mif1") else "audio"
    return next((kind for magic, kind in _MAGIC if data.startswith(magic)), None)
