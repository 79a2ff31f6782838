"""Server-sent events: bytes in, events out.

Feed it whatever the network delivers; it returns the events that are complete, each with the
very bytes it came in, so that who passes them on changes nothing. It knows no JSON, no OpenAI
and no `[DONE]`. Format: https://html.spec.whatwg.org/#event-stream

A guard must see what any client sees, so it reads the union of what clients accept. It differs
from the standard in two places: an event that the end of the stream cuts short is delivered
(openai-node reads it), and a data field that is empty gives data "" (openai-python fails on it;
a browser dispatches nothing). The rules it keeps:

- lines end with LF, CRLF or CR, mixed; nothing else ends a line (not U+2028, U+0085, VT, FF);
- one leading BOM is no part of the first line; bad UTF-8 becomes U+FFFD;
- where the network cuts does not matter, and the raws of all events are the input, whole;
- every byte is looked at a fixed number of times, however large an event is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .errors import InvariantError

_BOM = b"\xef\xbb\xbf"
_LF = 0x0A
_CR = 0x0D
# Atomic groups: without them "\r\n" would be taken apart into two line ends.
_BLANK_LINE = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
# The empty name: a comment, or an empty line.
_FIELDS = frozenset((b"", b"event", b"id", b"retry"))
_NUMBER = re.compile(rb"[0-9]{1,13}")  # milliseconds since 1970, at most
_LONGEST_BLANK_LINE = len(b"\r\n\r\n")


@dataclass(frozen=True, slots=True)
class Event:
    """One block of the stream.

    raw: exactly its bytes: comments, line ends, the final blank line and a leading BOM included.
    data: its data lines joined with LF. None if it has no data field: a comment, a block with
    only id: or retry:, a stray blank line; no client dispatches those. "" if its data field is
    empty: clients differ, the caller decides.
    name: the value of its last event field. stray: it has a line that is no field and no comment
    of the format (a client that is not strict may read something in it), or "data:" in the middle
    of a line that holds no data. words: what its comments, ids and waiting times say, as lines;
    an id or a time that is a short number says nothing.
    """

    raw: bytes
    data: str | None
    name: str = ""
    stray: bool = False
    words: str = ""


class EventTooLargeError(InvariantError):
    """An event is longer than the limit. Nothing of the bytes that were fed has been taken.

    limit: in bytes.
    """

    def __init__(self, limit: int) -> None:
        super().__init__(f"a server-sent event is larger than {limit} bytes")
        self.limit = limit


class Decoder:
    """Cuts a byte stream into events.

    max_event_bytes: the longest raw that an event may have; more raises EventTooLargeError.
    """

    def __init__(self, max_event_bytes: int) -> None:
        self._max = max_event_bytes
        self._held = bytearray()  # the beginning of an event that is not complete
        self._scan = 0  # in _held: no event ends before this
        self._has_cr = False  # a CR is in _held
        self._at_start = True  # no event was delivered yet, so a BOM may come

    @property
    def pending(self) -> int:
        """Bytes that are held because they are not decided yet."""
        return len(self._held)

    def feed(self, data: bytes) -> list[Event]:
        """The events that `data` completes.

        Raises EventTooLargeError, and then holds what it held before: see `drain`.
        """
        held = self._held
        if not held:
            size = len(data)
            # The usual read while a model writes: one event, whole, framed as OpenAI does.
            if (
                data[:6] == b"data: "
                and data.find(b"\n") == size - 2
                and data[-1:] == b"\n"
                and b"\r" not in data
                and size <= self._max
            ):
                self._at_start = self._has_cr = False
                self._scan = 0
                return [Event(data, data[6:-2].decode("utf-8", "replace"))]
            return self._split(data, 0, final=False)
        before = len(held)
        held += data
        self._has_cr = self._has_cr or b"\r" in data
        try:
            if self._end_of_block(held, self._bom_length(held), self._scan, final=False) >= 0:
                return self._split(bytes(held), self._scan, final=False)
            self._check_size(len(held))
        except EventTooLargeError:
            del held[before:]
            raise
        self._scan = max(0, len(held) - _LONGEST_BLANK_LINE + 1)
        return []

    def end(self) -> list[Event]:
        """What was held, now that nothing more comes: its last event may be unterminated."""
        events = self._split(bytes(self._held), self._scan, final=True)
        if self._held:
            raw = self.drain()
            events.append(Event(raw, *_fields(raw[self._bom_length(raw) :])))
        return events

    def drain(self) -> bytes:
        """The bytes that are held, unread. The decoder forgets them."""
        held = bytes(self._held)
        self._held.clear()
        return held

    def _split(self, data: bytes, scan: int, *, final: bool) -> list[Event]:
        """The events of `data`, with a block's beginning at 0; what is left over is held.

        scan: no event ends before this.
        """
        events: list[Event] = []
        has_cr = self._has_cr = b"\r" in data
        start, size = 0, len(data)
        bom = self._bom_length(data)
        while start < size:
            if has_cr:
                end = self._end_of_block(data, start + bom, scan, final=final)
                if end < 0:
                    break
            elif data[start + bom : start + bom + 1] == b"\n":
                end = start + bom + 1
            else:
                end = data.find(b"\n\n", max(start, scan)) + 2
                if end < 2:
                    break
            if end - start > self._max:
                raise EventTooLargeError(self._max)
            raw = data[start:end]
            if not has_cr and raw[:6] == b"data: " and raw.find(b"\n") == end - start - 2:
                events.append(Event(raw, raw[6:-2].decode("utf-8", "replace")))
            else:
                events.append(Event(raw, *_fields(raw[bom:])))
            start = end
            bom = 0
            self._at_start = False
        self._check_size(size - start)
        self._held = bytearray(data[start:])
        self._scan = max(0, size - start - _LONGEST_BLANK_LINE + 1)
        return events

    def _end_of_block(self, data: bytes | bytearray, start: int, scan: int, *, final: bool) -> int:
        """Where the block whose first line is at `start` ends; -1 if that is not decided."""
        size = len(data)
        if start >= size:
            return -1
        first = data[start]
        if first == _LF:
            return start + 1
        if first == _CR:
            if start + 1 == size:
                return size if final else -1
            return start + (2 if data[start + 1] == _LF else 1)
        if not self._has_cr:
            found = data.find(b"\n\n", max(scan, start))
            return found + 2 if found >= 0 else -1
        match = _BLANK_LINE.search(data, max(scan, start))
        if match is None:
            return -1
        end = match.end()
        # A CR may be the first half of a CRLF: which, only the next byte tells.
        return -1 if end == size and data[end - 1] == _CR and not final else end

    def _bom_length(self, data: bytes | bytearray) -> int:
        return len(_BOM) if self._at_start and data.startswith(_BOM) else 0

    def _check_size(self, size: int) -> None:
        if size > self._max:
            raise EventTooLargeError(self._max)


def _fields(block: bytes) -> tuple[str | None, str, bool, str]:
    """Data, event name, strayness and words of a block. A field's name is matched to the letter."""
    lines: list[bytes] = []
    words: list[bytes] = []
    name = b""
    stray = False
    # bytes.splitlines, unlike str.splitlines, knows LF, CRLF and CR only.
    for line in block.splitlines():
        field, _, value = line.partition(b":")
        if field == b"data":
            lines.append(value.removeprefix(b" "))
        else:
            if field == b"event":
                name = value.removeprefix(b" ")
            elif (said := value.strip()) and not (field and _NUMBER.fullmatch(said)):
                words.append(said)
            stray = stray or field not in _FIELDS or b"data:" in line
    data = b"\n".join(lines).decode("utf-8", "replace") if lines else None
    beside = b"\n".join(words).decode("utf-8", "replace")
    return data, name.decode("utf-8", "replace"), stray, beside
