"""The body of a trace, as codec.write made it -> the same without what is a secret by its form.

For every trace, before it is in the file: whatever was judged, by whichever rules. There may be no
rule about secrets, the one that notes logins in addresses looks when the call is over, and a killed
proxy's never does. What is masked are API keys and tokens, private keys, and logins in addresses
(unjudged.py); a password that only its name gives away is for the rules to find.

Nearly all traces hold none, which one look at the bytes tells (starter/likely.py).
"""

from __future__ import annotations

from dataclasses import replace

from ..core.mask import Placeholder
from ..starter.likely import may_hold_secret
from . import codec
from .unjudged import without_secrets


def without_certain_secrets(body: bytes, placeholder: Placeholder, *, keeps: bool = False) -> bytes:
    """keeps: what was there is kept beside it. Raises CodecError."""
    if not codec.is_ascii(body) and not may_hold_secret(body):
        return body
    trace = codec.read(body)
    masked = without_secrets(trace, placeholder, certain=True)
    if masked is trace:
        return body
    if keeps and trace.original is None:
        masked = replace(masked, original=trace)
    return codec.write(masked)
