"""What a client read, with its times, to a verified reply. Runs after the measurement."""

from __future__ import annotations

from dataclasses import dataclass


class WrongBytesError(Exception):
    """What the client received is not what the upstream sent."""


@dataclass(frozen=True, slots=True)
class Reply:
    """Times are seconds since the request was written.

    first: the first event (or the body's end, if it is no stream). arrivals: one per read that
    completed events. counts: how many events each of them completed.
    """

    first: float
    arrivals: tuple[float, ...]
    counts: tuple[int, ...]


def measure_head(start: bytes) -> tuple[int, int | None]:
    """Bytes of the head (0 if it is cut), and of the whole response (None: chunks will tell)."""
    end = start.find(b"\r\n\r\n") + 4
    if end < 4:
        return 0, None
    length = _length(start[:end])
    return end, None if length is None else end + length


def read_reply(began: float, reads: list[tuple[float, bytes]], expected: bytes) -> Reply:
    """Raises WrongBytesError unless the body is `expected`."""
    raw = b"".join(data for _, data in reads)
    end = raw.find(b"\r\n\r\n") + 4
    if not raw.startswith(b"HTTP/1.1 200 "):
        raise WrongBytesError(f"no 200: {raw[:1000].decode(errors='replace')}")
    if _length(raw[:end]) is not None:
        if raw[end:] != expected:
            raise WrongBytesError(_difference(raw[end:], expected))
        last = reads[-1][0] - began
        return Reply(last, (last,), (1,))
    body, spans = dechunk(raw, end)
    if body != expected:
        raise WrongBytesError(_difference(body, expected))
    return _arrivals(began, reads, body, spans)


def dechunk(raw: bytes, start: int) -> tuple[bytes, list[tuple[int, int]]]:
    """The payload of a chunked body, and of each chunk: where its data begins in raw and payload.

    Raises WrongBytesError if the framing is broken, or bytes follow the last chunk.
    """
    pieces: list[bytes] = []
    spans: list[tuple[int, int]] = []
    total = 0
    while True:
        line = raw.find(b"\r\n", start)
        try:
            size = int(raw[start:line], 16)
        except ValueError:
            raise WrongBytesError(f"no chunk size: {raw[start : start + 20]!r}") from None
        start = line + 2
        if raw[start + size : start + size + 2] != b"\r\n":
            raise WrongBytesError("a chunk does not end where it says")
        if not size:
            if start + 2 != len(raw):
                raise WrongBytesError("there are bytes after the last chunk")
            return b"".join(pieces), spans
        spans.append((start, total))
        pieces.append(raw[start : start + size])
        total += size
        start += size + 2


def _arrivals(
    began: float, reads: list[tuple[float, bytes]], body: bytes, spans: list[tuple[int, int]]
) -> Reply:
    arrivals, counts = [], []
    position = seen = span = 0
    for when, data in reads:
        position += len(data)
        while span + 1 < len(spans) and spans[span + 1][0] < position:
            span += 1
        begin, before = spans[span]
        following = spans[span + 1][1] if span + 1 < len(spans) else len(body)
        payload = max(seen, min(following, before + max(0, position - begin)))
        # One byte back: the line end that ends an event may have come in two reads.
        count = body.count(b"\n\n", max(0, seen - 1), payload)
        if count:
            arrivals.append(when - began)
            counts.append(count)
        seen = payload
    return Reply(arrivals[0], tuple(arrivals), tuple(counts))


def _length(head: bytes) -> int | None:
    at = head.lower().find(b"\r\ncontent-length:")
    return None if at < 0 else int(head[at + 17 : head.find(b"\r\n", at + 2)])


def _difference(got: bytes, expected: bytes) -> str:
    at = next(
        (n for n, (a, b) in enumerate(zip(got, expected, strict=False)) if a != b),
        min(len(got), len(expected)),
    )
    return (
        f"the bodies differ at byte {at}: got {len(got)} bytes {got[at : at + 200]!r}, "
        f"expected {len(expected)} bytes {expected[at : at + 60]!r}"
    )
