"""Messages to bytes that only the caller's own key opens, and back.

The rules have to see the real text, so it is not masked; but it is encrypted with a key that is
made of the caller's API key, which is kept nowhere. Whoever has the file, and not that key, can
read nothing in it, not even with everything else that is on this disk.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import zlib
from dataclasses import dataclass, field
from typing import Any

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ..core.conversation import Message, Part, ToolCall
from ..core.errors import InvariantError

_NONCE = 12
_SMALL = 256
"""Bytes below which packing saves nothing."""
LIMIT = 64 * 2**20
"""Bytes of one turn."""


class CodecError(InvariantError):
    """Bytes that were not written here, or for somebody else."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose turns: one API key, organisation and project. Neither of the two keys can be turned
    back into the API key."""

    naming: bytes = field(repr=False)
    sealing: bytes = field(repr=False)

    @classmethod
    def of(cls, secret: bytes, *caller: str) -> Scope:
        """secret: this machine's. caller: what tells callers apart, the API key first."""
        said = b"".join(
            len(part).to_bytes(4) + part
            for part in (text.encode("utf-8", "surrogatepass") for text in caller)
        )
        base = hmac.digest(secret, b"history\0" + said, "sha256")
        return cls(hmac.digest(base, b"names", "sha256"), hmac.digest(base, b"bodies", "sha256"))

    def name(self, kind: str, id_: str) -> bytes:
        text = f"{kind}\0{id_}".encode("utf-8", "surrogatepass")
        return hashlib.blake2b(text, key=self.naming, digest_size=16).digest()


def write(messages: tuple[Message, ...], scope: Scope) -> bytes:
    rows = [_row(message) for message in messages]
    try:
        data = b"o" + orjson.dumps(rows)
    except TypeError:  # half a character
        data = b"j" + json.dumps(rows).encode()
    if len(data) > LIMIT:
        raise CodecError(f"a turn of more than {LIMIT} bytes")
    if len(data) > _SMALL:
        data = b"z" + zlib.compress(data, 1)
    nonce = os.urandom(_NONCE)
    return nonce + AESGCM(scope.sealing).encrypt(nonce, data, None)


def read(body: bytes, scope: Scope) -> tuple[Message, ...]:
    """Raises CodecError."""
    try:
        data = AESGCM(scope.sealing).decrypt(body[:_NONCE], body[_NONCE:], None)
        if data.startswith(b"z"):
            data = zlib.decompress(data[1:])
        rows = orjson.loads(data[1:]) if data.startswith(b"o") else json.loads(data[1:])
        return tuple(_message(row) for row in rows)
    except (InvalidTag, ValueError, TypeError, KeyError, zlib.error) as error:
        raise CodecError(f"not a turn that can be read ({type(error).__name__})") from None


def _row(message: Message) -> list[Any]:
    return [
        message.role,
        [[part.kind, part.text] for part in message.parts],
        [[call.id, call.name, call.arguments, call.kind] for call in message.tool_calls],
        message.tool_call_id,
        message.name,
    ]


def _message(row: list[Any]) -> Message:
    role, parts, calls, tool_call_id, name = row
    return Message(
        role,
        tuple(Part(kind, text) for kind, text in parts),
        tuple(ToolCall(*call) for call in calls),
        tool_call_id,
        name,
    )
