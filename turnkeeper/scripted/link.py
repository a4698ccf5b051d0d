"""A socket in an event loop that writes at once, and notices at once when the other side is gone.

The loop's own transports write at the end of an iteration, which would blur the recorded send times and merge
the bytes of a drip. A reset must also come only after bytes that have really left.
"""

import asyncio
import socket
import struct
from typing import Final, Protocol

_READ_BYTES: Final = 65_536
_NO_LINGER: Final = struct.pack("ii", 1, 0)


class Listener(Protocol):
    """Receives a link's news."""

    def received(self, chunk: bytes) -> None:
        """Process received bytes."""

    def drained(self) -> None:
        """The system has accepted everything that was written."""

    def gone(self) -> None:
        """The other side has closed; the link is already closed."""


class Link:
    """One accepted connection.

    `sent_bytes` counts what the system has accepted.

    Args:
        loop: Watches the socket.
        sock: Non-blocking and connected; the link closes it.
        listener: Notified of what happens.
    """

    __slots__ = (
        "_closed",
        "_drip",
        "_dripping",
        "_fd",
        "_listener",
        "_loop",
        "_out",
        "_sock",
        "_writing",
        "sent_bytes",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, listener: Listener) -> None:
        self._loop = loop
        self._sock = sock
        self._fd = sock.fileno()
        self._listener = listener
        # Bounded by its users: while it is not empty, they write at most one block.
        self._out = bytearray()
        self.sent_bytes = 0
        self._writing = False
        self._closed = False
        self._drip = 0
        self._dripping = False
        loop.add_reader(self._fd, self._readable)

    @property
    def blocked(self) -> bool:
        """Return whether written bytes are still waiting here."""
        return bool(self._out)

    @property
    def closed(self) -> bool:
        """Return whether the link is closed, by either side."""
        return self._closed

    def drip(self, size: int) -> None:
        """From now on give the system at most `size` bytes at a time; 0 means all."""
        self._drip = size

    def write(self, data: bytes) -> None:
        """Send as much of `data` as the system accepts now, and the rest as soon as it accepts more."""
        if self._closed:
            return
        if self._out or self._drip:
            self._out += data
            self._pump()
            return
        try:
            sent = self._sock.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self._lose()
            return
        self.sent_bytes += sent
        if sent < len(data):
            self._out += data[sent:]
            self._watch()

    def close(self) -> None:
        """Close in an orderly way: the other side reads the end after all bytes."""
        if not self._closed:
            self._release()

    def reset(self) -> None:
        """Close with a TCP reset; bytes that the system has accepted still arrive."""
        if not self._closed:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            self._release()

    def _readable(self) -> None:
        try:
            chunk = self._sock.recv(_READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            chunk = b""
        if chunk:
            self._listener.received(chunk)
        else:
            # A client that closes only its sending side gets no response either: it counts as gone.
            self._lose()

    def _pump(self) -> None:
        if self._drip:
            if not self._dripping:
                self._dripping = True
                # One write per iteration, so that the bytes leave in separate packets.
                self._loop.call_soon(self._drop)
        else:
            self._watch()

    def _drop(self) -> None:
        self._dripping = False
        if self._closed or not self._out:
            return
        self._send(self._out[: self._drip] if self._drip else self._out)
        if self._out and not self._writing and not self._closed:
            self._pump()

    def _watch(self) -> None:
        if not self._writing:
            self._writing = True
            self._loop.add_writer(self._fd, self._writable)

    def _writable(self) -> None:
        self._writing = False
        self._loop.remove_writer(self._fd)
        self._drop()

    def _send(self, data: bytes | bytearray) -> None:
        try:
            sent = self._sock.send(data)
        except (BlockingIOError, InterruptedError):
            self._watch()
            return
        except OSError:
            self._lose()
            return
        self.sent_bytes += sent
        del self._out[:sent]
        if not self._out:
            self._listener.drained()

    def _lose(self) -> None:
        if not self._closed:
            self._release()
            self._listener.gone()

    def _release(self) -> None:
        self._closed = True
        self._loop.remove_reader(self._fd)
        if self._writing:
            self._loop.remove_writer(self._fd)
        self._out.clear()
        self._sock.close()
