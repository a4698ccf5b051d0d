"""Server-sent events (WHATWG HTML section 9.2), parsed from bytes as they arrive.

A line ends at LF, CR LF or CR and nowhere else: text may contain U+2028, at which `str.splitlines` would split.
"""

from collections.abc import Iterator
from typing import Final

from turnkeeper_client.errors import ProtocolError

MOST_BYTES: Final = 16 * 1024 * 1024
"""The most of one event: a snapshot contains a whole answer."""


class EventStream:
    """Splits bytes into the data of events; comments, ids and names are not needed, since the data repeats them."""

    __slots__ = ("_buffer", "_data", "_ends_with_cr", "_size")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._data: list[bytes] = []
        self._size = 0
        self._ends_with_cr = False

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Yield the data of the events that `chunk` completes.

        Raises:
            ProtocolError: An event is larger than any that the service sends.
        """
        if not chunk:
            return  # must not forget a CR before it
        if self._ends_with_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
        self._ends_with_cr = chunk.endswith(b"\r")
        self._buffer += chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if len(self._buffer) + self._size > MOST_BYTES and b"\n" not in self._buffer:
            raise ProtocolError(f"an event has more than {MOST_BYTES} bytes")
        *lines, rest = self._buffer.split(b"\n")
        self._buffer = rest
        for line in lines:
            yield from self._take(bytes(line))

    def _take(self, line: bytes) -> Iterator[bytes]:
        if not line:
            if self._data:
                yield b"\n".join(self._data)
            self._data, self._size = [], 0
            return
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" "))
            self._size += len(value)
            if self._size > MOST_BYTES:
                raise ProtocolError(f"an event has more than {MOST_BYTES} bytes")
