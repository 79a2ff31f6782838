"""The errors of the pure ring."""


class InvariantError(Exception):
    """Base of every error that this project raises on purpose."""


class NotUnderstoodError(InvariantError):
    """Bytes from the network do not have the shape this dialect reads.

    It does not mean that they are harmful, and it does not mean that they may pass:
    nobody could judge them, so `invariant_on_failure` decides. The text says what was wrong,
    and never quotes the bytes.
    """
