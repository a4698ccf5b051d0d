"""A decoder for event streams (WHATWG HTML section 9.2), without I/O: bytes in, events out.

It works on bytes, where only CR, LF and CRLF can look like line ends; text methods also split at U+2028 and
five other characters, which may appear raw in JSON.
"""

from collections.abc import Iterator
from typing import Final, TypeAlias

SseEvent: TypeAlias = tuple[str, bytes]
"""An event's name, empty for the default, and its data as received, not yet decoded from UTF-8."""

_BOM: Final = b"\xef\xbb\xbf"


class SseLimitError(Exception):
    """A line or an event exceeds its limit; the rest of the stream cannot be read."""


class SseDecoder:
    """Reads one event stream in chunks of any size.

    `id` and `retry` are ignored: a provider's stream cannot be resumed. The iterators that `feed` and
    `finish` return must be exhausted before the next call, unless reading ends there.
    """

    __slots__ = (
        "_after_cr",
        "_at_start",
        "_data",
        "_event_bytes",
        "_max_event_bytes",
        "_max_line_bytes",
        "_name",
        "_tail",
    )

    def __init__(self, max_line_bytes: int, max_event_bytes: int) -> None:
        """Start at the beginning of a stream.

        Args:
            max_line_bytes: Longest line, including unfinished lines and comments.
            max_event_bytes: Most data of one event, plus a byte for each line.
        """
        self._max_line_bytes = max_line_bytes
        self._max_event_bytes = max_event_bytes
        self._tail = bytearray()
        self._data: list[bytes] = []
        self._event_bytes = 0
        self._name = ""
        self._after_cr = False
        self._at_start = True

    def feed(self, chunk: bytes) -> Iterator[SseEvent]:
        """Yield the events that `chunk` completes.

        Raises:
            SseLimitError: A line or an event is too large; all events before it have been yielded.
        """
        if self._after_cr and chunk:
            self._after_cr = False
            if chunk[0] == 0x0A:
                chunk = chunk[1:]
        if b"\r" in chunk:
            self._after_cr = chunk[-1] == 0x0D
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = chunk.split(b"\n")
        rest = lines.pop()
        if lines:
            if self._tail:
                lines[0] = bytes(self._tail) + lines[0]
                self._tail.clear()
            yield from self._read(lines)
        self._tail += rest
        if len(self._tail) > self._max_line_bytes:
            raise SseLimitError(f"a line has more than {self._max_line_bytes} bytes")

    def finish(self) -> Iterator[SseEvent]:
        """Yield the event that the end of the stream cut off, if there is one.

        The standard drops it. Its last line may be incomplete too, so the event is useful only if its data is
        complete by its own measure, such as JSON that can be parsed.
        """
        yield from self.feed(b"\n\n")

    def _read(self, lines: list[bytes]) -> Iterator[SseEvent]:
        if self._at_start:
            self._at_start = False
            lines[0] = lines[0].removeprefix(_BOM)
        for line in lines:
            if not line:
                if self._data:
                    yield self._name, self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
                    self._data = []
                    self._event_bytes = 0
                self._name = ""
            elif len(line) > self._max_line_bytes:
                raise SseLimitError(f"a line has more than {self._max_line_bytes} bytes")
            elif line.startswith(b"data:"):
                self._add(line[6:] if line.startswith(b" ", 5) else line[5:])
            elif line.startswith(b"event:"):
                name = line[7:] if line.startswith(b" ", 6) else line[6:]
                self._name = name.decode("utf-8", "replace")
            elif line == b"data":
                self._add(b"")
            elif line == b"event":
                self._name = ""

    def _add(self, value: bytes) -> None:
        self._event_bytes += len(value) + 1
        if self._event_bytes > self._max_event_bytes:
            raise SseLimitError(f"an event has more than {self._max_event_bytes} bytes")
        self._data.append(value)
